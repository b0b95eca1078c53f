"""How metrics leave a node: in plain HTTP, and those of several processes as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from exchange.errors import InvalidFieldError, TongxingError

__all__ = ["GAUGES", "Sum", "asked", "paged", "served"]

T = TypeVar("T")

_LOOP_SECONDS: Final = 2.0
"""How long a scrape waits for what only the event loop can tell."""

GAUGES: Final[dict[str, Callable[[Iterable[float]], float]]] = {
    # What ends first, and who is worst off: an alert must not hide behind the others.
    "tongxing_certificate_end_seconds": min,
    "tongxing_trust_usable": min,
    "tongxing_trust_version": min,
    "tongxing_trust_end_seconds": min,
    "tongxing_trust_unusable_provinces": max,
    "tongxing_audit_writable": min,
    "tongxing_places": min,
    "tongxing_peer_up": min,
    "tongxing_peer_synchronised": min,
    "tongxing_peer_as_of_seconds": min,
    "tongxing_peer_lag_seconds": max,
    "tongxing_peer_presence_seconds": min,
    "tongxing_peer_circuit_open": max,
    "tongxing_appeals_unanswered_age_seconds": max,
    # The same store told by each, some a moment later.
    "tongxing_subjects": max,
    "tongxing_peer_presence_subjects": max,
    "tongxing_appeals": max,
    # Each has its own.
    "tongxing_resident_bytes": sum,
    "tongxing_audit_waiting": sum,
}
"""What a gauge of several processes is; counters and histograms are sums."""

_Sample = tuple[str, tuple[tuple[str, str], ...]]


class Sum:
    """The metrics of processes that come and go, as those of one.

    What is counted never falls: an ended process's last counts stay.
    """

    def __init__(self) -> None:
        self._gone: dict[_Sample, float] = defaultdict(float)

    def ended(self, page: str) -> None:
        """Keep the counts of a process that has ended.

        :param page: what it told last, in Prometheus' text form.
        """
        for family in text_string_to_metric_families(page):
            if family.type != "gauge":
                for sample in family.samples:
                    self._gone[sample.name, tuple(sample.labels.items())] += sample.value

    def of(self, pages: Iterable[str]) -> list[Metric]:
        """All of it.

        :param pages: what each process that serves tells now.
        """
        families: dict[str, Metric] = {}
        values: dict[str, dict[_Sample, list[float]]] = defaultdict(lambda: defaultdict(list))
        for page in pages:
            for family in text_string_to_metric_families(page):
                families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    key = sample.name, tuple(sample.labels.items())
                    values[family.name][key].append(sample.value)
        for name, family in families.items():
            together = GAUGES.get(name, max) if family.type == "gauge" else sum
            for (sample_name, labels), each in values[name].items():
                value = together(each)
                if family.type != "gauge":
                    value += self._gone.get((sample_name, labels), 0)
                family.add_sample(sample_name, dict(labels), value)
        return list(families.values())


def asked(
    ask: Callable[[], Coroutine[Any, Any, T]], seconds: float = _LOOP_SECONDS
) -> Callable[[], T | None]:
    """Let a thread ask what this event loop tells; None where it does not tell in time."""
    loop = asyncio.get_running_loop()

    def answer() -> T | None:
        coroutine = ask()
        try:
            answering = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # the node has ended
            coroutine.close()
            return None
        try:
            return answering.result(seconds)
        except (TimeoutError, CancelledError, TongxingError):
            answering.cancel()
            return None

    return answer


def paged(collector: Collector) -> Callable[[], bytes]:
    """Give metrics in Prometheus' text form, as they are when it is called."""
    registry = _registry(collector)
    return lambda: generate_latest(registry)


@contextlib.contextmanager
def served(listen: str, collector: Collector) -> Iterator[None]:
    """Serve ``GET /metrics`` on an address of its own, from a thread.

    :param listen: ``host:port``.
    :raises InvalidFieldError: the address cannot be listened on.
    """
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host, _registry(collector))
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


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
