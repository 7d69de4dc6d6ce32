"""`ostiary check`: what is wrong with the files and parts that a proxy needs, found before it runs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pytest_httpserver import HTTPServer

from ostiary.audit.keys import AuditKeys
from ostiary.credential import ensure_signing_key
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.statements import VERSION
from ostiary.identity.keys import pem_key_ids
from support.cli import COMMAND, CONFIG, POLICY, REGO, Ran, ostiary, watched, write_policy

Findings = list[tuple[str, str, str]]

JWK = {
    "kty": "EC",
    "crv": "P-256",
    "kid": "k1",
    "alg": "ES256",
    "use": "sig",
    # The public key of RFC 7515 appendix A.3.
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}


@dataclass
class Site:
    """A directory with everything that a proxy needs. The configuration is changed by text."""

    directory: Path
    upstream: int

    @property
    def config(self) -> Path:
        return self.directory / "ostiary.yaml"

    def change(self, old: str, new: str) -> None:
        text = self.config.read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(old)
        self.config.write_text(text.replace(old, new), encoding="utf-8")

    def check(self, *arguments: object) -> tuple[int, Findings]:
        ran = ostiary("check", "-c", self.config, "--json", *arguments)
        if ran.err:
            raise ValueError(ran.err)
        findings = [
            (each["part"], each["state"], each["what"].replace(f"{self.directory}/", ""))
            for each in json.loads(ran.out)
        ]
        return ran.status, findings

    def wrong(self, *arguments: object) -> Findings:
        """What is not well. The status says that it is not."""
        status, findings = self.check(*arguments)
        found = [finding for finding in findings if finding[1] != "ok"]
        if status != int(any(state == "wrong" for _, state, _ in found)):
            raise ValueError(f"status {status} with {found}")
        return found


@pytest.fixture
def site(tmp_path: Path, bundle: Path) -> Iterator[Site]:
    shutil.copytree(bundle, tmp_path / "bundle")
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "idp.pem").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with listening() as upstream:
        site = Site(tmp_path, upstream)
        text = CONFIG.format(port=0, upstream=upstream, opa="{managed: {bundle: bundle}}")
        site.config.write_text(text.replace("[groups]", "[groups, tenant]"))
        yield site


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port where connections are accepted and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_all_is_well(site: Site, policy: Path, opa_binary: Path) -> None:
    """Everything is told that was looked at. A SPIFFE caller, which no listener proves yet, is a warning only."""
    status, findings = site.check(policy)
    revision = json.loads((site.directory / "bundle" / ".manifest").read_text())["revision"]
    upstream = f"http://127.0.0.1:{site.upstream}"
    ids = pem_key_ids(serialization.load_pem_public_key((site.directory / "idp.pem").read_bytes()))
    assert status == 0
    assert findings == [
        ("configuration", "ok", "ostiary.yaml"),
        ("permission map", "ok", f"{policy}/permissions.yaml"),
        ("Rego", "ok", str(policy)),
        (
            "agreement",
            "warning",
            "caller 'job' is a SPIFFE ID, which a listener with identity [jwt] never proves",
        ),
        ("state", "ok", "state"),
        ("audit", "ok", "audit"),
        ("bundle", "ok", f"bundle: revision {revision}"),
        ("listener", "ok", "127.0.0.1:0"),
        ("OPA", "ok", f"{opa_binary} serves {revision}"),
        ("issuer", "ok", f"https://idp.test: key ids {', '.join(sorted(ids))}"),
        ("upstream", "ok", f"orders: {upstream}"),
        ("upstream", "ok", f"billing: {upstream}"),
    ]
    assert sorted(path.name for path in site.directory.iterdir()) == ["bundle", "idp.pem", "ostiary.yaml"]


def test_offline_nothing_is_asked(site: Site) -> None:
    site.change(str(site.upstream), str(free_port()))
    assert [part for part, _, _ in site.check("--offline")[1]] == ["configuration", "state", "audit", "bundle"]


def test_for_a_person_it_is_a_table(site: Site) -> None:
    site.change("bundle: bundle", "bundle: nowhere")
    ran = watched("check", "-c", "ostiary.yaml", "--offline", cwd=site.directory)
    assert (ran.status, ran.err) == (1, "")
    lines = [line.rstrip() for line in ran.out.splitlines()]
    assert lines[:2] == ["part           state  what", "configuration  ok     ostiary.yaml"]
    assert [line[:24] for line in lines if line[:1] != " "][-1] == "bundle         wrong  th"
    assert max(map(len, lines)) <= 80


def test_a_configuration_with_mistakes(site: Site, policy: Path) -> None:
    """Each is a finding, and the policy is looked at all the same."""
    site.change("listen:", "listn:")
    assert site.check(policy) == (
        1,
        [
            ("configuration", "wrong", "ostiary.yaml:1: listen: is missing"),
            ("configuration", "wrong", "ostiary.yaml:1: listn: unknown key (did you mean 'listen'?)"),
            ("permission map", "ok", f"{policy}/permissions.yaml"),
            ("Rego", "ok", str(policy)),
        ],
    )


def test_a_policy_alone_can_be_checked(policy: Path) -> None:
    assert ostiary("check", policy, "--json") == Ran(
        0,
        json.dumps(
            [
                {"part": "permission map", "state": "ok", "what": f"{policy}/permissions.yaml"},
                {"part": "Rego", "state": "ok", "what": str(policy)},
            ],
            indent=2,
        )
        + "\n",
        "there is no ostiary.yaml here: the policy alone is checked\n",
    )


def test_without_anything_the_configuration_is_missed() -> None:
    assert ostiary("check") == Ran(
        1,
        "part           state  what\n"
        "configuration  wrong  ostiary.yaml: there is no such file here; -c names another, ostiary init writes one\n",
        "",
    )


def test_all_mistakes_of_map_and_rego_at_once(site: Site, tmp_path: Path) -> None:
    sources = write_policy(
        tmp_path / "sources",
        permissions=POLICY.replace("roles: [order-reader]}", "roles: [order-raeder]}"),
        rego=REGO + "\ndeny := true\n",
    )
    assert site.wrong("--offline", sources) == [
        (
            "permission map",
            "wrong",
            (
                "sources/permissions.yaml:22: permissions[0].roles[0]: unknown role 'order-raeder' "
                "(did you mean 'order-reader'?)"
            ),
        ),
        ("Rego", "wrong", "sources/policy.rego:13: 'deny' is a set of texts: deny contains \"why\" if { ... }"),
    ]


def test_a_policy_directory_that_is_none(site: Site, tmp_path: Path) -> None:
    file = write_policy(tmp_path / "sources") / "permissions.yaml"
    (tmp_path / "empty").mkdir()
    assert [site.wrong("--offline", path)[0] for path in (tmp_path / "nowhere", file, site.directory / "empty")] == [
        ("permission map", "wrong", "nowhere: there is no such directory"),
        (
            "permission map",
            "wrong",
            "sources/permissions.yaml: is a file; name the directory that holds permissions.yaml and *.rego",
        ),
        ("permission map", "wrong", "empty/permissions.yaml: there is no such file"),
    ]


def test_sources_that_are_not_what_is_served(site: Site, tmp_path: Path) -> None:
    sources = write_policy(tmp_path / "sources", permissions=POLICY.replace("orders/export", "orders/exports"))
    assert site.wrong("--offline", sources)[0] == (
        "Rego",
        "warning",
        "bundle is not what sources builds: ostiary bundle build sources -o bundle",
    )


def test_opa_that_cannot_be_had(site: Site, policy: Path) -> None:
    said = "The OPA that OSTIARY_OPA names cannot be used: /nowhere/opa is not an OPA that runs."
    ran = ostiary("check", "-c", site.config, policy, "--json", environ={"OSTIARY_OPA": "/nowhere/opa"})
    wrong = [(each["part"], each["what"]) for each in json.loads(ran.out) if each["state"] == "wrong"]
    assert (ran.status, ran.err, wrong) == (1, "", [("Rego", said), ("OPA", said)])


def test_offline_no_opa_is_got(site: Site, policy: Path, tmp_path: Path) -> None:
    environ = {"OSTIARY_OPA": "", "PATH": "/nowhere", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ran = ostiary("check", "-c", site.config, policy, "--offline", "--json", environ=environ)
    wrong = [(each["part"], each["what"]) for each in json.loads(ran.out) if each["state"] == "wrong"]
    said = "No usable OPA: on PATH, there is none; none was got before (ostiary opa install gets one)."
    assert (ran.status, ran.err, wrong) == (1, "", [("Rego", said)])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("binary", "what"),
    [
        ("/nowhere/opa", "The OPA that is configured cannot be used: /nowhere/opa is not an OPA that runs."),
        ("/bin/true", "The OPA that is configured cannot be used: /bin/true is not an OPA that runs."),
    ],
)
def test_a_managed_opa_that_does_not_start(site: Site, binary: str, what: str) -> None:
    site.change("bundle: bundle", f"bundle: bundle, binary: {binary}")
    assert site.wrong() == [("OPA", "wrong", what)]


def test_a_managed_opa_has_the_checksum_that_is_configured(site: Site, opa_binary: Path) -> None:
    digest = hashlib.sha256(opa_binary.read_bytes()).hexdigest()
    site.change("bundle: bundle", f"bundle: bundle, binary: {opa_binary}, checksum: {digest}")
    assert site.wrong() == []
    site.change(digest, "f" * 64)
    said = f"The OPA that is configured cannot be used: {opa_binary} does not have the checksum that is asked for."
    assert site.wrong() == [("OPA", "wrong", said)]


def test_a_bundle_that_is_missing_or_broken(site: Site) -> None:
    (site.directory / "bundle" / "data.json").write_text("{")
    [(part, state, what)] = site.wrong()
    assert (part, state) == ("OPA", "wrong")
    assert "bundle load failed on bundle/data.json: unexpected EOF" in what
    site.change("bundle: bundle", "bundle: nowhere")
    assert site.wrong() == [
        (
            "bundle",
            "wrong",
            (
                "the bundle nowhere has no manifest that can be read: No such file or directory "
                "(ostiary bundle build DIR -o nowhere)"
            ),
        )
    ]


def grants(site: Site, url: str, *arguments: object) -> tuple[str, str]:
    """What is said of a store of grants at this address."""
    whole = site.config.read_text(encoding="utf-8")
    site.config.write_text(f'{whole}grants: {{url: "{url}", deadline: 500ms}}\n', encoding="utf-8")
    _, findings = site.check(*arguments)
    site.config.write_text(whole, encoding="utf-8")
    [(_, state, what)] = [finding for finding in findings if finding[0] == "grants"]
    return state, what


def test_the_store_of_grants_in_a_file(site: Site) -> None:
    """It is looked at offline too, whether or not somebody has it open, and is what it was."""
    file = site.directory / "grants.db"
    before = sorted(site.directory.iterdir())
    assert grants(site, "sqlite:///grants.db", "--offline") == ("ok", "grants.db: the first start makes its tables")
    assert sorted(site.directory.iterdir()) == before

    async def made() -> None:
        store = SqliteStore(file)
        await store.start()
        await store.close()

    asyncio.run(made())
    with contextlib.closing(sqlite3.connect(file)) as opened:
        opened.execute("SELECT change FROM grant_clock").fetchall()
        assert file.with_name("grants.db-wal").exists()
        assert grants(site, "sqlite:///grants.db", "--offline") == ("ok", f"grants.db: tables of version {VERSION}")
    content = file.read_bytes()
    assert grants(site, "sqlite:///grants.db") == ("ok", f"grants.db: tables of version {VERSION}")
    assert file.read_bytes() == content
    assert sorted(site.directory.iterdir()) == sorted([*before, file])
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    assert grants(site, "sqlite:///grants.db", "--offline") == (
        "wrong",
        f"grants.db: is of a later version of ostiary ({VERSION + 1})",
    )
    file.write_bytes(b"no database" * 500)
    assert grants(site, "sqlite:///grants.db", "--offline") == ("wrong", "grants.db: file is not a database")
    assert grants(site, "sqlite:///nowhere/grants.db", "--offline") == (
        "wrong",
        "nowhere/grants.db cannot be made: nowhere is not a directory",
    )


def test_a_store_of_grants_that_does_not_answer(site: Site) -> None:
    state, what = grants(site, f"postgresql://ostiary:hidden@/grants?host={site.directory}")
    assert (state, what.partition(":")[0]) == ("wrong", "PostgreSQL")
    assert "hidden" not in what


def test_who_is_told_of_grants(site: Site) -> None:
    """Whether a message can be made for each, and signed. Nobody is told, and no URL is shown."""
    site.config.write_text(
        f"""{site.config.read_text(encoding="utf-8")}
