"""Questions to OPA, with one deadline each, and answers that are either well-formed or `PolicyUnavailable`.

The URL of a question is a constant; everything about a request is in the JSON `input` (CVE-2025-46569 was Rego that
came in through the path of the Data API).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
import orjson

from ostiary.decision.query import Answer, EvaluationFailed
from ostiary.errors import PolicyUnavailable
from ostiary.models import Json
from ostiary.opa.address import OpaAddress
from ostiary.opa.transport import OpaTransport, OpaUnreachable
from ostiary.strictjson import NotStrict, read_object

DECISION_LIMIT: Final = 64 * 1024
"""Bytes. The answer to one question is far smaller; a longer one is not read."""
DATA_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of a document of data: the route table of a large map."""

_DECISION: Final = "/v1/data/ostiary/authz/decision?provenance=true&strict-builtin-errors=true"
_DECISIONS: Final = "/v1/data/ostiary/authz/decisions?provenance=true&strict-builtin-errors=true"
_ABOUT: Final = "/v1/data/ostiary/access/about?provenance=true&strict-builtin-errors=true"
_PROBES: Final = "/v1/data/ostiary/map/probes?provenance=true"
_ENDPOINTS: Final = "/v1/data/ostiary/map/endpoints?provenance=true"
_OBSERVED: Final = "/v1/data/ostiary/map/observe?provenance=true"
_MAP: Final = "/v1/data/ostiary/map?provenance=true"
_REVISION: Final = "/v1/data/ostiary/revision?provenance=true"  # undefined by design: the provenance is the answer
_HEALTH: Final = "/health?bundles"
_STATUS: Final = "/v1/status"

_EVALUATION_FAILED: Final = 500
_SHOWN: Final = 300  # characters of OPA's message that go into a detail


