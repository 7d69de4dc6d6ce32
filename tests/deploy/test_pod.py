"""The pod of the chart as processes of this machine: its commands, arguments, files, mounts and probes."""

from __future__ import annotations

import json
import ssl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ostiary import assets
from ostiary.decision.revision import Revision
from ostiary.decision.rollback import Statement, statement_beside
from ostiary.demo.issuer import AUDIENCE, ISSUER
from ostiary.opa.rollback import sign_statement
from ostiary.policy.archive import pack
from ostiary.policy.bundle import build_bundle
from support.faults import free_port
from support.helm import VALUES, documents, merged, named, template
from support.pods import POD, Processes, Volumes, containers_of, publish, until
from support.surroundings import Surroundings
from support.tls import Pair, dns, root

SERVERS = root("servers")


@dataclass(frozen=True, kw_only=True)
class Pod:
    spec: dict[str, Any]
    processes: Processes
    root: Path
    port: int

    def probe(self, container: str, name: str) -> list[str]:
        (found,) = [one for one in (*self.spec["initContainers"], *self.spec["containers"]) if one["name"] == container]
        command: list[str] = found[name]["exec"]["command"]
        return command

    def get(self, path: str, token: str, *, trusted: Pair = SERVERS) -> httpx.Response:
        context = ssl.create_default_context(cadata=trusted.pem.decode())
        with httpx.Client(verify=context, trust_env=False) as client:
            headers = {"host": "orders.shop.example", "authorization": f"Bearer {token}"}
            return client.get(f"https://localhost:{self.port}{path}", headers=headers)


def server_certificate() -> dict[str, bytes]:
    pair = SERVERS.issue(dns("localhost"))
    return {"tls.crt": pair.chain_pem, "tls.key": pair.key_pem}


def values(surroundings: Surroundings, port: int) -> dict[str, Any]:
    """Those of the example, with what is really there."""
    return merged(
        yaml.safe_load(VALUES.read_text(encoding="utf-8")),
        {
            "containerPort": port,
            "adminPort": free_port(),
            "config": {
                "issuers": [
                    {
                        "issuer": ISSUER,
                        "audience": AUDIENCE,
                        "key_file": "/etc/ostiary/issuers/jwks.json",
                        "algorithms": ["ES256"],
                        "claims": ["groups"],
                    }
                ],
                "services": {
                    name: {"hosts": [f"{name}.shop.example"], "upstream": surroundings.service}
                    for name in ("orders", "billing", "reports")
                },
            },
            "policy": {
                "url": surroundings.bundles,
                "verification": {"keyId": "release", "publicKey": surroundings.release_key},
                "polling": {"min_delay_seconds": 1, "max_delay_seconds": 2},
            },
            "extraVolumes": [{"name": "issuers", "configMap": {"name": "issuers"}}],
            "extraVolumeMounts": [{"name": "issuers", "mountPath": "/etc/ostiary/issuers", "readOnly": True}],
        },
    )


@pytest.fixture(scope="module")
def pod(surroundings: Surroundings, opa_binary: Path) -> Iterator[Pod]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="od-") as directory:
        place = Path(directory).resolve()
        rendered = documents(template(place, values(surroundings, port)))
        stateful = named(rendered, "StatefulSet")["spec"]
        volumes = Volumes(
            root=place,
            config_maps={
                "ostiary": named(rendered, "ConfigMap")["data"],
                "issuers": {"jwks.json": json.dumps(surroundings.issuer.jwks())},
            },
            secrets={"ostiary-signing": {"key.pem": surroundings.signing_key}, "ostiary-tls": server_certificate()},
        )
        claims = [one["metadata"]["name"] for one in stateful["volumeClaimTemplates"]]
        containers = containers_of(stateful["template"], volumes, claims=claims)
        with Processes(place, containers, opa=opa_binary) as processes:
            found = Pod(spec=stateful["template"]["spec"], processes=processes, root=place, port=port)
            for name in ("opa", "proxy"):
                processes.start(name)
                processes.await_probe(name, found.probe(name, "startupProbe"))
            processes.await_probe("proxy", found.probe("proxy", "readinessProbe"))
            yield found
            for name in ("proxy", "opa"):
                assert processes.end(name) == 0, processes.log(name)


