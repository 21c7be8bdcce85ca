"""Spans and metrics of OpenTelemetry for the ports of a manager (extra ``opentelemetry``).

::

    from psession.opentelemetry import instrument

    manager = SessionManager(dialect=Exact())
    instrument(manager, method=lambda question: question["command"])

Each turn is a span of the asker's and one of the answerer's. On the exact wire they are of one trace: its W3C
``traceparent`` and ``tracestate`` travel in the header of the question. A handler runs inside its span, so what it asks
in its turn, at another port of an instrumented manager, goes on with the trace. docs/observing.md lists all names.

It needs the API of OpenTelemetry alone; what becomes of spans and metrics is the SDK's, which the application sets up.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as contexts
from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from psession import hooks
from psession._version import __version__
from psession.protocol.counters import Drop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, TracerProvider

    from psession.protocol.counters import Statistics
    from psession.shell.manager import SessionManager

__all__ = ["Instrumentation", "instrument"]

SYSTEM: Final = "psession"
"""The value of ``rpc.system.name`` and ``messaging.system``, and the name of spans without a method."""

BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Upper bounds in seconds of the buckets of durations: those that the conventions for RPC advise."""

_HEARD: Final = (
    hooks.TurnStarted,
    hooks.TurnAttempted,
    hooks.TurnAnswered,
    hooks.TurnFailed,
    hooks.MessagePosted,
)


def instrument(
    manager: SessionManager,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    propagator: TextMapPropagator | None = None,
    method: Callable[[Any], str | None] | None = None,
) -> Instrumentation:
    """Make spans and metrics of what the ports of `manager` do, from now on.

    Args:
        manager: The manager. Ports that are open already are heard as well; turns under way are not.
        tracer_provider: Makes the spans; by default OpenTelemetry's global one.
        meter_provider: Makes the metrics; likewise.
        propagator: Writes a trace's context, and reads it; by default the global one. Of what it writes ``traceparent``
            and ``tracestate`` travel, and nothing else.
        method: Called with a question; returns the name of the method that it calls, for the name of the span and
            ``rpc.method``. A peer's question may be anything: what this raises means that there is none, and it must
            not return whatever the peer says, since each name is a time series of its own. By default there is none.

    Returns:
        What ends it; it need not be kept.
    """
    return Instrumentation(
        manager,
        trace.get_tracer(SYSTEM, __version__, tracer_provider),
        metrics.get_meter(SYSTEM, __version__, meter_provider),
        propagator,
        method,
    )


