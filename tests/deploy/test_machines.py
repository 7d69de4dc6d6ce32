"""The compose file and the systemd units: read, and what they say is to be run, run here with their own files."""

from __future__ import annotations

import configparser
import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ostiary.config import load_config
from ostiary.demo.issuer import AUDIENCE, ISSUER
from ostiary.opa.process import DEFAULTS
from support.faults import free_port
from support.helm import VALUES, documents, named, template
from support.pods import Container, Processes, mapped
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


def adapted(text: str, surroundings: Surroundings, port: int) -> str:
    """A configuration that is shipped, with an issuer, services and a server of bundles that are really there."""
    document = yaml.safe_load(text)
    if "bundles" in document:
        document["services"]["policy"]["url"] = surroundings.bundles
        document["bundles"]["ostiary"]["signing"] = {"keyid": "release", "scope": "ostiary"}
        document["keys"] = {"release": {"algorithm": "ES256", "key": surroundings.release_key}}
    else:
        document["listen"]["data"] = f"{document['listen']['data'].rpartition(':')[0]}:{port}"
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


def of_systemd(root: Path, write: Mapping[str, str]) -> tuple[list[Container], dict[str, list[str]]]:
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
    admin = "unix:/var/lib/ostiary/state/admin.sock"
    probes = {
        "opa": opa.command("ExecStartPost"),
        "proxy": ["ostiary", "health", "--admin", admin, "--wait", "60"],
        "before": proxy.command("ExecStartPre"),
    }
    return containers, probes


def test_what_the_units_start_allows_and_denies(surroundings: Surroundings, opa_binary: Path) -> None:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="od-") as place:
        root = Path(place).resolve()
        shipped = {
            name: adapted((UNITS / name).read_text(encoding="utf-8"), surroundings, port)
            for name in ("ostiary.yaml", "opa.yaml")
        }
        (root / "jwks.json").write_text(json.dumps(surroundings.issuer.jwks()), encoding="utf-8")
        (root / "key.pem").touch(mode=0o600)
        (root / "key.pem").write_bytes(surroundings.signing_key)
        containers, probes = of_systemd(root, shipped)
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
