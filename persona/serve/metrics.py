"""Numbers for Prometheus: requests, tokens, the queue, the batch, time to the first token. None names a user."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What one server process counts.

    Attributes:
        registry: holds the numbers, apart from those of other libraries.
        in_flight: requests that are being answered now.
        requests: by method, route (a template, never a path) and status.
        seconds: of a request, by route.
        first_token: seconds from a request to the first token of its answer.
        preparing: seconds that reading a user's records and choosing among them takes.
        tokens: in prompts, in answers, and added by personalization, by ``kind``.
        channels: answers that a channel brought something to, by channel; ``none`` for those without any.
        rows: of the engine's batch, at each of its steps.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = Gauge("persona_in_flight", "Requests being answered.", registry=self.registry)
        self.requests = self._counter("requests", "Requests.", "method", "route", "status")
        self.seconds = self._histogram("request_seconds", "Time of a whole request.", _SECONDS, "route")
        self.first_token = self._histogram("first_token_seconds", "Time to the first token of an answer.", _SECONDS)
        self.preparing = self._histogram("prepare_seconds", "Time to read and choose what is personal.", _SECONDS)
        self.tokens = self._counter("tokens", "Tokens of prompts and answers, and added ones.", "kind")
        self.channels = self._counter("channels", "Answers that a channel brought something to.", "channel")
        self.rows = self._histogram("batch_rows", "Rows of the engine's batch at a step.", _ROWS)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Report what `value` gives when it is asked for."""
        Gauge(f"persona_{name}", text, registry=self.registry).set_function(value)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"persona_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"persona_{name}", text, labels, buckets=buckets, registry=self.registry)
