"""`ostiary explain`: which permission allows a request, or each reason why not and what would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ostiary.demo.place import latest, new_demo
from support.cli import CONFIG, Ran, ostiary, watched

TUESDAY = "2026-09-22T10:00:00Z"
SUNDAY = "2026-09-20T10:00:00Z"


def explain(bundle: Path, caller: str, request: str, *options: object, at: str = TUESDAY) -> Ran:
    return ostiary("explain", "--policy", bundle, "--caller", caller, "--at", at, request, *options)


def write_config(bundle: Path, *, opa: str | None = None, port: int = 8080, name: str = "ostiary.yaml") -> Path:
    path = Path.cwd() / name
    chosen = opa or f"{{managed: {{bundle: {bundle}}}}}"
    path.write_text(CONFIG.format(port=port, upstream=9, opa=chosen), encoding="utf-8")
    return path


def test_an_allow_names_the_permission_and_the_credential(bundle: Path) -> None:
    assert explain(bundle, "web", "POST http://billing.localhost/charges") == Ran(
        0,
        """\
ALLOWED  POST /charges
service     billing
endpoint    charge: POST /charges
identity    web of https://idp.test
source      127.0.0.1
time        2026-09-22T10:00:00Z
allowed by  web/billing/charge/44136fa3
credential  for one call, at most 30s
as caller web:
  web/billing/charge/44136fa3 holds
""",
        "",
    )


def test_a_denial_shows_each_condition_beside_what_the_request_has_and_what_would_do(bundle: Path) -> None:
    """A caller that is known by claims alone has these and no others, unless they are said."""
    assert explain(bundle, "support", "GET http://orders.localhost/orders/42", at=SUNDAY) == Ran(
        1,
        """\
DENIED  GET /orders/42
service     orders
endpoint    get-order: GET /orders/{order_id}
identity    someone of https://idp.test, groups = support
source      127.0.0.1
time        2026-09-20T10:00:00Z
reason      condition-claims: The identity lacks a claim that the permission demands.
reason      condition-hours: The permission does not hold at this time.
as caller support:
  support/orders/get-order/c8759f29 does not hold
    NO  claims tenant = acme (here: no such claim)
    NO  hours 08:00–18:00 mon–fri Europe/Paris (here: sunday 12:00)
note        no claims are assumed but those that make it this caller: --claim NAME=VALUE adds others
would do    support/orders/get-order/c8759f29, with claims tenant = acme and hours 08:00–18:00 mon–fri Europe/Paris
""",
        "",
    )


def test_every_caller_that_the_identity_is_has_its_part_in_the_answer(bundle: Path) -> None:
    claims = ("--claim", 'groups=["support","support-lead"]', "--claim", "tenant=acme")
    assert explain(bundle, "support", "GET http://orders.localhost/orders/export", *claims, at=SUNDAY) == Ran(
        0,
        """\
ALLOWED  GET /orders/export
service     orders
endpoint    export: GET /orders/export
identity    someone of https://idp.test, groups = support and support-lead, tenant = acme
source      127.0.0.1
time        2026-09-20T10:00:00Z
allowed by  support-lead/orders/export/e910be0c
credential  reusable, at most 1m
as caller support:
  no permission for this endpoint
as caller support-lead:
  support-lead/orders/export/e910be0c holds
    yes custom weekly {"on": "sunday"}
""",
        "",
    )


def test_who_is_eligible_is_told_who_approves_and_for_how_long(bundle: Path) -> None:
    refund = "POST http://billing.localhost/charges/7/refund"
    assert explain(bundle, "support", refund, at="2026-09-19T23:00:00Z") == Ran(
        1,
        """\
DENIED  POST /charges/7/refund
service     billing
endpoint    refund: POST /charges/{charge_id}/refund
identity    someone of https://idp.test, groups = support
source      127.0.0.1
time        2026-09-19T23:00:00Z
reason      grant-required: This endpoint needs a grant, which can be requested.
as caller support:
  support/billing/refund/8ca93b85 holds, is eligible and needs a grant
    yes hours 22:00–06:00 sat,sun UTC (here: saturday 23:00)
