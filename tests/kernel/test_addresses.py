from __future__ import annotations

import pytest

from ostiary.addresses import is_localhost, is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "::1"])
def test_a_loopback_host_can_only_be_this_machine(host: str) -> None:
    assert is_loopback(host)
    assert is_localhost(host)


@pytest.mark.parametrize("host", ["idp.localhost", "a.b.localhost"])
def test_a_name_below_localhost_is_this_machine_where_it_is_resolved_so(host: str) -> None:
    assert not is_loopback(host)
    assert is_localhost(host)


@pytest.mark.parametrize(
    "host", ["", "localhost.test", "notlocalhost", "127.0.0.1.test", "0.0.0.0", "10.0.0.1", "[::1]"]
)
def test_any_other_host_is_somewhere_else(host: str) -> None:
    assert not is_localhost(host)
