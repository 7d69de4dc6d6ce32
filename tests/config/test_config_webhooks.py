"""Who is told of grants, as it is written, and what each mistake is told as."""

# ruff: noqa: E501 - the complete lines, as people see them

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from ostiary import notifying
from ostiary.cli.webhooks import tried
from ostiary.config import Config, load_config
from ostiary.errors import ConfigurationError
from ostiary.grants.webhooks.notices import EVENTS, NAMES
from support.files import mistakes

SECRET: Final = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
HEAD: Final = """\
listen: {data: 127.0.0.1:8080}
issuers: [{issuer: https://idp.test, audience: proxy, key_file: keys.json, algorithms: [ES256]}]
services: {orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}}
opa: {managed: {bundle: build/demo}}
"""
ENVIRONMENT: Final = {"CHAT_URL": "https://hooks.test/t0ken", "SECRET": SECRET}


def written(webhook: str, **others: str) -> str:
    """A configuration whose sixth line has the webhook."""
    beside = "".join(f"\n  {key}: {value}" for key, value in others.items())
    return f"{HEAD}grants:\n  webhooks: {{chat: {webhook}}}\n  url: 'sqlite:///grants.db'{beside}\n"


def load(path: Path) -> Config:
    return load_config(path, ENVIRONMENT)


def loaded(folder: Path, webhook: str, **others: str) -> Config:
    path = folder / "ostiary.yaml"
    path.write_text(written(webhook, **others), encoding="utf-8")
    return load(path)


def test_what_is_left_out_is_all_of_it(tmp_path: Path) -> None:
    config = loaded(tmp_path, "{url: 'https://log.test/hook', secret: '${SECRET}'}")
    [found] = notifying.configured(config)
    assert (found.name, found.url, found.events, found.services) == (
        "chat",
        "https://log.test/hook",
        frozenset(EVENTS),
        None,
    )
    assert found.keys() == (bytes(range(32)),)
    assert (found.template.style, found.template.layout, found.give_up_after) == ("generic", None, 86400)
    assert notifying.public_url(config) == "https://ostiary.localhost"


def test_all_of_it_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"text": "$text"}', encoding="utf-8")
    (tmp_path / "secret").write_text(f"{SECRET}\n{SECRET}\n", encoding="utf-8")
    config = loaded(
        tmp_path,
        "{url: '${CHAT_URL}', secret_file: secret, events: [requested, emergency], services: [orders], template: slack, template_file: own.json, give_up_after: 1h}",
        public_url="https://access.shop.test",
    )
    [found] = notifying.configured(config)
    assert found.url == "https://hooks.test/t0ken"
    assert len(found.keys()) == 2
    assert (found.events, found.services) == ({"requested", "emergency"}, {"orders"})
    assert (found.template.style, found.template.layout, found.give_up_after) == ("slack", {"text": "$text"}, 3600)
    assert notifying.public_url(config) == "https://access.shop.test"
    assert "t0ken" not in f"{config!r} {config.model_dump_json()} {found!r}"


def test_a_chat_needs_no_secret(tmp_path: Path) -> None:
    [found] = notifying.configured(loaded(tmp_path, "{url: '${CHAT_URL}', template: teams}"))
    assert found.keys() == ()