class OpaClient:
    """One per process, opened in its lifespan (`async with`). Implements `decision.query.PolicyQuery`.

    `deadline` (seconds) covers a whole decision, connecting included; `data_deadline` every other call. `token` is sent
    as a bearer token. `ca_file` holds the authorities trusted for https, None stands for the system's; the constructor
    raises `ConfigurationError` if it cannot be used.
    """

    def __init__(
        self,
        *,
        address: OpaAddress,
        token: str | None = None,
        ca_file: Path | None = None,
        deadline: float = 0.25,
        data_deadline: float = 5.0,
        connections: int = 128,
    ) -> None:
        if deadline <= 0 or data_deadline <= 0:
            raise ValueError("a deadline is a number of seconds above 0")
        self.address = address
        self._deadline = deadline
        self._data_deadline = data_deadline
        self._transport = OpaTransport(address=address, token=token, ca_file=ca_file, connections=connections)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close_connection()

    async def query(self, document: Mapping[str, Json]) -> Answer:
        """The decision on this `input`. Sent once; raises `PolicyUnavailable`."""
        try:
            body = orjson.dumps({"input": document})
        except TypeError as error:  # an integer beyond 64 bits in a claim, for one
            raise PolicyUnavailable("the question cannot be written as JSON") from error
        return self._answer(await self._ask("POST", _DECISION, body, self._deadline, DECISION_LIMIT))

    async def query_batch(self, documents: Sequence[Mapping[str, Json]]) -> list[Answer]:
        """The decision on each `input`, in order, in one call. Sent once; raises `PolicyUnavailable`.

        `EvaluationFailed` where one of them spoiled the call for all, or the answers are not one for each.
        """
        try:
            body = orjson.dumps({"input": {"evaluations": documents}})
        except TypeError as error:
            raise EvaluationFailed("one of the questions cannot be written as JSON") from error
        limit = DECISION_LIMIT * len(documents)
        answer = self._answer(await self._ask("POST", _DECISIONS, body, self._deadline, limit))
        if not isinstance(answer.result, list) or len(answer.result) != len(documents):
            raise EvaluationFailed("OPA did not answer one decision for each question")
        return [Answer(defined=True, result=result, revision=answer.revision) for result in answer.result]

    async def about(self, document: Mapping[str, Json]) -> Answer:
        """What this identity may ask for, and as whom it may answer. Sent once; raises `PolicyUnavailable`."""
        try:
            body = orjson.dumps({"input": document})
        except TypeError as error:
            raise PolicyUnavailable("the question cannot be written as JSON") from error
        return self._answer(await self._ask("POST", _ABOUT, body, self._deadline, DECISION_LIMIT))

    async def endpoints(self) -> Answer:
        """The route table, `{service: {endpoint: "GET /orders/{order_id}"}}`; raises `PolicyUnavailable`."""
        return self._answer(await self._ask("GET", _ENDPOINTS, None, self._data_deadline, DATA_LIMIT))

    async def observed(self) -> Answer:
        """The services that are only observed, `{service: instant}`, undefined where the map names none; raises
        `PolicyUnavailable`."""
        return self._answer(await self._ask("GET", _OBSERVED, None, self._data_deadline, DATA_LIMIT))

    async def probes(self) -> Answer:
        """The questions with known answers that the bundle brings; raises `PolicyUnavailable`."""
        return self._answer(await self._ask("GET", _PROBES, None, self._data_deadline, DECISION_LIMIT))

    async def map(self) -> Answer:
        """The whole compiled permission map; raises `PolicyUnavailable`."""
        return self._answer(await self._ask("GET", _MAP, None, self._data_deadline, DATA_LIMIT))

    async def revision(self) -> str | None:
        """The revision of the active bundle, None if there is none; raises `PolicyUnavailable`."""
        return self._answer(await self._ask("GET", _REVISION, None, self._data_deadline, DECISION_LIMIT)).revision

    async def check_health(self) -> None:
        """Return if OPA is up and its bundles are active; raises `PolicyUnavailable` if not."""
        await self._ask("GET", _HEALTH, None, self._data_deadline, DECISION_LIMIT)

    async def status(self) -> dict[str, Json]:
        """What OPA's status plugin reports; raises `PolicyUnavailable`, also where that plugin is off."""
        found = (await self._ask("GET", _STATUS, None, self._data_deadline, DATA_LIMIT)).get("result")
        if not isinstance(found, dict):
            raise PolicyUnavailable("OPA's status is not an object")
        return found

    def _answer(self, document: dict[str, Json]) -> Answer:
        return Answer(
            defined="result" in document,
            result=document.get("result"),
            revision=_revision_in(document.get("provenance")),
        )

    async def _ask(self, method: str, path: str, body: bytes | None, deadline: float, limit: int) -> dict[str, Json]:
        try:
            async with asyncio.timeout(deadline):
                status, text = await self._transport.exchange(method, path, body=body, limit=limit)
        except TimeoutError as error:
            raise PolicyUnavailable(f"OPA did not answer within {deadline:g} s") from error
        except OpaUnreachable as error:
            raise PolicyUnavailable(f"OPA cannot be asked: {_shown(str(error))}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PolicyUnavailable(f"OPA cannot be asked: {_shown(f'{type(error).__name__}: {error}')}") from error
        if status != 200:
            failure = EvaluationFailed if status == _EVALUATION_FAILED else PolicyUnavailable
            raise failure(_failure(status, text))
        try:
            return read_object(text)
        except NotStrict as error:
            raise PolicyUnavailable(f"OPA's answer is not one JSON object: {error}") from error


def _revision_in(provenance: Json) -> str | None:
    """The revision of the one bundle that there is. Of several nobody could tell which counts."""
    bundles = provenance.get("bundles") if isinstance(provenance, dict) else None
    if not isinstance(bundles, dict) or len(bundles) != 1:
        return None
    (entry,) = bundles.values()
    revision = entry.get("revision") if isinstance(entry, dict) else None
    return revision if isinstance(revision, str) and revision else None


def _failure(status: int, text: bytes) -> str:
    """OPA's own words for it: code and message, and of the first error its code and place.

    The message of an evaluation error is left out: it may quote values of the input.
    """
    try:
        document = read_object(text)
    except NotStrict:
        return f"OPA answered {status}"
    words = [f"OPA answered {status}", *(str(document[key]) for key in ("code", "message") if key in document)]
    errors = document.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        words.append(str(errors[0].get("code")))
        place = errors[0].get("location")
        if isinstance(place, dict):
            words.append(f"{place.get('file')}:{place.get('row')}")
    return _shown(": ".join(words))


def _shown(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:_SHOWN])
