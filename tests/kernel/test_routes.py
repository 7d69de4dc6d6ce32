"""The template grammar and the route table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.routes import (
    VARIABLE_TYPES,
    Conflict,
    Endpoint,
    Literal,
    Rest,
    RouteTable,
    Template,
    TemplateError,
    Variable,
    fold,
    matches,
)


def table(*lines: str) -> RouteTable:
    return RouteTable(Endpoint.parse(line, line) for line in lines)


def found(routes: RouteTable, path: str, method: str = "GET") -> str | None:
    endpoint = routes.endpoint(method, path.removeprefix("/").split("/"))
    return None if endpoint is None else endpoint.name


def test_a_template_is_parsed_into_one_part_for_each_segment() -> None:
    template = Template.parse("/orders/{order_id}/lines/{line:int}/**")
    assert template == Template(
        "/orders/{order_id}/lines/{line:int}/**",
        (Literal("orders"), Variable("order_id", "name"), Literal("lines"), Variable("line", "int"), Rest()),
    )
    assert template.pattern == "/orders/{}name/lines/{}int/**"
    assert template.rest
    assert template.variables == (("order_id", 1), ("line", 3))


def test_a_final_slash_is_a_segment_of_its_own() -> None:
    assert Template.parse("/").parts == (Literal(""),)
    assert Template.parse("/orders/").parts == (Literal("orders"), Literal(""))
    assert not Template.parse("/orders/").rest


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("orders", "a path template starts with '/', and 'orders' does not"),
        ("", "a path template starts with '/', and '' does not"),
        ("//orders", "an empty segment is accepted only at the end, not inside '//orders'"),
        ("/orders//lines", "an empty segment is accepted only at the end, not inside '/orders//lines'"),
        ("/**/orders", "'**' can only be the last segment, which it is not in '/**/orders'"),
        ("/orders/**/", "'**' can only be the last segment, which it is not in '/orders/**/'"),
        ("/orders/../admin", "a segment of dots can never be requested, so '/orders/../admin' cannot be matched"),
        ("/.", "a segment of dots can never be requested, so '/.' cannot be matched"),
        ("/{id}/{id}", "the variable 'id' occurs twice in '/{id}/{id}'"),
        ("/{id:number}", "the type 'number' in '/{id:number}' is unknown; there are file, int, name, text, uuid"),
        *(
            (f"/{segment}", f"the segment {segment!r} of {'/' + segment!r} has characters beyond A-Z a-z 0-9 . _ ~ -")
            for segment in ("*", "a*", "***", "a b", "a%20b", "caf\u00e9", "a:b", "a@b", "a;b", "a,b", "a\n")
        ),
        *(
            (
                f"/{segment}",
                (
                    f"the segment {segment!r} of {'/' + segment!r} is not a variable: that is a whole segment, "
                    "'{name}' or '{name:type}', the name made of letters, digits and _"
                ),
            )
            for segment in ("{}", "{1a}", "{a-b}", "x{a}", "{a}x", "{a}{b}", "{a:}", "{a", "a}", "{a:Int}", "{a}\n")
        ),
    ],
)
def test_what_is_outside_the_grammar_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(TemplateError) as refused:
        Template.parse(text)
    assert str(refused.value) == sentence


def test_an_endpoint_is_a_method_and_a_template() -> None:
    endpoint = Endpoint.parse("get-order", "GET /orders/{order_id}")
    assert (endpoint.name, endpoint.method, endpoint.path) == ("get-order", "GET", "/orders/{order_id}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("/orders", "an endpoint is a method and a path template, 'GET /orders', not '/orders'"),
        (
            "get /orders",
            "the method 'get' is not one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
        ),
        ("TRACE /", "the method 'TRACE' is not one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        ("CONNECT /", "the method 'CONNECT' is not one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        ("GET  /orders", "a path template starts with '/', and ' /orders' does not"),
    ],
)
def test_what_is_no_endpoint_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(TemplateError) as refused:
        Endpoint.parse("e", text)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("kind", "yes", "no"),
    [
        ("name", ["a", "9", "a-b_c", "a" * 128], ["", "-a", "_a", "a.b", "a" * 129, "a~", "é", "a\n", "a/b"]),
        ("int", ["0", "7", "1234567890123456789"], ["", "00", "01", "-1", "+1", "1.0", "1" * 20, "٣", "1\n"]),
        (
            "uuid",
            ["123e4567-e89b-12d3-a456-426614174000"],
            ["123E4567-E89B-12D3-A456-426614174000", "123e4567e89b12d3a456426614174000", "", "{123e4567}"],
        ),
        (
            "file",
            ["a", "report.pdf", "a.b.c", "a_.b", "a-.-b", "a__b", "2026.tar.gz"],
            ["", ".", "..", ".env", "a.", "a..b", "_a", "a_", "-a", "a/b", "a~b", "é.txt", "a\n"],
        ),
        (
            "text",
            ["a", "a:b@c", "caf\u00e9", "日本", "!$&'()*+,=", "x" * 256, "\U0001f600"],
            [
                *("", ".", "..", "a b", "a/b", "a\\b", "a;b", "a%b", "a?b", "a#b", "x" * 257, "a\n", "a\x00", "a\x7f"),
                *("cafe\u0301", "a\u202eb", "a\u200fb", "a\u00a0b", "a\u2028b", "a\u3000b", "\ue000", "\u0378"),
                *("\ud800", "a\u200bb", "a\u2066b", "\ufeff"),
            ],
        ),
        ("number", [], ["1", "a", ""]),
    ],
)
def test_each_type_of_variable_matches_exactly_its_segments(kind: str, yes: list[str], no: list[str]) -> None:
    assert [segment for segment in yes if not matches(kind, segment)] == []
    assert [segment for segment in no if matches(kind, segment)] == []


def test_every_type_has_an_expression_for_the_policy() -> None:
    assert sorted(VARIABLE_TYPES) == ["file", "int", "name", "text", "uuid"]


def test_the_most_specific_endpoint_wins() -> None:
    routes = table(
        "GET /orders",
        "GET /orders/{order_id}",
        "GET /orders/admin/users",
        "GET /orders/{order_id}/invoices/**",
        "GET /orders/{order_id}/invoices/latest",
        "GET /**",
    )
    assert routes.conflicts == ()
    assert {
        path: found(routes, path)
        for path in (
            *("/orders", "/orders/42", "/orders/admin", "/orders/Admin", "/orders/admin/users", "/Orders", "/health"),
            *("/orders/42/invoices", "/orders/42/invoices/latest", "/orders/42/invoices/Latest", "/orders/"),
            *("/orders/42/invoices/2026/1", "/orders/42/invoices/2026/", "/", "/a//b", "/a/caf\u00e9", "/a/b.c/~d"),
        )
    } == {
        "/orders": "GET /orders",
        "/orders/42": "GET /orders/{order_id}",
        "/orders/admin": None,
        "/orders/Admin": None,
        "/orders/admin/users": "GET /orders/admin/users",
        "/Orders": None,
        "/health": "GET /**",
        "/orders/42/invoices": None,
        "/orders/42/invoices/latest": "GET /orders/{order_id}/invoices/latest",
        "/orders/42/invoices/Latest": None,
        "/orders/": None,
        "/orders/42/invoices/2026/1": "GET /orders/{order_id}/invoices/**",
        "/orders/42/invoices/2026/": None,
        "/": None,
        "/a//b": None,
        "/a/caf\u00e9": None,
        "/a/b.c/~d": "GET /**",
    }


def test_the_template_is_the_resource_whatever_methods_it_has() -> None:
    routes = table("GET /orders/**", "PUT /orders/{order_id}", "DELETE /orders/{id}")
    assert [endpoint.name for endpoint in routes.match(["orders", "1"])] == [
        "PUT /orders/{order_id}",
        "DELETE /orders/{id}",
    ]
    assert found(routes, "/orders/1", "GET") is None  # and not the `**` that has the method
    assert found(routes, "/orders/1", "DELETE") == "DELETE /orders/{id}"
    assert found(routes, "/orders/1/2", "GET") == "GET /orders/**"


def test_a_shorter_rest_is_asked_when_a_longer_one_does_not_match() -> None:
    routes = table("GET /files/{owner}/admin/keys", "GET /files/{owner}/**", "GET /files/**")
    assert found(routes, "/files/ann/x") == "GET /files/{owner}/**"
    assert found(routes, "/files/ann/ADMIN") == "GET /files/**"
    assert found(routes, "/files/ann") == "GET /files/**"


def test_a_trailing_slash_is_another_resource() -> None:
    routes = table("GET /", "GET /orders/", "GET /orders/{order_id}")
    assert found(routes, "/") == "GET /"
    assert found(routes, "/orders/") == "GET /orders/"
    assert found(routes, "/orders") is None
    assert found(routes, "/orders/1/") is None


@pytest.mark.parametrize("segment", ["admin", "ADMIN", "adm\u0131n", "ADM\u0130N"])
def test_a_text_variable_never_matches_what_an_upstream_could_read_as_a_sibling(segment: str) -> None:
    assert fold(segment) == "admin"
    assert table("GET /x/admin", "GET /x/{q:text}").match(["x", segment]) == (
        () if segment != "admin" else (Endpoint.parse("GET /x/admin", "GET /x/admin"),)
    )
    assert fold("u\u017fer") == "user"


def test_a_segment_that_holds_a_separator_matches_nothing() -> None:
    routes = table("GET /{a}", "GET /t/{b:text}", "GET /r/**", "GET /f/{c:file}")
    for separator in "/\\;%?#":
        for first in ("", "t", "r", "f"):
            segments = [first, f"a{separator}b"] if first else [f"a{separator}b"]
            assert routes.match(segments) == ()
    assert routes.match([]) == ()
    assert routes.match(["r", ".."]) == ()


def test_two_endpoints_that_cannot_stand_in_one_table_are_named() -> None:
    routes = table("GET /a/{x}", "GET /a/{y}", "PUT /a/{z:int}", "POST /a/{w}", "GET /b/**", "GET /b/**")
    assert routes.conflicts == (
        Conflict(
            "GET /a/{x}", "GET /a/{y}", "GET /a/{y} matches the same requests as 'GET /a/{x}', which is GET /a/{x}"
        ),
        Conflict(
            "GET /a/{x}",
            "PUT /a/{z:int}",
            "/a/{z:int} has a variable of type 'int' where 'GET /a/{x}' has one of type 'name'; "
            "the variables at one place have one type",
        ),
        Conflict("GET /b/**", "GET /b/**", "GET /b/** matches the same requests as 'GET /b/**', which is GET /b/**"),
    )
    assert found(routes, "/a/1", "PUT") is None  # what conflicts is left out: no answer rather than a guess
    assert found(routes, "/a/1", "POST") == "POST /a/{w}"


def test_beside_names_what_narrows_a_template_and_nothing_else() -> None:
    routes = table(
        "GET /orders",
        "GET /orders/{id}",
        "PUT /orders/{id}",
        "GET /orders/admin/users",
        "GET /orders/admin/keys",
        "GET /orders/{id}/lines",
        "GET /orders/{id}/**",
        "GET /billing/{x}",
        "GET /**",
    )
    beside = {endpoint: routes.beside(Endpoint.parse(endpoint, endpoint)) for endpoint in ("GET /orders", "GET /**")}
    assert beside == {"GET /orders": (), "GET /**": ("/billing/{x}", "/orders")}
    assert routes.beside(Endpoint.parse("GET /orders/{id}", "GET /orders/{id}")) == ("/orders/admin/keys",)
    assert routes.beside(Endpoint.parse("GET /orders/{id}/**", "GET /orders/{id}/**")) == (
        "/orders/admin/keys",
        "/orders/{id}/lines",
    )
    with pytest.raises(KeyError):
        routes.beside(Endpoint.parse("GET /orders/{id}", "DELETE /orders/{id}"))
    with pytest.raises(KeyError):
        routes.beside(Endpoint.parse("GET /nowhere/x", "GET /nowhere/x"))


# What follows compares the table with DESIGN's prose, written down a second time and without any index.


def oracle(endpoints: Sequence[Endpoint], segments: Sequence[str]) -> set[str]:
    """The names of the endpoints of the winning template: templates tried one by one, in the words of DESIGN."""

    def prefix(template: Template, place: int) -> tuple[str, ...]:
        return tuple(part.pattern for part in template.parts[:place])

    def siblings(template: Template, place: int) -> set[str]:
        return {
            fold(part.text)
            for other in endpoints
            if len(other.template.parts) > place and prefix(other.template, place) == prefix(template, place)
            for part in [other.template.parts[place]]
            if isinstance(part, Literal)
        }

    def matched(template: Template) -> bool:
        head = template.parts[:-1] if template.rest else template.parts
        if len(segments) < len(template.parts) or (not template.rest and len(segments) != len(head)):
            return False
        for place, (part, segment) in enumerate(zip(head, segments, strict=False)):
            if isinstance(part, Literal):
                if segment != part.text:
                    return False
            elif isinstance(part, Variable) and (
                not matches(part.type, segment) or fold(segment) in siblings(template, place)
            ):
                return False
        if not template.rest:
            return True
        tail = segments[len(head) :]
        unreserved = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~-")
        if not all(segment and set(segment) <= unreserved and segment not in (".", "..") for segment in tail):
            return False
        return fold(tail[0]) not in siblings(template, len(head))

    exact = [endpoint for endpoint in endpoints if not endpoint.template.rest and matched(endpoint.template)]
    if exact:
        assert len({endpoint.template.pattern for endpoint in exact}) == 1
        return {endpoint.name for endpoint in exact}
    rest = [endpoint for endpoint in endpoints if endpoint.template.rest and matched(endpoint.template)]
    longest = max((len(endpoint.template.parts) for endpoint in rest), default=0)
    return {endpoint.name for endpoint in rest if len(endpoint.template.parts) == longest}


LITERALS = ["a", "A", "b", "1", "x.y", "-"]
SEGMENTS = [*LITERALS, "B", "c", "2", "X.Y", "", "\u017f", "q:r", "-~", "é"]
place = st.sampled_from([*LITERALS, "a", "b", "{n}", "{n}", "{n:text}", "{n:int}", "{n:file}"])


@st.composite
def tables(draw: st.DrawFn) -> list[Endpoint]:
    """Endpoints without conflicts, of few words, so that they often meet at one place."""
    shapes = draw(st.lists(st.tuples(st.lists(place, max_size=3), st.sampled_from(["", "**", "/", None])), max_size=9))
    endpoints: list[Endpoint] = []
    for number, (segments, end) in enumerate(shapes):
        parts = [
            segment.replace("n", f"n{index}", 1) if "{" in segment else segment
            for index, segment in enumerate(segments)
        ]
        path = "/" + "/".join([*parts, *({"": [], "**": ["**"], "/": [""], None: []}[end])])
        method = draw(st.sampled_from(["GET", "PUT"]))
        candidate = Endpoint.parse(f"e{number}", f"{method} {path}")
        if not RouteTable([*endpoints, candidate]).conflicts:
            endpoints.append(candidate)
    return endpoints


def names(endpoints: Iterable[Endpoint]) -> set[str]:
    return {endpoint.name for endpoint in endpoints}


@settings(max_examples=300, deadline=None)
@given(tables(), st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5), min_size=1, max_size=30))
def test_the_table_answers_as_the_prose_does(endpoints: list[Endpoint], paths: list[list[str]]) -> None:
    routes = RouteTable(endpoints)
    assert routes.conflicts == ()
    for segments in paths:
        assert names(routes.match(segments)) == oracle(endpoints, segments)
        for method in ("GET", "PUT"):
            answer = routes.endpoint(method, segments)
            assert answer is None or (answer.method == method and answer in routes.match(segments))


def small(endpoint: Endpoint, beside: Iterable[str]) -> RouteTable:
    return RouteTable([endpoint, *(Endpoint.parse(text, f"OPTIONS {text}") for text in beside)])


@settings(max_examples=200, deadline=None)
@given(tables(), st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5), min_size=1, max_size=30))
def test_an_endpoint_and_what_is_beside_it_answer_as_the_whole_table(
    endpoints: list[Endpoint], paths: list[list[str]]
) -> None:
    routes = RouteTable(endpoints)
    for endpoint in endpoints:
        beside = routes.beside(endpoint)
        assert beside == tuple(sorted(set(beside)))
        assert set(beside) <= {other.path for other in endpoints}
        alone = small(endpoint, beside)
        assert alone.conflicts == ()
        for segments in paths:
            assert (endpoint in alone.match(segments)) == (endpoint in routes.match(segments)), (beside, segments)


def stood_for(text: str, beside: Sequence[str]) -> bool:
    """Whether another one has a variable where this one has a literal, and begins as it does."""
    segments = text.split("/")
    others = [other.split("/") for other in beside]
    return any(
        other[:place] == segments[:place] and other[place : place + 1] and other[place].startswith("{")
        for place, segment in enumerate(segments)
        if not segment.startswith(("{", "*"))
        for other in others
    )


@settings(max_examples=60, deadline=None)
@given(tables())
def test_nothing_beside_an_endpoint_can_be_left_out(endpoints: list[Endpoint]) -> None:
    """But for a literal that a variable beside it may stand for: of one that is spelled in one way only, whatever the
    case, or where the endpoint ends in `**`, which is asked for neither."""
    routes = RouteTable(endpoints)
    words = [*LITERALS, "B", "c", "2", "z.w", "q:r", ""]
    for endpoint in endpoints:
        beside = routes.beside(endpoint)
        for text in beside:
            if any(segment and segment.upper() == segment.lower() for segment in text.split("/")):
                continue
            if isinstance(endpoint.template.parts[-1], Rest) and stood_for(text, beside):
                continue
            fewer = small(endpoint, [other for other in beside if other != text])
            assert any(
                (endpoint in fewer.match(segments)) != (endpoint in routes.match(segments))
                for length in range(1, 5)  # of words, each of which matches something
                for segments in itertools.product(words, repeat=length)
            ), (endpoint, beside, text)


def test_a_look_up_costs_the_segments_and_not_the_routes() -> None:
    """A table of ten thousand routes touches as many nodes as one of two: what is compared is counted."""
    compared: list[str] = []

    class Counted(str):
        __slots__ = ()

        def __hash__(self) -> int:
            compared.append(self)
            return super().__hash__()

        __eq__ = str.__eq__

    routes = RouteTable(Endpoint.parse(f"e{n}", f"GET /s{n}/{{id}}/t{n % 7}") for n in range(10_000))
    assert [e.name for e in routes.match([Counted("s9999"), Counted("x"), Counted("t3")])] == ["e9999"]
    assert compared == ["s9999", "x", "t3"]
