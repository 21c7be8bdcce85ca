"""The client of clients/js: the wire vectors, its cases on virtual time, and a program in Node with real sockets."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Classic, Exact, Port, Session, SessionManager, SessionRefusedError, SessionRemoteError
from psession.channels import WebSocketChannel, serve_websocket
from psession.testing import lossy

from .test_vectors import VECTORS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from .conftest import Node

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "clients" / "js"
INTEROP = Path(__file__).parent / "interop"
CASES = re.findall(r'^test\("(.+?)", async', (INTEROP / "cases.mjs").read_text(encoding="utf-8"), re.MULTILINE)
LIMIT = 30
"""Seconds for a whole program; without load each takes less than two."""

BAD = {"drop": 0.1, "duplicate": 0.2, "reorder": 0.2, "delay": (0.0, 0.02)}
IMPATIENT = {"timeout": 0.1, "retryCount": 100, "retryInterval": 0}

LEFT_OUT = {
    "exact_stream_overrun": "its stream asks before its first reply is waited for, which an async iterator does not",
}
"""Vectors that do not apply. tests/interop/cases.mjs has the same in another form."""

UNKNOWN_TO_JSON_PARSE = {("exact_malformed", 5), ("no_session_number", 2)}
"""Steps in which a number is written as `1.0`: nothing in JavaScript tells it from 1."""


def run(node: Node, script: str, said: str = "") -> Any:
    """What a script prints, read as JSON."""
    command = [node.program, str(INTEROP / script)]
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=120, cwd=node.folder)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


# -- vectors and cases -------------------------------------------------------------------------------------------------


def has_a_whole_float(step: dict[str, Any]) -> bool:
    """Return True if a message of the peer's has a number that JavaScript reads as another type."""
    return any(type(value) is float and value.is_integer() for value in step.get("in", {}).values())


@pytest.fixture(scope="session")
def told(node: Node) -> Any:
    """What became of each vector."""
    vectors = {
        name: {**vector, "steps": [step for step in vector["steps"] if not has_a_whole_float(step)]}
        for name, vector in VECTORS.items()
        if name not in LEFT_OUT
    }
    return run(node, "vectors.mjs", json.dumps(vectors))


@pytest.mark.parametrize("name", [name for name in VECTORS if name not in LEFT_OUT])
def test_the_client_does_on_the_wire_what_the_vector_says(told: Any, name: str) -> None:
    assert told[name] is None, told[name]


def test_the_vectors_that_are_left_out_are_these() -> None:
    assert LEFT_OUT.keys() <= VECTORS.keys()
    steps = {
        (name, at)
        for name, vector in VECTORS.items()
        for at, one in enumerate(vector["steps"])
        if has_a_whole_float(one)
    }
    assert steps == UNKNOWN_TO_JSON_PARSE


@pytest.fixture(scope="session")
def cases(node: Node) -> Any:
    """What became of each case."""
    return run(node, "cases.mjs")


@pytest.mark.parametrize("name", CASES)
def test_case(cases: Any, name: str) -> None:
    assert cases[name] is None, cases[name]


def test_no_case_is_missed(cases: Any) -> None:
    assert list(cases) == CASES


# -- programs ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def a_server(serve: Callable[[WebSocketChannel], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of a WebSocket server with this handler."""
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0)
            yield f"ws://127.0.0.1:{server.port}/"
            nursery.cancel_scope.cancel()


async def play(node: Node, act: str, url: str, **options: Any) -> Any:
    """What a program found that has ended by itself, without a word on standard error."""
    command = [node.program, str(INTEROP / "client.mjs"), act, url, json.dumps(options)]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, cwd=node.folder)
    assert done.stderr.decode() == ""
    assert done.returncode == 0
    return json.loads(done.stdout)


async def echo(session: Session) -> None:
    """Answer each message with its value, and do what else it says."""
    async for message in session:
        if "wait" in message:
            await trio.sleep(message["wait"])
        await session.post({"value": message["value"]})


