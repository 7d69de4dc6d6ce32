"""OpenAPI documents become endpoints, and whatever no template can say is left out with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ostiary.errors import ConfigurationError
from ostiary.policy.imports.names import kebab, service_name
from ostiary.policy.imports.openapi import ImportedService, read_openapi
from ostiary.policy.imports.samples import sample_path
from ostiary.routes import Endpoint, RouteTable


def document(path: Path, paths: str, *, above: str = "", version: str = "3.0.3") -> Path:
    path.write_text(f"openapi: {version}\ninfo: {{title: Orders API, version: '1'}}\n{above}paths:\n{paths}", "utf-8")
    return path


def imported(tmp_path: Path, paths: str, *, above: str = "", version: str = "3.0.3") -> ImportedService:
    return read_openapi(document(tmp_path / "api.yaml", paths, above=above, version=version))


def endpoints(service: ImportedService) -> dict[str, str]:
    return {one.name: f"{one.method} {one.path}" for one in service.endpoints}


def left_out(service: ImportedService) -> list[str]:
    return [f"{one.line} {one.what}: {one.why}" for one in service.left_out]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("getOrderById", "get-order-by-id"),
        ("get_order", "get-order"),
        ("listHTTPServers", "list-http-servers"),
        ("Orders_v2.list", "orders-v2-list"),
        ("--", ""),
        ("a" * 70, "a" * 63),
        ("ÉtéList", "t-list"),
    ],
)
def test_operation_ids_become_names(written: str, name: str) -> None:
    assert kebab(written) == name


def test_a_service_is_called_after_the_title() -> None:
    assert [service_name(title) for title in ("Orders API", "Pet Store Service v2", "API")] == [
        "orders",
        "pet-store",
        "api",
    ]


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ("{type: integer, format: int64}", ":int"),
        ("{type: string, format: uuid}", ":uuid"),
        ("{type: string}", ""),
        ("{type: string, format: date}", ""),
        ("{type: string, format: date-time}", ":text"),
        ("{type: string, format: email}", ":text"),
        ("{type: string, format: ipv4}", ":file"),
        ("{type: number}", ":file"),
        ("{type: array, items: {type: string}}", ":text"),
        ("{type: string, enum: [open, paid]}", ""),
        ("{type: string, enum: [a.txt, b]}", ":file"),
        ("{type: string, example: 'ann@shop.test'}", ":text"),
        ("{$ref: '#/components/schemas/Id'}", ":int"),
        ("{allOf: [{$ref: '#/components/schemas/Id'}]}", ":int"),
        ("{}", ""),
    ],
)
def test_the_schema_of_a_parameter_chooses_the_type_of_its_variable(tmp_path: Path, schema: str, kind: str) -> None:
    paths = f"""\
  /orders/{{order-id}}:
    get: {{operationId: get, parameters: [{{name: order-id, in: path, required: true, schema: {schema}}}]}}
components: {{schemas: {{Id: {{type: integer}}}}}}
"""
    assert endpoints(imported(tmp_path, paths)) == {"get": f"GET /orders/{{order_id{kind}}}"}


def test_3_1_says_null_and_examples(tmp_path: Path) -> None:
    schema = "{type: [string, 'null'], examples: [cat.png]}"
    paths = f"  /p/{{x}}: {{get: {{operationId: g, parameters: [{{name: x, in: path, schema: {schema}}}]}}}}\n"

    assert endpoints(imported(tmp_path, paths, version="3.1.0")) == {"g": "GET /p/{x:file}"}


def test_parameters_are_the_path_s_unless_the_operation_has_its_own(tmp_path: Path) -> None:
    paths = """\
  /orders/{id}/items:
    parameters: [{$ref: '#/components/parameters/Id'}]
    get: {operationId: list}
    put: {operationId: put, parameters: [{name: id, in: query, schema: {type: string}}]}
  /charges/{id}:
    parameters: [{$ref: '#/components/parameters/Id'}]
    get: {operationId: charge, parameters: [{name: id, in: path, schema: {type: string}}]}
components: {parameters: {Id: {name: id, in: path, schema: {type: integer}}}}
"""
    assert endpoints(imported(tmp_path, paths)) == {
        "list": "GET /orders/{id:int}/items",
        "put": "PUT /orders/{id:int}/items",
        "charge": "GET /charges/{id}",
    }


def test_endpoints_are_below_the_base_path_of_the_first_server(tmp_path: Path) -> None:
    above = """\