grants:
  url: "sqlite:///grants.db"
  webhooks:
    chat: {{url: "https://hooks.invalid/hidden", template: slack}}
    own: {{url: "https://hooks.invalid/hidden", template: teams, template_file: own.json}}
    log: {{url: "https://hooks.invalid/hidden", secret_file: secret}}
""",
        encoding="utf-8",
    )
    (site.directory / "own.json").write_text('{"text": "$reazon"}', encoding="utf-8")
    _, findings = site.check("--offline")
    found = {part: (state, re.sub(r"\d+ bytes", "so many bytes", what)) for part, state, what in findings}
    assert {part: told for part, told in found.items() if part.startswith("webhook")} == {
        "webhook chat": ("ok", "slack, so many bytes, not signed"),
        "webhook own": ("wrong", "own.json:1: 'reazon' is no value of a notice (did you mean 'reason'?)"),
        "webhook log": ("wrong", "secret: the secret_file cannot be read: No such file or directory"),
    }
    assert "hidden" not in str(findings)


def test_an_external_opa(site: Site, opa_binary: Path) -> None:
    """Down, and up without the plugin that tells how old its bundle is."""
    address = site.directory / "opa.sock"
    site.change("{managed: {bundle: bundle}}", f'{{url: "unix://{address}"}}')
    assert site.wrong() == [
        (
            "OPA",
            "wrong",
            ("OPA at unix://opa.sock was not ready within 3 s: OPA cannot be asked: there is no socket opa.sock"),
        )
    ]
    with running_opa(opa_binary, address, site.directory / "bundle"):
        [(part, state, what)] = site.wrong()
    assert (part, state) == ("OPA", "warning")
    assert what.startswith("it does not tell how old its bundle is (")
    assert what.endswith(
        "): enable its status plugin; without, a revision is trusted for 86400 s after it was first seen"
    )


@contextlib.contextmanager
def running_opa(binary: Path, address: Path, bundle: Path) -> Iterator[None]:
    command = [binary, "run", "--server", f"--addr=unix://{address}", "--ignore=*_test.rego", "--bundle", bundle]
    process = subprocess.Popen([*command, "--log-level=error"], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while not address.exists() and time.monotonic() < until:
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)


def test_an_address_in_use_is_a_warning_for_it_may_be_this_very_proxy(site: Site) -> None:
    with listening() as port:
        site.change("127.0.0.1:0", f"127.0.0.1:{port}")
        assert site.wrong() == [
            ("listener", "warning", f"127.0.0.1:{port} is in use: by this proxy, if it runs, or by something else")
        ]


def test_an_address_that_is_not_this_machines(site: Site) -> None:
    site.change("127.0.0.1:0", "192.0.2.1:8080")
    assert site.wrong() == [("listener", "wrong", "cannot listen on 192.0.2.1:8080: Cannot assign requested address")]


def test_an_issuers_keys(site: Site, httpserver: HTTPServer) -> None:
    """There, with one that is of no use; not there; and nobody who could have them."""
    url = httpserver.url_for("/jwks")
    site.change("key_file: idp.pem", f'jwks_url: "{url}"')
    httpserver.expect_ordered_request("/jwks").respond_with_json({"keys": [JWK, JWK | {"kid": "k2", "use": "enc"}]})
    httpserver.expect_ordered_request("/jwks").respond_with_json({}, status=404)
    assert [site.wrong(), site.wrong()] == [
        [("issuer", "warning", "https://idp.test: 1 of its keys cannot be used here")],
        [("issuer", "wrong", "https://idp.test: answered 404 (status)")],
    ]
    site.change(url, f"http://127.0.0.1:{free_port()}/jwks")
    assert site.wrong() == [
        ("issuer", "wrong", "https://idp.test: the request failed: ConnectError (unreachable)"),
    ]


def test_an_issuers_files(site: Site) -> None:
    site.change("key_file: idp.pem", 'jwks_url: "https://idp.test/jwks", ca_file: ca.pem, token_file: token')
    assert site.wrong("--offline") == [
        (
            "issuer",
            "wrong",
            "ca.pem: the ca_file of the issuer https://idp.test cannot be used: [Errno 2] No such file or directory",
        ),
        (
            "issuer",
            "wrong",
            "token: the token_file of the issuer https://idp.test cannot be used: the token file token cannot be read",
        ),
    ]
    site.change('jwks_url: "https://idp.test/jwks", ca_file: ca.pem, token_file: token', "key_file: nowhere.pem")
    whose = "nowhere.pem: the key_file of the issuer https://idp.test cannot be used"
    for arguments in ((), ("--offline",)):
        assert site.wrong(*arguments) == [
            ("issuer", "wrong", f"{whose}: nowhere.pem cannot be read: No such file or directory"),
        ]
    (site.directory / "nowhere.pem").write_text('{"keys": [{"kty": "EC", "crv"')
    for arguments in ((), ("--offline",)):
        assert site.wrong(*arguments) == [("issuer", "wrong", f"{whose}: not a JWK Set: not JSON")]
    (site.directory / "nowhere.pem").write_text('{"keys": []}')
    assert site.wrong("--offline") == [("issuer", "wrong", f"{whose}: none of 0 keys fits ES256")]


def test_an_extra_that_is_missing(site: Site, tmp_path: Path) -> None:
    """What the configuration takes and this installation has not: said by `--offline`, too, which is asked first."""
    site.config.write_text(
        f"""{site.config.read_text(encoding="utf-8")}
