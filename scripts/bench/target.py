"""What is called, and what a round of calls did."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONNECTIONS", "IN_FLIGHT", "Ran", "Target"]

CONNECTIONS = 2
IN_FLIGHT = 32
"""Calls that each connection keeps running at once."""


@dataclass(frozen=True, slots=True)
class Target:
    """A method of a server, and who calls it.

    :param address: ``host:port``.
    :param certificate: PEM, as ``key`` and ``authority``, by which the server is held.
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
