"""Signatures as receivers know them: Standard Webhooks 1.0.0, symmetric.

The content that is signed is `id.timestamp.body`. The id is that of the event, the same however often it is sent: who
has seen it has been told already. The timestamp is that of the attempt: who checks it cannot be told by a recording.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
LEAST: Final = 24
MOST: Final = 64
"""Bytes of a key, in the specification."""
AT_A_TIME: Final = 2
"""Secrets: one, or while that changes the one after it too."""


def read_secrets(text: str) -> tuple[bytes, ...]:
    """The keys of a text that holds one secret, or two with white space between them. Raises `ValueError`, whose
    message shows nothing of it."""
    written = text.split()
    if not 1 <= len(written) <= AT_A_TIME:
        raise ValueError(f"holds {len(written)} secrets: one, or two while one takes the other's place")
    return tuple(_key(secret) for secret in written)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not LEAST <= len(key) <= MOST:
        raise ValueError(f"a secret is written {PREFIX} and the base64 of {LEAST} to {MOST} random bytes")
    return key


def signed(id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers that say who sends this, and when. With two keys there are two signatures: the receiver takes either.
    Without one there is no signature."""
    headers = {"webhook-id": id, "webhook-timestamp": str(timestamp)}
    if keys:
        content = f"{id}.{timestamp}.".encode("ascii") + body
        headers["webhook-signature"] = " ".join(f"v1,{_mac(key, content)}" for key in keys)
    return headers


def _mac(key: bytes, content: bytes) -> str:
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode("ascii")
