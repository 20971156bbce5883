"""Prometheus metrics of the server."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from lalm.serve.scheduler import Scheduler

SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
PATHS = (
    *("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/models"),
    *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/detections"),
)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self, schedulers: Callable[[], list[Scheduler]]) -> None:
        self.registry = CollectorRegistry()
        labels = ("path", "status")
        self._requests = Counter("lalm_requests", "Requests answered", labels, registry=self.registry)
        self._seconds = Histogram(
            "lalm_request_seconds",
            "Time to the complete response",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._audio = Counter("lalm_audio_seconds", "Seconds of audio received", registry=self.registry)
        self.first_token = Histogram(
            "lalm_first_token_seconds",
            "Time to the first text of an answer",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.sessions = Gauge("lalm_realtime_sessions", "Realtime sessions open", registry=self.registry)
        gauges: dict[str, tuple[str, Callable[[Scheduler], int]]] = {  # summed over the open models
            "lalm_waiting": ("Answers in the queue", lambda one: len(one.waiting)),
            "lalm_running": ("Answers in the running batch", lambda one: len(one.batch.rows)),
            "lalm_new_tokens": ("Tokens generated", lambda one: one.new_tokens),
            "lalm_frames_hits": ("Clips found in the encoder cache", lambda one: one.encoder_cache.hits),
            "lalm_frames_misses": (
                "Clips not found in the encoder cache",
                lambda one: one.encoder_cache.misses,
            ),
            "lalm_frames_bytes": ("Size of the encoder cache in bytes", lambda one: one.encoder_cache.size),
        }
        for name, (what, value) in gauges.items():
            Gauge(name, what, registry=self.registry).set_function(_total(value, schedulers))
        opened = Gauge("lalm_models_open", "Models that are open", registry=self.registry)
        opened.set_function(lambda: len(schedulers()))

    def count_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one HTTP request; all paths outside the API share the label ``other``."""
        path = scope["path"] if scope["path"] in PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        if path != "other":
            self._seconds.labels(path).observe(seconds)

    def count_audio(self, seconds: float) -> None:
        """Count seconds of audio given."""
        self._audio.inc(seconds)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _total(value: Callable[[Scheduler], int], schedulers: Callable[[], list[Scheduler]]) -> Callable[[], int]:
    return lambda: sum(map(value, schedulers()))
