"""Spans of asker, gateway and device form one trace, and metrics have the names of the conventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Exact, Session, SessionManager, SessionRemoteError, SessionTimeoutError
from psession.channels import memory_pair

pytest.importorskip("opentelemetry.sdk")

import trio.lowlevel
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from psession.opentelemetry import instrument

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from opentelemetry.sdk.trace import ReadableSpan
    from trio.testing import MockClock

    from psession import PortOptions


class Telemetry:
    """Providers that keep what they are given, for one test."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])

    def instrument(self, manager: SessionManager) -> Any:
        """Instrument a manager; a question's command is its method."""
        return instrument(
            manager,
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
            method=lambda question: question["command"],
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The spans that have ended, in that order."""
        return self.exporter.get_finished_spans()

    def metrics(self) -> dict[str, Any]:
        """The metrics by name."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.meter_provider.shutdown()
    made.tracer_provider.shutdown()


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


async def as_session(session: Session) -> None:
    """Answer in a dialogue."""
    async for message in session:
        await session.post({"level": message["command"]})


async def as_task(message: dict[str, Any]) -> dict[str, Any]:
    """Answer in a task of its own."""
    await trio.sleep(0.1)
    return {"level": message["command"]}


def at_once(message: dict[str, Any]) -> dict[str, Any]:
    """Answer in the reader's step."""
    return {"level": message["command"]}


@pytest.mark.parametrize("gateway", ["on_session", "on_request"])
@pytest.mark.parametrize(
    "device",
    [{"on_session": as_session}, {"on_request": as_task}, {"on_request": at_once}],
    ids=["session", "task", "plain"],
)
async def test_one_trace_spans_asker_gateway_and_device(
    gateway: str, device: PortOptions, telemetry: Telemetry, autojump_clock: MockClock
) -> None:
    app, near = memory_pair()
    far, lamp = memory_pair()
    managers = [SessionManager(dialect=Exact()) for _ in range(3)]
    for manager in managers:
        telemetry.instrument(manager)

    async with managers[2].port("gateway", lamp, **device), managers[1].port("lamp", far) as to_lamp:

        async def forward(message: dict[str, Any]) -> Any:
            return await to_lamp.request(message)

        async def dialogue(session: Session) -> None:
            async for message in session:
                await session.post(await to_lamp.request(message))

        options: PortOptions = {"on_session": dialogue} if gateway == "on_session" else {"on_request": forward}
        async with managers[1].port("app", near, **options), managers[0].port("gateway", app) as port:
            with telemetry.tracer_provider.get_tracer("test").start_as_current_span("route") as route:
                assert await port.request({"command": "status"}) == {"level": "status"}
                async with port.session() as session:
                    for _ in range(2):
                        await session.send({"command": "on"})
    spans = telemetry.spans
    assert {span.context.trace_id for span in spans if span.context} == {route.get_span_context().trace_id}
    assert len(spans) == 3 * 4 + 1
    for turn in range(3):
        device_side, gateway_asks, gateway_side, asker = sorted(spans[4 * turn : 4 * turn + 4], key=_depth(spans))[::-1]
        assert parent_of(device_side) == id_of(gateway_asks)
        assert parent_of(gateway_asks) == id_of(gateway_side)
        assert parent_of(gateway_side) == id_of(asker)
        assert parent_of(asker) == route.get_span_context().span_id
        kinds = [span.kind for span in (asker, gateway_side, gateway_asks, device_side)]
        assert kinds == [SpanKind.CLIENT, SpanKind.SERVER, SpanKind.CLIENT, SpanKind.SERVER]
        assert {span.name for span in (asker, gateway_side, gateway_asks, device_side)} == {
            "status" if turn == 0 else "on"
        }
    assert not trace.get_current_span().get_span_context().is_valid


def _depth(spans: tuple[ReadableSpan, ...]) -> Any:
    parents = {id_of(span): parent_of(span) for span in spans}

    def depth(span: ReadableSpan) -> int:
        deep, parent = 0, parent_of(span)
        while parent is not None:
            deep, parent = deep + 1, parents[parent]
        return deep

    return depth


async def test_a_span_says_what_was_asked_where_and_how_it_ended(
    telemetry: Telemetry, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact())
    telemetry.instrument(manager)

    async def broken(message: dict[str, Any]) -> None:
        raise ValueError("a fault")

    async with manager.port("server", there, on_request=broken), manager.port("client", here) as port:
        with pytest.raises(SessionRemoteError):
            await port.request({"command": "fail"})
    server, client = telemetry.spans
    assert dict(client.attributes or {}) == {
        "rpc.system.name": "psession",
        "rpc.method": "fail",
        "psession.port": "client",
        "psession.session": 1,
        "psession.turn": 1,
        "psession.outcome": "sent",
        "rpc.response.status_code": "crashed",
        "error.type": "remote",
    }
    assert client.status.status_code is server.status.status_code is StatusCode.ERROR
    assert (server.attributes or {})["error.type"] == "crashed"
    assert server.status.description == "a fault"
    assert [event.name for event in server.events] == ["exception"]


async def test_retries_are_events_of_one_span(telemetry: Telemetry, autojump_clock: MockClock) -> None:
    here, _ = memory_pair()
    manager = SessionManager()
    telemetry.instrument(manager)
    async with manager.port("client", here) as port:
        with pytest.raises(SessionTimeoutError):
            await port.request({"command": "status"}, timeout=1, retry_count=2)
    (span,) = telemetry.spans
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("retry", {"psession.attempt": 2}),
        ("retry", {"psession.attempt": 3}),
    ]
    assert (span.attributes or {})["psession.attempts"] == 3
    assert (span.attributes or {})["error.type"] == "timeout"


