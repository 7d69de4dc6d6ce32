"""Python's route table and Rego's find the same endpoint, for random tables and random paths."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ostiary.policy.routing import route_forms, route_index
from ostiary.routes import METHODS, Endpoint, RouteTable
from support.policy import MATRIX, Evaluator, compiled, question, replaced

LITERALS = ["a", "b", "Admin", "users", "x.y", "~", "sis", "K", "42"]
VARIABLES = ["{v}", "{v:int}", "{v:uuid}", "{v:file}", "{v:text}"]
UUID = "123e4567-e89b-12d3-a456-426614174000"
SEGMENTS = [
    *["a", "A", "b", "admin", "Admin", "ADMIN", "users", "Users", "x.y", "X.Y", "~", "sis", "SIS", "K", "k", "42"],
    *[
        "\u017fis",
        "s\u0131s",
        "s\u0130s",
        "\u212a",
        "ß",
        "naïve",
        "a:b",
        "a@b",
        "x'y",
        'x"y',
        "<&>",
        "日本",
        "\U0001d4b3",
        "e\u0301",
    ],
    *["0", "007", "9" * 19, "9" * 20, UUID, UUID.upper(), "f.txt", ".f", "f.", "a..b", "...", ".hidden", "-x", "_x"],
    *["", "x" * 128, "x" * 129, "é" * 256, "é" * 257, "{}name", "=a", "**", "{v}", "a/b", "=a/=b", "%41", "a b"],
    *["..", ".", "a;b", "a?b", "a#b", "a\\b", "a\tb", "a\nb", "a\u202eb", "a\u200bb", "a\u00a0b"],
]
"""What Python's canonicaliser would refuse is here, too: Rego has to refuse it by itself."""

part = st.sampled_from([*LITERALS, *VARIABLES])
path = st.builds(
    lambda parts, end: "/" + "/".join([*(p.replace("v", f"v{i}") for i, p in enumerate(parts)), *end]),
    st.lists(part, max_size=4),
    st.sampled_from([[], [], [""], ["**"]]),
).filter(lambda text: not text.startswith("//"))
endpoints = st.lists(st.tuples(st.sampled_from(["GET", "POST"]), path), min_size=1, max_size=12)
segments = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=6)


def table_of(texts: list[tuple[str, str]]) -> list[Endpoint]:
    """The endpoints without those that a table would leave out."""
    found = [Endpoint.parse(f"e{i}", f"{method} {text}") for i, (method, text) in enumerate(texts)]
    while conflicts := {conflict.second for conflict in RouteTable(found).conflicts}:
        found = [endpoint for endpoint in found if endpoint.name not in conflicts]
    return found


def formed_in(table: list[Endpoint]) -> set[str]:
    """Those that have a form: all but the ones with `**` that others are asked before."""
    forms = set(route_forms(table))
    assert {endpoint.name for endpoint in table if not endpoint.template.rest} <= forms
    return forms


def near(table: list[Endpoint], draw: Any) -> list[str]:
    """Segments that go along one of the templates, mostly."""
    segments: list[str] = []
    for text in draw(st.sampled_from(table)).path[1:].split("/"):
        if text == "**":
            segments += draw(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3))
        elif text.startswith("{") or draw(st.integers(0, 9)) == 0:
            segments.append(draw(st.sampled_from(SEGMENTS)))
        else:
            segments.append(text)
    return segments


@st.composite
def cases(draw: Any) -> tuple[list[Endpoint], list[list[str]]]:
    table = table_of(draw(endpoints))
    asked = [near(table, draw) for _ in range(12)] + draw(st.lists(segments, min_size=4, max_size=8))
    return table, asked


