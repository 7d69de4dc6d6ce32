"""The chart: what it renders is valid, refuses what would be unsafe, and is what the raw manifests are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import ostiary
from ostiary.config import load_config
from support.helm import CHART, KUBERNETES, VALUES, Refused, documents, merged, named, template
from support.tools import ROOT, tool

EXAMPLE: dict[str, Any] = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
METRICS = {
    "enabled": True,
    "image": "registry.example/kube-rbac-proxy:v0.19.1",
    "tlsSecretName": "ostiary-metrics",
    "readers": [{"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"}],
    "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
}
EVERYTHING: dict[str, Any] = {
    "metrics": METRICS,
    "policy": {
        "verification": {"keyId": "release", "publicKey": "-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----\n"},
        "tokenSecret": {"name": "bundles", "key": "token"},
        "polling": {"long_polling_timeout_seconds": 60},
        "reports": True,
        "opa": {"services": {"policy": {"response_header_timeout_seconds": 70}}},
    },
    "signingKey": {"extraKeys": ["next.pub.pem"]},
    "autoscaling": {"enabled": False},
    "persistence": {"enabled": False},
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "registry"}]},
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraVolumes": [{"name": "authorities", "configMap": {"name": "authorities"}}],
    "extraVolumeMounts": [{"name": "authorities", "mountPath": "/etc/ostiary/authorities", "readOnly": True}],
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "proxy", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "serviceAccount": {"annotations": {"e": "f"}},
    "service": {"annotations": {"g": "h"}, "type": "LoadBalancer", "port": 8443},
}
FOREIGN = {"ServiceMonitor"}
"""Kinds of which Kubernetes itself knows nothing."""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return documents(template(tmp_path_factory.mktemp("example"), EXAMPLE))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return documents(template(tmp_path_factory.mktemp("everything"), merged(EXAMPLE, EVERYTHING)))


def pod_of(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = named(rendered, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (*spec["initContainers"], *spec["containers"])


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    done = subprocess.run(
        [tool("helm"), "lint", "--strict", CHART, "--values", VALUES], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_is_valid_for_kubernetes(
    version: str, example: list[dict[str, Any]], everything: list[dict[str, Any]]
) -> None:
    for document in [*example, *everything]:
        if document["kind"] not in FOREIGN:
            kubernetes_validate.validate(document, version, strict=True)
    assert {one["kind"] for one in everything} - {one["kind"] for one in example} == {
        *FOREIGN,
        "ClusterRole",
        "ClusterRoleBinding",
    }


def test_the_chart_deploys_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))

    assert (chart["version"], chart["appVersion"]) == (ostiary.__version__, ostiary.__version__)


def test_the_configuration_of_the_pod_is_one_that_the_proxy_reads(
    tmp_path: Path, example: list[dict[str, Any]], everything: list[dict[str, Any]]
) -> None:
    for number, rendered in enumerate((example, everything)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(named(rendered, "ConfigMap")["data"]["ostiary.yaml"], encoding="utf-8")
        config = load_config(path, {})
        assert config.secrets.group_readable
        assert str(config.signing_key_file) == "/run/secrets/ostiary/signing/key.pem"
        assert str(config.opa.url) == "unix:///run/opa/opa.sock"
        assert config.listen.tls is not None


def test_no_container_has_what_it_does_not_need(everything: list[dict[str, Any]]) -> None:
    pod = pod_of(everything)

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in containers(pod):
        context = one["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, one["name"]
        assert context["allowPrivilegeEscalation"] is False, one["name"]
        assert context["capabilities"] == {"drop": ["ALL"]}, one["name"]
        assert one["resources"]["requests"].keys() == {"cpu", "memory"}, one["name"]
        assert "memory" in one["resources"]["limits"], one["name"]
        mounts = {mount["name"] for mount in one["volumeMounts"]}
        assert ("signing" in mounts) == (one["name"] == "proxy")
        assert ("api-token" in mounts) == (one["name"] == "metrics")
    users = [one["securityContext"].get("runAsUser", pod["securityContext"]["runAsUser"]) for one in containers(pod)]
    assert len(set(users)) == len(users) == 3


def test_secrets_are_files_that_the_pod_s_group_alone_can_read(everything: list[dict[str, Any]]) -> None:
    pod = pod_of(everything)
    secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]

    assert {one["secretName"] for one in secrets} == {"ostiary-signing", "ostiary-tls", "bundles", "ostiary-metrics"}
    assert all(one["defaultMode"] == 0o440 for one in secrets)
    assert pod["securityContext"]["fsGroup"]
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert not any("secretKeyRef" in str(one) for one in containers(pod))
    mounts = [mount for one in containers(pod) for mount in one["volumeMounts"] if "secrets" in mount["mountPath"]]
    assert all("subPath" not in mount for mount in mounts)  # such a one is never renewed


def test_protected_pods_accept_the_proxy_and_nobody_else(example: list[dict[str, Any]]) -> None:
    policy = named(example, "NetworkPolicy", "ostiary-to-orders")
    labels = named(example, "StatefulSet")["spec"]["template"]["metadata"]["labels"]

    assert policy["metadata"]["namespace"] == "shop"
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    ((peer,),) = (rule["from"] for rule in policy["spec"]["ingress"])
    assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "ostiary"}}
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8080}]


def test_the_proxy_accepts_requests_and_with_metrics_scrapes(
    example: list[dict[str, Any]], everything: list[dict[str, Any]]
) -> None:
    ports = [
        [rule["ports"] for rule in named(rendered, "NetworkPolicy")["spec"]["ingress"]]
        for rendered in (example, everything)
    ]
    data, metrics = [{"protocol": "TCP", "port": "data"}], [{"protocol": "TCP", "port": "metrics"}]

    assert ports == [[data], [data, metrics]]
    assert named(everything, "NetworkPolicy")["spec"]["ingress"][1]["from"] == METRICS["from"]


def test_metrics_are_on_loopback_behind_who_asks_the_api_server(everything: list[dict[str, Any]]) -> None:
    (proxy, metrics) = pod_of(everything)["containers"]
    config = yaml.safe_load(named(everything, "ConfigMap")["data"]["ostiary.yaml"])
    monitor = named(everything, "ServiceMonitor", "ostiary-metrics")["spec"]
    service = named(everything, "Service", "ostiary-metrics")

    assert config["listen"]["admin"] == "127.0.0.1:8081"
    assert [port["name"] for port in proxy["ports"]] == ["data"]
    assert {"--upstream=http://127.0.0.1:8081/", "--allow-paths=/metrics"} <= set(metrics["args"])
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert (endpoint["scheme"], endpoint["port"]) == ("https", service["spec"]["ports"][0]["name"])
    assert "insecureSkipVerify" not in endpoint["tlsConfig"]


def test_opa_is_told_what_the_values_say_of_the_policy(everything: list[dict[str, Any]]) -> None:
    opa = yaml.safe_load(named(everything, "ConfigMap")["data"]["opa.yaml"])

    assert opa["services"]["policy"] == {
        "url": "https://bundles.example",
        "credentials": {"bearer": {"token_path": "/run/secrets/ostiary/bundles/token"}},
        "response_header_timeout_seconds": 70,
    }
    assert opa["bundles"]["ostiary"] == {
        "service": "policy",
        "resource": "shop.tar.gz",
        "persist": True,
        "polling": {"min_delay_seconds": 5, "max_delay_seconds": 10, "long_polling_timeout_seconds": 60},
        "signing": {"keyid": "release", "scope": "ostiary"},
    }
    assert list(opa["keys"]) == ["release"]
    assert opa["status"] == {"prometheus": True, "service": "proxy"}
    assert opa["labels"] == {"proxy": "${POD_NAME}", "resource": "shop.tar.gz"}  # what a rollout is told by


def test_the_proxy_hears_from_opa_and_may_go_back(everything: list[dict[str, Any]]) -> None:
    """At once, by OPA's reports, which it passes on; and by a statement beside the bundle, of the key that signs."""
    files = named(everything, "ConfigMap")["data"]
    opa, config = yaml.safe_load(files["opa.yaml"]), yaml.safe_load(files["ostiary.yaml"])
    (proxy, *_) = pod_of(everything)["containers"]

    assert opa["services"]["proxy"] == {"url": f"http://{config['listen']['admin']}"}
    assert opa["services"][opa["status"]["service"]] == opa["services"]["proxy"]
    token = "/run/secrets/ostiary/bundles/token"
    assert config["opa"] == {
        "url": "unix:///run/opa/opa.sock",
        "report_to": {"url": "https://bundles.example", "token_file": token},
        "rollback": {
            "url": "https://bundles.example/shop.tar.gz.rollback",
            "token_file": token,
            "verification": {
                "key_file": "/etc/ostiary/release.pub.pem",
                "key_id": "release",
                "scope": "ostiary",
                "algorithm": "ES256",
            },
        },
    }
    assert files["release.pub.pem"] == EVERYTHING["policy"]["verification"]["publicKey"]
    mounted = {each["mountPath"] for each in proxy["volumeMounts"]}
    assert {"/etc/ostiary/release.pub.pem", "/run/secrets/ostiary/bundles"} <= mounted


