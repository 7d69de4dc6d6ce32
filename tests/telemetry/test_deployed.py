"""Dashboard, alerts and the page about them speak of metrics that a proxy really exports, with labels they have."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ostiary.errors import REASONS
from ostiary.telemetry import METRICS
from ostiary.telemetry.reference import reference
from support.docs import ROOT
from support.tools import tool

ALERTS: Final = ROOT / "deploy" / "prometheus" / "alerts.yaml"
CASES: Final = ROOT / "deploy" / "prometheus" / "alerts_test.yaml"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "dashboard.json"
PAGE: Final = ROOT / "docs" / "telemetry.md"

SCRAPED: Final = {"instance", "le"}
"""Labels that Prometheus adds, and those of buckets."""

_VARIABLES: Final = {"$__rate_interval": "5m", "$__range": "1h"}
_SELECTOR: Final = re.compile(r"\b(ostiary_\w+)(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Where each query stands, and its text."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
        yield variable["name"], f'count by ({label}) ({metric}{{{label}!=""}})'


QUERIES: Final = list(queries())


def labels_of(name: str) -> set[str]:
    """Of the samples of that name. KeyError where no metric has such samples."""
    for suffix in ("_bucket", "_sum", "_count"):
        family = METRICS.get(name.removesuffix(suffix))
        if family is not None and family.kind == "histogram" and name.endswith(suffix):
            return {*family.labels, *SCRAPED}
    family = METRICS[name]
    if family.kind == "histogram":
        raise KeyError(name)
    return {*family.labels, "instance"}


@pytest.mark.parametrize(
    ("where", "query"), QUERIES, ids=[f"{number}-{where}" for number, (where, _) in enumerate(QUERIES)]
)
def test_a_query_names_metrics_and_labels_that_there_are(where: str, query: str) -> None:
    selectors = _SELECTOR.findall(query)
    assert selectors
    for name, matchers in selectors:
        assert {label for label, _ in _MATCHER.findall(matchers)} <= labels_of(name), f"{where}: {name}"
    known = set.union(*(labels_of(name) for name, _ in selectors))
    for grouping in _GROUPING.findall(query):
        assert {label.strip() for label in grouping.split(",")} <= known, f"{where}: {grouping}"


def test_reasons_and_other_values_in_queries_exist() -> None:
    values: Mapping[str, set[str]] = {
        "reason": {*REASONS},
        "state": {"answering", "wanted", "busy", "idle"},
        "source": {"opa", "cache"},
        "outcome": {"forwarded", "refused", "answered"},
        "result": {"hit", "miss", "shared", "delivered", "failed", "given-up"},
    }
    found = [(label, value) for _, query in QUERIES for label, value in _MATCHER.findall(query) if label in values]
    assert {label for label, _ in found} == set(values)
    for label, value in found:
        assert set(value.split("|")) <= values[label], value


def test_every_metric_is_shown_or_alerted_on() -> None:
    shown = {name for _, query in QUERIES for name, _ in _SELECTOR.findall(query)}
    unseen = {name for name in METRICS if not {name, f"{name}_bucket"} & shown}
    assert unseen == {"ostiary_epoch", "ostiary_start_time_seconds", "ostiary_decision_cache_checks_total"}


def test_prometheus_takes_every_query(tmp_path: Path) -> None:
    """Those of the dashboard as recording rules, with what Grafana puts in place of its variables."""
    recorded = []
    for number, (_, query) in enumerate(QUERIES):
        for variable, value in _VARIABLES.items():
            query = query.replace(variable, value)  # noqa: PLW2901
        recorded.append({"record": f"check:{number}", "expr": re.sub(r"\$\w+", ".*", query)})
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "check", "rules": recorded}]}))
    for rule_file in (path, ALERTS):
        checked = subprocess.run(
            [tool("promtool"), "check", "rules", rule_file], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_fires_when_it_should_and_else_is_quiet() -> None:
    checked = subprocess.run([tool("promtool"), "test", "rules", CASES], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    fires: dict[str, set[bool]] = {}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for one in case["alert_rule_test"]:
            fires.setdefault(one["alertname"], set()).add(bool(one["exp_alerts"]))
    assert fires == {rule["alert"]: {True, False} for rule in rules()}


def test_every_alert_has_a_summary_and_a_severity() -> None:
    assert all(rule["annotations"]["summary"] for rule in rules())
    assert {rule["labels"]["severity"] for rule in rules()} == {"critical", "warning", "info"}


def test_panels_have_ids_and_places_of_their_own() -> None:
    every = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert max(x for x, _ in taken) == 23


def test_the_page_has_every_metric_as_the_code_defines_it() -> None:
    """If not: `python -m ostiary.telemetry.reference`, between the marks in docs/telemetry.md."""
    assert reference() in PAGE.read_text(encoding="utf-8")
