"""The compose file and the systemd units: read, and what they say is to be run, run here with their own files."""

from __future__ import annotations

import configparser
import http.server
import json
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ostiary.config import load_config
from ostiary.config.fields import TcpAddress, UnixAddress
from ostiary.demo.issuer import AUDIENCE, ISSUER
from ostiary.opa.process import DEFAULTS
from support.faults import free_port
from support.helm import VALUES, documents, named, template
from support.pods import Container, Processes, mapped, until
from support.surroundings import Surroundings
from support.tools import ROOT

COMPOSE = ROOT / "deploy" / "compose"
UNITS = ROOT / "deploy" / "systemd"


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))
    return found


class Unit(configparser.RawConfigParser):
    """A unit. Where a key is there several times, the last one counts here."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read(UNITS / name, encoding="utf-8")

    def command(self, key: str) -> list[str]:
        return shlex.split(self["Service"][key])


def test_every_container_of_the_compose_file_is_hardened() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["user"] == "10001:10001", name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_proxy_starts_after_opa_and_reaches_what_nobody_else_does() -> None:
    found = compose()
    proxy = found["services"]["proxy"]

    assert proxy["depends_on"] == {"opa": {"condition": "service_healthy"}}
    assert found["networks"]["protected"] == {"internal": True}
    assert [name for name, service in found["services"].items() if "protected" in service["networks"]] == ["proxy"]
    (build,) = {json.dumps(service["build"]) for service in found["services"].values()}
    assert (COMPOSE / json.loads(build)["context"] / json.loads(build)["dockerfile"]).is_file()


def test_the_compose_file_starts_what_the_chart_does(tmp_path: Path) -> None:
    """The same commands, with the same files at the same places: those of the chart are run by another test."""
    rendered = documents(template(tmp_path, yaml.safe_load(VALUES.read_text(encoding="utf-8"))))
    pod = named(rendered, "StatefulSet")["spec"]["template"]["spec"]
    services = compose()["services"]
    for one in (*pod["initContainers"], *pod["containers"]):
        service = services[one["name"]]
        assert [*service.get("entrypoint", ["ostiary"]), *service["command"]] == [*one["command"], *one["args"]]
        targets = {volume.split(":")[1] for volume in service["volumes"]}
        ours = {mount["mountPath"] for mount in one["volumeMounts"]} - {"/tmp", "/run/ostiary"}
        assert {path.removesuffix("/signing").removesuffix("/tls") for path in ours} == targets
        assert service["tmpfs"][0].startswith("/tmp:")


def test_opa_has_the_environment_of_a_managed_one(tmp_path: Path) -> None:
    """As fast to decide, and to take up another bundle."""
    rendered = documents(template(tmp_path, yaml.safe_load(VALUES.read_text(encoding="utf-8"))))
    (opa, *_) = named(rendered, "StatefulSet")["spec"]["template"]["spec"]["initContainers"]
    assert {one["name"]: one["value"] for one in opa["env"] if "value" in one} == DEFAULTS
    assert compose()["services"]["opa"]["environment"] == DEFAULTS
    assert dict([Unit("ostiary-opa.service")["Service"]["Environment"].split("=")]) == DEFAULTS


def test_the_configuration_of_the_compose_file_is_one_that_the_proxy_reads() -> None:
    config = load_config(COMPOSE / "ostiary.yaml", {})

    assert str(config.admin_address) in services_probe("proxy")
    assert str(config.signing_key_file) == "/run/secrets/ostiary/key.pem"
    assert {"./secrets:/run/secrets/ostiary:ro", "data:/var/lib/ostiary"} <= set(
        compose()["services"]["proxy"]["volumes"]
    )
    assert str(config.opa.url) in services_probe("opa")


def services_probe(name: str) -> list[str]:
    test: list[str] = compose()["services"][name]["healthcheck"]["test"]
    return test


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """Where there is one: the programs that units name stand in for those of an installation."""
    program = shutil.which("true")
    for unit in UNITS.glob("*.s*"):
        text = unit.read_text(encoding="utf-8")
        for installed in ("/opt/ostiary/bin/ostiary", "/usr/local/bin/opa"):
            text = text.replace(installed, str(program))
        (tmp_path / unit.name).write_text(text.replace("User=ostiary\nGroup=ostiary\n", ""), encoding="utf-8")
    analyze = shutil.which("systemd-analyze")
    units = [tmp_path / name for name in ("ostiary.service", "ostiary-opa.service", "ostiary.socket")]
    if analyze is not None:
        done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
        told = [line for line in done.stderr.splitlines() if any(unit.name in line for unit in units)]
        assert told == []
    assert all(unit.is_file() for unit in units)


@pytest.mark.parametrize("name", ["ostiary.service", "ostiary-opa.service"])
def test_a_unit_gives_its_process_nothing_that_it_does_not_need(name: str) -> None:
    service = Unit(name)["Service"]

    for key in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "MemoryDenyWriteExecute"):
        assert service[key] == "yes", key
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["User"] == "ostiary"


def test_the_socket_is_the_listener_of_the_configuration() -> None:
    config = load_config(UNITS / "ostiary.yaml", {})

    assert Unit("ostiary.socket")["Socket"]["ListenStream"] == str(config.listen.data)


def test_opa_reports_to_the_proxy_on_loopback() -> None:
    """As in the pod. Containers of the compose file have a loopback each, and no other way is as narrow."""
    opa = yaml.safe_load((UNITS / "opa.yaml").read_text(encoding="utf-8"))
    config = load_config(UNITS / "ostiary.yaml", {})

    assert opa["services"][opa["status"]["service"]] == {"url": f"http://{config.admin_address}"}
    assert isinstance(config.admin_address, TcpAddress)
    assert config.admin_address.loopback
    contained = yaml.safe_load((COMPOSE / "opa.yaml").read_text(encoding="utf-8"))
    assert contained["status"] == {"prometheus": True}
    assert isinstance(load_config(COMPOSE / "ostiary.yaml", {}).admin_address, UnixAddress)


def test_opas_wait_where_the_server_does(tmp_path: Path) -> None:
    rendered = documents(template(tmp_path, yaml.safe_load(VALUES.read_text(encoding="utf-8"))))
    chart = yaml.safe_load(named(rendered, "ConfigMap")["data"]["opa.yaml"])
    shipped = [yaml.safe_load((place / "opa.yaml").read_text(encoding="utf-8")) for place in (UNITS, COMPOSE)]
    for opa in (chart, *shipped):
        assert opa["bundles"]["ostiary"]["polling"] == {
            "min_delay_seconds": 5,
            "max_delay_seconds": 10,
            "long_polling_timeout_seconds": 30,
        }


class Files(http.server.BaseHTTPRequestHandler):
    """A server of files as most are: it knows ETags, and waits for nothing."""

    bundle: bytes
    asked: list[tuple[str, bool]]

    def do_GET(self) -> None:
        known = self.headers.get("if-none-match") == '"1"'
        self.asked.append((self.headers.get("prefer", ""), known))
        self.send_response(304 if known else 200)
        self.send_header("etag", '"1"')
        self.send_header("content-type", "application/gzip")
        self.send_header("content-length", "0" if known else str(len(self.bundle)))
        self.end_headers()
        if not known:
            self.wfile.write(self.bundle)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def test_a_server_that_does_not_wait_is_asked_as_often_as_it_is_polled(
    surroundings: Surroundings, opa_binary: Path, tmp_path: Path
) -> None:
    """What is shipped says for how long a server may wait. OPA asks for that once, and sees by the answer that it does
    not: also when OPA is started again with the bundle that it kept."""
    asked: list[tuple[str, bool]] = []
    handler = type("Asked", (Files,), {"bundle": (surroundings.published / "shop.tar.gz").read_bytes(), "asked": asked})
    document = json.loads(adapted((UNITS / "opa.yaml").read_text(encoding="utf-8"), surroundings, 0, 0))
    document["persistence_directory"] = str(tmp_path / "kept")
    document["bundles"]["ostiary"]["polling"] |= {"min_delay_seconds": 1, "max_delay_seconds": 1}
    del document["services"]["proxy"], document["status"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        document["services"]["policy"]["url"] = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "opa.yaml").write_text(json.dumps(document), encoding="utf-8")
        command = [opa_binary, "run", "--server", "--config-file", tmp_path / "opa.yaml", "--disable-telemetry"]
        command += [f"--addr=unix://{tmp_path}/opa.sock", "--log-level=error"]
        for _ in range(2):
            asked.clear()
            opa = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            began = time.monotonic()
            try:
                until(lambda: len(asked) >= 4)
            finally:
                opa.terminate()
                opa.wait(30)
            assert time.monotonic() - began > 2  # three pauses of a second: it did not ask again at once
            assert "wait=30" in asked[0][0]
            assert not any("wait" in prefer for prefer, _ in asked[1:])
            assert [known for _, known in asked[1:4]] == [True, True, True]
        server.shutdown()


def adapted(text: str, surroundings: Surroundings, port: int, admin: int) -> str:
    """A configuration that is shipped, with an issuer, services and a server of bundles that are really there."""
    document = yaml.safe_load(text)
    if "bundles" in document:
        document["services"]["policy"]["url"] = surroundings.bundles
        document["services"]["proxy"]["url"] = f"http://127.0.0.1:{admin}"
        document["bundles"]["ostiary"]["signing"] = {"keyid": "release", "scope": "ostiary"}
        document["keys"] = {"release": {"algorithm": "ES256", "key": surroundings.release_key}}
    else:
        document["listen"]["data"] = f"{document['listen']['data'].rpartition(':')[0]}:{port}"
        document["listen"]["admin"] = f"127.0.0.1:{admin}"
        document["issuers"] = [
            {
                "issuer": ISSUER,
                "audience": AUDIENCE,
                "key_file": "jwks.json",
                "algorithms": ["ES256"],
                "claims": ["groups"],
            }
        ]
        document["services"] = {
            name: {"hosts": [f"{name}.shop.example"], "upstream": surroundings.service}
            for name in ("orders", "billing", "reports")
        }
    return json.dumps(document)


def place_of(root: Path, name: str) -> Path:
    """A directory that systemd would make."""
    place = root / name
    place.mkdir(mode=0o700)
    return place


def of_systemd(root: Path, write: Mapping[str, str], admin: int) -> tuple[list[Container], dict[str, list[str]]]:
    opa, proxy = Unit("ostiary-opa.service"), Unit("ostiary.service")
    paths = {
        "/etc/ostiary": root,
        f"/run/{opa['Service']['RuntimeDirectory']}": place_of(root, "run"),
        f"/var/lib/{opa['Service']['StateDirectory']}": place_of(root, "opa-state"),
        f"/var/lib/{proxy['Service']['StateDirectory']}": place_of(root, "state"),
    }
    for source, text in write.items():
        (root / source).write_text(mapped(text, paths), encoding="utf-8")
    containers = [
        Container(name="opa", command=opa.command("ExecStart"), paths=paths),
        Container(name="proxy", command=proxy.command("ExecStart"), paths=paths),
    ]
    probes = {
        "opa": opa.command("ExecStartPost"),
        "proxy": ["ostiary", "health", "--admin", f"127.0.0.1:{admin}", "--wait", "60"],
        "before": proxy.command("ExecStartPre"),
    }
    return containers, probes


def test_what_the_units_start_allows_and_denies(surroundings: Surroundings, opa_binary: Path) -> None:
    port, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="od-") as place:
        root = Path(place).resolve()
        shipped = {
            name: adapted((UNITS / name).read_text(encoding="utf-8"), surroundings, port, admin)
            for name in ("ostiary.yaml", "opa.yaml")
        }
        (root / "jwks.json").write_text(json.dumps(surroundings.issuer.jwks()), encoding="utf-8")
        (root / "key.pem").touch(mode=0o600)
        (root / "key.pem").write_bytes(surroundings.signing_key)
        containers, probes = of_systemd(root, shipped, admin)
        with Processes(root, containers, opa=opa_binary) as processes:
            processes.start("opa")
            processes.await_probe("opa", probes["opa"])
            checked = processes.probe("proxy", probes["before"])
            assert checked.returncode == 0, checked.stdout + checked.stderr
            processes.start("proxy")
            processes.await_probe("proxy", probes["proxy"])
            statuses = {
                subject: httpx.get(
                    f"http://127.0.0.1:{port}/orders/42",
                    headers={
                        "host": "orders.shop.example",
                        "authorization": f"Bearer {surroundings.issuer.token(subject)}",
                    },
                    trust_env=False,
                ).status_code
                for subject in ("web", "reporting")
            }
            assert statuses == {"web": 200, "reporting": 403}
            for name in ("proxy", "opa"):
                assert processes.end(name) == 0, processes.log(name)
