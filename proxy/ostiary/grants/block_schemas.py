"""What the API of blocks takes and answers, as JSON Schema."""

from __future__ import annotations

from typing import Final, get_args

from ostiary.grants.blocks import MAX_DURATION, MEMBERS, BlockKind, BlockState
from ostiary.grants.schemas import DIGEST, PERSON, SECOND, WHY, exactly, or_null
from ostiary.models import Json

_TEXT: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 2048}
_THUMBPRINT: Final[Json] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"}
_PARTS: Final[Json] = {
    "issuer": {**_TEXT, "description": "Of a workload its trust domain: `spiffe://example.org`."},
    "subject": _TEXT,
    "jti": {**_TEXT, "description": "The token's id."},
    "kid": {**_TEXT, "description": "The id of a key of the issuer."},
    "digest": {**DIGEST, "description": "SHA-256 of a token up to its second dot."},
    "thumbprint": {**_THUMBPRINT, "description": "RFC 7638, SHA-256: of an issuer's key, a client's own, or a"
                   " certificate's."},
    "certificate": {**DIGEST, "description": "SHA-256 of a client's certificate (DER)."},
}  # fmt: skip
_REASON: Final[Json] = {**WHY, "minLength": 1}
_ID: Final[Json] = {"type": "string", "pattern": "^b-[0-9a-f]{32}$"}

BLOCKING: Final[Json] = {
    "type": "object",
    "required": ["reason"],
    "properties": {
        **_PARTS,
        "reason": _REASON,
        "duration": {
            **or_null({"type": "integer", "minimum": 1, "maximum": MAX_DURATION}),
            "description": "Seconds. Until it is lifted, where it is left out.",
        },
        "myself": {"type": "boolean", "description": "Also if it is oneself who is refused then."},
    },
    "oneOf": [
        {"required": list(parts), "properties": {name: False for name in _PARTS if name not in parts}}
        for parts in MEMBERS.values()
    ],
    "additionalProperties": False,
}
LIFTING: Final[Json] = exactly({"reason": _REASON})
BLOCK: Final[Json] = exactly(
    {
        "id": _ID,
        "state": {"enum": list(get_args(BlockState))},
        "in_force": {"type": "boolean", "description": "Until the end of it is recorded."},
        "by": {"enum": list(MEMBERS)},
        "blocked": {"type": "object", "properties": _PARTS, "additionalProperties": False},
        "ends_at": or_null(SECOND),
        "steps": {
            "type": "array",
            "items": exactly(
                {
                    "step": {"enum": list(get_args(BlockKind))},
                    "time": {"type": "number", "description": "Unix seconds."},
                    "actor": or_null(PERSON),
                    "reason": WHY,
                    "ends_at": or_null(SECOND),
                }
            ),
        },
    }
)
BLOCKS: Final[Json] = exactly(
    {
        "blocks": {"type": "array", "items": {"$ref": "#/components/schemas/Block"}},
        "next": {**or_null({"type": "string"}), "description": "What `after` takes; null after the last."},
    }
)