@pytest.mark.parametrize(
    "policy",
    [
        {"url": "http://bundles.shop.svc"},
        {"opa": {"services": {"policy": {"type": "oci"}}}},
        {"verification": {}},
    ],
    ids=["in clear", "a registry", "unsigned"],
)
def test_a_statement_is_had_only_where_there_can_be_one(tmp_path: Path, policy: dict[str, Any]) -> None:
    signed = {"policy": {"verification": EVERYTHING["policy"]["verification"]}}
    values = merged(merged(EXAMPLE, signed), {"policy": policy})
    values["policy"] |= {"verification": {}} if policy == {"verification": {}} else {}
    config = yaml.safe_load(named(documents(template(tmp_path, values)), "ConfigMap")["data"]["ostiary.yaml"])
    assert config["opa"] == {"url": "unix:///run/opa/opa.sock"}


def test_reports_are_not_passed_on_in_clear(tmp_path: Path) -> None:
    clear = {"url": "http://bundles.shop.svc", "verification": EVERYTHING["policy"]["verification"]}
    with pytest.raises(Refused, match="reports on over https"):
        template(tmp_path, merged(EXAMPLE, {"policy": {**clear, "reports": True}}))


def test_another_configuration_is_another_pod(tmp_path: Path, example: list[dict[str, Any]]) -> None:
    changed = documents(template(tmp_path, merged(EXAMPLE, {"config": {"own_host": "other.shop.example"}})))
    sums = [
        named(rendered, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        for rendered in (example, changed)
    ]
    assert len(set(sums)) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"signingKey": {"secretName": ""}}, "/signingKey/secretName"),
        ({"config": {"services": {}}}, "/config/services"),
        ({"config": {"opa": {"url": "https://elsewhere.example"}}}, "/config/opa"),
        ({"config": {"listen": {"admin": "0.0.0.0:1"}}}, "/config/listen"),
        ({"config": {"signing": {"key_file": "/tmp/key"}}}, "/config"),
        ({"policy": {"url": "bundles"}}, "/policy/url"),
        ({"policy": {"verification": {"keyId": "release"}}}, "/policy/verification"),
        ({"networkPolicy": {"from": []}}, "/networkPolicy/from"),
        ({"networkPolicy": {"protected": [{"name": "a", "podSelector": {}, "port": 1}]}}, "/networkPolicy/protected"),
        ({"metrics": {"enabled": True}}, "/metrics"),
        ({"replica": 3}, "replica"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_would_be_wrong_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    values = merged(EXAMPLE, changes)
    if changes == {"config": {"services": {}}}:
        values["config"] = {**values["config"], "services": {}}
    with pytest.raises(Refused, match="values don't meet") as refused:
        template(tmp_path, values)
    assert told in str(refused.value)


ORDERS = EXAMPLE["networkPolicy"]["protected"][0]
NEAR = {key: value for key, value in ORDERS.items() if key != "namespace"}
IN_CLEAR = {"url": "http://bundles.shop.svc", "verification": EVERYTHING["policy"]["verification"]}
LOCAL = {"url": "http://127.0.0.1:9400", "tokenSecret": EVERYTHING["policy"]["tokenSecret"]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"adminPort": 8080}, "adminPort: 8080 is that of containerPort"),
        ({"metrics": {**METRICS, "port": 8081}}, "metrics.port: 8081 is that of adminPort"),
        ({"metrics": METRICS, "containerPort": 8443}, "metrics.port: 8443 is that of containerPort"),
        ({"autoscaling": {"minReplicas": 9}}, "autoscaling.minReplicas: 9 is more than maxReplicas, 6"),
        (
            {"policy": {"polling": {"min_delay_seconds": 60}}},
            "min_delay_seconds: 60 is more than max_delay_seconds, 10",
        ),
        (
            {"networkPolicy": {"protected": [ORDERS, {**ORDERS, "podSelector": {"matchLabels": {"app": "other"}}}]}},
            "networkPolicy.protected: there are two of the name orders in namespace shop",
        ),
        (
            {"networkPolicy": {"protected": [{**ORDERS, "namespace": "ostiary"}, NEAR]}},
            "networkPolicy.protected: there are two of the name orders in namespace ostiary",
        ),
        ({"policy": {"url": "http://bundles.shop.svc"}}, "policy.url: over http another policy could be put in"),
        ({"policy": {**IN_CLEAR, "tokenSecret": LOCAL["tokenSecret"]}}, "policy.url: over http the token of"),
        ({"podLabels": {"app.kubernetes.io/instance": "other"}}, "podLabels: app.kubernetes.io/instance is set by"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_do_not_go_together_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    """Rendered they would be a pod that does not start, or one that is less protected than they say."""
    with pytest.raises(Refused) as refused:
        template(tmp_path, merged(EXAMPLE, changes))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"port": 8080}},
        {"autoscaling": {"enabled": False, "minReplicas": 9}},
        {"networkPolicy": {"protected": [ORDERS, {**ORDERS, "namespace": "other"}, {**ORDERS, "name": "others"}]}},
        {"policy": IN_CLEAR},
        {"policy": LOCAL},
    ],
    ids=["metrics are off", "autoscaling is off", "other names", "in clear, but signed", "on loopback"],
)
def test_values_that_look_alike_and_go_together_are_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert documents(template(tmp_path, merged(EXAMPLE, changes)))


