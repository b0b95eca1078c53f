"""An address that several processes of one node listen on together, and nobody else's."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Final

from exchange.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["held", "not_listenable"]

_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""A name may have an address of a family that this machine does not speak."""


@contextlib.contextmanager
def held(listen: str) -> Iterator[str]:
    """Keep an address for the processes that this one starts: they listen on it, it does not.

    :param listen: ``host:port``; port 0 takes a free one.
    :returns: the address with its port.
    :raises InvalidFieldError: somebody has it, or it is none of this machine's.
    """
    host, _, wanted = listen.rpartition(":")
    port = int(wanted)
    with contextlib.ExitStack() as stack:
        taken = False
        try:
            found = socket.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, address in dict.fromkeys((each[0], each[4]) for each in found):
                try:
                    each = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                    # Connections that ended a moment ago are no hindrance.
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    each.bind((address[0], port, *address[2:]))
                except OSError as error:
                    if error.errno in _NOT_HERE:
                        continue
                    raise
                # Only now may others join: whoever would hold the address too is refused above.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                port, taken = each.getsockname()[1], True
        except OSError:
            raise not_listenable(listen) from None
        if not taken:
            raise not_listenable(listen)
        yield f"{host}:{port}"


def not_listenable(listen: str) -> InvalidFieldError:
    """Tell why nobody can call here."""
    return InvalidFieldError(
        f"cannot listen on {listen}", field="listen", remedy="is the port in use?"
    )
