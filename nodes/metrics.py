"""Metrics for Prometheus: read when they are scraped, so that no call pays for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exchange.errors import TongxingError
from exchange.recognition import Outcome
from nodes.certificates import authorities
from nodes.memory import resident
from nodes.peers.view import PeerView
from nodes.store.appeals import Standing
from nodes.tlsfiles import TlsFiles
from nodes.trust import TrustKeeper

__all__ = ["NodeMetrics", "of_process", "of_resynchronisations"]


class Log(Protocol):
    """The access log (`nodes.audit.log.AuditLog`)."""

    @property
    def recorded(self) -> int:
        """Accesses, since the log was begun."""

    @property
    def refused(self) -> int:
        """Accesses that could not be recorded."""

    @property
    def waiting(self) -> int:
        """Recorded, and not on disk yet."""

    @property
    def writable(self) -> bool:
        """Whether it was when it was last tried."""


class Resynchronised(Protocol):
    """A province whose changes are heard."""

    @property
    def province(self) -> str:
        """Its code."""

    @property
    def resynchronisations(self) -> int:
        """How often its whole state was fetched."""


class NodeMetrics(Collector):
    """What an operator watches: the trust list's age, certificates' ends, which peers answer.

    Times are Unix seconds, so that an alert is ``x - time() < 14 * 86400``; what never was is 0.

    :param audit: how it stands with the access log.
    :param decided: how often the node came to each outcome.
    :param views: how the node stands with each (`nodes.peers.view.PeerViews`); asked from a thread.
    :param subjects: how many subjects the node itself holds anything of, about.
    :param appeals: how it stands with appeals; None where nobody can tell now. From a thread.
    :param places: calls that each caller may have at once.
    :param refused: calls that were refused for want of a place, by role; as ``appeals``.
    :param hears: whether the process hears the peers itself.
    """

    def __init__(
        self,
        *,
        province: str,
        keeper: TrustKeeper,
        tls: TlsFiles,
        clock: Callable[[], datetime],
        audit: Log,
        decided: Mapping[Outcome, int],
        views: Callable[[], Sequence[PeerView]] = tuple,
        subjects: Callable[[], int] = int,
        appeals: Callable[[], Standing | None] = lambda: None,
        places: Callable[[], int] = int,
        refused: Callable[[], Mapping[str, int] | None] = lambda: None,
        hears: bool = True,
    ) -> None:
        self._province = province
        self._keeper = keeper
        self._tls = tls
        self._clock = clock
        self._audit = audit
        self._recorded_before = audit.recorded
        self._decided = decided
        self._views = views
        self._subjects = subjects
        self._appeals = appeals
        self._places = places
        self._refused = refused
        self._hears = hears

    def collect(self) -> list[Metric]:
        """All of it, as it is now."""
        views = self._views()
        ends = GaugeMetricFamily(
            "tongxing_certificate_end_seconds", "When a certificate ends.", labels=["what"]
        )
        ends.add_metric(["node"], self._tls.current.leaf().not_valid_after_utc.timestamp())
        usable = GaugeMetricFamily(
            "tongxing_trust_usable", "1 while anything can be verified with the trust list."
        )
        families: list[Metric] = [
            ends,
            usable,
            _gauge("tongxing_subjects", "Subjects held here, about.", self._subjects()),
            of_process(shared=self._hears),
            *_of_log(self._audit, self._recorded_before),
            _of_decisions(self._decided),
            *_of_peers(views),
            *([of_resynchronisations(views)] if self._hears else []),
            *_of_appeals(self._appeals(), self._clock()),
            _gauge("tongxing_places", "Calls that each caller may have at once.", self._places()),
            *_of_refused(self._refused()),
        ]
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


_Of = Callable[[PeerView], float]

_GAUGES: tuple[tuple[str, str, _Of], ...] = (
    (
        "tongxing_peer_up",
        "1 while the province is heard: its changes come, or its whole state is being fetched.",
        lambda view: view.up,
    ),
    (
        "tongxing_peer_synchronised",
        "1 while every change of the province is heard.",
        lambda view: view.state == "SYNCHRONISED",
    ),
    (
        "tongxing_peer_as_of_seconds",
        "Since when nothing of the province is known to be missing.",
        lambda view: view.as_of.timestamp() if view.as_of else 0,
    ),
    (
        "tongxing_peer_lag_seconds",
        "How long the province's last changes took to arrive.",
        lambda view: view.lag.total_seconds() if view.lag else 0,
    ),
    (
        "tongxing_peer_presence_seconds",
        "When the province's presence filter was fetched whole.",
        lambda view: view.presence_time.timestamp() if view.presence_time else 0,
    ),
    (
        "tongxing_peer_presence_subjects",
        "Subjects that the province holds anything of, about.",
        lambda view: view.subjects,
    ),
    (
        "tongxing_peer_circuit_open",
        "1 while the circuit breaker keeps calls from the province.",
        lambda view: view.circuit_open,
    ),
)
_COUNTERS: tuple[tuple[str, str, _Of], ...] = (
    ("tongxing_peer_calls", "Calls made to the province.", lambda view: view.calls),
    ("tongxing_peer_errors", "Calls to the province that failed.", lambda view: view.errors),
)


def of_process(*, shared: bool) -> Metric:
    """What there is to tell of this process itself.

    :param shared: whether it tells of the memory that the node's processes share.
    """
    size = resident(shared=shared)
    return _gauge("tongxing_resident_bytes", "Resident memory of all processes.", size)


def _of_log(audit: Log, before: int) -> Iterator[Metric]:
    yield _counter(
        "tongxing_audit_recorded",
        "Accesses recorded since the start; those of a batch with one answer are one.",
        audit.recorded - before,  # as every count: processes' own can be added up
    )
    yield _counter(
        "tongxing_audit_refused",
        "Accesses that could not be recorded, and were answered with AUDIT_UNAVAILABLE.",
        audit.refused,
    )
    yield _gauge("tongxing_audit_waiting", "Accesses that lie in no day's file yet.", audit.waiting)
    yield _gauge(
        "tongxing_audit_writable", "1 while the access log can be written.", audit.writable
    )


def _of_decisions(decided: Mapping[Outcome, int]) -> Metric:
    counter = CounterMetricFamily(
        "tongxing_decisions", "Decisions about holders.", labels=["outcome"]
    )
    for outcome, count in decided.items():
        counter.add_metric([outcome.value], count)
    return counter


def _of_peers(views: Sequence[PeerView]) -> Iterator[Metric]:
    for name, help_, value in _GAUGES:
        gauge = GaugeMetricFamily(name, help_, labels=["province"])
        for view in views:
            gauge.add_metric([view.province], value(view))
        yield gauge
    for name, help_, value in _COUNTERS:
        counter = CounterMetricFamily(name, help_, labels=["province"])
        for view in views:
            counter.add_metric([view.province], value(view))
        yield counter


def of_resynchronisations(peers: Iterable[Resynchronised]) -> Metric:
    """What whoever hears the provinces has to tell of it, once a node."""
    counter = CounterMetricFamily(
        "tongxing_peer_resynchronisations",
        "How often the province's whole state was fetched.",
        labels=["province"],
    )
    for peer in peers:
        counter.add_metric([peer.province], peer.resynchronisations)
    return counter


def _of_appeals(standing: Standing | None, now: datetime) -> Iterator[Metric]:
    if standing is None:
        return
    counts = GaugeMetricFamily(
        "tongxing_appeals",
        "Appeals that are kept, filed here or to be answered here.",
        labels=["role", "state"],
    )
    age = GaugeMetricFamily(
        "tongxing_appeals_unanswered_age_seconds",
        "For how long the oldest appeal without an answer has been here; 0 where there is none.",
        labels=["role"],
    )
    for role, states, oldest in (
        ("filed", standing.filed, standing.oldest_filed),
        ("to_answer", standing.to_answer, standing.oldest_to_answer),
    ):
        for state, count in states.items():
            counts.add_metric([role, state.value], count)
        waits = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
        age.add_metric([role], waits)
    yield counts
    yield age


def _of_refused(refused: Mapping[str, int] | None) -> Iterator[Metric]:
    if refused is None:
        return
    counter = CounterMetricFamily(
        "tongxing_refused_calls",
        "Calls refused as OVERLOADED before they were served; those that Envoy refused are any's.",
        labels=["role"],
    )
    for role, count in refused.items():
        counter.add_metric([role], count)
    yield counter


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_, value=value)


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)