def maps_of(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield (key,)
            yield from ((key, *below) for below in maps_of(value))


def test_a_default_that_is_taken_away_is_told_by_its_name(tmp_path: Path) -> None:
    """`tls: null`: either nothing needs it, or the schema says what is missing."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    told = []
    for *above, key in maps_of(defaults):
        changes: dict[str, Any] = {key: None}
        for name in reversed(above):
            changes = {name: changes}
        try:
            template(tmp_path, merged(EXAMPLE, changes))
        except Refused as refused:
            told.append((key, str(refused)))
    for key, text in told:
        assert "values don't meet" in text
        assert f"missing property '{key}'" in text
    assert {"tls", "metrics", "serviceMonitor", "networkPolicy", "resources", "polling"} <= {key for key, _ in told}


def test_a_store_of_each_pod_is_refused_where_there_may_be_several(tmp_path: Path) -> None:
    """A grant that is revoked at one pod would count at the others."""
    sqlite = {"config": {"grants": {"url": "sqlite:///grants.db"}}}
    alone = {"autoscaling": {"enabled": False}, "replicas": 1}
    for several in ({}, {"autoscaling": {"enabled": False}, "replicas": 2}):
        with pytest.raises(Refused, match="use PostgreSQL"):
            template(tmp_path, merged(EXAMPLE, sqlite | several))
    assert documents(template(tmp_path, merged(EXAMPLE, sqlite | alone)))
    assert documents(template(tmp_path, merged(EXAMPLE, {"config": {"grants": {"url": "${GRANTS_URL}"}}})))


def without_helm(value: Any) -> Any:
    """What only Helm sets: who manages it, and the sum by which a changed configuration makes other pods."""
    if isinstance(value, dict):
        of_helm = ("app.kubernetes.io/managed-by", "checksum/config")
        kept = {key: without_helm(entry) for key, entry in value.items() if key not in of_helm}
        return {key: entry for key, entry in kept.items() if key != "annotations" or entry}
    return [without_helm(entry) for entry in value] if isinstance(value, list) else value


def test_the_raw_manifests_are_what_the_chart_renders(example: list[dict[str, Any]]) -> None:
    """`OSTIARY_MANIFESTS=write` writes them."""
    directory = ROOT / "deploy" / "kubernetes"
    files: dict[str, list[dict[str, Any]]] = {}
    for document in map(without_helm, example):
        files.setdefault(f"{document['kind'].lower()}.yaml", []).append(document)
    files["kustomization.yaml"] = [
        {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": sorted(files)}
    ]
    if os.environ.get("OSTIARY_MANIFESTS") == "write":
        for name, content in files.items():
            (directory / name).write_text(yaml.safe_dump_all(content, sort_keys=False), encoding="utf-8")

    assert {path.name for path in directory.glob("*.yaml")} == {*files, VALUES.name}
    for name, content in files.items():
        assert documents((directory / name).read_text(encoding="utf-8")) == content, name
