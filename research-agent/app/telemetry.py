"""Telemetry: logs as JSON, metrics for Prometheus, traces for OpenTelemetry."""

import functools
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import prometheus_client as prometheus
import structlog
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from app.config import Settings

# --- Logs ---


def configure_logs(level: str) -> None:
    """Log one JSON object a line, also from uvicorn and other libraries."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    form = structlog.stdlib.ProcessorFormatter
    structlog.configure(
        [structlog.stdlib.filter_by_level, *shared, form.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stdout)
    last: list[structlog.typing.Processor] = [
        form.remove_processors_meta,
        structlog.processors.JSONRenderer(),
    ]
    handler.setFormatter(form(foreign_pre_chain=shared, processors=last))
    logging.basicConfig(handlers=[handler], level="WARNING", force=True)
    for name in ("research-agent", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(level)


# --- Metrics ---

registry = prometheus.CollectorRegistry()
counter = functools.partial(prometheus.Counter, registry=registry)
histogram = functools.partial(prometheus.Histogram, registry=registry)
gauge = functools.partial(prometheus.Gauge, registry=registry, multiprocess_mode="livesum")
prometheus.ProcessCollector(registry=registry)  # memory, processor time, open files; with one worker only

requests = counter("agent_requests_total", "Requests", ["method", "endpoint", "status"])
BUCKETS = (  # seconds, for requests and for runs
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    20,
    30,
    60,
    90,
    120,
    180,
    300,
)
latency = histogram(
    "agent_request_latency_seconds",
    "Seconds from the request to the last byte of its response",
    ["method", "endpoint"],
    buckets=BUCKETS,
)
open_streams = gauge("agent_open_streams", "Streams and waiting requests that follow a run now")
runs = counter("agent_runs_total", "Finished runs", ["outcome"])
for outcome in ("done", "failed", "cancelled"):
    runs.labels(outcome)  # start each at 0, so that the first failure is an increase
run_seconds = histogram(
    "agent_run_seconds",
    "Seconds from the request to the end of the run",
    buckets=BUCKETS,
)
first_token = histogram(
    "agent_time_to_first_token_seconds", "Seconds from the start of a run to its first token", buckets=BUCKETS
)
tool_calls = counter("agent_tool_calls_total", "Tool calls (steps)", ["tool", "outcome"])
tokens = counter("agent_tokens_total", "Tokens used", ["model"])
queued = gauge("agent_queued_runs", "Runs that wait for a slot")
limited = counter("agent_rate_limited_total", "Requests over the rate limit")
shed = counter("agent_shed_total", "Requests shed under load")
circuit_open = gauge("agent_model_circuit_open", "1 while the circuit breaker is open")
takeovers = counter("agent_takeovers_total", "Runs taken over from another replica")


def metrics() -> bytes:
    """Metrics in the text format of Prometheus; with several workers, the sum of all."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return prometheus.generate_latest(registry)
    combined = prometheus.CollectorRegistry()
    MultiProcessCollector(combined)  # type: ignore[no-untyped-call]
    return prometheus.generate_latest(combined)


def mark_worker_dead() -> None:
    """Remove this worker's gauges from the sum; its counters stay."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


# --- Traces ---

start_span: Callable[..., AbstractContextManager[Any]] | None = None


def span(name: str, **attributes: str) -> AbstractContextManager[Any]:
    """Start a span of the current trace. No-op if there is no collector."""
    return start_span(name, attributes=attributes) if start_span else nullcontext()


def configure_traces(settings: Settings) -> Callable[[], None]:
    """Send spans to OTEL_EXPORTER_OTLP_ENDPOINT, if it is set. Returns a function that sends the rest."""
    if settings.otel_exporter_otlp_endpoint is None:
        return lambda: None
    # Imported only here: without a collector they would cost time and memory for nothing.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global start_span
    resource = Resource.create({"service.name": settings.app_name, "service.version": settings.app_version})
    provider = TracerProvider(resource=resource)
    endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    start_span = provider.get_tracer("research-agent").start_as_current_span
    return provider.shutdown
