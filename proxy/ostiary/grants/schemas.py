"""What the API of access takes and answers, as JSON Schema, also for programs that were denied."""

from __future__ import annotations

from typing import Final, get_args

from ostiary.grants.life import MAX_REASON
from ostiary.grants.records import Kind, State
from ostiary.models import Json

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

INSTANT: Final[Json] = {"type": "string", "format": "date-time"}
SECONDS: Final[Json] = {"type": "integer", "minimum": 1, "description": "Seconds."}
WHY: Final[Json] = {"type": "string", "maxLength": MAX_REASON, "description": "Why. It is in the audit."}

CONTEXT: Final[Json] = {
    "type": "object",
    "properties": {"business_justification": WHY},
    "description": "What else it has is passed over.",
}
REQUESTED_ACCESS: Final[Json] = {
    "type": "object",
    "properties": {
        "duration": {**SECONDS, "description": "Seconds. As long as can be had, where it is left out."},
        "requested_until": {
            **INSTANT,
            "description": "In place of a duration, which it gives, counted from the denial.",
        },
        "max_uses": {"type": "integer", "minimum": 1, "description": "For how many requests."},
        "emergency": {"type": "boolean", "description": "At once and by oneself; an approver reviews it afterwards."},
    },
    "not": {"required": ["duration", "requested_until"]},
    "description": "What else it has is passed over.",
}

ASKING: Final[Json] = {
    "$schema": DIALECT,
    "title": "What is said with a denial that access is asked for by",
    "type": "object",
    "properties": {"context": CONTEXT, "requested_access": REQUESTED_ACCESS},
}
"""What the profile calls the augmentations of a submission (`request_schema_url`)."""

ID: Final[Json] = {"type": "string", "pattern": "^g-[0-9a-f]{32}$"}
DIGEST: Final[Json] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
SECOND: Final[Json] = {"type": "integer", "description": "Unix seconds."}
PERSON: Final[Json] = {
    "type": "object",
    "required": ["issuer", "subject"],
    "properties": {"issuer": {"type": "string"}, "subject": {"type": "string"}},
    "additionalProperties": False,
}
APPROVALS: Final[Json] = {
    "type": "object",
    "required": ["needed", "given"],
    "properties": {"needed": {"type": "integer", "minimum": 1}, "given": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}
TEXTS: Final[Json] = {"type": "array", "items": {"type": "string"}}


def or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def exactly(properties: Json, *, optional: tuple[str, ...] = ()) -> Json:
    """An object with these members, and no other."""
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        "additionalProperties": False,
    }


