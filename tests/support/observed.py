"""Tasks that a tool observes, and what it would have sent: `celery -A support.observed worker`.

OBSERVED names the tool and OBSERVED_AT the moment that sets it up: `import`, as this module does, or the
signal `celeryd_init` or `worker_process_init`. OBSERVED_BY is the file where all processes write one JSON
document a record. With OBSERVED_PLAIN the application is plain Celery.
"""

import json
import os
import re
from typing import Any

from celery import Celery, Task, signals

import seawall

TASKS = ("ok", "fail", "again", "parent")


def record(kind: str, **fields: Any) -> None:
    """One record, whole however many processes write."""
    line = json.dumps({"kind": kind, **fields}, default=repr) + "\n"
    descriptor = os.open(os.environ["OBSERVED_BY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def sentry(**_: Any) -> None:
    """Sentry, whose envelopes are gathered as its own transport does and sent at a flush."""
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Gathering(Transport):
        def __init__(self, options: Any = None) -> None:
            super().__init__(options)
            self._gathered: list[Any] = []

        def capture_envelope(self, envelope: Any) -> None:
            self._gathered += [item.payload.json for item in envelope.items if item.payload.json]

        def flush(self, timeout: float, callback: Any = None) -> None:  # noqa: ARG002 - Sentry's
            for each in self._gathered:
                record(
                    "event" if "exception" in each else "transaction",
                    task=each.get("transaction"),
                    job=each.get("extra", {}).get("celery-job"),
                    tags=sorted(each.get("tags", {})),
                    level=each.get("level"),
                    errors=[
                        [error["type"], error["value"], error["mechanism"]]
                        for error in each.get("exception", {}).get("values", [])
                    ],
                    crumbs=[
                        [crumb["category"], crumb["message"]]
                        for crumb in each.get("breadcrumbs", {}).get("values", [])
                        if crumb["category"] == "observed"
                    ],
                    spans=[
                        [span["op"], span["description"], span["data"].get("messaging.destination.name")]
                        for span in each.get("spans", [])
                        if span["op"].startswith("queue.")
                    ],
                    trace=each["contexts"]["trace"]["trace_id"],
                    operation=each["contexts"]["trace"].get("op"),
                    frames=[
                        [frame["function"], frame["vars"].get("x")]
                        for error in each.get("exception", {}).get("values", [])
                        for frame in error["stacktrace"]["frames"]
                        if frame["module"] == __name__
                    ],
                )
            self._gathered.clear()

    sentry_sdk.init(
        dsn="http://key@127.0.0.1/1", transport=Gathering, traces_sample_rate=1.0, send_default_pii=True
    )


def opentelemetry(**_: Any) -> None:
    """OpenTelemetry's instrumentation, with a batch of spans sent when the process ends."""
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Exporter(SpanExporter):
        def export(self, spans: Any) -> Any:
            for span in spans:
                attributes = {name: value for name, value in span.attributes.items() if _is_stable(name)}
                record(
                    span.kind.name,
                    task=span.name,
                    attributes=attributes,
                    status=span.status.status_code.name,
                    described=span.status.description,
                    events=[[event.name, event.attributes.get("exception.type")] for event in span.events],
                    child=span.parent is not None,
                    trace=f"{span.context.trace_id:032x}",
                )
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    instrumentor: Any = CeleryInstrumentor
    instrumentor().instrument(tracer_provider=provider)


def datadog(**_: Any) -> None:
    """Datadog's tracer, whose spans are looked at before they would be sent."""
    from ddtrace import patch
    from ddtrace.trace import TraceFilter, tracer

    def look(_self: Any, trace: Any) -> None:
        for span in trace:
            tags = {name: value for name, value in span.get_tags().items() if _is_stable(name)}
            record(
                span.name,
                task=span.resource,
                tags=tags,
                error=span.error,
                service=span.service,
                type=span.span_type,
                trace=f"{span.trace_id:032x}",
            )

    sink = type("Sink", (TraceFilter,), {"process_trace": look})
    tracer.configure(trace_processors=[sink()])
    patch(celery=True)


def newrelic(**_: Any) -> None:
    """New Relic's agent, in its mode for developers, whose transactions are looked at when they are kept."""
    from newrelic import agent
    from newrelic.core.application import Application

    keep = Application.record_transaction

    def kept(self: Any, data: Any) -> Any:
        record(
            "transaction",
            task=data.name,
            group=data.group,
            errors=[[error.type, error.message] for error in data.errors],
            type=data.type,
        )
        return keep(self, data)

    Application.record_transaction = kept
    agent.initialize()
    agent.register_application(timeout=10.0)


def elastic(**_: Any) -> None:
    """Elastic's agent, with a transport that writes what it was given."""
    import elasticapm
    from elasticapm.contrib.celery import register_exception_tracking, register_instrumentation

    client = elasticapm.Client(
        service_name="observed", transport_class="support.observed_elastic.Transport", cloud_provider="none"
    )
    register_exception_tracking(client)
    register_instrumentation(client)


def _is_stable(name: str) -> bool:
    """Whether a field says the same in each run and of each pool."""
    varies = r"(pid|hostname|origin|id|priority|eta|reply_to|queue|delivery_info|stack)$|^_dd\.p\."
    return not re.search(varies, name)


TOOLS = {each.__name__: each for each in (sentry, opentelemetry, datadog, newrelic, elastic)}


def ok(self: "Task[Any, Any]", x: int) -> int:
    """Say something and return."""
    import logging

    logging.getLogger("observed").info("ran with %d", x)
    record("run", task=self.name)
    return x


def fail(self: "Task[Any, Any]", x: int) -> None:
    """Raise what no policy tries again."""
    raise ValueError(f"no {x}")


def again(self: "Task[Any, Any]", x: int) -> int:
    """Ask for another attempt, once."""
    if not self.request.retries:
        raise self.retry(countdown=0.01)
    return x


def parent(self: "Task[Any, Any]", x: int) -> str:
    """Submit a task."""
    return str(self.app.tasks["observed.ok"].delay(x).id)


def create(url: str) -> Celery:
    """The application, as one that a team has."""
    made = Celery("observed", broker=url, backend=url, set_as_current=False)
    if not os.environ.get("OBSERVED_PLAIN"):
        seawall.install(made)
    made.conf.task_acks_late = True
    made.conf.worker_hijack_root_logger = False
    for function in (ok, fail, again, parent):
        made.task(bind=True, shared=False, name=f"observed.{function.__name__}")(function)
    return made


def submit() -> None:
    """Submit one of each and wait until each has an end."""
    results = {name: app.tasks[f"observed.{name}"].delay(7) for name in TASKS}
    ends = {name: result.get(timeout=60, propagate=False) for name, result in results.items()}
    app.AsyncResult(ends["parent"]).get(timeout=60)


if "OBSERVED" in os.environ:
    set_up = TOOLS[os.environ["OBSERVED"]]
    moment = os.environ.get("OBSERVED_AT", "import")
    if moment == "import":
        set_up()
    else:
        getattr(signals, moment).connect(set_up, weak=False)
    app = create(os.environ["OBSERVED_BROKER"])
    app.set_current()