async def test_nothing_of_a_trace_is_on_the_classic_wire_and_each_side_has_a_span_of_its_own(
    telemetry: Telemetry, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    client, server = SessionManager(), SessionManager()
    telemetry.instrument(client)
    async with client.port("client", here) as port, trio.open_nursery() as nursery:
        nursery.start_soon(port.request, {"command": "status"})
        question = await there.receive()
        assert question == {"command": "status", "sid": 1}
        await there.send({"sid": 1})
    here, there = memory_pair()
    telemetry.instrument(server)
    async with server.port("server", there, on_request=at_once), client.port("client", here) as port:
        await port.request({"command": "status"})
    _, theirs, ours = telemetry.spans
    assert theirs.context is not None
    assert ours.context is not None
    assert (theirs.parent, ours.parent) == (None, None)
    assert theirs.context.trace_id != ours.context.trace_id


async def test_a_handler_is_not_in_the_span_of_who_opened_its_port(
    telemetry: Telemetry, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    manager = SessionManager()
    telemetry.instrument(manager)
    seen: list[Any] = []

    async def handler(session: Session) -> None:
        async for _ in session:
            seen.append(trace.get_current_span().get_span_context().span_id)
            await session.post({})
            seen.append(trace.get_current_span().get_span_context().is_valid)

    with telemetry.tracer_provider.get_tracer("test").start_as_current_span("startup"):
        async with manager.port("server", there, on_session=handler), manager.port("client", here) as port:
            await port.request({"command": "status"})
    (server,) = [span for span in telemetry.spans if span.kind is SpanKind.SERVER]
    assert seen == [id_of(server), False]
    assert server.parent is None


async def test_metrics_have_the_names_units_and_attributes_of_the_conventions(
    telemetry: Telemetry, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact(), session_timeout=1)
    telemetry.instrument(manager)

    async def slow(message: dict[str, Any]) -> dict[str, Any]:
        await trio.sleep(message["seconds"])
        return {}

    async with manager.port("server", there, on_request=slow), manager.port("client", here) as port:
        await port.request({"command": "status", "seconds": 0.2})
        with pytest.raises(SessionTimeoutError):
            await port.request({"command": "status", "seconds": 2})
        await port.post({"hello": 1})
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.request, {"command": "status", "seconds": 0.5})
            await trio.sleep(0.25)
            waiting = telemetry.metrics()
    got = telemetry.metrics()
    ours, theirs = got["rpc.client.call.duration"], got["rpc.server.call.duration"]
    assert (ours.unit, theirs.unit) == ("s", "s")
    by_error = {point.attributes.get("error.type"): point for point in ours.data.data_points}
    assert {error: point.count for error, point in by_error.items()} == {None: 2, "timeout": 1}
    assert by_error[None].sum == pytest.approx(0.7)
    assert dict(by_error["timeout"].attributes) == {
        "rpc.system.name": "psession",
        "rpc.method": "status",
        "error.type": "timeout",
    }
    assert by_error[None].explicit_bounds == (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
    assert waiting["psession.turns.waiting"].data.data_points[0].value == 1
    assert waiting["psession.turns.oldest"].data.data_points[0].value == 0.25
    assert waiting["psession.ports"].data.data_points[0].value == 2
    drops = {
        point.attributes["psession.reason"]: point.value for point in got["psession.messages.dropped"].data.data_points
    }
    assert drops["unheard"] == 1
    assert got["messaging.client.sent.messages"].data.data_points[0].value == 1
    assert got["messaging.client.consumed.messages"].data.data_points[0].value == 1


async def test_the_end_of_instrumentation_ends_the_spans_under_way(
    telemetry: Telemetry, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    manager = SessionManager()
    async with manager.port("client", here) as port, trio.open_nursery() as nursery:
        with telemetry.instrument(manager):
            nursery.start_soon(port.request, {"command": "status"})
            await there.receive()
            assert telemetry.spans == ()
        assert len(telemetry.spans) == 1
        await there.send({"sid": 1})
        await trio.testing.wait_all_tasks_blocked()
        await there.aclose()
    assert len(telemetry.spans) == 1
    assert telemetry.reader.get_metrics_data() is None


async def test_a_stream_is_one_span_with_the_number_of_its_parts(
    telemetry: Telemetry, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact())
    telemetry.instrument(manager)

    async def count(message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield {"n": number}

    opened = manager.port("server", there, on_request=count)
    async with opened, manager.port("client", here) as port, port.stream({"command": "count"}) as replies:
        assert [reply["n"] async for reply in replies] == [0, 1, 2]
    server, client = sorted(telemetry.spans, key=lambda span: span.kind is SpanKind.CLIENT)
    assert parent_of(server) == id_of(client)
    assert [(span.attributes or {})["psession.parts"] for span in (server, client)] == [3, 3]