would do    a grant for support/billing/refund/8ca93b85, approved by support-lead, for at most 30m
""",
        "",
    )
    outside = explain(bundle, "support", refund).out.splitlines()
    assert outside[6:] == [
        "reason      condition-hours: The permission does not hold at this time.",
        "reason      grant-required: This endpoint needs a grant, which can be requested.",
        "as caller support:",
        "  support/billing/refund/8ca93b85 does not hold, is eligible and needs a grant",
        "    NO  hours 22:00–06:00 sat,sun UTC (here: tuesday 10:00)",
        "would do    support/billing/refund/8ca93b85, with hours 22:00–06:00 sat,sun UTC and a grant",
    ]


def test_the_text_of_the_organisations_rule_is_shown(bundle: Path) -> None:
    ran = explain(bundle, "web", "GET http://orders.localhost/orders?page=all")
    assert (ran.status, ran.out.splitlines()[6:]) == (
        1,
        [
            (
                "reason      policy-denied: A rule of this organisation refuses the request. "
                "(orders are listed a page at a time)"
            ),
            "as caller web:",
            "  web/orders/list-orders/44136fa3 holds",
            "would do    a change to the organisation's own Rego: the permission map allows it",
        ],
    )


@pytest.mark.parametrize(
    ("request_", "endpoint", "would_do"),
    [
        (
            "PUT http://orders.localhost/orders/42",
            "none",
            "another method, which this path has: DELETE (cancel-order), GET (get-order)",
        ),
        (
            "GET http://orders.localhost/nowhere",
            "none",
            (
                "another path; this service has DELETE /orders/{order_id} (cancel-order), GET /orders/export (export), "
                "GET /orders/{order_id} (get-order), GET /orders (list-orders)"
            ),
        ),
    ],
)
def test_a_request_that_is_no_endpoint(bundle: Path, request_: str, endpoint: str, would_do: str) -> None:
    ran = explain(bundle, "web", request_)
    lines = ran.out.splitlines()
    assert ran.status == 1
    assert lines[2] == f"endpoint    {endpoint}"
    assert lines[6:] == [
        "reason      unknown-endpoint: The service has no such endpoint, or not with this method.",
        f"would do    {would_do}",
    ]


def test_without_a_permission_it_says_who_has_one(bundle: Path) -> None:
    ran = explain(bundle, "unused", "GET http://orders.localhost/orders/42")
    assert ran.out.splitlines()[6:] == [
        "reason      permission-missing: No permission lets this caller use this endpoint.",
        "as caller unused:",
        "  no permission for this endpoint",
        "would do    being one of the callers that have a permission: support, web",
        "would do    a permission with a role that holds this endpoint: order-reader",
    ]


def test_an_identity_that_is_not_the_caller_is_said_to_be_none(bundle: Path) -> None:
    ran = explain(bundle, "web", "GET http://orders.localhost/orders/42", "--subject", "wbe")
    assert ran.out.splitlines()[3:] == [
        "identity    wbe of https://idp.test",
        "source      127.0.0.1",
        "time        2026-09-22T10:00:00Z",
        "reason      unknown-caller: The policy names no caller with this identity.",
        "note        with this subject and these claims, the identity is not the caller 'web'",
        "would do    being one of the callers that have a permission: support, web",
        "would do    a permission with a role that holds this endpoint: order-reader",
    ]


@pytest.mark.parametrize(
    ("caller", "request_", "options", "line"),
    [
        (
            "job",
            "GET http://orders.localhost/orders?status=x",
            [],
            "    NO  query only page = anything, status = open or paid (here: status = x)",
        ),
        (
            "job",
            "GET http://orders.localhost/orders?status=a+b",
            [],
            "    NO  query only page = anything, status = open or paid (here: a query with more than one reading)",
        ),
        (
            "web",
            "DELETE http://orders.localhost/orders/1",
            ["--source-ip", "::ffff:192.0.2.7"],
            "    NO  source 10.0.0.0/8 or 2001:db8::/32 (here: 192.0.2.7)",
        ),
        (
            "web",
            "DELETE http://orders.localhost/orders/1",
            ["--source-ip", "2001:db8::7"],
            "    yes source 10.0.0.0/8 or 2001:db8::/32 (here: 2001:db8::7)",
        ),
        (
            "support-lead",
            "GET http://billing.localhost/tenants/other/ledger",
            ["--claim", 'tenant=["acme","umbrella"]'],
            '    NO  path tenant_id = the claim tenant (here: tenant_id = other and the claim ["acme", "umbrella"])',
        ),
        ("support-lead", "GET http://orders.localhost/orders/export", [], '    NO  custom weekly {"on": "sunday"}'),
    ],
)
def test_conditions_in_words(bundle: Path, caller: str, request_: str, options: list[str], line: str) -> None:
    assert line in explain(bundle, caller, request_, *options).out.splitlines()


def test_the_document_is_the_question_and_everything_that_led_to_the_decision(bundle: Path) -> None:
    ran = explain(bundle, "support", "GET http://orders.localhost/orders/42", "--claim", "tenant=acme", "--json")
    permission = "support/orders/get-order/c8759f29"
    windows = [{"from": 480, "to": 1080, "days": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]}]
    assert (ran.status, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert set(document["decision"].pop("cache")) == {"max_age", "vary"}  # what they are is the policy's
    assert document == {
        "outcome": "allowed",
        "input": {
            "subject": {
                "type": "workload",
                "id": "someone",
                "properties": {
                    "issuer": "https://idp.test",
                    "method": "jwt",
                    "claims": {"groups": "support", "tenant": "acme"},
                },
            },
            "action": {"name": "GET"},
            "resource": {"type": "service", "id": "orders", "properties": {"segments": ["orders", "42"], "query": []}},
            "context": {"time": 1790071200, "source_ip": "127.0.0.1", "actor": None, "grants": []},
        },
        "decision": {
            "allow": True,
            "reasons": [],
            "caller": "support",
            "service": "orders",
            "endpoint": "get-order",
            "permission": permission,
            "grant": None,
            "credential": {"lifetime": 60, "per_call": False},
            "expires_at": None,
            "requestable": None,
            "observed": False,
            "shadow": None,
        },
        "endpoint": {"name": "get-order", "template": "GET /orders/{order_id}"},
        "methods": {"DELETE": "cancel-order", "GET": "get-order"},
        "callers": [
            {
                "caller": "support",
                "standing": [
                    {
                        "permission": permission,
                        "holds": True,
                        "conditions": [
                            {
                                "condition": "claims",
                                "holds": True,
                                "demanded": {"tenant": ["acme"]},
                                "found": {"tenant": "acme"},
                            },
                            {
                                "condition": "hours",
                                "holds": True,
                                "demanded": {"timezone": "Europe/Paris", "windows": windows},
                                "found": {"day": "Tuesday", "time": "12:00"},
                            },
                        ],
                        "credential": {"lifetime": 60, "per_call": False},
                    }
                ],
                "eligible": [],
                "shadow": [],
            }
        ],
        "permitted": ["support", "web"],
        "eligible": [],
        "roles": ["order-reader"],
        "organisation": [],
        "notes": [],
    }


# What the proxy refuses, or answers, before it asks the policy.


@pytest.mark.parametrize(
    ("request_", "status", "reason", "detail"),
    [
        ("GET http://orders.localhost/orders/../x", 400, "target-malformed", "a segment consists of dots"),
        (
            "GET http://orders.localhost/orders/%2e%2e/x",
            400,
            "target-malformed",
            "a segment consists of dots",
        ),
        (
            "GET http://orders.localhost/orders/42#x",
            400,
            "target-malformed",
            "the path has bytes that are not legal in one, or does not start with a slash",
        ),
        (
            "GET http://orders.localhost/orders/é",
            400,
            "target-malformed",
            "the path has bytes that are not legal in one, or does not start with a slash",
        ),
        ("GET http://orders.localhost/" + "x" * 9000, 414, "target-too-long", "a target of 9001 bytes"),
        ("get http://orders.localhost/orders", 405, "method-refused", "get (did you mean 'GET'?)"),
    ],
)
def test_a_request_that_is_refused_before_a_decision(
    bundle: Path, request_: str, status: int, reason: str, detail: str
) -> None:
    ran = explain(bundle, "web", request_, "--json")
    document = json.loads(ran.out)
    assert (ran.status, ran.err) == (1, "")
    assert (document["outcome"], document["status"], document["reasons"], document["detail"]) == (
        "refused",
        status,
        [reason],
        detail,
    )


def test_a_refusal_in_words_shows_no_credential_of_the_query(bundle: Path) -> None:
    assert explain(bundle, "web", "GET http://orders.localhost/orders?access_token=secret") == Ran(
        1,
        """\