EXTENSION: Final[Json] = exactly(
    {"duration": SECONDS, "reason": {"type": "string"}, "digest": DIGEST, "approvals": APPROVALS}
)
STEP: Final[Json] = exactly(
    {
        "step": {"enum": list(get_args(Kind))},
        "time": {"type": "number", "description": "Unix seconds."},
        "actor": {**or_null(PERSON), "description": "Null where nobody took it: time passed, or a rule approved."},
        "approver": {"type": ["string", "null"], "description": "The caller as whom an approver acted."},
        "reason": {"type": "string"},
    }
)
RECORD: Final[Json] = exactly(
    {
        "id": {**or_null(ID), "description": "Null of what was not asked for: `dry_run`."},
        "state": {"enum": list(get_args(State))},
        "open": {"type": "boolean", "description": "Whether it waits, or gives access."},
        "digest": {**DIGEST, "description": "What an approval has to name."},
        "caller": {"type": "string"},
        "holder": PERSON,
        "service": {"type": "string"},
        "endpoints": TEXTS,
        "duration": SECONDS,
        "reason": {"type": "string"},
        "emergency": {"type": "boolean"},
        "denial": {"type": ["string", "null"], "description": "The decision that it was asked by."},
        "review": {"enum": ["open", "closed", None], "description": "That of an emergency."},
        "approvers": {**TEXTS, "description": "Callers, any of whom may approve."},
        "approvals": APPROVALS,
        "max_uses": {"type": ["integer", "null"]},
        "uses": {"type": "integer", "minimum": 0},
        "pending_until": or_null(SECOND),
        "granted_at": or_null(SECOND),
        "expires_at": or_null(SECOND),
        "ended_at": or_null(SECOND),
        "extension": or_null(EXTENSION),
        "steps": {"type": "array", "items": STEP},
    }
)
ASKED: Final[Json] = exactly(
    {
        "service": {"type": "string"},
        "endpoints": {**TEXTS, "minItems": 1, "uniqueItems": True},
        "duration": SECONDS,
        "reason": WHY,
        "max_uses": {"type": ["integer", "null"], "minimum": 1},
        "caller": {"type": ["string", "null"], "description": "As whom, where one is several."},
        "emergency": {"type": ["boolean", "null"]},
        "dry_run": {"type": ["boolean", "null"], "description": "Ask for nothing: say what would become of it."},
    },
    optional=("reason", "max_uses", "caller", "emergency", "dry_run"),
)
REASON: Final[Json] = exactly({"reason": WHY}, optional=("reason",))
APPROVAL: Final[Json] = exactly({"digest": DIGEST, "reason": WHY}, optional=("reason",))
MORE_TIME: Final[Json] = exactly({"duration": SECONDS, "reason": WHY}, optional=("reason",))
REVOCATION: Final[Json] = {
    **exactly(
        {
            "service": {"type": "string"},
            "endpoint": {"type": "string"},
            "caller": {"type": "string"},
            "issuer": {"type": "string"},
            "subject": {"type": "string"},
            "reason": WHY,
        },
        optional=("service", "endpoint", "caller", "issuer", "subject", "reason"),
    ),
    "dependentRequired": {"issuer": ["subject"], "subject": ["issuer"]},
}

SUBMISSION: Final[Json] = exactly(
    {
        "denial": exactly(
            {
                "binding_token": {"type": "string", "description": "As the denial has it."},
                "evaluation_id": {"type": "string"},
                "evaluated_at": INSTANT,
                "expires_at": INSTANT,
                "reason": {"type": "string"},
                "template": {"type": "string"},
            },
            optional=("evaluation_id", "evaluated_at", "expires_at", "reason", "template"),
        ),
        "context": CONTEXT,
        "requested_access": REQUESTED_ACCESS,
        "subject": {
            "type": "object",
            "description": "As it was denied, if it is repeated at all; so with the next two.",
        },
        "resource": {"type": "object"},
        "action": {"type": "object"},
        "client": {"type": "object", "not": {"required": ["actor"]}, "description": "Passed over."},
    },
    optional=("context", "requested_access", "subject", "resource", "action", "client"),
)
CANCELLATION: Final[Json] = exactly({"reason": WHY, "comment": WHY}, optional=("reason", "comment"))
TASK: Final[Json] = exactly(
    {
        "task": exactly(
            {
                "id": ID,
                "status": {"enum": ["pending", "approved", "denied", "cancelled", "expired"]},
                "status_endpoint": {"type": "string", "format": "uri"},
                "expires_at": INSTANT,
                "progress": exactly(
                    {
                        "current_step": {"type": "integer", "minimum": 1},
                        "total_steps": {"type": "integer", "minimum": 1},
                        "awaiting": {**TEXTS, "description": "Callers, any of whom may approve."},
                    }
                ),
                "links": exactly({"cancel": {"type": "string", "format": "uri"}}),
            },
            optional=("expires_at", "progress", "links"),
        ),
        "result": exactly(
            {
                "mode": {"const": "reevaluate", "description": "Try again."},
                "approval": exactly({"id": ID, "approved_at": INSTANT, "approved_until": INSTANT}),
            }
        ),
    },
    optional=("result",),
)
PROBLEM: Final[Json] = {
    "type": "object",
    "required": ["type", "status", "decision_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "status": {"type": "integer"},
        "title": {"type": "string"},
        "detail": {"type": "string"},
        "decision_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "reasons": {**TEXTS, "minItems": 1},
    },
}
