"""Telemetry: logs as JSON, metrics for Prometheus."""

import logging
import sys

import prometheus_client as prometheus
import structlog

requests = prometheus.Counter("agent_requests_total", "Requests", ["method", "endpoint", "status"])
latency = prometheus.Histogram(
    "agent_request_latency_seconds", "Seconds of a request", ["method", "endpoint"]
)
limited = prometheus.Counter("agent_rate_limited_total", "Requests over the rate limit")
runs = prometheus.Counter("agent_runs_total", "Finished runs", ["outcome"])
variations = prometheus.Counter("agent_variations_total", "Finished variations", ["outcome"])
running = prometheus.Gauge("agent_running_variations", "Variations that run now")
queued = prometheus.Gauge("agent_queued_variations", "Variations that wait for a slot")
readers = prometheus.Gauge("agent_open_streams", "Streams that follow a run now")
tokens = prometheus.Counter("agent_tokens_total", "Tokens used", ["kind"])
model_calls = prometheus.Counter("agent_model_calls_total", "Calls of the model by agents", ["outcome"])
swept = prometheus.Counter("agent_swept_total", "What a dead server left, removed at the start", ["kind"])


def configure_logs(level: str) -> None:
    """Log one JSON object a line, also from uvicorn."""
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
    for name in ("parallel-agents", "uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(level)