REFUSED  GET /orders?…
status      400, before the policy is asked
reason      token-in-query: Credentials are not accepted in the query.
""",
        "",
    )


def test_the_proxys_own_host(bundle: Path) -> None:
    """Its documents are for anyone; the rest of it is denied as the policy has no such service."""
    own = "http://ostiary.localhost"
    assert explain(bundle, "web", f"GET {own}/.well-known/jwks.json") == Ran(
        0,
        "ANSWERED  GET /.well-known/jwks.json\n"
        "the proxy answers this itself, to anyone: no identity is needed and no policy is asked\n",
        "",
    )
    assert json.loads(explain(bundle, "web", f"GET {own}/.well-known/jwks.json", "--json").out) == {
        "outcome": "answered",
        "request": "GET /.well-known/jwks.json",
    }
    unknown = explain(bundle, "web", f"POST {own}/.well-known/jwks.json")
    assert (unknown.status, unknown.out.splitlines()[0]) == (1, "REFUSED  POST /.well-known/jwks.json")
    rest = explain(bundle, "web", f"GET {own}/anything")
    assert (rest.status, rest.out.splitlines()[6:]) == (
        1,
        [
            "reason      unknown-service: The policy knows no such service.",
            "would do    a path under /.well-known/: the proxy's own host has no other",
        ],
    )


# What a configuration adds.


def test_hosts_and_ports_are_the_configurations(bundle: Path) -> None:
    config = write_config(bundle)
    answers = {
        url: json.loads(ostiary("explain", "-c", config, "--caller", "web", f"GET {url}", "--json").out)
        for url in (
            "http://orders.localhost/orders",
            "http://ORDERS.localhost:8080/orders",
            "https://orders.localhost:443/orders",
            "https://orders.localhost:8443/orders",
            "http://orders.localhost:9000/orders",
            "http://odrers.localhost/orders",
        )
    }
    assert {url: (answer["outcome"], answer.get("hint")) for url, answer in answers.items()} == {
        "http://orders.localhost/orders": ("allowed", None),
        "http://ORDERS.localhost:8080/orders": ("allowed", None),
        "https://orders.localhost:443/orders": ("allowed", None),
        "https://orders.localhost:8443/orders": ("allowed", None),
        "http://orders.localhost:9000/orders": (
            "refused",
            "no port, the listener's own (8080), or one of listen.public_ports",
        ),
        "http://odrers.localhost/orders": (
            "refused",
            (
                "one of the hosts that are configured: billing.localhost, bills.test, orders.localhost, "
                "ostiary.localhost (did you mean 'orders.localhost'?)"
            ),
        ),
    }


def test_a_port_that_the_system_chooses_can_be_any(bundle: Path) -> None:
    config = write_config(bundle, port=0)
    assert ostiary("explain", "-c", config, "--caller", "web", "GET http://orders.localhost:4711/orders").status == 0


def test_a_claim_that_the_issuer_is_not_configured_to_show_does_not_count(bundle: Path) -> None:
    request, claim = "GET http://orders.localhost/orders/42", ("--claim", "tenant=acme")
    ran = ostiary("explain", "-c", write_config(bundle), "--caller", "support", "--at", TUESDAY, request, *claim)
    assert (ran.status, ran.out.splitlines()[3], ran.out.splitlines()[6:]) == (
        1,
        "identity    someone of https://idp.test, groups = support",
        [
            "reason      condition-claims: The identity lacks a claim that the permission demands.",
            "as caller support:",
            "  support/orders/get-order/c8759f29 does not hold",
            "    NO  claims tenant = acme (here: no such claim)",
            "    yes hours 08:00–18:00 mon–fri Europe/Paris (here: tuesday 12:00)",
            "note        the claim 'tenant' is left out: issuers[].claims does not list it",
            "would do    support/orders/get-order/c8759f29, with claims tenant = acme",
        ],
    )


def test_a_caller_that_this_proxy_can_never_prove(bundle: Path) -> None:
    config = write_config(bundle)
    config.write_text(config.read_text().replace("https://idp.test", "https://other.test"))
    refused = {
        caller: json.loads(
            ostiary("explain", "-c", config, "--caller", caller, "GET http://orders.localhost/orders", "--json").out
        )["detail"]
        for caller in ("web", "job")
    }
    assert refused == {
        "web": "the issuer 'https://idp.test' is not configured",
        "job": "a listener with identity [jwt] never proves a SPIFFE ID",
    }


def test_the_policy_is_that_of_the_configuration_here_else_of_the_latest_demo(bundle: Path) -> None:
    """Which one it was is said beside the answer."""
    arguments = ("explain", "--caller", "web", "GET http://orders.localhost/orders/42")
    assert ostiary(*arguments) == Ran(
        2,
        "",
        "there is no ostiary.yaml here and no demo runs: name the configuration with -c FILE, "
        "or the policy with --policy DIR\n",
    )
    demo = new_demo()
    write_config(bundle).rename(demo / "ostiary.yaml")
    with latest(demo):
        of_demo = ostiary(*arguments)
    assert (of_demo.status, of_demo.err) == (0, f"policy: the one of {demo.resolve()}/ostiary.yaml\n")
    write_config(bundle)
    here = ostiary(*arguments)
    assert (here.status, here.err) == (0, "policy: the one of ostiary.yaml\n")


def test_sources_are_built_for_the_occasion(policy: Path) -> None:
    ran = ostiary("explain", "--policy", policy, "--caller", "web", "GET http://orders.localhost/orders/42")
    assert (ran.status, ran.out.splitlines()[0], ran.err) == (0, "ALLOWED  GET /orders/42", "")


def test_a_request_need_not_be_quoted(bundle: Path) -> None:
    ran = ostiary("explain", "--policy", bundle, "--caller", "web", "GET", "http://orders.localhost/orders/42")
    assert (ran.status, ran.out.splitlines()[0]) == (0, "ALLOWED  GET /orders/42")


def test_on_a_terminal_lines_are_wrapped_under_what_they_say(bundle: Path) -> None:
    ran = watched("explain", "--policy", bundle, "--caller", "web", "--at", TUESDAY, "GET http://orders/nowhere")
    assert ran == Ran(
        1,
        """\