def over(handler: Any = echo, **options: Any) -> Callable[[WebSocketChannel], Awaitable[None]]:
    """A server's handler that answers with this one, and no more."""
    manager = SessionManager(on_session=handler, session_timeout=LIMIT, **options)

    async def serve(channel: WebSocketChannel) -> None:
        async with manager.accept(channel) as port:
            await port.wait_closed()

    return serve


@pytest.mark.parametrize("ws", [False, True], ids=["global WebSocket", "package ws"])
@pytest.mark.parametrize("dialect", ["exact", "classic"])
async def test_each_request_gets_its_own_reply(node: Node, dialect: str, ws: bool) -> None:
    async with a_server(over()) as url:
        found = await play(node, "asks", url, dialect=dialect, ws=ws)
        assert found == {"turns": 210, "matched": 210, "open": 0, "classic": 0}


async def test_an_exact_client_takes_the_answers_of_a_peer_that_only_echoes_the_number(node: Node) -> None:
    async def serve(channel: WebSocketChannel) -> None:
        async for message in channel:
            if "sid" in message:
                await channel.send({"value": message.get("value"), "sid": message["sid"]})

    async with a_server(serve) as url:
        found = await play(node, "asks", url)
        assert found == {"turns": 210, "matched": 210, "open": 0, "classic": 210}


async def ask_all(port: Port, **patience: Any) -> None:
    """Ten turns of one session, then 200 sessions at once."""
    async with port.session() as session:
        for n in range(10):
            assert await session.send({"value": n}, **patience) == {"value": n}

    async def one(n: int) -> None:
        assert await port.request({"value": f"token {n}"}, **patience) == {"value": f"token {n}"}

    async with trio.open_nursery() as nursery:
        for n in range(200):
            nursery.start_soon(one, n)


@pytest.mark.parametrize("dialect", [Exact(), Classic()], ids=["exact", "classic"])
async def test_the_client_answers_each_question_once(node: Node, dialect: Any) -> None:
    manager = SessionManager(dialect=dialect, session_timeout=LIMIT)

    async def serve(channel: WebSocketChannel) -> None:
        async with manager.accept(channel) as port:
            await ask_all(port)

    async with a_server(serve) as url:
        assert await play(node, "answers", url) == {"asked": 210, "most": 1}


@pytest.mark.parametrize("seed", range(2))
async def test_on_a_bad_line_each_turn_is_run_once_whoever_asks(node: Node, seed: int) -> None:
    """Both sides ask at once over a line that loses, repeats and reorders what they say."""
    runs: dict[Any, int] = {}
    manager = SessionManager(dialect=Exact(), session_timeout=0.1, retry_count=100, retry_interval=0)

    async def answer(session: Session) -> None:
        async for message in session:
            runs[message["value"]] = runs.get(message["value"], 0) + 1
            await session.post({"value": message["value"]})

    async def serve(channel: WebSocketChannel) -> None:
        done = trio.Event()
        async with (
            lossy(channel, seed=seed, **BAD) as line,  # type: ignore[arg-type]
            manager.accept(line, on_session=answer, on_message=lambda _: done.set()) as port,
        ):
            await ask_all(port)
            with trio.move_on_after(1):  # what says so may be lost
                await done.wait()
            while len(runs) < 210:  # noqa: ASYNC110 - the other side's turns set no event
                await trio.sleep(0.01)

    async with a_server(serve) as url:
        found = await play(node, "both", url, **IMPATIENT)
        assert found == {"turns": 210, "asked": 210, "most": 1}
        assert (len(runs), set(runs.values())) == (210, {1})


