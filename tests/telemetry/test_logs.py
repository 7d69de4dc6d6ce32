"""With `logging: {format: json}` whatever a proxy writes is one JSON object a line, with the same members."""

from __future__ import annotations

import json
import os
import re
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
        assert document.keys() - {"exception"} == {"time", "level", "logger", "worker", "message"}
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