DENIED  GET /nowhere
service     orders
endpoint    none
identity    web of https://idp.test
source      127.0.0.1
time        2026-09-22T10:00:00Z
reason      unknown-endpoint: The service has no such endpoint, or not with this
            method.
would do    another path; this service has DELETE /orders/{order_id}
            (cancel-order), GET /orders/export (export), GET /orders/{order_id}
            (get-order), GET /orders (list-orders)
""",
        "",
    )


# What a person can get wrong: a line each, and status 2.


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["GET"], "'GET' is not a request, which is written \"GET http://orders.localhost/orders/42\""),
        (["GET http://me:secret@orders/"], "a request names no user and no password: who asks is said with --caller"),
        (
            ["GET http://odrers/orders"],
            (
                "the map has no service 'odrers' (did you mean 'orders'?): without -c FILE, "
                "the first label of a host is taken for the service"
            ),
        ),
        (["GET http://orders/", "--at", "noon"], "'noon' is not a time, which is written 2026-09-21T10:00:00Z"),
        (
            ["GET http://orders/", "--at", "2026-09-21T10:00:00"],
            "'2026-09-21T10:00:00' says no time zone: end it with Z, or with an offset",
        ),
        (
            ["GET http://orders/", "--at", "9999-01-01T00:00:00Z"],
            "'9999-01-01T00:00:00Z' is not between 1970 and 2262",
        ),
        (["GET http://orders/", "--source-ip", "10.0.0"], "'10.0.0' is not an IP address"),
        (["GET http://orders/", "--claim", "tenant"], "'tenant' is not a claim, which is written NAME=VALUE"),
        (
            ["GET http://orders/", "--claim", "groups=a", "--claim", "groups=b"],
            "the claim 'groups' is given twice; several values are a list: groups='[\"one\", \"other\"]'",
        ),
        (
            ["GET http://orders/", "--claim", "exp=1"],
            "the claim 'exp' is never shown to the policy, so nothing depends on it",
        ),
        (
            ["GET http://orders/", "--subject", ""],
            "'' is not a subject, which is printable ASCII without spaces around it",
        ),
        (["GET http://orders/", "--caller", "wbe"], "the map has no caller 'wbe' (did you mean 'web'?)"),
    ],
)
def test_mistakes_on_the_command_line(bundle: Path, arguments: list[str], line: str) -> None:
    assert ostiary("explain", "--policy", bundle, "--caller", "web", *arguments) == Ran(2, "", f"{line}\n")


def test_mistakes_in_what_is_named(bundle: Path, policy: Path, tmp_path: Path) -> None:
    file, foreign, older = tmp_path / "file", tmp_path / "foreign", tmp_path / "older"
    file.write_text("{}")
    for directory, data in ((foreign, "{}"), (older, '{"ostiary": {"map": {"format": 0}}}')):
        directory.mkdir()
        (directory / ".manifest").write_text("{}")
        (directory / "data.json").write_text(data)
    external = write_config(bundle, opa="{url: unix:///nowhere/opa.sock}", name="external.yaml")
    missing = write_config(bundle, opa="{managed: {bundle: nowhere}}", name="missing.yaml")
    said = {
        tuple(map(str, options)): ostiary("explain", "--caller", "web", "GET http://orders.localhost/", *options).err
        for options in (
            ("--policy", tmp_path / "nowhere"),
            ("--policy", file),
            ("--policy", foreign),
            ("--policy", older),
            ("-c", external),
            ("-c", missing),
            ("-c", tmp_path / "nowhere.yaml"),
        )
    }
    assert list(said.values()) == [
        f"{tmp_path}/nowhere: there is no such directory\n",
        f"{file}: is a file; name the directory that holds permissions.yaml and *.rego\n",
        f"{foreign}: is not a bundle that 'ostiary bundle build' wrote\n",
        f"{older}: its map has the format 0, and 1 is read here: build it again with 'ostiary bundle build'\n",
        "the configuration has an OPA that others run, whose bundle is not here: name it with --policy DIR\n",
        f"{tmp_path}/nowhere: is not a built bundle: data.json: No such file or directory\n",
        f"{tmp_path}/nowhere.yaml: there is no such file\n",
    ]


def test_without_opa_there_is_no_answer(bundle: Path) -> None:
    ran = ostiary(
        *("explain", "--policy", bundle, "--caller", "web", "GET http://orders/orders"),
        environ={"OSTIARY_OPA": "/nowhere/opa"},
    )
    assert ran == Ran(2, "", "The OPA that OSTIARY_OPA names cannot be used: /nowhere/opa is not an OPA that runs.\n")