@pytest.fixture(scope="module")
def evaluate(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def ask(tables: list[list[Endpoint]], asked: list[list[list[str]]]) -> list[list[str | None]]:
        names = [f"s{i}" for i in range(len(tables))]
        content = {
            "routes": {name: route_index(table) for name, table in zip(names, tables, strict=True)},
            "forms": {name: route_forms(table) for name, table in zip(names, tables, strict=True)},
        }
        evaluator = Evaluator(opa_binary, tmp_path_factory.mktemp("routes"), content, batch)
        requests = []
        for name, paths in zip(names, asked, strict=True):
            for path in paths:
                request = question(service=name)
                request["resource"]["properties"]["segments"] = path
                requests.append(request)
        answers = evaluator.query("data.differential.answers", {"evaluations": requests})
        formed = {(name, each) for name, table in zip(names, tables, strict=True) for each in formed_in(table)}
        for request, (endpoint, confirmed) in zip(requests, answers, strict=True):
            # Whatever is predicted, its form confirms what is found without a prediction, and nothing else.
            found_by_form = [endpoint] if (request["resource"]["id"], endpoint) in formed else []
            assert (request, confirmed) == (request, found_by_form)
        found = iter(endpoint for endpoint, _ in answers)
        return [[next(found) for _ in paths] for paths in asked]

    batch = tmp_path_factory.mktemp("rego") / "differential.rego"
    batch.write_text(
        """\
package differential

import data.ostiary.routes

default _endpoint := null

_endpoint := routes.endpoint

answers := [[endpoint, confirmed] |
	some request in input.evaluations
	endpoint := _endpoint with input as request
	confirmed := [name |
		some name, _ in data.ostiary.map.forms[request.resource.id]
		predicted := json.patch(request, [{"op": "add", "path": "/resource/properties/endpoint", "value": name}])
		found := routes.confirmed with input as predicted
		found == name
	]
]
""",
        encoding="utf-8",
    )
    return ask


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example asks OPA: to shrink one takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(batch=st.lists(cases(), min_size=4, max_size=10))
def test_both_find_the_same_endpoint(evaluate: Any, batch: list[tuple[list[Endpoint], list[list[str]]]]) -> None:
    tables = [table for table, _ in batch]
    asked = [paths for _, paths in batch]
    expected = []
    for table, paths in batch:
        routes = RouteTable(table)
        found = [routes.endpoint("GET", path) for path in paths]
        expected.append([None if endpoint is None else endpoint.name for endpoint in found])
    answers = evaluate(tables, asked)
    differing = [
        ([f"{each.method} {each.path}" for each in table], path, python, rego)
        for table, paths, names, answer in zip(tables, asked, expected, answers, strict=True)
        for path, python, rego in zip(paths, names, answer, strict=True)
        if python != rego and _canonical(path)
    ]
    assert differing == []
    beyond = [
        (path, rego)
        for paths, answer in zip(asked, answers, strict=True)
        for path, rego in zip(paths, answer, strict=True)
        if rego is not None and any(_separates(segment) for segment in path)
    ]
    assert beyond == []  # what holds a separator matches nothing, in Rego too


def _canonical(path: list[str]) -> bool:
    """Whether the canonicaliser could let these segments through: Rego cannot see what is NFC, and need not."""
    return all(unicodedata.is_normalized("NFC", segment) for segment in path)


def _separates(segment: str) -> bool:
    return segment in {".", ".."} or any(letter in "/\\;%?#" for letter in segment)


def test_every_method_is_looked_up_by_name(evaluate: Any) -> None:
    table = [Endpoint.parse(method.lower(), f"{method} /x") for method in sorted(METHODS)]
    assert evaluate([table], [[["x"]]]) == [["get"]]


def test_a_prediction_is_believed_where_it_is_right_and_nowhere_else(opa_binary: Path, tmp_path: Path) -> None:
    """Every endpoint predicted for every path: the answer is that without a prediction, or a mismatch. Each is asked
    for an identity that the short ways are for, and for one that they are not."""
    content = compiled(MATRIX)
    evaluator = Evaluator(opa_binary, tmp_path, content)
    paths = [
        *(
            "/",
            "/orders",
            "/orders/",
            "/orders/42",
            "/orders/admin",
            "/orders/Admin",
            "/orders/ADM\u0131N",
            "/orders/-",
        ),
        *("/orders/admin/users", "/orders/42/users", "/orders/42/lines/7", "/orders/42/lines/07", "/orders/42/lines/x"),
        *(
            "/files",
            "/files/a",
            "/files/a/b",
            "/files/a/special",
            "/files/a/Special",
            "/files/a/b/c",
            "/tenants/a/items",
        ),
        *(
            "/notes/s\u0131s",
            "/notes/sis",
            "/notes/caf\u00e9",
            "/any/thing",
            "/any/th.ing",
            "/any/a%2fb",
            "/nowhere",
            "//",
            "/orders//",
        ),
    ]
    asked = [
        (method, path, claims)
        for path in paths
        for method in ("GET", "PUT", "HEAD")
        for claims in ({}, {"stage": "prod"})
    ]
    found = evaluator.decide(*(question("web", m, p, service="shop", claims=c) for m, p, c in asked))
    predictions = [*content["endpoints"]["shop"], "no-such-endpoint"]
    for predicted in predictions:
        answers = evaluator.decide(
            *(question("web", m, p, service="shop", claims=c, endpoint=predicted) for m, p, c in asked)
        )
        for (method, path, _), answer, unprompted in zip(asked, answers, found, strict=True):
            where = (predicted, method, path)
            if unprompted["endpoint"] == predicted:
                assert (where, {**answer, "cache": None}) == (where, {**unprompted, "cache": None})
            else:
                assert (where, answer["reasons"], answer["allow"]) == (where, ["route-mismatch"], False)


@pytest.mark.parametrize("predicted", [7, True, ["get"], {"get": 1}, ""])
def test_a_prediction_that_is_no_name_is_a_mismatch(opa_binary: Path, tmp_path: Path, predicted: Any) -> None:
    evaluator = Evaluator(opa_binary, tmp_path, compiled(MATRIX))
    place = ("resource", "properties", "endpoint")
    (answer,) = evaluator.decide(replaced(question("web", service="shop", endpoint="get"), predicted, *place))
    assert (answer["allow"], answer["reasons"]) == (False, ["route-mismatch"])
