from __future__ import annotations

import pytest

from ostiary import addresses
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


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("169.254.169.254", "link-local"),
        ("169.254.0.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("100.100.100.200", "an instance metadata service"),
        ("168.63.129.16", "an instance metadata service"),
        ("192.0.0.192", "an instance metadata service"),
        ("fd00:ec2::254", "an instance metadata service"),
        ("fd00:ec2::23", "an instance metadata service"),
        ("fd20:ce::254", "an instance metadata service"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("::ffff:169.254.169.254", "link-local"),
        ("::ffff:100.100.100.200", "an instance metadata service"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("2002:6464:64c8:1::1", "an instance metadata service"),
        ("2001:0:a9fe:a9fe::1", "link-local"),  # Teredo: its server
        ("2001:0:c000:201::5601:5601", "link-local"),  # and the client, whose bits are turned over
        ("::a9fe:a9fe", "link-local"),
        ("::0.0.0.0", "unspecified"),
        ("orders.test", "no IP address"),
        ("", "no IP address"),
    ],
)
def test_what_is_never_connected_to_is_refused_whatever_way_it_is_reached(address: str, reason: str) -> None:
    assert addresses.refusal(address) == reason


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "10.0.0.7",
        "192.168.1.1",
        "8.8.8.8",
        "2001:db8::1",
        "fd12::7",
        "::ffff:10.0.0.7",
        "64:ff9b::808:808",
        "2002:a00:7::1",
        "2001:0:c000:201::f5ff:fff8",
    ],
)
def test_other_addresses_are_connected_to(address: str) -> None:
    assert addresses.refusal(address) is None
