"""Protocols without sessions: ids of both sides, late answers, giving up, streams, refusals, on virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import (
    MalformedMessageError,
    Port,
    PortClosedError,
    Service,
    SessionManager,
    SessionOverflowError,
    SessionOverrunError,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.channels import memory_pair
from psession.dialects import (
    Answer,
    Dap,
    End,
    Event,
    Failure,
    GraphqlWs,
    JsonRpc,
    Lsp,
    Mcp,
    Part,
    Question,
    TurnDialect,
    Withdrawn,
)

from .peers import Caught, settle
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


class Plain(TurnDialect):
    """Every word there is, written out: {"ask"|"answer"|"part"|"end"|"error"|"quit"|"tell": id, "value": ...}."""

    streams = True

    def begin(self) -> None:
        self.last = 0

    def new_id(self) -> int:
        self.last += 1
        return self.last

    def ask(self, payload: Any, id: Any) -> Any:
        return {"ask": id, "value": payload}

    def tell(self, payload: Any) -> Any:
        return {"tell": 0, "value": payload}

    def quit(self, id: Any, payload: Any) -> Any:
        return {"quit": id}

    def answer(self, id: Any, payload: Any) -> Any:
        return {"answer": id, "value": payload}

    def part(self, id: Any, payload: Any) -> Any:
        return {"part": id, "value": payload}

    def end(self, id: Any) -> Any:
        return {"end": id}

    def fail(self, id: Any, code: str, text: str, data: Any) -> Any:
        return {"error": id, "value": code, "text": text, "data": data}

    def is_stream(self, payload: Any) -> bool:
        return "count" in payload

    def read(self, message: Any) -> Any:
        kind = next(iter(message))
        id, value = message[kind], message.get("value")
        if kind == "error":
            return Failure(id, value, message.get("text", ""), message.get("data"), value.startswith("refused"))
        if kind in ("end", "quit"):
            return {"end": End, "quit": Withdrawn}[kind](id)
        if kind == "tell":
            return Event(value)
        return {"ask": Question, "answer": Answer, "part": Part}[kind](id, value)


class InOrder(Plain):
    """Answers come in the order of the questions, without an id."""

    in_order = True
    streams = False

    def quit(self, id: Any, payload: Any) -> Any:
        return None

    def ask(self, payload: Any, id: Any) -> Any:
        return {"ask": 0, "value": payload}

    def read(self, message: Any) -> Any:
        return Answer(next(iter(self.asked)), message["value"])


@asynccontextmanager
async def against(dialect: TurnDialect, **options: Any) -> AsyncIterator[tuple[Port, Any]]:
    """A port, and the bare channel of its peer; the port is empty when it is left."""
    here, there = memory_pair()
    manager = SessionManager(dialect=dialect, session_timeout=5, **options)
    async with manager.port("p", here) as port:
        yield port, there
    assert_empty(manager, port)


@asynccontextmanager
async def pair(dialect: TurnDialect, answer: Any, back: Any = None) -> AsyncIterator[tuple[Port, Port]]:
    """Two ports, the one that asks first."""
    here, there = memory_pair()
    asking = SessionManager(dialect=dialect, session_timeout=5, on_request=back)
    answering = SessionManager(dialect=dialect, session_timeout=5, on_request=answer)
    async with answering.port("server", there) as server, asking.port("client", here) as client:
        yield client, server
    assert_empty(asking, client)
    assert_empty(answering, server)


# -- questions of this side's ------------------------------------------------------------------------------------------


async def test_answers_that_overtake_each_other_reach_their_own_questions(autojump_clock: MockClock) -> None:
    async with against(Plain()) as (port, peer):
        asked = [Caught() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for n, caught in enumerate(asked):
                nursery.start_soon(caught.run, port.request, {"n": n})
            await settle()
            ids = {message["value"]["n"]: message["ask"] for message in [await peer.receive() for _ in range(3)]}
            for n in (2, 0, 1):
                await peer.send({"answer": ids[n], "value": {"reply": n}})
        assert [caught.value for caught in asked] == [{"reply": n} for n in range(3)]
        assert port.statistics().matched == 3


async def test_a_session_is_turns_one_after_the_other_and_posts_are_messages_without_an_answer(
    autojump_clock: MockClock,
) -> None:
    async def answer(message: Any) -> Any:
        return {"twice": 2 * message["n"]}

    async with pair(Plain(), answer) as (client, server):
        async with client.session() as session:
            assert [await session.send({"n": n}) for n in range(3)] == [{"twice": 0}, {"twice": 2}, {"twice": 4}]
            await session.post({"hello": 1})
        await client.post({"hello": 2})
        await settle()
        assert server.statistics().unheard == 2


async def test_a_late_answer_after_a_timeout_reaches_nobody_and_the_peer_was_told(autojump_clock: MockClock) -> None:
    async with against(Plain()) as (port, peer):
        with pytest.raises(SessionTimeoutError):
            await port.request({"n": 1}, timeout=2)
        assert [await peer.receive() for _ in range(2)] == [{"ask": 1, "value": {"n": 1}}, {"quit": 1}]
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught.run, port.request, {"n": 2})
            await settle()
            await peer.send({"answer": 1, "value": "late"})
            await peer.send({"answer": 77, "value": "to nothing"})
            await peer.send({"answer": 2, "value": "right"})
        assert caught.value == "right"
        counted = port.statistics()
        assert (counted.late, counted.unknown_sid, counted.matched) == (1, 1, 1)


async def test_what_was_given_up_before_it_was_written_is_not_told(autojump_clock: MockClock) -> None:
    async with against(Plain()) as (port, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await port.request({"n": 1})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Caught().run, port.request, {"n": 2})
            await settle()
            assert (await peer.receive())["value"] == {"n": 2}
            nursery.cancel_scope.cancel()
        await settle()
        assert "quit" in await peer.receive()


async def test_silence_is_waited_for_and_not_asked_again_but_where_the_dialect_repeats(
    autojump_clock: MockClock,
) -> None:
    class Repeating(Plain):
        repeats = True

    for dialect, asked in ((Plain(), 1), (Repeating(), 3)):
        async with against(dialect) as (port, peer):
            start = trio.current_time()
            with pytest.raises(SessionTimeoutError):
                await port.request({"n": 1}, timeout=2, retry_count=2, retry_interval=1)
            assert trio.current_time() - start == 8.0
            got = []
            with trio.move_on_after(1):
                while True:
                    got.append(await peer.receive())
            assert sum("ask" in message for message in got) == asked
            assert sum("quit" in message for message in got) == asked


async def test_the_first_answer_to_any_of_the_repeated_questions_counts(autojump_clock: MockClock) -> None:
    class Repeating(Plain):
        repeats = True

    async with against(Repeating()) as (port, peer):
        caught = Caught()
        async with trio.open_nursery() as nursery:
            patient = partial(port.request, timeout=2, retry_count=3, retry_interval=0.0)
            nursery.start_soon(caught.run, patient, {"n": 1})
            await trio.sleep(5)
            ids = [(await peer.receive())["ask"] for _ in range(3)]
            await peer.send({"answer": ids[1], "value": "second"})
            await peer.send({"answer": ids[0], "value": "first"})
        await settle()
        assert (caught.value, port.statistics().late, len(set(ids))) == ("second", 1, 3)


async def test_an_error_has_its_code_and_its_data(autojump_clock: MockClock) -> None:
    async with against(Plain()) as (port, peer):
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught.run, port.request, {"n": 1})
            await settle()
            await peer.send({"error": 1, "value": "refused.full", "text": "no room", "data": [1, 2]})
        error = caught.error
        assert isinstance(error, SessionRemoteError)
        assert (error.code, error.text, error.data, error.outcome) == ("refused.full", "no room", [1, 2], "refused")


async def test_many_waiters_have_their_errors_at_once_when_the_peer_dies(autojump_clock: MockClock) -> None:
    async with against(Plain()) as (port, peer):
        asked = [Caught() for _ in range(10)]
        async with trio.open_nursery() as nursery:
            for caught in asked:
                nursery.start_soon(caught.run, port.request, {"n": 1})
            await settle()
            await peer.aclose()
        assert all(type(caught.error) is PortClosedError for caught in asked)
        assert len({id(caught.error) for caught in asked}) == 10
        assert trio.current_time() == 0.0


async def test_answers_in_order_are_matched_also_past_questions_that_were_given_up(autojump_clock: MockClock) -> None:
    async with against(InOrder()) as (port, peer):
        with pytest.raises(SessionTimeoutError):
            await port.request({"n": 1}, timeout=1)
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught.run, port.request, {"n": 2})
            await settle()
            await peer.send({"value": "to the first"})
            await peer.send({"value": "to the second"})
        assert caught.value == "to the second"
        assert port.statistics().late == 1
        await peer.send({"value": "to nobody"})
        await settle()
        assert port.statistics().malformed == 1


async def test_a_peer_that_owes_too_many_answers_in_order_is_asked_no_more(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from psession.protocol import turns

    monkeypatch.setattr(turns, "MAX_GIVEN_UP", 3)
    here, _there = memory_pair()
    async with SessionManager(dialect=InOrder()).port("p", here) as port:
        for n in range(3):
            with pytest.raises(SessionTimeoutError):
                await port.request({"n": n}, timeout=1)
        with pytest.raises(SessionOverflowError, match="owes 3 answers"):
            await port.request({"n": 3}, timeout=1)


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_a_stream_has_its_parts_and_its_end_and_a_generator_makes_them(autojump_clock: MockClock) -> None:
    async def count(message: Any) -> AsyncIterator[Any]:
        for n in range(message["count"]):
            yield {"n": n}

    async with pair(Plain(), count) as (client, server):
        for size in (0, 1, 100):
            async with client.stream({"count": size}) as replies:
                assert [part["n"] async for part in replies] == list(range(size))
        assert await client.request({"count": 3}) == {"n": 2}
        await settle()
        assert server._engine.connection.handlers == 0


async def test_a_stream_that_nobody_receives_is_held_up_to_the_limit_of_an_inbox(autojump_clock: MockClock) -> None:
    async with against(Plain(), inbox_limit=50) as (port, peer), port.stream({"count": 99}) as replies:
        for n in range(50):
            await peer.send({"part": 1, "value": n})
        await settle()
        assert await replies.receive() == 0
        await peer.send({"part": 1, "value": 50})
        await peer.send({"part": 1, "value": 51})
        await settle()
        for n in range(1, 51):
            assert await replies.receive() == n
        with pytest.raises(SessionOverrunError):
            await replies.receive()


async def test_a_stream_that_is_left_is_given_up_and_its_generator_closed(autojump_clock: MockClock) -> None:
    closed: list[float] = []

    async def ticks(message: Any) -> AsyncIterator[Any]:
        try:
            while True:
                await trio.sleep(1)
                yield {"at": trio.current_time()}
        finally:
            closed.append(trio.current_time())

    async with pair(Plain(), ticks) as (client, server):
        async with client.stream({"count": 9}) as replies:
            assert (await replies.receive())["at"] == 1.0
        await settle()
        assert closed == [1.0]
        assert server.statistics().given_up == 1


# -- questions of the peer's -------------------------------------------------------------------------------------------


async def test_the_ids_of_both_sides_may_be_the_same(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep(1)
        return {"by": "server", **message}

    async def back(message: Any) -> Any:
        await trio.sleep(1)
        return {"by": "client", **message}

    async with pair(Plain(), answer, back) as (client, server):
        got = [Caught() for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for n, caught in enumerate(got):
                nursery.start_soon(caught.run, (client, server)[n % 2].request, {"n": n})
        assert [caught.value for caught in got] == [{"by": ("server", "client")[n % 2], "n": n} for n in range(4)]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_what_a_handler_raises_and_what_nobody_answers_reaches_the_asker(
    kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(message: Any) -> Any:
        if message["n"] == 1:
            raise SessionRefusedError("full", code="no_room", data={"free": 0})
        if message["n"] == 2:
            raise ValueError("no number")
        return None if message["n"] == 3 else {"n": message["n"]}

    async def later(message: Any) -> Any:
        await trio.sleep(1)
        return answer(message)

    async with pair(Plain(), answer if kind == "plain" else later) as (client, server):
        codes = []
        for n in (1, 2):
            with pytest.raises(SessionRemoteError) as caught:
                await client.request({"n": n})
            codes.append((caught.value.code, caught.value.data))
        assert codes == [("refused.no_room", {"free": 0}), ("crashed", None)]
        assert await client.request({"n": 3}) is None
        with pytest.raises(SessionRemoteError, match=r"refused\.no_handler"):
            await server.request({"n": 1})
        assert (await client.request({"n": 4}), server._engine.connection.handlers) == ({"n": 4}, 0)
        assert client.statistics().no_handler == 1


async def test_a_question_that_is_given_up_is_cancelled_and_its_number_is_free(autojump_clock: MockClock) -> None:
    over: list[float] = []

    async def answer(message: Any) -> Any:
        try:
            await trio.sleep(60)
        finally:
            over.append(trio.current_time())

    async with against(Plain(), on_request=answer) as (port, peer):
        await peer.send({"ask": "a", "value": {}})
        await trio.sleep(1)
        await peer.send({"ask": "a", "value": {}})
        await settle()
        assert (await peer.receive())["value"] == "refused.duplicate"
        await peer.send({"quit": "a"})
        await settle()
        assert over == [1.0]
        assert (await peer.receive())["value"] == "cancelled"
        await peer.send({"quit": "a"})
        await peer.send({"ask": "a", "value": {}})
        await settle()
        counted = port.statistics()
        assert (counted.given_up, counted.late, counted.duplicate, port._engine.connection.handlers) == (1, 1, 1, 1)


async def test_draining_waits_for_the_peers_questions_and_refuses_new_ones(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep(2)
        return {"done": True}

    async with against(Plain(), on_request=answer) as (port, peer):
        await peer.send({"ask": 1, "value": {}})
        await settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.drain)
            await settle()
            await peer.send({"ask": 2, "value": {}})
        assert trio.current_time() == 2.0
        got = [await peer.receive() for _ in range(2)]
        assert got == [
            {"error": 2, "value": "refused.closing", "text": "", "data": None},
            {"answer": 1, "value": {"done": True}},
        ]


async def test_what_cannot_be_read_is_counted_and_the_port_goes_on(autojump_clock: MockClock) -> None:
    async with against(Plain(), on_request=lambda message: message) as (port, peer):
        for rubbish in ({}, {"nothing": 1}, {"ask": [1], "value": {}}, {"answer": {}}, [], "text", {"error": 1}):
            await peer.send(rubbish)
        await peer.send({"ask": 1, "value": {"n": 1}})
        await settle()
        assert (await peer.receive())["value"] == {"n": 1}
        assert port.statistics().malformed == 7


# -- what is refused at once -------------------------------------------------------------------------------------------


def test_options_that_such_a_protocol_cannot_keep_are_refused() -> None:
    async def handle(session: Any) -> None: ...

    for options, text in (
        ({"on_session": handle}, "knows no sessions"),
        ({"resume_within": 5}, "cannot resume"),
        ({"keepalive_interval": 5}, "no sign of life"),
        ({"error_reply": print}, "error_reply is for the classic wire"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            SessionManager(dialect=JsonRpc(), **options)
    with pytest.raises(TypeError, match=r"make one of it, with \(\)"):
        SessionManager(dialect=JsonRpc)  # type: ignore[arg-type]


# -- JSON-RPC ----------------------------------------------------------------------------------------------------------


async def test_json_rpc_in_both_directions(autojump_clock: MockClock) -> None:
    heard: list[Any] = []

    def answer(message: Any) -> Any:
        if message["method"] == "add":
            return sum(message["params"])
        raise SessionRefusedError("there is add", code="unknown_method")

    here, there = memory_pair()
    async with (
        SessionManager(dialect=JsonRpc(), on_request=answer, on_message=heard.append).port("s", there) as server,
        SessionManager(dialect=JsonRpc(), on_request=answer).port("c", here) as client,
    ):
        assert await client.request({"method": "add", "params": [1, 2]}) == 3
        assert await server.request({"method": "add", "params": [3, 4]}) == 7
        with pytest.raises(SessionRemoteError) as caught:
            await client.request({"method": "sub", "params": [1, 2]})
        assert (caught.value.code, caught.value.text, caught.value.outcome) == (-32601, "there is add", "refused")
        await client.post({"method": "hello", "params": {"n": 1}})
        await settle()
        assert heard == [{"method": "hello", "params": {"n": 1}}]
        with pytest.raises(MalformedMessageError, match="put 'x' into params"):
            await client.request({"method": "add", "x": 1})
        with pytest.raises(MalformedMessageError, match="a payload is"):
            await client.request({"command": "add"})


async def test_a_service_answers_json_rpc_by_name_and_by_position_with_its_numbers(autojump_clock: MockClock) -> None:
    service = Service("method")

    @service.method
    def add(a: int, b: int = 1) -> int:
        return a + b

    @service.method
    async def shutdown() -> None:
        await trio.sleep(1)

    here, there = memory_pair()
    async with (
        SessionManager(dialect=JsonRpc(), on_request=service).port("s", there),
        SessionManager(dialect=JsonRpc()).port("c", here) as client,
    ):
        assert await client.request({"method": "add", "params": {"a": 1, "b": 4}}) == 5
        assert await client.request({"method": "add", "params": [1]}) == 2
        assert await client.request({"method": "shutdown"}) is None
        for params, code in (({"a": "x"}, -32602), ([1, 2, 3], -32602), ({}, -32602)):
            with pytest.raises(SessionRemoteError) as caught:
                await client.request({"method": "add", "params": params})
            assert (caught.value.code, caught.value.outcome) == (code, "refused")
        with pytest.raises(SessionRemoteError, match="there are 'add', 'shutdown'") as caught:
            await client.request({"method": "sub"})
        assert caught.value.code == -32601


async def test_a_batch_is_answered_by_a_batch_when_all_in_it_are(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep(message["params"]["after"])
        if message["params"]["after"] == 2:
            raise SessionRefusedError("no", code=-32001, data="why")
        return message["params"]["after"]

    async with against(JsonRpc(), on_request=answer) as (port, peer):
        call = [{"jsonrpc": "2.0", "method": "m", "params": {"after": n}} for n in (3, 2, 1)]
        await peer.send([{**call[0], "id": "a"}, call[1], {**call[1], "id": 7}, {**call[2], "id": 8}])
        await trio.sleep(2.5)
        await peer.send({**call[2], "id": 9})
        await trio.sleep(2)
        assert await peer.receive() == [
            {"jsonrpc": "2.0", "id": 8, "result": 1},
            {"jsonrpc": "2.0", "id": 7, "error": {"code": -32001, "message": "no", "data": "why"}},
            {"jsonrpc": "2.0", "id": "a", "result": 3},
        ]
        assert await peer.receive() == {"jsonrpc": "2.0", "id": 9, "result": 1}
        assert (port.statistics().unheard, port._engine.connection.handlers) == (1, 0)


async def test_a_question_of_a_batch_that_is_given_up_is_left_out_where_the_protocol_wants_no_answer(
    autojump_clock: MockClock,
) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep(message["params"]["after"])
        return "done"

    async with against(Mcp(), on_request=answer) as (port, peer):
        call = {"jsonrpc": "2.0", "method": "m"}
        given_up = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}
        await peer.send([{**call, "id": n, "params": {"after": n}} for n in (1, 2)])
        await trio.sleep(1.5)
        await peer.send(given_up)
        assert await peer.receive() == [{"jsonrpc": "2.0", "id": 1, "result": "done"}]
        await peer.send([{**call, "id": 2, "params": {"after": 9}}])
        await peer.send(given_up)
        await settle()
        assert port.statistics().given_up == 2


@pytest.mark.parametrize(
    "rubbish",
    [
        [],
        [1],
        {"jsonrpc": "2.0"},
        {"jsonrpc": "2.0", "method": 5, "id": 1},
        {"jsonrpc": "2.0", "method": "m", "params": "text", "id": 1},
        {"jsonrpc": "2.0", "method": "m", "id": [1]},
        {"jsonrpc": "2.0", "method": "m", "id": True},
        {"jsonrpc": "2.0", "id": True, "result": 1},
        {"jsonrpc": "2.0", "id": 1, "error": "text"},
        [{"method": "m", "id": 1}, {"method": "m", "id": 1}],
    ],
    ids=repr,
)
async def test_bad_json_rpc_is_told_to_its_sender_and_the_port_goes_on(rubbish: Any, autojump_clock: MockClock) -> None:
    async with against(JsonRpc(), on_request=lambda message: message["params"]) as (port, peer):
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught.run, port.request, {"method": "m"})
            await settle()
            assert (await peer.receive())["id"] == 1
            await peer.send(rubbish)
            await settle()
            told = await peer.receive()
            assert (told["id"], told["error"]["code"]) == (None, -32700)
            await peer.send({"jsonrpc": "2.0", "method": "m", "params": [5], "id": 1})
            await settle()
            assert await peer.receive() == {"jsonrpc": "2.0", "id": 1, "result": [5]}
            await peer.send({"jsonrpc": "2.0", "id": 1, "result": None})
        assert (caught.at, caught.error, port.statistics().malformed) == (0.0, None, 1)


async def test_two_ports_do_not_tell_each_other_of_errors_for_ever(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=JsonRpc())
    async with manager.port("s", there) as server, manager.port("c", here) as client:
        await server._engine.outbox.post({"jsonrpc": "2.0"}, server._engine.check_open)
        await settle()
        assert (client.statistics().malformed, server.statistics().malformed) == (1, 0)
        assert (client.statistics().sent, server.statistics().sent, server.statistics().unknown_sid) == (1, 1, 1)


async def test_a_language_client_gives_up_by_the_notification_of_its_protocol(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> None:
        await trio.sleep(60)

    async with pair(Lsp(), answer) as (client, server):
        with pytest.raises(SessionTimeoutError):
            await client.request({"method": "textDocument/completion", "params": {}}, timeout=2)
        await settle()
        assert (server.statistics().given_up, client.statistics().late) == (
            1,
            1,
        )  # answered -32800, as the protocol has it
        assert server._engine.connection.handlers == 0


async def test_progress_of_mcp_is_the_parts_of_a_stream_and_the_result_is_the_last(autojump_clock: MockClock) -> None:
    async with against(Mcp()) as (port, peer):
        async with port.stream({"method": "tools/call", "params": {"name": "t"}}) as replies:
            await settle()
            asked = await peer.receive()
            assert asked["params"] == {"name": "t", "_meta": {"progressToken": asked["id"]}}
            for n in range(2):
                params = {"progressToken": asked["id"], "progress": n}
                await peer.send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
            await peer.send({"jsonrpc": "2.0", "id": asked["id"], "result": {"content": []}})
            assert [part async for part in replies] == [{"progress": 0}, {"progress": 1}, {"content": []}]
        with pytest.raises(SessionTimeoutError):
            await port.request({"method": "tools/list"}, timeout=1)
        assert (await peer.receive())["params"] == {"_meta": {"progressToken": 2}}
        told = await peer.receive()
        assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", 2)


async def test_dap_matches_by_request_seq_and_answers_the_adapters_questions(autojump_clock: MockClock) -> None:
    events: list[Any] = []

    async def answer(message: Any) -> Any:
        if message["command"] == "runInTerminal":
            return {"processId": 5}
        raise SessionRefusedError("not here", code="unknown")

    async with against(Dap(), on_request=answer, on_message=events.append) as (port, peer):
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught.run, port.request, {"command": "initialize", "arguments": {"adapterID": "x"}})
            await settle()
            asked = await peer.receive()
            await peer.send({"seq": 1, "type": "request", "command": "runInTerminal", "arguments": {}})
            await peer.send({"seq": 2, "type": "request", "command": "other"})
            await peer.send({"seq": 3, "type": "event", "event": "initialized"})
            await peer.send(
                {"seq": 4, "type": "response", "request_seq": asked["seq"], "success": True, "body": {"a": 1}}
            )
        assert caught.value == {"a": 1}
        replies = sorted([await peer.receive() for _ in range(2)], key=lambda one: one["request_seq"])
        assert [(one["request_seq"], one["success"], one["command"]) for one in replies] == [
            (1, True, "runInTerminal"),
            (2, False, "other"),
        ]
        assert events == [{"event": "initialized", "body": None}]


async def test_a_part_of_a_stream_may_be_none_and_so_may_the_answer_that_ends_it(autojump_clock: MockClock) -> None:
    async with against(Plain()) as (port, peer), port.stream("all") as replies:
        asked = (await peer.receive())["ask"]
        for message in ({"part": asked, "value": None}, {"part": asked, "value": 1}, {"answer": asked, "value": None}):
            await peer.send(message)
        assert [part async for part in replies] == [None, 1, None]
    async with against(Plain()) as (port, peer), port.stream("all") as replies:
        asked = (await peer.receive())["ask"]
        await peer.send({"part": asked, "value": None})
        await peer.send({"end": asked})
        assert [part async for part in replies] == [None]


async def test_graphql_streams_a_subscription_and_returns_the_result_of_a_query(autojump_clock: MockClock) -> None:
    async def serve(peer: Any) -> None:
        assert await peer.receive() == {"type": "connection_init"}
        await peer.send({"type": "connection_ack", "payload": {"ok": 1}})
        while True:
            asked = await peer.receive()
            if asked["type"] == "complete":
                done.append(asked["id"])
                continue
            for n in range(3 if asked["payload"]["query"].startswith("subscription") else 1):
                await peer.send({"type": "next", "id": asked["id"], "payload": {"data": n}})
            if "bad" in asked["payload"]["query"]:
                await peer.send({"type": "error", "id": asked["id"], "payload": [{"message": "no such field"}]})
            elif "endless" not in asked["payload"]["query"]:
                await peer.send({"type": "complete", "id": asked["id"]})

    done: list[str] = []
    async with against(GraphqlWs()) as (port, peer), trio.open_nursery() as nursery:
        nursery.start_soon(serve, peer)
        assert await port.request({"type": "connection_init"}) == {"ok": 1}
        assert await port.request({"query": "{ a }"}) == {"data": 0}
        async with port.stream({"query": "subscription { a }"}) as replies:
            assert [part["data"] async for part in replies] == [0, 1, 2]
        async with port.stream({"query": "subscription { endless }"}) as replies:
            assert (await replies.receive())["data"] == 0
        with pytest.raises(SessionRemoteError, match="no such field") as caught:
            await port.request({"query": "{ bad }"})
        assert (caught.value.code, caught.value.data) == ("graphql", [{"message": "no such field"}])
        await settle()
        assert done == ["3"]
        nursery.cancel_scope.cancel()


# -- what the sender refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [Plain(), InOrder()])
async def test_what_the_sender_refused_is_sent_again_under_another_id(
    dialect: TurnDialect, autojump_clock: MockClock
) -> None:
    """And the answers in order stay in order: what was not sent has no place in the line."""
    sent: list[Any] = []
    refuses = [True, False, False]

    def send(message: Any) -> None:
        if refuses.pop(0):
            raise ConnectionError("no line")
        sent.append(message)

    async with SessionManager(dialect=dialect).port("peer", send) as port, trio.open_nursery() as nursery:
        caught = Caught(), Caught()
        ask = partial(port.request, 1, timeout=5, retry_count=3, retry_interval=0.5, retry_on=(OSError,))
        nursery.start_soon(caught[0].run, ask)
        await trio.sleep(1)
        nursery.start_soon(caught[1].run, partial(port.request, 2, timeout=5))
        await trio.sleep(1)
        assert [message["value"] for message in sent] == [1, 2]
        assert [message["ask"] for message in sent] in ([2, 3], [0, 0])
        for message in sent:
            port.dispatch({"answer": message["ask"], "value": 10 * message["value"]})
        await settle()
        assert [each.value for each in caught] == [10, 20]


async def test_a_question_that_the_sender_refused_for_good_leaves_nothing(autojump_clock: MockClock) -> None:
    """The error is the sender's own; an answer that comes nevertheless is nobody's."""

    def send(message: Any) -> None:
        raise ConnectionError("no line")

    manager = SessionManager(dialect=InOrder())
    async with manager.port("peer", send) as port:
        for _ in range(3):
            with pytest.raises(ConnectionError, match="no line"):
                await port.request(1)
        port.dispatch({"value": 7})
        await settle()
        assert port.statistics().malformed == 1
    assert_empty(manager, port)
