"""What is called, and what a round of calls did."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass

__all__ = ["CONNECTIONS", "IN_FLIGHT", "NEVER_SHED", "Ran", "Target", "tls"]

CONNECTIONS = 2
IN_FLIGHT = 32
"""Calls that each connection keeps running at once."""
NEVER_SHED = 12
"""The same, where a node is to refuse none that sheds load."""


@dataclass(frozen=True, slots=True)
class Target:
    """A method of a server, and who calls it.

    :param address: ``host:port``.
    :param certificate: PEM, as ``key`` and ``authority``, by which the server is held; all of them
        empty where it is called without TLS.
    :param json: it is JSON over HTTP/1.1, no gRPC.
    """

    address: str
    path: str
    certificate: bytes
    key: bytes
    authority: bytes
    server_name: str
    json: bool = False


@dataclass(frozen=True, slots=True)
class Ran:
    """What a round did."""

    calls: int
    rate: float
    """Calls a second."""


def tls(target: Target, protocol: str) -> ssl.SSLContext:
    """What a client shows, and holds the target by.

    :param protocol: by ALPN: ``h2`` or ``http/1.1``.
    """
    context = ssl.create_default_context(cadata=target.authority.decode())
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(target.certificate + target.key)
        pair.flush()
        context.load_cert_chain(pair.name)
    context.set_alpn_protocols([protocol])
    return context
