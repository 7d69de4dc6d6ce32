"""Signatures are those of Standard Webhooks: its own library takes them, and nothing else."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from ostiary.grants.webhooks.signature import read_secrets, signed
from support.webhooks import OTHER, SECRET

BODY = '{"type":"grant.requested","said":"\N{SNOWMAN}"}'


def headers(*secrets: str, body: str = BODY, at: float = 0) -> dict[str, str]:
    return signed("g-1-0", int(time.time() + at), body.encode(), read_secrets(" ".join(secrets)))


def test_a_receiver_verifies_what_is_sent() -> None:
    assert Webhook(SECRET).verify(BODY, headers(SECRET))["type"] == "grant.requested"


def test_the_example_of_the_specification_is_signed_as_it_is_there() -> None:
    keys = read_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    said = signed("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', keys)
    assert said == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_a_secret_changes_either_is_enough() -> None:
    both = headers(SECRET, OTHER)
    assert Webhook(SECRET).verify(BODY, both) == Webhook(OTHER).verify(BODY, both)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (BODY + " ", headers(SECRET)),
        (BODY, headers(OTHER)),
        (BODY, headers(SECRET, at=-301)),
        (BODY, headers(SECRET) | {"webhook-id": "g-1-1"}),
        (BODY, headers(SECRET) | {"webhook-timestamp": str(int(time.time()) - 1)}),
        (BODY, {name: value for name, value in headers(SECRET).items() if name != "webhook-signature"}),
    ],
    ids=["another body", "another secret", "long ago", "another id", "another time", "no signature"],
)
def test_what_is_not_what_was_sent_now_is_refused(body: str, said: dict[str, str]) -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, said)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t0ken",
        SECRET.removeprefix("whsec_"),
        f"{SECRET}!",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        f"{SECRET} {OTHER} {SECRET}",
        f"{SECRET} t0ken",
    ],
)
def test_what_is_no_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"secret") as refused:
        read_secrets(text)
    assert "t0ken" not in str(refused.value)
    assert SECRET not in str(refused.value)
