"""The models of `grants.webhooks`: who is told of requests, grants and blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, PlainValidator, SecretStr, WithJsonSchema, model_validator

from ostiary.addresses import is_localhost
from ostiary.config.fields import FilePath, Frozen, Secret, split_url
from ostiary.grants.webhooks.notices import BLOCK_EVENTS, EVENTS
from ostiary.grants.webhooks.signature import read_secrets
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import ServiceName, Strict
from ostiary.policy.values import FILLED, Distinct, Duration, mistake, mistakes_at
from ostiary.policy.words import closest, quoted

Place: TypeAlias = tuple[int | str, ...]


def _url(secret: SecretStr) -> SecretStr:
    parts = split_url(secret.get_secret_value())
    if parts.scheme != "https" and not is_localhost(parts.hostname or ""):
        raise mistake("only https is accepted, except on a loopback host")
    return secret


def _secrets(secret: SecretStr) -> SecretStr:
    try:
        read_secrets(secret.get_secret_value())
    except ValueError as error:
        raise mistake(str(error)) from None
    return secret


def _event(value: object) -> str:
    if value in EVENTS:
        return str(value)
    raise mistake(f"{quoted(value)} is not an event{closest(str(value), EVENTS)}")


Event: TypeAlias = Annotated[str, PlainValidator(_event), WithJsonSchema({"enum": list(EVENTS)})]


class Webhook(Strict):
    """One who is told of requests, grants and blocks, by POST. Signed as
    [Standard Webhooks](https://www.standardwebhooks.com) has it."""

    url: Annotated[Secret, AfterValidator(_url), StandIn("https://stand-in.invalid")]
    """Where it is posted to. https, except on a loopback host. Those of chat tools are secrets by themselves."""
    secret: Annotated[Secret | None, AfterValidator(lambda found: found and _secrets(found))] = None
    """What it is signed with: `whsec_` and the base64 of 24 to 64 random bytes. Two, with a space between them, while
    one takes the other's place: then there are two signatures. `slack` and `teams` need none: they look at none."""
    secret_file: FilePath | None = None
    """A file with the same, in the place of `secret`. Read each time: it can be changed while the proxy runs."""
    events: Annotated[tuple[Event, ...], Frozen, Distinct, FILLED] | None = None
    """What it is told of. All if left out."""
    services: Annotated[tuple[ServiceName, ...], Frozen, Distinct, FILLED] | None = None
    """Of which services. All if left out. Whoever is told of some only is told of no blocks: those are about all."""
    template: Literal["generic", "slack", "teams"] = "generic"
    """How it looks. `generic`: all of it, for programs. `slack`: for Slack, and what takes its messages. `teams`: a
    card for a workflow of Microsoft Teams."""
    template_file: FilePath | None = None
    """A JSON document of one's own in the place of the one that `template` has; what people wrote is still made
    harmless as that needs."""
    ca_file: FilePath | None = None
    """PEM file of the authorities that are trusted for it; the system's if left out."""
    give_up_after: Annotated[int, Duration(least=60, most=7 * 86400, whole=True)] = 86400
    """How old something may be that is still tried to be told. Whole seconds."""

    @model_validator(mode="after")
    def _is_signed(self) -> Webhook:
        if self.secret is not None and self.secret_file is not None:
            raise mistakes_at([(("secret_file",), "there is a secret already")], lacking=())
        if self.secret is None and self.secret_file is None and self.template == "generic":
            lacking = ("secret", "secret_file", "template")
            raise mistake(
                "needs one of 'secret' and 'secret_file': who is told could not tell by whom", lacking=lacking
            )
        if self.ca_file is not None and urlsplit(self.url.get_secret_value()).scheme != "https":
            told = "the URL is not https, so no certificate would be checked"
            raise mistakes_at([(("ca_file",), told)], lacking=())
        return self

    def mistakes(self, services: Collection[str]) -> Iterator[tuple[Place, str]]:
        """What does not fit the services that there are."""
        for index, name in enumerate(self.services or ()):
            if name not in services:
                yield ("services", index), f"{quoted(name)} is not a service here{closest(name, services)}"
        for index, event in enumerate(self.events or ()):
            if self.services is not None and event in BLOCK_EVENTS:
                yield ("events", index), f"{quoted(event)} is about all services, and 'services' names some"
