"""Addresses of nodes: one, several, names."""

from __future__ import annotations

import pytest

from exchange.client import address
from exchange.errors import InvalidFieldError


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("127.0.0.1:7443", ("127.0.0.1:7443",)),
        ("127.0.0.1:1, 127.0.0.2:1", ("127.0.0.1:1", "127.0.0.2:1")),
        (["a.example:1", "a.example:1", "b.example:2"], ("a.example:1", "b.example:2")),
        ("[::1]:7443,[2001:db8::1]:7443", ("[::1]:7443", "[2001:db8::1]:7443")),
    ],
)
def test_addresses_are_read(given, found):
    assert address.read(given) == found


@pytest.mark.parametrize("given", ["", [], "a", "a:", "a:1,", "a:1,,b:1", "::1:7443", "a:1 b:1"])
def test_what_is_no_address_is_refused_by_name(given):
    with pytest.raises(InvalidFieldError) as caught:
        address.read(given)
    assert caught.value.field == "address"


@pytest.mark.parametrize(
    ("addresses", "targets"),
    [
        (["127.0.0.1:1", "127.0.0.2:2"], ["ipv4:127.0.0.1:1,127.0.0.2:2"]),
        (["[::1]:1", "[::2]:2"], ["ipv6:[::1]:1,[::2]:2"]),
        (["nodes.example:1"], ["dns:///nodes.example:1"]),
        (["a.example:1", "b.example:1"], ["dns:///a.example:1", "dns:///b.example:1"]),
        (["127.0.0.1:1", "[::1]:1"], ["ipv4:127.0.0.1:1", "ipv6:[::1]:1"]),
    ],
)
def test_one_target_stands_for_all_where_grpc_has_such_a_form(addresses, targets):
    assert address.targets(addresses) == targets
