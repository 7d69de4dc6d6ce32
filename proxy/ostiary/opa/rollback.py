"""Going back to an older bundle, knowingly: a small document that is signed with the key of bundles.

It lies *beside* the bundle (`shop.tar.gz.rollback`), on a disk or on the server that OPA has the bundle from
(`statements`), because the older bundle is then taken over as it was tested and signed, byte for byte: put inside, it
would be another bundle under the same revision, and one that was signed anew, since OPA refuses files that are not
signed. Whoever can only write bundles cannot make one.

The form is a compact JWS. Its `typ` is its own, so that it is never taken for the signature of a bundle, which the same
key makes, nor that for it. The claims: `to` is the one revision that may be taken over; `from` the last that is taken
back, so that the statement ends with it: a proxy which had a later one active does not believe it any more. `exp` ends
it for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ostiary.decision.revision import Revision
from ostiary.decision.rollback import LARGEST_STATEMENT, Statement
from ostiary.errors import ConfigurationError
from ostiary.opa.archive import Algorithm, ArchiveError, Verification
from ostiary.strictjson import NotStrict, read_object

_TYPE: Final = "ostiary-rollback+jws"


class StatementError(Exception):
    """This is no statement to be believed. The message is a clause."""


def sign_statement(statement: Statement, *, key: Path, key_id: str, algorithm: Algorithm, now: int) -> bytes:
    """The document. `key` is the path of the private key, PEM. Raises `ConfigurationError`."""
    if statement.to.sequence > statement.back_from.sequence:
        raise ConfigurationError([f"{statement.to} is not older than {statement.back_from}"])
    claims = {
        "scope": statement.scope,
        "from": str(statement.back_from),
        "to": str(statement.to),
        "iat": now,
        "exp": statement.expires,
    }
    try:
        private: Any = load_pem_private_key(key.read_bytes(), password=None)  # of what kind, PyJWT looks
        headers = {"kid": key_id, "typ": _TYPE}
        return jwt.PyJWS().encode(orjson.dumps(claims), private, algorithm, headers).encode() + b"\n"
    except OSError as error:
        raise ConfigurationError([f"{key}: cannot be read: {error.strerror}"]) from error
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError([f"{key}: is no private key (PEM) for {algorithm}"]) from error


def verified(content: bytes, verification: Verification) -> Statement:
    """What was signed. Raises `StatementError`; whether it is over is not looked at."""
    text = _bounded(content)
    try:
        token = jwt.PyJWS().decode_complete(text, key=verification.public_key(), algorithms=[verification.algorithm])
    except jwt.PyJWTError as error:
        raise StatementError(f"its signature is none of {verification.algorithm} by the configured key") from error
    except ArchiveError as error:
        raise StatementError(str(error)) from error
    statement = _statement(token)
    if token["header"].get("kid") != verification.key_id:
        raise StatementError(f"it is not signed as the key {verification.key_id!r}")
    if statement.scope != verification.scope:
        raise StatementError(f"it is not signed for the scope {verification.scope!r}")
    return statement


def unverified(content: bytes) -> Statement:
    """What it says, whoever made it. Raises `StatementError`."""
    try:
        token = jwt.PyJWS().decode_complete(_bounded(content), options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise StatementError("it is no JWS") from error
    return _statement(token)


def _bounded(content: bytes) -> bytes:
    if len(content) > LARGEST_STATEMENT:
        raise StatementError("it is too long")
    return content.strip()


def _statement(token: dict[str, Any]) -> Statement:
    if token["header"].get("typ") != _TYPE:
        raise StatementError("it is no statement of a rollback")
    try:
        claims = read_object(token["payload"])
    except NotStrict as error:
        raise StatementError(f"it cannot be read: {error}") from error
    back_from, to = Revision.parse(claims.get("from")), Revision.parse(claims.get("to"))
    scope, expires = claims.get("scope"), claims.get("exp")
    if (
        back_from is None
        or to is None
        or not isinstance(scope, str)
        or not isinstance(expires, int)
        or isinstance(expires, bool)
    ):
        raise StatementError("a member of it is missing or wrong")
    return Statement(back_from=back_from, to=to, scope=scope, expires=expires)
