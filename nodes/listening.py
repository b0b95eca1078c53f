"""An address that several processes of one node listen on together, and nobody else.

The kernel gives each new connection to one of those that listen. A process that leaves must lose
none that it was given, and no call; but gRPC's own end breaks handshakes that are under way, and
cancels calls that have come and wait for their handler (grpc/grpc#41785). So what comes is kept
from it before, by filters on its sockets: to the caller it is as if the network had lost a packet,
which is sent again, and by then there is another process to take it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from exchange.errors import InvalidFieldError

__all__ = ["copies", "hear", "held", "hide", "not_listenable", "over", "shut"]

SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
TCP_CLOSE: Final = 7

_KEEP, _DROP = (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)
# Classic BPF, from the TCP header on: a connection that is asked for (SYN) …
_NO_NEW: Final = ((0x30, 0, 0, 13), (0x45, 1, 0, 0x02), _KEEP, _DROP)
# … and whatever is longer than its header: acknowledgements pass.
_NO_DATA: Final = (
    (0x30, 0, 0, 12),
    (0x74, 0, 0, 2),
    (0x54, 0, 0, 0x3C),
    (0x07, 0, 0, 0),
    (0x80, 0, 0, 0),
    (0x2D, 1, 0, 0),
    _KEEP,
    _DROP,
)

_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""A name may have an address of a family that this machine does not speak."""


@contextlib.contextmanager
def held(listen: str, field: str = "listen") -> Iterator[str]:
    """Keep an address for the processes that this one starts: they listen on it, it does not.

    :param listen: ``host:port``; port 0 takes a free one.
    :param field: of the configuration.
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
            raise not_listenable(listen, field) from None
        if not taken:
            raise not_listenable(listen, field)
        yield f"{host}:{port}"


def not_listenable(listen: str, field: str = "listen") -> InvalidFieldError:
    """Tell why nobody can call here.

    :param field: of the configuration.
    """
    return InvalidFieldError(
        f"cannot listen on {listen}", field=field, remedy="is the port in use?"
    )


def sockets(ports: Collection[int], *, listening: bool) -> Iterator[socket.socket]:
    """Go through this process's own TCP sockets on some ports, whatever library made them.

    :param listening: those that listen; else those that are connected.
    """
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            file = os.dup(int(entry.name))
        except OSError:  # closed by now
            continue
        if not stat.S_ISSOCK(os.fstat(file).st_mode):
            os.close(file)
            continue
        with socket.socket(fileno=file) as each, contextlib.suppress(OSError):
            if each.type != socket.SOCK_STREAM or each.family == socket.AF_UNIX:
                continue
            listens = bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            if listens == listening and each.getsockname()[1] in ports:
                yield each


def hide(ports: Collection[int]) -> None:
    """Ask for no new connections on some ports; those that were asked for before still come."""
    for each in sockets(ports, listening=True):
        _attach(each, _NO_NEW)


def shut(ports: Collection[int], how: int, *, listening: bool) -> None:
    """End what this process has on some ports, as ``socket.shutdown``."""
    for each in sockets(ports, listening=listening):
        with contextlib.suppress(OSError):  # ended by now
            each.shutdown(how)


def hear(ports: Collection[int], only: Collection[int] | None = None) -> None:
    """Hear on the connections of some ports those alone who call from some ports of their own.

    The others say it again and again until they are heard. None: hear everybody.
    """
    for each in sockets(ports, listening=False):
        with contextlib.suppress(OSError):  # gone by now
            if only is None or each.getpeername()[1] in only:
                each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            else:
                _attach(each, _NO_DATA)


def copies(ports: Collection[int]) -> list[socket.socket]:
    """Keep some ports' connections in the kernel, with their filters, when their owner closes them.

    Else what a caller still says, before it has read that it is to go elsewhere, would be answered
    with a reset, which undoes that word. Whoever has them closes them.
    """
    return [each.dup() for each in sockets(ports, listening=False)]


def over(connection: socket.socket) -> bool:
    """Whether the other side has ended it too."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE


def _attach(each: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filter_ = struct.pack("HP", len(program), ctypes.addressof(code))
    with contextlib.suppress(OSError):  # a kernel without them: a few calls may have to be repeated
        each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