servers:
  - {url: "https://{region}.shop.test:8443/{version}/", variables: {region: {default: eu}, version: {default: v1}}}
  - {url: https://staging.shop.test/v1}
  - {url: /v2}
"""
    paths = """\
  /orders: {get: {operationId: list}}
  /health: {servers: [{url: /}], get: {operationId: health}}
"""
    service = imported(tmp_path, paths, above=above)

    assert service.origin == "https://eu.shop.test:8443"
    assert endpoints(service) == {"list": "GET /v1/orders", "health": "GET /health"}
    assert left_out(service) == ["6 the base path /v2: the first is /v1"]


def test_what_no_template_says_is_left_out_with_its_line(tmp_path: Path) -> None:
    paths = """\
  /orders: {get: {operationId: list}}
  /orders/{id}.json: {get: {operationId: json}}
  /orders:search: {post: {operationId: search}}
  /orders/{id}: {get: {operationId: get}}
  /orders/{orderId}/items:
    get:
      parameters: [{name: orderId, in: path, schema: {type: integer}}]
  /orders/{number}:
    trace: {operationId: trace}
    get: {operationId: twin}
  /matrix/{x}: {get: {parameters: [{name: x, in: path, style: matrix, schema: {type: string}}]}}
  /links/{x}: {get: {parameters: [{name: x, in: path, schema: {type: string, format: uri}}]}}
  /ends/{x}: {get: {parameters: [{name: x, in: path, schema: {type: string, enum: [a/b]}}]}}
  /there: {$ref: other.yaml}
  /circle/{x}: {get: {parameters: [{$ref: '#/components/parameters/A'}]}}
  /rest/**: {get: {}}
components: {parameters: {A: {$ref: '#/components/parameters/A'}}}
"""
    service = imported(tmp_path, paths)

    assert endpoints(service) == {"list": "GET /orders", "get": "GET /orders/{id}"}
    assert [line.partition(": ")[0] for line in left_out(service)] == [
        "5 GET /orders/{id}.json",
        "6 POST /orders:search",
        "9 GET /orders/{orderId:int}/items",
        "12 TRACE /orders/{number}",
        "13 GET /orders/{number}",
        "14 GET /matrix/{x}",
        "15 GET /links/{x}",
        "16 GET /ends/{x}",
        "17 /there",
        "18 GET /circle/{x}",
        "19 GET /rest/**",
    ]
    assert "has a variable of type 'int' where 'get' has one of type 'name'" in left_out(service)[2]
    assert "matches the same requests as 'get'" in left_out(service)[4]


def test_operations_without_an_id_are_named_and_names_that_meet_are_numbered(tmp_path: Path) -> None:
    paths = """\
  /orders/{orderId}: {get: {}, delete: {operationId: drop_it}}
  /items: {get: {operationId: dropIt}}
"""
    assert list(endpoints(imported(tmp_path, paths))) == ["get-orders-order-id", "drop-it", "drop-it-2"]


def test_responses_by_number_and_json_are_read(tmp_path: Path) -> None:
    yaml = imported(tmp_path, "  /a: {get: {operationId: a, responses: {200: {description: ok}}}}\n")
    path = tmp_path / "api.json"
    path.write_text(json.dumps({"openapi": "3.1.1", "paths": {"/a": {"get": {"operationId": "a"}}}}, indent=2))

    assert endpoints(yaml) == endpoints(read_openapi(path)) == {"a": "GET /a"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("swagger: '2.0'\n", "api.yaml:1: Swagger 2.0 is not read: convert it to OpenAPI 3"),
        ("info: {}\nopenapi: 4.0.0\n", "api.yaml:2: OpenAPI 4.0.0 is not read: 3.0 and 3.1 are, in quotes"),
        ("paths: {}\n", "api.yaml:1: is not an OpenAPI document: it has no key 'openapi'"),
        ("[1]\n", "api.yaml:1: is not an OpenAPI document"),
        ("openapi: 3.1.0\npaths: {}\n", "api.yaml:2: no operation of it can be an endpoint"),
        ("openapi: 3.1.0\nopenapi: 3.1.0\n", "api.yaml:2: the key 'openapi' is there twice, first on line 1"),
    ],
)
def test_what_is_no_document_of_these_versions_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "api.yaml"
    path.write_text(text)

    with pytest.raises(ConfigurationError) as refused:
        read_openapi(path)
    assert [line.rpartition("/")[2] for line in refused.value.mistakes] == [told]


def test_a_sample_leads_to_its_endpoint_and_no_other() -> None:
    written = {
        "get": "GET /orders/{id}",
        "two": "GET /orders/a2",
        "cap": "GET /orders/A3",
        "number": "GET /orders/{id}/items/{item:int}",
        "uuid": "GET /u/{id:uuid}/",
        "file": "GET /f/{name:file}",
        "text": "POST /t/{name:text}",
    }
    found = [Endpoint.parse(name, text) for name, text in written.items()]
    table = RouteTable(found)

    for endpoint in found:
        segments = sample_path(endpoint, found)[1:].split("/")
        assert table.endpoint(endpoint.method, segments) is endpoint


def test_schemas_that_refer_to_one_another_many_times_are_each_read_once(tmp_path: Path) -> None:
    """A hundred references to itself, to the depth of eight, would be read until the end of days."""
    refers = ", ".join(["{$ref: '#/components/schemas/A'}"] * 100)
    above = f"components: {{schemas: {{A: {{type: integer, allOf: [{refers}]}}}}}}\n"
    schema = "{$ref: '#/components/schemas/A'}"
    paths = f"  /a/{{x}}: {{get: {{parameters: [{{name: x, in: path, schema: {schema}}}]}}}}\n"
    assert [one.path for one in imported(tmp_path, paths, above=above).endpoints] == ["/a/{x:int}"]


def test_a_reference_to_what_no_list_can_have_leads_nowhere(tmp_path: Path) -> None:
    paths = f"  /a/{{x}}: {{get: {{parameters: [{{$ref: '#/servers/{'9' * 5000}'}}]}}}}\n  /b: {{get: {{}}}}\n"
    found = imported(tmp_path, paths, above="servers: [{url: /}]\n")
    assert [one.path for one in found.endpoints] == ["/b"]
