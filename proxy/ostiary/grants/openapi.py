"""The OpenAPI document of the API of access, served at `/access/openapi.json` and printed by `ostiary schema access`.

An operation is one entry of `OPERATIONS`, with schemas of `schemas`. A test compares them with what is really served,
and what is answered with what they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ostiary import __version__
from ostiary.grants import block_schemas, schemas
from ostiary.models import Json

COMPONENTS: Final[Mapping[str, Json]] = {
    "Request": schemas.ASKED,
    "Record": schemas.RECORD,
    "Approval": schemas.APPROVAL,
    "MoreTime": schemas.MORE_TIME,
    "Reason": schemas.REASON,
    "Revocation": schemas.REVOCATION,
    "Submission": schemas.SUBMISSION,
    "Cancellation": schemas.CANCELLATION,
    "Task": schemas.TASK,
    "Blocking": block_schemas.BLOCKING,
    "Lifting": block_schemas.LIFTING,
    "Block": block_schemas.BLOCK,
    "Problem": schemas.PROBLEM,
}
"""Schemas by the names that operations have for them."""

_RECORDS: Final[Json] = {"type": "array", "items": {"$ref": "#/components/schemas/Record"}}
_LIST: Final = schemas.exactly({"requests": _RECORDS})
_REVOKED: Final = schemas.exactly(
    {
        "revoked": {**_RECORDS, "description": "At most a thousand of them."},
        "count": {"type": "integer", "minimum": 0},
        "complete": {"type": "boolean", "description": "Whether none that fits is left."},
    }
)
_ANY: Final[Json] = {"type": "object"}
_WAIT: Final[Json] = {"Retry-After": {"schema": {"type": "integer"}, "description": "While it is pending: seconds."}}
_WHERE: Final[Json] = {"Location": {"schema": {"type": "string"}, "description": "The task's address."}}
_KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Asked again with the same key, it is the same request.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`schema` is a name of `COMPONENTS`, or a schema."""

    says: str
    schema: Json
    headers: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`name` is its `operationId`, `body` and the schemas of `answers` names of `COMPONENTS` or schemas themselves.
    Every operation may be refused besides."""

    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, Answer]
    body: Json = None
    parameters: tuple[Json, ...] = ()


def _step(step: str, summary: str, *, body: str = "Reason") -> Operation:
    return Operation(
        method="post",
        path=f"/access/requests/{{id}}/{step}",
        name=f"{step}Request",
        summary=summary,
        body=body,
        answers={200: Answer(says="The record.", schema="Record")},
    )


OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        method="post",
        path="/access/requests",
        name="request",
        summary="Ask for access.",
        body="Request",
        parameters=(_KEY,),
        answers={
            200: Answer(says="What would become of it: `dry_run`.", schema="Record"),
            201: Answer(says="The record.", schema="Record"),
        },
    ),
    Operation(
        method="get",
        path="/access/requests",
        name="listRequests",
        summary="One's own requests and grants, or those that one may answer.",
        parameters=(
            {
                "name": "to",
                "in": "query",
                "description": "With `approve`, those of others that one may answer.",
                "schema": {"enum": ["approve"]},
            },
            {"name": "state", "in": "query", "description": "States, with commas.", "schema": {"type": "string"}},
        ),
        answers={200: Answer(says="Those changed last come first.", schema=_LIST)},
    ),
    Operation(
        method="get",
        path="/access/requests/{id}",
        name="showRequest",
        summary="A request, for its holder and its approvers.",
        answers={200: Answer(says="The record.", schema="Record")},
    ),
    _step("approve", "Approve a request, or the extension that it asks for.", body="Approval"),
    _step("deny", "Refuse a request, or the extension that it asks for."),
    _step("cancel", "Take back one's request before it is answered."),
    _step("extend", "Ask for more time; or give it, as an approver.", body="MoreTime"),
    _step("drop", "Give one's grant back before it ends."),
    _step("revoke", "Take a grant away, or end a request that waits."),
    _step("review", "Close the review of an emergency."),
    Operation(
        method="post",
        path="/access/revocations",
        name="revokeAll",
        summary="Take away all that fit, of those that one may answer.",
        body="Revocation",
        answers={
            200: Answer(says="What was taken away.", schema=_REVOKED),
            202: Answer(says="What was taken away so far: the same again goes on with the rest.", schema=_REVOKED),
        },
    ),
    Operation(
        method="post",
        path="/access/tasks",
        name="submit",
        summary="Ask for what a denial was about.",
        body="Submission",
        parameters=(_KEY,),
        answers={
            201: Answer(says="It was answered at once.", schema="Task", headers=_WHERE),
            202: Answer(says="It waits for approval.", schema="Task", headers=_WHERE | _WAIT),
        },
    ),
    Operation(
        method="get",
        path="/access/tasks/{id}",
        name="showTask",
        summary="How a request stands, for its holder and its approvers.",
        answers={200: Answer(says="The task.", schema="Task", headers=_WAIT)},
    ),
    Operation(
        method="post",
        path="/access/tasks/{id}/cancel",
        name="cancelTask",
        summary="Take back one's request before it is answered.",
        body="Cancellation",
        answers={200: Answer(says="The task.", schema="Task")},
    ),
    Operation(
        method="get",
        path="/access/tasks.schema.json",
        name="showTaskSchema",
        summary="What is said with a denial, as JSON Schema.",
        answers={200: Answer(says="A JSON Schema.", schema=_ANY)},
    ),
    Operation(
        method="post",
        path="/access/blocks",
        name="block",
        summary="Refuse a subject, a token or a key from now on. For operators.",
        body="Blocking",
        answers={201: Answer(says="The block, which may have been there.", schema="Block")},
    ),
    Operation(
        method="get",
        path="/access/blocks",
        name="listBlocks",
        summary="What is blocked. For operators.",
        parameters=(
            {"name": "state", "in": "query", "description": "States, with commas.", "schema": {"type": "string"}},
            {
                "name": "after",
                "in": "query",
                "description": "The `next` of the answer before.",
                "schema": {"type": "string"},
            },
        ),
        answers={200: Answer(says="Those changed last come first.", schema=block_schemas.BLOCKS)},
    ),
    Operation(
        method="get",
        path="/access/blocks/{id}",
        name="showBlock",
        summary="A block. For operators.",
        answers={200: Answer(says="The block.", schema="Block")},
    ),
    Operation(
        method="post",
        path="/access/blocks/{id}/lift",
        name="liftBlock",
        summary="Lift a block. For operators.",
        body="Lifting",
        answers={200: Answer(says="The block.", schema="Block")},
    ),
    Operation(
        method="get",
        path="/access/openapi.json",
        name="showOpenApi",
        summary="This document.",
        answers={200: Answer(says="An OpenAPI document.", schema=_ANY)},
    ),
)


def openapi_document(*, origin: str = "https://ostiary.example") -> dict[str, Json]:
    """The document; `origin` is where clients reach the proxy's own host."""
    paths: dict[str, dict[str, Json]] = {}
    for operation in OPERATIONS:
        item = paths.setdefault(operation.path, {})
        if "{id}" in operation.path:
            item["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
        item[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ostiary: access",
            "version": __version__,
            "summary": "Just-in-time access: ask for it, approve, and take it back.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": origin, "description": "The proxy's own host."}],
        "security": [{"token": []}, {"certificate": []}],
        "paths": paths,
        "components": {
            "schemas": dict(COMPONENTS),
            "responses": {
                "Refused": {
                    "description": "It was refused, and why. `reasons` are on the page of the API.",
                    "content": {"application/problem+json": {"schema": _referred("Problem")}},
                }
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of an issuer that the proxy is configured with, as for any request; with a"
                    " DPoP proof where it is bound to a key.",
                },
                "certificate": {"type": "mutualTLS", "description": "Where the listener takes client certificates."},
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Json]:
    document: dict[str, Json] = {"operationId": operation.name, "summary": operation.summary}
    if operation.parameters:
        document["parameters"] = list(operation.parameters)
    if operation.body is not None:
        document["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _referred(operation.body)}},
        }
    document["responses"] = {str(status): _answer(answer) for status, answer in operation.answers.items()}
    document["responses"]["default"] = {"$ref": "#/components/responses/Refused"}
    return document


def _answer(answer: Answer) -> dict[str, Json]:
    document: dict[str, Json] = {"description": answer.says}
    if answer.headers:
        document["headers"] = dict(answer.headers)
    return document | {"content": {"application/json": {"schema": _referred(answer.schema)}}}


def _referred(schema: Json) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema
