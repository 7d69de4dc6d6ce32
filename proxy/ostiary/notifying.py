"""Who is told of requests, grants and blocks, as `grants.webhooks` says: its templates read, its secrets looked at."""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from string import Template as Text
from typing import Final

from ostiary.clock import SystemClock
from ostiary.config import Config
from ostiary.config.webhooks import Webhook as WebhookSettings
from ostiary.errors import ConfigurationError
from ostiary.grants import life
from ostiary.grants.life import Moment
from ostiary.grants.outbox import Outbox
from ostiary.grants.records import Asked, Terms
from ostiary.grants.webhooks.deliverer import Deliverer
from ostiary.grants.webhooks.notices import EVENTS, NAMES, Notice, notice_of
from ostiary.grants.webhooks.sender import Sender, Webhook
from ostiary.grants.webhooks.templates import BUILT_IN, Template, texts
from ostiary.models import Json
from ostiary.policy.words import closest, quoted
from ostiary.strictjson import NotStrict, read_object

_LARGEST: Final = 64 * 1024
_DEPTH: Final = 32


def webhook_deliverer(config: Config, outbox: Outbox) -> Deliverer:
    """Not started yet. Raises `ConfigurationError` with every mistake of all who are to be told."""
    return Deliverer(outbox, configured(config), sender=Sender(), public_url=public_url(config))


def public_url(config: Config) -> str:
    """The origin of the proxy's own host, as approvers reach it."""
    told = None if config.grants is None else config.grants.public_url
    return f"https://{config.own_host}" if told is None else str(told)


def configured(config: Config) -> list[Webhook]:
    """Raises `ConfigurationError` with every mistake of all of them."""
    found: list[Webhook] = []
    mistakes: list[str] = []
    for name, settings in () if config.grants is None else config.grants.webhooks.items():
        try:
            found.append(webhook(name, settings))
        except ConfigurationError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigurationError(mistakes)
    return found


def webhook(name: str, settings: WebhookSettings) -> Webhook:
    """Raises `ConfigurationError` if its template, its secret or its authorities cannot be used."""
    made = Webhook(
        name=name,
        url=settings.url.get_secret_value(),
        template=_template(settings),
        secret="" if settings.secret is None else settings.secret.get_secret_value(),
        secret_file=settings.secret_file,
        ca_file=settings.ca_file,
        events=frozenset(
            EVENTS if settings.events is None else [event for event in EVENTS if event in settings.events]
        ),
        services=None if settings.services is None else frozenset(settings.services),
        give_up_after=settings.give_up_after,
    )
    try:
        made.keys()
    except OSError as error:
        raise ConfigurationError([f"{made.secret_file}: the secret_file cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigurationError([f"{made.secret_file}: {error}"]) from error
    if made.ca_file is not None:
        try:
            ssl.create_default_context(cafile=made.ca_file)
        except OSError as error:
            raise ConfigurationError([f"{made.ca_file}: the ca_file cannot be used: {error}"]) from error
    return made


def example(config: Config) -> Notice:
    """A notice of what nobody asks for: what a receiver is tried with. Of the type `grant.test`."""
    now = SystemClock().now()
    asked = Asked(
        issuer=config.credential_issuer,
        subject="nobody",
        caller="nobody",
        service=min(config.services),
        endpoints=("example",),
        duration=600,
        reason="this is a test",
        terms=Terms(approvers=("nobody",), max_duration=600),
    )
    record = life.ask(asked, Moment(now=now, change=0), id=f"test-{secrets.token_hex(16)}", patience=600)
    notice = notice_of(record, 0, public_url=public_url(config))
    words = {"event": "test", "title": "Test", "text": f"a test of ostiary: {notice.values['text']}"}
    return replace(notice, event="test", values={**notice.values, **words})


def _template(settings: WebhookSettings) -> Template:
    built_in = BUILT_IN[settings.template]
    return built_in if settings.template_file is None else replace(built_in, layout=_layout(settings.template_file))


def _layout(path: Path) -> Json:
    """Raises `ConfigurationError`."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigurationError([f"{path}: the template_file cannot be read: {error.strerror}"]) from error
    if len(content) > _LARGEST:
        raise ConfigurationError([f"{path}: is larger than {_LARGEST} bytes"])
    try:
        text = content.decode("utf-8")
        json.loads(text)  # says in which line it is not JSON
        layout = read_object(content, max_depth=_DEPTH)
    except json.JSONDecodeError as error:
        raise ConfigurationError([f"{path}:{error.lineno}: is not JSON: {error.msg}"]) from error
    except (NotStrict, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError([f"{path}: is not a template: {error}"]) from error
    mistakes = [f"{path}:{_line(text, word)}: {told}" for word, told in _unknown(layout)]
    if mistakes:
        raise ConfigurationError(list(dict.fromkeys(mistakes)))
    return layout


def _unknown(layout: Json) -> Iterator[tuple[str, str]]:
    for text in texts(layout):
        if not Text(text).is_valid():
            yield text, f"a $ begins the name of a value, or is written $$: {quoted(text)}"
        for name in Text(text).get_identifiers():
            if name not in NAMES:
                yield f"${name}", f"{quoted(name)} is no value of a notice{closest(name, NAMES)}"


def _line(text: str, word: str) -> int:
    """The first line that has the word, as it is written in JSON; the first of all if none has."""
    written = json.dumps(word, ensure_ascii=False)[1:-1]
    return text[: max(text.find(written), 0)].count("\n") + 1