async def test_streams_come_in_order_as_far_as_they_are_wanted(node: Node) -> None:
    stopped = []

    async def count(session: Session) -> None:
        async for message in session:
            if "refuse" in message:
                raise SessionRefusedError("no more", code=message["refuse"])
            try:
                for n in range(int(message["count"])):
                    await session.post({"n": n})
                    await trio.sleep(message.get("pause", 0))
            except trio.Cancelled:
                stopped.append(message["count"])
                raise
            if message.get("crash"):
                raise ValueError("a secret")

    async with a_server(over(count)) as url:
        found = await play(node, "streams", url)
    error = {"outcome": "sent", "attempts": 1}
    refused = {
        "name": "RemoteError",
        "code": "refused.too_many",
        "text": "no more",
        "outcome": "refused",
        "attempts": 1,
    }
    assert found == {
        "all": [1000, True],
        "none": [],
        "some": [40, True],
        "narrow": [100, True],
        "dialogue": [[3, True], 0],
        "refused": refused,
        "broken": {**error, "name": "RemoteError", "code": "crashed", "text": ""},
        "total": {**error, "name": "TimeoutError"},
    }
    assert stopped == [1000, 10**9, 10**9]


async def test_the_clients_generator_streams_to_python_and_is_left_when_nobody_listens(node: Node) -> None:
    manager = SessionManager(dialect=Exact(), session_timeout=LIMIT)

    async def serve(channel: WebSocketChannel) -> None:
        async with manager.accept(channel) as port:
            async with port.stream({"count": 1000}, credit=8) as replies:
                assert [reply["n"] async for reply in replies] == list(range(1000))
            async with port.stream({"count": 10**9}) as replies:
                assert [(await replies.receive())["n"] for _ in range(100)] == list(range(100))
            assert await port.request({"count": 5}) == {"n": 0}

    async with a_server(serve) as url:
        assert await play(node, "gives", url) == {"left": 3}


async def test_refusals_travel_both_ways_and_so_does_giving_up(node: Node) -> None:
    cancelled = 0
    manager = SessionManager(dialect=Exact(), session_timeout=LIMIT)
    caught = []

    async def handle(session: Session) -> None:
        nonlocal cancelled
        message = await session.receive()
        if message["how"] == "refuse":
            raise SessionRefusedError("no such thing", code="unknown")
        if message["how"] == "crash":
            raise ValueError("a secret")
        try:
            await trio.sleep_forever()
        finally:
            cancelled += 1

    async def serve(channel: WebSocketChannel) -> None:
        done = trio.Event()
        async with manager.accept(channel, on_session=handle, on_message=lambda _: done.set()) as port:
            for how in ("refuse", "crash"):
                with pytest.raises(SessionRemoteError) as error:
                    await port.request({"how": how})
                caught.append((error.value.code, error.value.text, error.value.outcome))
            await done.wait()

    async with a_server(serve) as url:
        found = await play(node, "refusals", url)
    assert caught == [("refused.locked", "it is locked", "refused"), ("crashed", "", "sent")]
    refused = {"name": "RemoteError", "code": "refused.unknown", "text": "no such thing", "outcome": "refused"}
    assert found["refused"] == {**refused, "attempts": 1}
    assert (found["crashed"]["code"], found["crashed"]["text"]) == ("crashed", "")
    assert (found["late"]["name"], found["late"]["attempts"]) == ("TimeoutError", 2)
    assert found["aborted"]["name"] == "TimeoutError"  # the signal's own reason
    assert cancelled == 2


# -- links that break --------------------------------------------------------------------------------------------------


async def cut(channel: WebSocketChannel) -> None:
    """End the connection without a goodbye, as a router does that is switched off."""
    await trio.aclose_forcefully(channel)