def test_it_allows_and_denies(pod: Pod, surroundings: Surroundings) -> None:
    web, reporting = (surroundings.issuer.token(name) for name in ("web", "reporting"))

    allowed = pod.get("/orders/42", web)
    assert (allowed.status_code, allowed.text) == (200, "Bearer")
    denied = pod.get("/orders/42", reporting)
    assert (denied.status_code, denied.json()["reasons"]) == (403, ["permission-missing"])
    assert pod.get("/orders/42", "nonsense").status_code == 401


def test_every_probe_passes(pod: Pod) -> None:
    for container, name, said in (
        ("opa", "livenessProbe", {}),
        ("proxy", "livenessProbe", {"live": True}),
        ("proxy", "readinessProbe", {"ready": True, "policy": "serving"}),
    ):
        done = pod.processes.probe(container, pod.probe(container, name))
        assert done.returncode == 0, done.stderr
        assert said.items() <= json.loads(done.stdout).items()
    configured = pod.processes.probe("proxy", ["ostiary", "health", "--config", "/etc/ostiary/ostiary.yaml"])
    assert (configured.returncode, json.loads(configured.stdout)["ready"]) == (0, True)


def test_opa_reports_as_the_pod(pod: Pod) -> None:
    socket = str(pod.root / "opa-socket" / "opa.sock")
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket)) as client:
        assert client.get("http://opa/v1/config").json()["result"]["labels"]["proxy"] == POD


def test_what_must_outlive_the_pod_is_on_the_claim(pod: Pod) -> None:
    assert sorted(path.name for path in (pod.root / "data").iterdir()) == ["audit", "state"]
    assert list((pod.root / "data" / "audit").glob("*.ndjson"))
    assert list((pod.root / "opa-bundles").rglob("bundle.tar.gz"))


def test_a_renewed_certificate_is_taken_into_use(pod: Pod) -> None:
    renewed = server_certificate()
    served = ssl.PEM_cert_to_DER_cert(renewed["tls.crt"].decode())
    publish(pod.root / "tls", renewed, mode=0o440)

    until(lambda: ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("localhost", pod.port))) == served)


def revision_of(pod: Pod) -> str:
    health = pod.processes.probe("proxy", ["ostiary", "health", "--config", "/etc/ostiary/ostiary.yaml"])
    found: str = json.loads(health.stdout)["revision"]
    return found


def test_it_goes_back_by_a_statement_beside_the_bundle(
    pod: Pod, surroundings: Surroundings, opa_binary: Path, tmp_path: Path
) -> None:
    """Signed with the key of bundles, and had from where OPA has them: nothing of the pod is changed for it."""
    archive = surroundings.published / "shop.tar.gz"
    before, first = archive.read_bytes(), revision_of(pod)
    built = build_bundle(assets.demo_bundle(), tmp_path / "bundle", opa=opa_binary, sequence=2, rego_root=assets.rego())
    pack(built.path, tmp_path / "second.tar.gz")
    surroundings.sign(tmp_path / "second.tar.gz", opa=opa_binary)
    (tmp_path / "second.tar.gz").replace(archive)
    until(lambda: revision_of(pod) == built.revision)

    now = int(time.time())
    back_from, to = map(Revision.parse, (built.revision, first))
    assert back_from is not None
    assert to is not None
    said = Statement(back_from=back_from, to=to, scope="ostiary", expires=now + 3600)
    signed = sign_statement(said, key=surroundings.release, key_id="release", algorithm="ES256", now=now)
    statement_beside(archive).write_bytes(signed)
    (tmp_path / "first.tar.gz").write_bytes(before)
    (tmp_path / "first.tar.gz").replace(archive)
    until(lambda: revision_of(pod) == first)
    assert pod.get("/orders/42", surroundings.issuer.token("web")).status_code == 200


def test_without_opa_it_is_alive_and_not_ready(pod: Pod) -> None:
    """The last one here: OPA is ended, and started again as the kubelet does."""
    assert pod.processes.end("opa") == 0
    until(lambda: pod.processes.probe("proxy", pod.probe("proxy", "readinessProbe")).returncode == 1)
    assert pod.processes.probe("proxy", pod.probe("proxy", "livenessProbe")).returncode == 0
    assert pod.processes.probe("opa", pod.probe("opa", "livenessProbe")).returncode == 1

    pod.processes.start("opa")
    pod.processes.await_probe("proxy", pod.probe("proxy", "readinessProbe"))