CHAT: Final = "ostiary.yaml:6: grants.webhooks.chat"
MISTAKES: Final = {
    "{url: 'http://hooks.test/t0ken', template: slack}": f"{CHAT}.url: only https is accepted, except on a loopback host",
    "{url: 'https://u:t0ken@hooks.test', template: slack}": f"{CHAT}.url: a URL carries no user and no password here",
    "{url: 'hooks.test/t0ken', template: slack}": f"{CHAT}.url: is not a URL with http or https",
    "{template: slack}": f"{CHAT}.url: is missing",
    "{url: 'https://log.test'}": f"{CHAT}: needs one of 'secret' and 'secret_file': who is told could not tell by whom",
    "{url: 'https://log.test', secret: t0ken}": f"{CHAT}.secret: a secret is written whsec_ and the base64 of 24 to 64 random bytes",
    "{url: 'https://log.test', secret: '${SECRET}', secret_file: t}": f"{CHAT}.secret_file: there is a secret already",
    "{url: 'https://log.test', template: slack, events: [request]}": f"{CHAT}.events[0]: 'request' is not an event (did you mean 'requested'?)",
    "{url: 'https://log.test', template: slack, services: [order]}": f"{CHAT}.services[0]: 'order' is not a service here (did you mean 'orders'?)",
    "{url: 'https://log.test', template: slack, services: [orders], events: [blocked]}": f"{CHAT}.events[0]: 'blocked' is about all services, and 'services' names some",
    "{url: 'https://log.test', template: slak}": f"{CHAT}.template: 'slak' is not generic, slack or teams (did you mean 'slack'?)",
    "{url: 'http://127.0.0.1:1', template: slack, ca_file: ca.pem}": f"{CHAT}.ca_file: the URL is not https, so no certificate would be checked",
    "{url: 'https://log.test', template: slack, give_up_after: 8d}": f"{CHAT}.give_up_after: '8d' is not a duration, which is written 250ms, 5s, 30m or 24h",
    "{url: 'https://log.test', template: slack, template_file: '${HOME}'}": f"{CHAT}.template_file: an environment variable fills a secret only (grants.url, grants.webhooks.<name>.secret, grants.webhooks.<name>.url and opa.token): write the value",
}


@pytest.mark.parametrize(("webhook", "told"), MISTAKES.items())
def test_a_mistake_is_told_where_it_is_without_the_secret(webhook: str, told: str, tmp_path: Path) -> None:
    assert mistakes(load, tmp_path / "ostiary.yaml", written(webhook)) == [told]


TEMPLATES: Final = {
    '{"text": "$reson"}': ":1: 'reson' is no value of a notice (did you mean 'reason'?)",
    '{"text":\n"x",\n"more": ["$5"]}': ":3: a $ begins the name of a value, or is written $$: '$5'",
    '{"text":\n\n': ":3: is not JSON: Expecting value",
    '["$text"]': ": is not a template: not a JSON object",
    '{"a": 1, "a": 2}': ": is not a template: a member occurs twice",
}


@pytest.mark.parametrize(("text", "told"), TEMPLATES.items())
def test_a_template_that_cannot_be_filled_is_told(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(text, encoding="utf-8")
    config = loaded(tmp_path, "{url: '${CHAT_URL}', template: slack, template_file: own.json}")
    with pytest.raises(ConfigurationError) as refused:
        notifying.configured(config)
    assert list(refused.value.mistakes) == [f"{file}{told}"]


@pytest.mark.parametrize(("key", "what"), [("template_file", "template: slack, "), ("secret_file", "")])
def test_a_file_that_is_not_there_is_told(key: str, what: str, tmp_path: Path) -> None:
    config = loaded(tmp_path, f"{{url: '${{CHAT_URL}}', {what}{key}: missing}}")
    with pytest.raises(ConfigurationError) as refused:
        notifying.configured(config)
    told = f"{tmp_path / 'missing'}: the {key} cannot be read: No such file or directory"
    assert list(refused.value.mistakes) == [told]


def test_authorities_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nhalf")
    config = loaded(tmp_path, "{url: 'https://chat.invalid/', template: slack, ca_file: ca.pem}")
    with pytest.raises(ConfigurationError) as refused:
        notifying.configured(config)
    [told] = refused.value.mistakes
    assert told.startswith(f"{tmp_path / 'ca.pem'}: the ca_file cannot be used: ")


def test_a_test_says_that_it_is_one(tmp_path: Path) -> None:
    notice = notifying.example(loaded(tmp_path, "{url: '${CHAT_URL}', template: teams}"))
    assert notice.document()["type"] == "grant.test"
    assert (notice.values["title"], sorted(notice.values)) == ("Test", sorted(NAMES))
    assert "this is a test" in notice.values["text"]


def test_who_is_tried_is_one_that_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_URL", "http://127.0.0.1:1/t0ken")
    path = tmp_path / "ostiary.yaml"
    path.write_text(written("{url: '${CHAT_URL}', template: slack}"), encoding="utf-8")
    assert tried("chat", path) == "cannot be reached: ConnectError"
    with pytest.raises(ConfigurationError) as refused:
        tried("chta", path)
    assert list(refused.value.mistakes) == [f"{path}: there is no webhook 'chta' (did you mean 'chat'?)"]