async def test_a_link_that_is_cut_in_the_middle_of_turns_is_resumed_and_nothing_is_run_twice(node: Node) -> None:
    """It is cut while turns of both sides are at work, and in the middle of a stream."""
    manager = SessionManager(dialect=Exact(), session_timeout=LIMIT, resume_within=LIMIT)
    links: list[WebSocketChannel] = []
    runs: list[Any] = []
    answers: list[Any] = []

    async def handle(session: Session) -> None:
        async for message in session:
            runs.append(message)
            if "count" in message:
                for n in range(message["count"]):
                    if n == 50:
                        await cut(links[-1])
                    await session.post({"n": n})
                continue
            if "break" in message:
                await cut(links[-1])
                await trio.sleep(0.05)  # so that the answer is made while there is no link
            await session.post({"value": message["value"], "runs": len(runs)})

    async def serve(channel: WebSocketChannel) -> None:
        links.append(channel)
        is_first = len(links) == 1
        done = trio.Event()
        options: dict[str, Any] = {"on_session": handle, "on_message": lambda _: done.set()}
        async with manager.accept(channel, **options) as port:
            if not is_first:
                await port.wait_closed()
                return
            async with trio.open_nursery() as nursery:

                async def ask(value: int) -> None:
                    answers.append((await port.request({"value": value}))["value"])

                for value in range(20):
                    nursery.start_soon(ask, value)
            await done.wait()

    async with a_server(serve) as url:
        found = await play(node, "resumes", url, resumeWithin=LIMIT)
    assert found["reply"] == {"value": 1, "runs": 2}
    assert (found["resumed"], found["forgotten"], found["most"]) == (2, 0, 1)
    assert [known for state, known in found["states"] if state == "open"] == [None, True, True]
    assert (sorted(answers), len(runs)) == (list(range(20)), 3)


async def test_a_server_without_its_memory_is_noticed(node: Node) -> None:
    managers = [SessionManager(dialect=Exact(), session_timeout=LIMIT, resume_within=LIMIT) for _ in range(2)]
    links: list[WebSocketChannel] = []

    async def handle(session: Session) -> None:
        async for message in session:
            if "break" in message:
                await cut(links[-1])
                await trio.sleep_forever()
            await session.post({"value": message["value"]})

    async def serve(channel: WebSocketChannel) -> None:
        links.append(channel)
        async with managers[min(len(links), 2) - 1].accept(channel, on_session=handle) as port:
            await port.wait_closed()

    async with a_server(serve) as url:
        found = await play(node, "restarts", url, resumeWithin=LIMIT)
    assert found["lost"] == {"name": "AbortError", "outcome": "sent", "attempts": 1}
    assert (found["reply"], found["known"]) == ({"value": 2}, [None, False])


@pytest.mark.parametrize("ws", [False, True], ids=["global WebSocket", "package ws"])
async def test_whoever_waits_for_a_server_that_is_gone_is_told_at_once(node: Node, ws: bool) -> None:
    async def handle(session: Session) -> None:
        await session.receive()
        await cut(links[-1])

    links: list[WebSocketChannel] = []
    manager = SessionManager(on_session=handle)

    async def serve(channel: WebSocketChannel) -> None:
        links.append(channel)
        async with manager.accept(channel) as port:
            await port.wait_closed()

    async with a_server(serve) as url:
        found = await play(node, "gone", url, ws=ws)
    assert {name: error["name"] for name, error in found.items()} == dict.fromkeys(found, "PortClosedError")
    assert [found[name]["outcome"] for name in ("never", "lost", "after")] == ["not_sent", "sent", "not_sent"]


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_a_message_may_be_as_long_as_the_limit_and_of_any_text(node: Node) -> None:
    async with a_server(over()) as url:
        found = await play(node, "limits", url)
    assert (found["large"], found["tooLarge"]["name"], found["same"]) == (True, "MessageTooLargeError", True)


@pytest.mark.parametrize("ws", [False, True], ids=["global WebSocket", "package ws"])
async def test_a_reply_that_came_while_the_program_was_busy_beats_its_deadline(node: Node, ws: bool) -> None:
    async with a_server(over()) as url:
        assert await play(node, "blocked", url, ws=ws) == {"value": 1}
