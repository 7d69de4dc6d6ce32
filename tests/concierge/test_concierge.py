"""The concierge behind a real server: preflights, what pages may read, and the public documents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from ostiary.concierge import (
    JWKS_PATH,
    PROTECTED_RESOURCE_PATH,
    ProxyConcierge,
    protected_resource_metadata,
)
from ostiary.errors import AccessError, IdentityMissing
from ostiary.exchange import Exchange
from ostiary.models import Target
from ostiary.problem import Problems
from support.shipped import cors_settings

PAGE = "https://shop.example"
CORS = {
    "orders": cors_settings(
        origins=(PAGE, "http://localhost:3000"),
        methods=("GET", "POST"),
        headers=("authorization", "content-type"),
        expose=("etag", "x-total"),
        max_age=300,
    ),
    "billing": cors_settings(origins=(PAGE,), credentials=True),
    "closed": cors_settings(origins=()),
}


class App:
    """Target, concierge, and what stands for the rest of the pipeline: `/private` needs an identity."""

    def __init__(self, concierge: ProxyConcierge) -> None:
        self._concierge = concierge
        self.went_on: list[tuple[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        host = (exchange.header(b"host") or b"").decode().partition(":")[0]
        path = exchange.raw_path.decode()
        target = Target(service=host, segments=tuple(path[1:].split("/")), path=path, query=None, pairs=())
        try:
            if await self._concierge.answer(exchange, target):
                return
            self.went_on.append((exchange.method, path))
            if path == "/private":
                raise IdentityMissing
            await exchange.respond(200, [], b"upstream")
        except AccessError as refusal:
            await Problems().answer(exchange, refusal)


@pytest.fixture
def app() -> App:
    return App(
        ProxyConcierge(
            cors=CORS,
            documents={
                JWKS_PATH: (b"application/jwk-set+json", b'{"keys":[1]}'),
                PROTECTED_RESOURCE_PATH: (b"application/json", b"{}"),
            },
        )
    )


@pytest.fixture
async def client(app: App) -> AsyncIterator[httpx.AsyncClient]:
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        lifespan="off",
        ws="none",
        log_config=None,
        server_header=False,
        date_header=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110 - the server offers no event
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client:
        yield client
    server.should_exit = True
    await serving


async def ask(client: httpx.AsyncClient, method: str, path: str, *, service: str = "orders", **headers: str) -> Any:
    sent = {"host": service} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.request(method, path, headers=sent)


def headers(response: httpx.Response) -> dict[str, str]:
    """The answer's headers, each of which may occur once, without the decision's id, which every answer has."""
    found = [(name.lower(), value) for name, value in response.headers.multi_items()]
    assert len({name for name, _ in found}) == len(found)
    named = dict(found)
    assert len(named.pop("ostiary-decision-id")) == 32
    return named


async def preflight(client: httpx.AsyncClient, *, service: str = "orders", origin: str = PAGE) -> httpx.Response:
    return await ask(
        client,
        "OPTIONS",
        "/orders/42",
        service=service,
        origin=origin,
        access_control_request_method="DELETE",
        access_control_request_headers="x-anything",
    )


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
async def test_a_preflight_from_a_listed_origin_is_answered_with_what_is_allowed(
    client: httpx.AsyncClient, app: App, origin: str
) -> None:
    response = await preflight(client, origin=origin)

    assert (response.status_code, response.content) == (204, b"")
    assert headers(response) == {
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "authorization, content-type",
        "access-control-max-age": "300",
        "vary": "Origin",
        "access-control-allow-origin": origin,
    }
    assert app.went_on == []


async def test_credentials_are_allowed_only_where_settings_say_so(client: httpx.AsyncClient) -> None:
    response = await preflight(client, service="billing")

    assert headers(response) == {
        "access-control-allow-methods": "GET, HEAD, POST",
        "access-control-allow-headers": "authorization, content-type",
        "access-control-max-age": "600",
        "vary": "Origin",
        "access-control-allow-origin": PAGE,
        "access-control-allow-credentials": "true",
    }


@pytest.mark.parametrize(
    ("service", "origin"),
    [
        ("orders", "https://evil.example"),
        ("orders", "https://shop.example.evil.example"),
        ("orders", "https://sub.shop.example"),
        ("orders", "http://shop.example"),
        ("orders", "https://shop.example:444"),
        ("orders", "https://SHOP.example"),
        ("orders", "https://shop.example/"),
        ("orders", "null"),
        ("orders", "*"),
        ("orders", ""),
        ("closed", PAGE),
    ],
)
async def test_a_preflight_from_another_origin_is_refused_unreadably_and_goes_nowhere(
    client: httpx.AsyncClient, app: App, service: str, origin: str
) -> None:
    response = await preflight(client, service=service, origin=origin)

    assert response.status_code == 403
    assert response.json()["reasons"] == ["origin-refused"]
    assert not any(name.startswith("access-control") for name in headers(response))
    assert headers(response)["vary"] == "Origin"
    assert app.went_on == []


async def test_a_preflight_for_a_service_without_cors_is_a_request_like_others(
    client: httpx.AsyncClient, app: App
) -> None:
    response = await preflight(client, service="reports")

    assert app.went_on == [("OPTIONS", "/orders/42")]
    assert headers(response) == {"content-length": "8"}


@pytest.mark.parametrize("sent", [{}, {"origin": PAGE}, {"access_control_request_method": "GET"}])
async def test_an_options_request_that_is_no_preflight_goes_on(
    client: httpx.AsyncClient, app: App, sent: dict[str, str]
) -> None:
    await ask(client, "OPTIONS", "/orders", **sent)

    assert app.went_on == [("OPTIONS", "/orders")]


@pytest.mark.parametrize(("path", "status"), [("/orders", 200), ("/private", 401)])
async def test_answers_and_refusals_can_be_read_by_a_page_of_a_listed_origin(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    response = await ask(client, "GET", path, origin=PAGE)

    assert response.status_code == status
    found = headers(response)
    assert {name: found[name] for name in found if name == "vary" or name.startswith("access-control")} == {
        "vary": "Origin",
        "access-control-allow-origin": PAGE,
        "access-control-expose-headers": "etag, x-total",
    }


@pytest.mark.parametrize("sent", [{}, {"origin": "https://evil.example"}])
async def test_answers_to_others_say_that_they_depend_on_the_origin_and_no_more(
    client: httpx.AsyncClient, sent: dict[str, str]
) -> None:
    response = await ask(client, "GET", "/orders", **sent)

    assert (response.status_code, response.content) == (200, b"upstream")
    assert headers(response) == {"content-length": "8", "vary": "Origin"}


async def test_two_origins_are_one_too_many(client: httpx.AsyncClient) -> None:
    response = await client.get("/orders", headers=[("host", "orders"), ("origin", PAGE), ("origin", PAGE)])

    assert (response.status_code, response.json()["reasons"]) == (400, ["header-duplicated"])


async def test_a_document_may_be_kept_for_a_minute(client: httpx.AsyncClient, app: App) -> None:
    """Not longer: keys rotate."""
    response = await ask(client, "GET", JWKS_PATH, service="ostiary")

    assert response.content == b'{"keys":[1]}'
    assert headers(response) == {
        "content-type": "application/jwk-set+json",
        "cache-control": "public, max-age=60",
        "x-content-type-options": "nosniff",
        "content-length": "12",
    }
    assert app.went_on == []


async def test_head_has_the_headers_of_get_and_no_body(client: httpx.AsyncClient) -> None:
    got = await ask(client, "GET", PROTECTED_RESOURCE_PATH, service="ostiary")
    head = await ask(client, "HEAD", PROTECTED_RESOURCE_PATH, service="ostiary")

    assert (head.status_code, head.content, headers(head)) == (200, b"", headers(got))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", JWKS_PATH),
        ("DELETE", JWKS_PATH),
        ("OPTIONS", JWKS_PATH),
        ("GET", JWKS_PATH + "/"),
        ("GET", JWKS_PATH + "/x"),
        ("GET", "/.well-known/JWKS.json"),
        ("GET", "/.well-known/openid-configuration"),
        ("GET", "/.well-known/"),
        ("GET", "/.well-known"),
    ],
)
async def test_what_is_no_document_under_well_known_is_an_unknown_endpoint(
    client: httpx.AsyncClient, app: App, method: str, path: str
) -> None:
    response = await ask(client, method, path, service="ostiary")

    assert (response.status_code, response.json()["reasons"]) == (403, ["unknown-endpoint"])
    assert app.went_on == []


@pytest.mark.parametrize(("service", "path"), [("ostiary", "/v1/decisions"), ("orders", JWKS_PATH)])
async def test_the_rest_of_the_own_host_and_the_well_known_paths_of_services_go_on(
    client: httpx.AsyncClient, app: App, service: str, path: str
) -> None:
    await ask(client, "GET", path, service=service)

    assert app.went_on == [("GET", path)]


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "",
        "shop.example",
        "https://",
        "https://shop.example/",
        "https://Shop.example",
        "https://shop.example:443",
        "http://shop.example:80",
        "https://shop.example:0",
        "https://*.shop.example",
        "https://user@shop.example",
        "ftp://shop.example",
        "https://shop.example\n",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_in_settings(origin: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        cors_settings(origins=(origin,))


@pytest.mark.parametrize(
    "settings",
    [
        {"methods": ("*",)},
        {"methods": ("GET, POST",)},
        {"headers": ("*",)},
        {"headers": ("x\r\ny",)},
        {"expose": ("",)},
        {"max_age": -1},
    ],
)
def test_settings_that_could_not_be_sent_or_allow_everything_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"names no method or header|negative"):
        cors_settings(origins=(PAGE,), **settings)


def test_only_well_known_paths_can_be_public() -> None:
    with pytest.raises(ValueError, match="would be public"):
        ProxyConcierge(cors={}, documents={"/admin": (b"text/plain", b"")})


def test_protected_resource_metadata_is_that_of_rfc_9728() -> None:
    made = protected_resource_metadata(resource="https://proxy.example", issuers=["https://idp.test"])

    assert json.loads(made) == {
        "resource": "https://proxy.example",
        "authorization_servers": ["https://idp.test"],
        "bearer_methods_supported": ["header"],
    }


def test_without_issuers_the_list_is_left_out() -> None:
    made = protected_resource_metadata(resource="http://ostiary.localhost:8080", issuers=[])

    assert json.loads(made) == {"resource": "http://ostiary.localhost:8080", "bearer_methods_supported": ["header"]}


@pytest.mark.parametrize(
    "resource", ["http://proxy.example", "https://", "proxy.example", "https://proxy.example#x", "https://p.example?x"]
)
def test_a_resource_identifier_that_rfc_9728_does_not_allow_is_refused(resource: str) -> None:
    with pytest.raises(ValueError, match=r"https address|query or fragment"):
        protected_resource_metadata(resource=resource, issuers=[])
