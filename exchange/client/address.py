"""Where a province's nodes are called: addresses as gRPC targets.

One address, or several of nodes that are all alike; a DNS name may also stand for several.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from exchange.errors import InvalidFieldError

__all__ = ["ROUND_ROBIN", "read", "several", "target", "targets"]

ROUND_ROBIN: Final = '{"loadBalancingConfig":[{"round_robin":{}}]}'
"""A gRPC service config: calls go to all that a target stands for, each in its turn; who is down is
left out, and taken back when it answers again."""

_FORM = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:,/]+):\d{1,5}")


def read(given: str | Sequence[str]) -> tuple[str, ...]:
    """Read addresses.

    :param given: ``host:port``, several of them with commas between, or a list.
    :raises InvalidFieldError: one of them is none, or there is none.
    """
    parts = given.split(",") if isinstance(given, str) else given
    found = tuple(dict.fromkeys(part.strip() for part in parts))
    for address in found or ("",):
        if not _FORM.fullmatch(address):
            raise InvalidFieldError(
                f"{address!r} is no address",
                field="address",
                remedy="give HOST:PORT, or several with commas between",
            )
    return found


def target(address: str) -> str:
    """The gRPC target of one address."""
    return f"{_scheme(address)}{address}"


def targets(addresses: Sequence[str]) -> list[str]:
    """The targets of several: one for all where gRPC has such a form, else one for each.

    It has none for several names, nor for IPv4 and IPv6 together.
    """
    schemes = {_scheme(address) for address in addresses}
    if len(schemes) > 1 or schemes == {_DNS}:
        return [target(address) for address in addresses]
    return [f"{schemes.pop()}{','.join(addresses)}"]


def several(target: str) -> bool:
    """Whether a target may stand for more than one server: some addresses, or a name."""
    return "," in target or target.startswith(_DNS)


_DNS = "dns:///"


def _scheme(address: str) -> str:
    with contextlib.suppress(ValueError):
        host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
        return f"ipv{host.version}:"
    return _DNS