telemetry: {{traces: {{endpoint: "http://127.0.0.1:4318/v1/traces"}}}}
grants: {{url: "postgresql://grants.test/grants"}}
""",
        encoding="utf-8",
    )
    assert ("traces", "ok", "http://127.0.0.1:4318/v1/traces") in site.check("--offline")[1]
    without = tmp_path / "without"
    without.mkdir()
    (without / "opentelemetry.py").write_text("")  # found first, and not the package
    (without / "asyncpg.py").write_text("raise ModuleNotFoundError")
    ran = subprocess.run(
        [*COMMAND, "check", "-c", site.config, "--offline", "--json"],
        env={**os.environ, "PYTHONPATH": str(without)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert [(one["part"], one["what"]) for one in json.loads(ran.stdout) if one["state"] == "wrong"] == [
        ("traces", "telemetry.traces needs OpenTelemetry: pip install 'ostiary[otlp]'"),
        ("grants", "grants.url: PostgreSQL takes pip install 'ostiary[postgresql]'"),
    ]


def test_the_files_of_opa(site: Site) -> None:
    """The key that bundles are signed with, and how a bundle server is known: read as they will be used."""
    (site.directory / "half.pem").write_text("-----BEGIN PUBLIC KEY-----\nMFkw")
    (site.directory / "token").write_text("two words")
    key = "half.pem: the key_file of {} cannot be used: half.pem holds no public key (PEM)"
    managed, verification = "{managed: {bundle: bundle}}", "verification: {key_file: half.pem, key_id: release}"
    site.change(managed, f"{{managed: {{bundle: bundle, {verification}}}}}")
    assert site.wrong("--offline") == [("OPA", "wrong", key.format("the bundle"))]
    server = 'url: "https://bundles.test/b", ca_file: half.pem, token_file: token'
    site.change(
        f"{{managed: {{bundle: bundle, {verification}}}}}",
        f'{{url: "https://opa.test", ca_file: half.pem, report_to: {{{server}}}, '
        f"rollback: {{{server}, {verification}}}}}",
    )
    found = site.wrong("--offline")
    assert {part for part, _, _ in found} == {"OPA"}
    token = "token: the token_file of {} cannot be used: the token file token holds no bearer token"
    assert [what.partition(": [")[0] for _, _, what in found] == [
        "half.pem: the ca_file of OPA cannot be used",
        key.format("opa.rollback"),
        "half.pem: the ca_file of opa.rollback cannot be used",
        token.format("opa.rollback"),
        "half.pem: the ca_file of opa.report_to cannot be used",
        token.format("opa.report_to"),
    ]


def test_a_dead_upstream(site: Site) -> None:
    port = free_port()
    orders = 'orders.localhost], upstream: "http://127.0.0.1:'
    site.change(f"{orders}{site.upstream}", f"{orders}{port}")
    assert site.wrong() == [("upstream", "wrong", f"orders: http://127.0.0.1:{port}: nobody listens there")]


def test_an_upstream_that_does_not_speak_tls(site: Site) -> None:
    site.change('"http://127.0.0.1', '"https://127.0.0.1')
    site.config.write_text(site.config.read_text() + "limits: {connect_timeout: 200ms}\n")
    address = f"https://127.0.0.1:{site.upstream}"
    assert site.wrong() == [
        ("upstream", "wrong", f"orders: {address}: connecting to the upstream took too long"),
        ("upstream", "wrong", f"billing: {address}: connecting to the upstream took too long"),
    ]


def test_an_upstreams_authorities(site: Site) -> None:
    text = site.config.read_text().replace('"http://127.0.0.1', '"https://127.0.0.1')
    site.config.write_text(text.replace('"}', '", tls: {ca_file: ca.pem}}'))
    expected = "ca.pem: cannot be used for TLS: [Errno 2] No such file or directory"
    assert site.wrong() == [
        ("upstream", "wrong", f"orders: {expected}"),
        ("upstream", "wrong", f"billing: {expected}"),
    ]


def test_directories_that_cannot_be_written(site: Site) -> None:
    (site.directory / "file").write_text("")
    site.config.write_text(site.config.read_text() + "audit: {path: file/audit}\nstate: file\n")
    assert site.wrong() == [
        ("state", "wrong", "file is not a directory"),
        ("audit", "wrong", "file/audit cannot be made: file is not a directory"),
    ]
    (site.directory / "other").write_text("")
    site.change("file/audit", "other")
    assert site.wrong()[1] == ("audit", "wrong", "other is not a directory")


def test_a_state_directory_that_is_open_to_others(site: Site) -> None:
    (site.directory / "state").mkdir(mode=0o755)
    assert site.wrong() == [
        ("state", "wrong", "state holds keys and sockets, and has to be this user's alone (mode 0700)"),
    ]


def test_a_signing_key(site: Site) -> None:
    """Good; of another algorithm than the configured one; open to others; and no key. What is in it is never shown."""
    name = "state/signing-key.pem"
    path = site.directory / name
    key = ensure_signing_key(path)
    assert ("signing key", "ok", f"{name}: EdDSA, {key.id}") in site.check("--offline")[1]
    site.config.write_text(site.config.read_text() + "signing: {algorithm: ES256}\n")
    said = [site.wrong("--offline")]
    path.chmod(0o644)
    said.append(site.wrong("--offline"))
    path.chmod(0o440)
    said.append(site.wrong("--offline"))
    site.change("{algorithm: ES256}", "{algorithm: EdDSA}\nsecrets: {group_readable: true}")
    assert site.wrong("--offline") == []
    path.chmod(0o600)
    path.write_text("secret")
    said.append(site.wrong("--offline"))
    path.unlink()
    site.change("algorithm: EdDSA", "extra_keys: [nowhere.pem]")
    said.append(site.wrong("--offline"))
    assert [what for found in said for _, _, what in found] == [
        f"{name}: the signing key is for EdDSA, and ES256 is configured",
        f"{name}: the signing key is open to others (mode 0644): chmod 600, or mount it so",
        f"{name}: the signing key is open to others (mode 0440): chmod 600, or set secrets.group_readable",
        f"{name}: not a signing key: an unencrypted PKCS #8 PEM with an Ed25519 or P-256 key is expected",
        "nowhere.pem: cannot be read: No such file or directory",
    ]


def test_what_proves_the_audit(site: Site) -> None:
    """Made by nobody yet, where it says; as the proxy makes it; and open to others, not a directory, not a key."""
    places = "{keys: elsewhere/keys, checkpoints: elsewhere/checkpoints, checkpoint_key: elsewhere/checkpoint.pem}"
    site.config.write_text(site.config.read_text() + f"audit: {places}\n")
    proves = ("audit keys", "checkpoints", "checkpoint key")

    def said() -> list[tuple[str, str]]:
        return [(state, what) for part, state, what in site.check("--offline")[1] if part in proves]

    elsewhere = site.directory / "elsewhere"
    assert said() == [("ok", "elsewhere/keys"), ("ok", "elsewhere/checkpoints"), ("ok", "elsewhere")]
    assert not elsewhere.exists()

    audited = AuditKeys(elsewhere / "keys", lifetime=60.0)
    sealed = audited.current(time.time())
    signer = ensure_signing_key(elsewhere / "checkpoint.pem")
    (elsewhere / "checkpoints").mkdir(mode=0o700)
    assert said() == [
        ("ok", f"elsewhere/keys: sealed with {sealed.id}"),
        ("ok", "elsewhere/checkpoints"),
        ("ok", f"elsewhere/checkpoint.pem: {signer.id}"),
    ]

    key = elsewhere / "keys" / f"{sealed.id}.key"
    key.chmod(0o640)
    (elsewhere / "checkpoints").chmod(0o770)
    (elsewhere / "checkpoint.pem").chmod(0o644)
    assert said() == [
        ("wrong", f"elsewhere/keys/{key.name}: a key of the audit is its owner's alone (mode 0600)"),
        ("wrong", "elsewhere/checkpoints: others can write in it: chmod 700"),
        ("wrong", "elsewhere/checkpoint.pem: the signing key is open to others (mode 0644): chmod 600, or mount it so"),
    ]

    key.chmod(0o600)
    key.write_text("secret")
    (elsewhere / "checkpoints").rmdir()
    (elsewhere / "checkpoints").write_text("")
    (elsewhere / "checkpoint.pem").unlink()
    elsewhere.chmod(0o777)
    assert said() == [
        ("wrong", f"elsewhere/keys/{key.name}: is not a key of the audit: 64 hexadecimal digits"),
        ("wrong", "elsewhere/checkpoints is not a directory"),
        ("wrong", "elsewhere: others can write in it: chmod 700"),
    ]


def test_what_proves_the_audit_below_the_state(site: Site) -> None:
    """Until it is there nothing is said of it that was not said of the state."""
    keys = site.directory / "state" / "audit-keys"
    keys.parent.mkdir(mode=0o700)
    keys.mkdir()
    keys.chmod(0o775)
    assert site.wrong("--offline") == [
        ("audit keys", "wrong", "state/audit-keys: others can write in it: chmod 700"),
    ]


def test_a_check_disturbs_nothing_that_runs(site: Site, opa_binary: Path) -> None:
    """It takes no lock, no socket and no port from a proxy on the same files."""
    site.check()
    before = {path: path.stat().st_mtime_ns for path in sorted(site.directory.rglob("*"))}
    stopped, served = threading.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as server:
        site.change("127.0.0.1:0", f"127.0.0.1:{server.getsockname()[1]}")
        before[site.config] = site.config.stat().st_mtime_ns

        def accept() -> None:
            server.settimeout(0.05)
            while not stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    served.append(server.accept()[0])

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            assert site.check()[0] == 0
        finally:
            stopped.set()
            acceptor.join()
    assert served == []
    assert {path: path.stat().st_mtime_ns for path in sorted(site.directory.rglob("*"))} == before