class Instrumentation:
    """A manager whose ports make spans and metrics; `instrument` begins it.

    ``end()``, or leaving its ``with`` block, ends it: spans of turns under way end then.
    """

    def __init__(
        self,
        manager: SessionManager,
        tracer: trace.Tracer,
        meter: metrics.Meter,
        propagator: TextMapPropagator | None,
        method: Callable[[Any], str | None] | None,
    ) -> None:
        self._manager: SessionManager | None = manager
        self._tracer = tracer
        self._propagator = propagator or propagate.get_global_textmap()
        self._method = method
        self._spans: dict[hooks.Turn, tuple[Span, str | None]] = {}
        self._durations = {
            "asker": meter.create_histogram(
                "rpc.client.call.duration",
                "s",
                "Measures the duration of an outgoing Remote Procedure Call (RPC).",
                explicit_bucket_boundaries_advisory=BOUNDARIES,
            ),
            "answerer": meter.create_histogram(
                "rpc.server.call.duration",
                "s",
                "Measures the duration of an incoming Remote Procedure Call (RPC).",
                explicit_bucket_boundaries_advisory=BOUNDARIES,
            ),
        }
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Messages that were posted.")
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Messages of peers' that neither ask nor answer."
        )
        self._observe(meter)
        self._listening = manager.observe(self._heard, *_HEARD)

    def end(self) -> None:
        """Make no more spans and metrics. Idempotent."""
        self._listening.end()
        self._manager = None
        while self._spans:
            self._spans.popitem()[1][0].end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # -- turns -------------------------------------------------------------------------------------------------------

    def _heard(self, event: hooks.Event) -> None:
        if isinstance(event, hooks.TurnStarted):
            self._started(event)
        elif isinstance(event, hooks.TurnAttempted):
            if event.attempt > 1 and event.turn in self._spans:
                self._spans[event.turn][0].add_event("retry", {"psession.attempt": event.attempt})
        elif isinstance(event, hooks.TurnAnswered | hooks.TurnFailed):
            self._over(event)
        elif isinstance(event, hooks.MessagePosted):
            counter, operation = (self._consumed, "receive") if event.incoming else (self._sent, "post")
            counter.add(1, {"messaging.system": SYSTEM, "messaging.operation.name": operation})

    def _started(self, event: hooks.TurnStarted) -> None:
        turn = event.turn
        method = self._method_of(turn.payload)
        attributes: dict[str, str | int] = {
            "rpc.system.name": SYSTEM,
            "psession.port": turn.port,
            "psession.session": turn.sid if isinstance(turn.sid, int) else str(turn.sid),
        }
        if method is not None:
            attributes["rpc.method"] = method
        if turn.number:
            attributes["psession.turn"] = turn.number
        if turn.side == "asker":
            span = self._tracer.start_span(method or SYSTEM, kind=SpanKind.CLIENT, attributes=attributes)
            carrier: Any = event.carrier
            self._propagator.inject(carrier, context=trace.set_span_in_context(span))
        else:
            # Who opened the port may have done so inside a span, which has nothing to do with this question.
            nobody = trace.set_span_in_context(trace.INVALID_SPAN)
            parent = self._propagator.extract(event.carrier, context=nobody)
            span = self._tracer.start_span(method or SYSTEM, parent, SpanKind.SERVER, attributes)
            contexts.attach(trace.set_span_in_context(span, parent))
        self._spans[turn] = span, method

    def _method_of(self, payload: Any) -> str | None:
        if self._method is not None:
            with suppress(Exception):
                method = self._method(payload)
                return method if isinstance(method, str) and method else None
        return None

    def _over(self, event: hooks.TurnAnswered | hooks.TurnFailed) -> None:
        turn = event.turn
        span, method = self._spans.pop(turn, (None, None))
        attributes: dict[str, str] = {"rpc.system.name": SYSTEM}
        if method is not None:
            attributes["rpc.method"] = method
        if isinstance(event, hooks.TurnFailed):
            attributes["error.type"] = event.reason
        if not turn.streamed:
            self._durations[turn.side].record(event.seconds, attributes)
        if span is None:
            return
        if turn.streamed:
            span.set_attribute("psession.parts", turn.parts)
        if turn.attempts > 1:
            span.set_attribute("psession.attempts", turn.attempts)
        if isinstance(event, hooks.TurnFailed):
            _say_failed(span, event)
        if trace.get_current_span() is span:  # its handler goes on, and is in no span until the next question
            contexts.attach(trace.set_span_in_context(trace.INVALID_SPAN))
        span.end()

    # -- what there is -----------------------------------------------------------------------------------------------

    def _observe(self, meter: metrics.Meter) -> None:
        """Make the metrics that are read when they are exported, in whatever thread does that."""

        def read(value: Callable[[Statistics], int | float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
            def observe(_: CallbackOptions) -> Iterable[Observation]:
                if self._manager is not None:
                    yield Observation(value(self._manager.statistics()))

            return observe

        def ports(_: CallbackOptions) -> Iterable[Observation]:
            if self._manager is not None:
                yield Observation(len(self._manager.ports))

        def dropped(_: CallbackOptions) -> Iterable[Observation]:
            if self._manager is not None:
                counted = self._manager.statistics()
                for reason in Drop:
                    yield Observation(getattr(counted, reason.value), {"psession.reason": reason.value})

        def transferred(_: CallbackOptions) -> Iterable[Observation]:
            if self._manager is not None:
                counted = self._manager.statistics()
                yield Observation(counted.bytes_sent, {"network.io.direction": "transmit"})
                yield Observation(counted.bytes_received, {"network.io.direction": "receive"})

        level, count = meter.create_observable_up_down_counter, meter.create_observable_counter
        level("psession.ports", [ports], "{port}", "Ports that are open.")
        level("psession.sessions", [read(lambda one: one.open)], "{session}", "Sessions that are open.")
        level("psession.turns.waiting", [read(lambda one: one.waiting)], "{turn}", "Turns that wait for their answer.")
        meter.create_observable_gauge(
            "psession.turns.oldest",
            [read(lambda one: one.oldest)],
            "s",
            "How long the oldest of these has waited.",
        )
        level("psession.queued", [read(lambda one: one.queued_bytes)], "By", "What waits for being written.")
        count("psession.turns.retried", [read(lambda one: one.retried)], "{attempt}", "Attempts after the first.")
        count("psession.messages.dropped", [dropped], "{message}", "Messages of peers' that went nowhere, by reason.")
        count("psession.io", [transferred], "By", "What channels wrote and read, where they count it.")


def _say_failed(span: Span, event: hooks.TurnFailed) -> None:
    """Say on a span why a turn has no answer."""
    code = getattr(event.error, "code", None) if event.turn.side == "asker" else event.reason
    known: Mapping[str, str] = {"error.type": event.reason, "psession.outcome": event.outcome}
    span.set_attributes({**known, "rpc.response.status_code": str(code)} if code else known)
    if event.error is not None and event.turn.side == "answerer":
        span.record_exception(event.error)
    span.set_status(Status(StatusCode.ERROR, event.reason if event.error is None else str(event.error)))
