"""When a proxy is ready, fact by fact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ostiary.admin.health import KEYS_PATIENCE, Health, WorkerHealth
from ostiary.audit import AuditHealth
from ostiary.decision.cache import CacheFacts
from ostiary.decision.unenforced import UnenforcedFacts
from ostiary.identity import KeyHealth
from ostiary.upstream import PoolFacts


def worker(name: str = "w0", *, writable: bool = True, issuers: tuple[bool, ...] = (True, True)) -> WorkerHealth:
    """`issuers` says of each whether its keys are there."""
    error = None if writable else "the audit cannot be written: ENOSPC"
    return WorkerHealth(
        worker=name,
        audit=AuditHealth(writable=writable, error=error, backlog=0, lines=7, bytes=4096, lost=0),
        issuers=tuple(
            KeyHealth(
                issuer=f"https://idp-{number}.test",
                ready=ready,
                keys=int(ready),
                ignored=0,
                generation=int(ready),
                attempts=1,
                age=1.23456 if ready else None,
                failure=None if ready else "unreachable",
            )
            for number, ready in enumerate(issuers)
        ),
        services={"orders": PoolFacts(open=2, idle=1, waiting=0)},
        decisions=CacheFacts(hits=5, misses=2, shared=0, checked=0, allows=1, denials=1),
        unenforced=UnenforcedFacts(observed=3, shadowed=1),
    )


WELL = Health(
    draining=False,
    policy="serving",
    revision="1-0a1b2c3d",
    workers=2,
    reports=(worker("w0"), worker("w1")),
    serving_for=0.0,
    opa_restarts=3,
)


def test_a_proxy_of_which_nothing_is_missing_is_ready() -> None:
    assert WELL.summary() == {
        "ready": True,
        "draining": False,
        "policy": "serving",
        "revision": "1-0a1b2c3d",
        "workers": 2,
        "workers_ready": 2,
        "audit": "writable",
        "keys": "all",
    }


@pytest.mark.parametrize(
    "lacks",
    [
        {"draining": True},
        {"policy": "starting"},
        {"policy": "down"},
        {"policy": "stale"},
        {"reports": (worker("w0"),)},
        {"reports": ()},
        {"reports": (worker("w0"), worker("w1", writable=False))},
        {"reports": (worker("w0", issuers=(False, False)), worker("w1"))},
    ],
    ids=str,
)
def test_a_proxy_that_lacks_one_thing_is_not_ready_however_long(lacks: dict[str, Any]) -> None:
    assert not replace(WELL, serving_for=10 * KEYS_PATIENCE, **lacks).ready


def test_an_issuer_without_keys_holds_a_new_proxy_back_and_no_other() -> None:
    """It is waited for while its keys may be on their way. After that those of others are not kept waiting for it."""
    some = replace(WELL, reports=(worker("w0"), worker("w1", issuers=(True, False))))
    assert (some.keys, some.ready) == ("some", False)
    assert not replace(some, serving_for=KEYS_PATIENCE - 0.1).ready
    assert replace(some, serving_for=KEYS_PATIENCE).ready


def test_where_no_tokens_are_taken_no_keys_are_missing() -> None:
    bare = replace(WELL, reports=(worker("w0", issuers=()), worker("w1", issuers=())))
    assert (bare.keys, bare.ready) == ("all", True)


def test_what_is_published_and_not_used_is_said_with_the_reason() -> None:
    refused = replace(WELL, refused="it is older", mistakes=("ostiary.yaml:1: it is wrong",))
    assert refused.summary() == {**WELL.summary(), "refused": "it is older"}
    assert refused.ready
    assert refused.document()["configuration"] == {"state": "refused", "mistakes": ["ostiary.yaml:1: it is wrong"]}


def test_nobody_s_word_is_made_up_where_no_worker_tells() -> None:
    silent = replace(WELL, reports=())
    assert (silent.audit, silent.keys, silent.summary()["workers_ready"]) == (None, None, 0)


def test_the_document_has_every_fact_of_every_worker() -> None:
    health = replace(
        WELL, workers=1, reports=(worker(issuers=(True,)),), tls="outdated", observed={"orders": 1790000000}
    )
    assert health.document() == {
        **health.summary(),
        "tls": "outdated",
        "configuration": {"state": "current", "mistakes": []},
        "opa_restarts": 3,
        "observed": {"orders": "2026-09-21T14:13:20Z"},
        "reports": [
            {
                "worker": "w0",
                "audit": {"writable": True, "error": None, "backlog": 0, "lines": 7, "bytes": 4096, "lost": 0},
                "issuers": [
                    {
                        "issuer": "https://idp-0.test",
                        "ready": True,
                        "keys": 1,
                        "ignored": 0,
                        "generation": 1,
                        "attempts": 1,
                        "age": 1.235,
                        "failure": None,
                    }
                ],
                "services": {"orders": {"open": 2, "idle": 1, "waiting": 0}},
                "decisions": {"hits": 5, "misses": 2, "shared": 0, "checked": 0, "allows": 1, "denials": 1},
                "unenforced": {"observed": 3, "shadowed": 1},
            }
        ],
    }
    assert "opa_restarts" not in replace(health, opa_restarts=None).document()
    assert replace(health, observed=None).document()["observed"] is None
