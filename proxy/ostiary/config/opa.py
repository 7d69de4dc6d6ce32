"""The OPA that decides, and which bundles it may have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ostiary.config.fields import FilePath, PolicyAddress, Secret, SecureUrl
from ostiary.config.reporting import ReportTo
from ostiary.opa.archive import Algorithm
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import Strict
from ostiary.policy.values import Duration, mistake, mistakes_at


class BundleVerification(Strict):
    """Whose signature the bundle must have. What has another, or none, is not taken over."""

    key_file: FilePath
    """The public key, PEM."""
    key_id: Annotated[str, Field(pattern="^[A-Za-z0-9._-]{1,128}$")]
    """The id that the signature names."""
    scope: Annotated[str, Field(pattern="^[A-Za-z0-9._/-]{1,128}$")] = "ostiary"
    """The scope that the signature is for."""
    algorithm: Algorithm = "ES256"
    """The one that is accepted, whatever the signature says."""


class Rollback(Strict):
    """By what an OPA at `opa.url` may go back to an older bundle (`ostiary bundle rollback`). Either `statement` or
    `url`."""

    statement: FilePath | None = None
    """The file that the statement is in, or will be."""
    url: Annotated[SecureUrl | None, StandIn("https://stand-in.invalid")] = None
    """The address that it is at, or will be: that of the bundle with `.rollback` behind it,
    `https://policy.internal:9400/shop.tar.gz.rollback`. It is asked for when OPA has an older bundle."""
    token_file: FilePath | None = None
    """A file with the bearer token for that address, read each time: that of a reader of bundles."""
    ca_file: FilePath | None = None
    """PEM file of the authorities that are trusted for it; the system's if left out."""
    verification: BundleVerification
    """Whose signature it must have: that of bundles."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Rollback:
        if (self.statement is None) == (self.url is None):
            lacking = ("statement", "url") if self.url is None else ()
            raise mistake("needs exactly one of 'statement' and 'url'", lacking=lacking)
        given = [name for name in ("token_file", "ca_file") if getattr(self, name) is not None]
        if self.url is None and given:
            told = "is for 'url': a file is read as it is"
            raise mistakes_at([((name,), told) for name in given], lacking=())
        if self.ca_file is not None and not str(self.url).startswith("https:"):
            told = "it is not had over https, so no certificate would be checked"
            raise mistakes_at([(("ca_file",), told)], lacking=())
        return self


class ManagedOpa(Strict):
    """OPA as a child process of the proxy, reached over a unix socket."""

    bundle: Annotated[FilePath, StandIn("stand-in")]
    """The bundle that it serves: a directory or an archive (`.tar.gz`) made by `ostiary bundle build`."""
    verification: BundleVerification | None = None
    """If given, the bundle is an archive that this key has signed (`ostiary bundle sign`). A statement of the same key
    beside it, `<bundle>.rollback`, takes it back to an older one (`ostiary bundle rollback`)."""
    binary: FilePath | None = None
    """The program; found or installed as `ostiary opa install` does if left out."""
    checksum: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """The SHA-256 that the program must have, in lower-case hexadecimal, wherever it comes from."""


class Opa(Strict):
    """The Open Policy Agent that decides. Either `managed` or `url`."""

    managed: Annotated[ManagedOpa | None, StandIn({"bundle": "stand-in"})] = None
    url: Annotated[PolicyAddress | None, StandIn("https://stand-in.invalid")] = None
    """An OPA that somebody else runs: `unix:///run/opa/opa.sock`, `http://127.0.0.1:8181` or an https origin."""
    token: Annotated[Secret | None, StandIn("stand-in")] = None
    """A bearer token for the OPA at `url`."""
    ca_file: FilePath | None = None
    """PEM file of the authorities that are trusted for the OPA at `url`, if that is https; the system's if left out."""
    report_to: Annotated[ReportTo | None, StandIn({"url": "https://stand-in.invalid"})] = None
    deadline: Annotated[float, Duration(least=0.001, most=30)] = 0.25
    """How long a decision may take; later is 503."""
    max_policy_age: Annotated[int, Duration(least=1, most=366 * 86400, whole=True)] = 86400
    """How old the policy may be before it stops being trusted: `policy-stale`, 503. Whole seconds."""
    minimum_revision: Annotated[int, Field(ge=0, lt=10**18)] = 0
    """The least sequence that a bundle may have, whatever was active before and whoever signed a way back."""
    rollback: Rollback | None = None
    """For an OPA at `url`; a managed one has it beside its bundle."""

    @property
    def bearer(self) -> str | None:
        """The token in clear, for whoever sends it."""
        return None if self.token is None else self.token.get_secret_value()

    @model_validator(mode="after")
    def _exactly_one(self) -> Opa:
        if (self.managed is None) == (self.url is None):
            lacking = ("managed", "url") if self.url is None else ()
            raise mistake("needs exactly one of 'managed' and 'url'", lacking=lacking)
        found: list[tuple[tuple[int | str, ...], str]] = []
        if self.managed is not None and self.token is not None:
            found.append((("token",), "a managed OPA is reached over its own socket and takes no token"))
        if self.managed is not None and self.rollback is not None:
            told = "a managed OPA finds the statement beside its bundle"
            found.append((("rollback",), told))
        if self.ca_file is not None and (self.url is None or not self.url.tls):
            found.append((("ca_file",), "the OPA is not reached over https, so no certificate would be checked"))
        if self.managed is not None and self.report_to is not None:
            found.append((("report_to",), "a managed OPA gets its bundle from a file, and reports nothing"))
        if found:
            raise mistakes_at(found, lacking=())
        return self
