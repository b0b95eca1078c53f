"""Where the node's store is: ``store.url`` taken apart, for one server as redis-py does it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from exchange.errors import InvalidFieldError

__all__ = ["ClusterAddress", "SentinelAddress", "StoreAddress", "parse"]

FIELD: Final = "store.url"
FILES: Final = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
OF_SENTINELS: Final = ("sentinel_username", "sentinel_password")
PORTS: Final = {"redis": 6379, "cluster": 6379, "sentinel": 26379}
FORMS: Final = (
    "write unix:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], "
    "redis+cluster://[USER:PASSWORD@]HOST[:PORT],… or "
    "redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/NAME; rediss… for TLS"
)


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
        """Take the URL of one server apart.

        :param url: ``unix://``, ``redis://`` or ``rediss://``, as `parse` has them.
        :raises InvalidFieldError: field ``store.url``; it is another's, or wrong.
        """
        address = parse(url)
        if not isinstance(address, cls):
            raise _invalid("sentinels or a cluster, where one server is wanted", "name one server")
        return address

    def __str__(self) -> str:
        """Name the server, without its credentials, for messages and logs."""
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """A cluster: some of its servers, who know the others; all have the same credentials."""

    seeds: tuple[StoreAddress, ...]


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """What sentinels watch.

    :param name: of the primary, among those that they watch.
    :param primary: how it is spoken to; ``host`` and ``port`` are theirs to say.
    """

    sentinels: tuple[StoreAddress, ...]
    name: str
    primary: StoreAddress


def parse(url: str) -> StoreAddress | ClusterAddress | SentinelAddress:
    """Take a URL apart.

    :param url: ``unix://PATH``; ``redis://HOST``; ``redis+cluster://HOST,HOST``;
        ``redis+sentinel://HOST,HOST/NAME``; ``rediss…`` of each for TLS. The database as ``/N`` or
        ``?db=N`` (sentinels: ``?db=N``; a cluster has one), for TLS also ``ssl_ca_certs``,
        ``ssl_certfile`` and ``ssl_keyfile`` (paths), for sentinels' own credentials
        ``sentinel_username`` and ``sentinel_password``.
    :raises InvalidFieldError: field ``store.url``; the message never repeats the URL, which may
        hold a password.
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:
        raise _invalid("not a URL of a store") from None
    protocol, _, kind = parts.scheme.partition("+")
    if parts.scheme != "unix" and (
        protocol not in {"redis", "rediss"} or (kind or "redis") not in PORTS
    ):
        raise _invalid("a store has the scheme unix, redis, rediss, redis+cluster, redis+sentinel")
    known = FILES if protocol == "rediss" else set()
    known = known | (set(OF_SENTINELS) if kind == "sentinel" else set())
    known = known | (set() if kind == "cluster" else {"db"})
    if unknown := sorted(set(options) - known):
        raise _invalid(f"unknown option {', '.join(unknown)}")
    if protocol == "unix":
        return _local(parts, options)
    username, password, hosts = _credentials(parts)
    path = unquote(parts.path).strip("/")
    server = StoreAddress(
        host="localhost",
        database=_database(options, "" if kind else path),
        username=username,
        password=password,
        tls=_tls(options) if protocol == "rediss" else None,
    )
    found = [_named(server, each, PORTS[kind or "redis"]) for each in hosts.split(",")]
    if kind == "cluster":
        if path:
            raise _invalid("a cluster has no databases")
        return ClusterAddress(tuple(found))
    if kind == "sentinel":
        if not path:
            raise _invalid("sentinels watch a primary by name", "write the name behind them: /NAME")
        username, password = (options.get(each, "") for each in OF_SENTINELS)
        _check_credentials(username, password)
        own = replace(server, database=0, username=username, password=password)
        watching = tuple(replace(own, host=each.host, port=each.port) for each in found)
        return SentinelAddress(watching, path, server)
    if len(found) > 1:
        raise _invalid("several servers are a cluster's, or sentinels")
    return found[0]


def _local(parts: SplitResult, options: dict[str, str]) -> StoreAddress:
    path = unquote(parts.path)
    username, password, host = _credentials(parts)
    if host or path in {"", "/"}:
        raise _invalid("a unix socket has an absolute path and no host")
    return StoreAddress(
        path=path, database=_database(options, ""), username=username, password=password
    )


def _named(like: StoreAddress, text: str, port: int) -> StoreAddress:
    try:
        parts = urlsplit(f"//{text}")
        port = port if parts.port is None else parts.port
    except ValueError:
        raise _invalid("not a URL of a store") from None
    return replace(like, host=parts.hostname or "localhost", port=port)


def _database(options: dict[str, str], path: str) -> int:
    database = options.get("db", path) or "0"
    if not (database.isascii() and database.isdigit()) or len(database) > 5:
        raise _invalid("the database is not a number")
    return int(database)


def _credentials(parts: SplitResult) -> tuple[str, str, str]:
    """The user, the password, and what stands behind them."""
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = map(unquote, credentials.partition(":"))
    _check_credentials(username, password)
    return username, password, hosts


def _check_credentials(username: str, password: str) -> None:
    if username and not password:
        raise _invalid("a user without a password")


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
