"""Metrics for Prometheus: read when they are scraped, so that no call pays for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exchange.errors import InvalidFieldError, TongxingError
from nodes.certificates import authorities
from nodes.peers.fetch import Peers
from nodes.tlsfiles import TlsFiles
from nodes.trust import TrustKeeper

__all__ = ["NodeMetrics", "served"]


class NodeMetrics(Collector):
    """What an operator watches: the trust list's age, certificates' ends, which peers answer.

    Times are Unix seconds, so that an alert is ``x - time() < 14 * 86400``.
    """

    def __init__(
        self,
        *,
        province: str,
        keeper: TrustKeeper,
        tls: TlsFiles,
        peers: Peers,
        clock: Callable[[], datetime],
    ) -> None:
        self._province = province
        self._keeper = keeper
        self._tls = tls
        self._peers = peers
        self._clock = clock

    def collect(self) -> list[Metric]:
        """All of it, as it is now."""
        ends = GaugeMetricFamily(
            "tongxing_certificate_end_seconds", "When a certificate ends.", labels=["what"]
        )
        ends.add_metric(["node"], self._tls.current.leaf().not_valid_after_utc.timestamp())
        usable = GaugeMetricFamily(
            "tongxing_trust_usable", "1 while anything can be verified with the trust list."
        )
        families: list[Metric] = [ends, usable, self._up()]
        try:
            trust = self._keeper.current()
        except TongxingError:
            usable.add_metric([], 0)
            return families
        usable.add_metric([], 1)
        if self._province in trust.profiles:
            tls_ca = trust.profiles[self._province].tls_ca.encode()
            last = max(each.ends for each in authorities(tls_ca, self._clock()))
            ends.add_metric(["authority"], last.timestamp())
        return [
            *families,
            _gauge("tongxing_trust_version", "The trust list's version.", trust.version),
            _gauge("tongxing_trust_end_seconds", "When the list ends.", trust.expires.timestamp()),
            _gauge(
                "tongxing_trust_unusable_provinces",
                "Provinces whose part of the list does not verify.",
                len(trust.unusable),
            ),
        ]

    def _up(self) -> Metric:
        up = GaugeMetricFamily(
            "tongxing_peer_up", "1 if the province answered when last asked.", labels=["province"]
        )
        for province, answered in self._peers.up().items():
            up.add_metric([province], answered)
        return up


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)


@contextlib.contextmanager
def served(listen: str, collector: Collector) -> Iterator[None]:
    """Serve ``GET /metrics`` on an address of its own, from a thread.

    :param listen: ``host:port``.
    :raises InvalidFieldError: the address cannot be listened on.
    """
    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = start_http_server(int(port), host, registry)
    except OSError as error:
        raise InvalidFieldError(
            f"cannot listen on {listen}: {error.strerror}",
            field="metrics.listen",
            remedy="is the port in use?",
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
