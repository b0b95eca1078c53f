"""Where the node's store is: ``store.url`` taken apart, in the forms that redis-py knows too."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from exchange.errors import InvalidFieldError

__all__ = ["StoreAddress"]

FIELD = "store.url"
LATER = {"redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
FORMS = "write unix:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB] or rediss://…"


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """One server: a unix socket (``path``), or ``host`` and ``port``, with ``tls`` or without."""

    path: str = ""
    host: str = ""
    port: int = 6379
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> StoreAddress:
        """Take a URL apart.

        :param url: ``unix://``, ``redis://`` or ``rediss://``; the database as ``/N`` or ``?db=N``,
            for rediss also ``ssl_ca_certs``, ``ssl_certfile`` and ``ssl_keyfile`` (paths).
        :raises InvalidFieldError: field ``store.url``; the message never repeats the URL, which may
            hold a password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            options = dict(parse_qsl(parts.query, keep_blank_values=True))
        except ValueError:
            raise _invalid("not a URL of a store") from None
        if parts.scheme in LATER:
            raise _invalid("sentinels and clusters are not supported yet", "name one server")
        if parts.scheme not in {"unix", "redis", "rediss"}:
            raise _invalid("a store has the scheme unix, redis or rediss")
        local = parts.scheme == "unix"
        path = unquote(parts.path)
        if local and (parts.hostname or path in {"", "/"}):
            raise _invalid("a unix socket has an absolute path and no host")
        known = {"db"} | (FILES if parts.scheme == "rediss" else set())
        if unknown := sorted(set(options) - known):
            raise _invalid(f"unknown option {', '.join(unknown)}")
        database = options.get("db", "" if local else path.strip("/")) or "0"
        if not (database.isascii() and database.isdigit()) or len(database) > 5:
            raise _invalid("the database is not a number")
        username, password = unquote(parts.username or ""), unquote(parts.password or "")
        if username and not password:
            raise _invalid("a user without a password")
        return cls(
            path=path if local else "",
            host="" if local else parts.hostname or "localhost",
            port=6379 if port is None else port,
            database=int(database),
            username=username,
            password=password,
            tls=_tls(options) if parts.scheme == "rediss" else None,
        )

    def __str__(self) -> str:
        """Name the server, without its credentials, for messages and logs."""
        return self.path or f"{self.host}:{self.port}"


def _invalid(message: str, remedy: str = FORMS) -> InvalidFieldError:
    return InvalidFieldError(message, field=FIELD, remedy=remedy)


def _tls(files: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get("ssl_ca_certs"))
        if "ssl_certfile" in files:
            context.load_cert_chain(files["ssl_certfile"], files.get("ssl_keyfile"))
    except OSError as error:  # ssl.SSLError is one
        raise _invalid(
            "the certificates or the key cannot be read", "name PEM files that the node may read"
        ) from error
    return context
