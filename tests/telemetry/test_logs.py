"""With `logging: {format: json}` whatever a proxy writes is one JSON object a line, with the same members."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from support.forwarding import reserved_port
from support.proxy import TRUSTING_NOBODY, running_proxy

JSON_LOGS = "logging: {format: json, level: debug}\n"


def documents(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for document in found:
        assert document.keys() - {"exception", "trace_id"} == {"time", "level", "logger", "worker", "message"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", document["time"])
    return found


def test_every_line_is_an_object_and_says_of_whom_it_is(opa_binary: Path) -> None:
    """Of supervisor, worker and OPA. (No token is in any of them: that is looked at when the proxy has ended.)"""
    with reserved_port() as port, running_proxy(upstreams={"orders": port}, config_extra=JSON_LOGS) as proxy:
        assert httpx.get(proxy.url("/orders/42"), headers=proxy.headers(), trust_env=False).status_code == 502
        os.kill(proxy.opa_pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while '"level":"error"' not in proxy.log_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        proxy.stop()
        lines = documents(proxy.log_text())
    assert {line["worker"] for line in lines} == {"supervisor", "w0"}
    assert {"ostiary.supervisor", "ostiary.opa"} <= {line["logger"] for line in lines}
    assert {line["level"] for line in lines} >= {"info", "error"}


def test_what_is_logged_for_a_request_says_its_trace(opa_binary: Path, tmp_path: Path) -> None:
    """That of the `traceparent`, sampled or not, or a new one; and what is logged for no request says none."""
    traces = "telemetry: {traces: {endpoint: 'http://127.0.0.1:9/v1/traces', sample: 0}}\n"
    given = "4bf92f3577b34da6a3ce929d0e0e4736"
    with reserved_port() as port, running_proxy(upstreams={"orders": port}, config_extra=JSON_LOGS + traces) as proxy:
        with httpx.Client(trust_env=False) as client:

            def ask(**headers: str) -> None:
                assert client.get(proxy.url("/orders/42"), headers={**proxy.headers(), **headers}).status_code == 502

            for revision, headers in (
                ("9-a", {"traceparent": f"00-{given}-00f067aa0ba902b7-00"}),
                ("10-b", {}),
            ):
                ask(**headers)
                put_in_place_of(proxy.bundle, depending_on_the_weather(proxy.bundle, tmp_path / revision, revision))
                deadline = time.monotonic() + 60
                while f"off for the bundle {revision}" not in proxy.log_text():
                    assert time.monotonic() < deadline
                    ask(**headers)
        proxy.stop()
        lines = documents(proxy.log_text())
    told = [line for line in lines if "answers depend on" in line["message"]]
    assert [(line["worker"], "9-a" in line["message"]) for line in told] == [("w0", True), ("w0", False)]
    assert told[0]["trace_id"] == given
    assert re.fullmatch(r"[0-9a-f]{32}", told[1]["trace_id"])
    assert told[1]["trace_id"] != given
    assert not [line for line in lines if "trace_id" in line and line not in told]


def depending_on_the_weather(bundle: Path, place: Path, revision: str) -> Path:
    """A copy of a bundle whose answers cannot be kept, which is logged when the first one would be."""
    shutil.copytree(bundle, place)
    caching = place / "ostiary" / "caching" / "caching.rego"
    caching.write_text(caching.read_text().replace('"vary": vary', '"vary": ["weather"]'))
    manifest = json.loads((place / ".manifest").read_text())
    (place / ".manifest").write_text(json.dumps({**manifest, "revision": revision}))
    return place


def put_in_place_of(bundle: Path, other: Path) -> None:
    bundle.rename(other.with_name(f"before-{other.name}"))
    other.rename(bundle)


def test_why_a_proxy_does_not_start_is_in_the_same_form(opa_binary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, reserved_port() as port:
        proxy = running_proxy(upstreams={"orders": port}, config_extra=JSON_LOGS)
        with proxy.prepared() as place:
            config = place / "ostiary.yaml"
            config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}", 1))
            run = subprocess.run(
                [sys.executable, "-m", "ostiary", "run"],
                cwd=place,
                env={**os.environ, **TRUSTING_NOBODY},
                capture_output=True,
                text=True,
                check=False,
            )
            assert run.returncode == 1
            last = documents(run.stderr)[-1]
            assert (last["level"], last["worker"]) == ("critical", "supervisor")
            assert "cannot listen on" in last["message"]

            config.write_text(config.read_text().replace("key_file: jwks.json", "key_file: none.json"))
            run = subprocess.run(
                [sys.executable, "-m", "ostiary", "run"], cwd=place, capture_output=True, text=True, check=False
            )
            assert run.returncode == 2
            assert "none.json" in documents(run.stderr)[-1]["message"]
