"""Many sockets, one reader that waits for all of them: who leads, who follows, and what ends a watch."""

import os
import queue
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import psession
from psession import Port, SessionManager
from psession.channels import (
    _framed,
    _pace,
    _poller,
    open_tcp,
    open_websocket,
    reconnecting,
    serve_tcp,
    serve_websocket,
)
from psession.channels._poller import Poller, poller_of_this_run

HERE = "127.0.0.1"
KINDS = ("tcp", "websocket")


@pytest.fixture
def watching_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sockets watched together from the first on."""
    monkeypatch.setattr(_framed, "MANY", 1)


def answer(message: Any) -> Any:
    """Answer with the same, or as the question wants it."""
    match message:
        case {"raise": "exit"}:
            raise SystemExit(3)
        case _:
            return message


@asynccontextmanager
async def a_server(kind: str = "tcp", **options: Any) -> AsyncIterator[Any]:
    """A server that answers; gives the function that opens a channel to it, and the ports that it has."""
    manager, ports = SessionManager(on_request=answer), dict[str, Port]()

    async def meet(channel: Any) -> None:
        async with manager.accept(channel, **options) as port:
            ports[port.name] = port
            await port.wait_closed()

    serve = partial(serve_tcp, meet, 0, host=HERE) if kind == "tcp" else partial(serve_websocket, meet, HERE, 0)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)

        def connect() -> Any:
            if kind == "tcp":
                return open_tcp(HERE, server.port)
            return open_websocket(f"ws://{HERE}:{server.port}")

        yield connect, ports
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def a_crowd(connect: Any, count: int, **options: Any) -> AsyncIterator[list[Port]]:
    """So many ports."""
    manager = SessionManager()
    async with AsyncExitStack() as stack:
        ports = []
        for number in range(count):
            channel = await stack.enter_async_context(connect())
            ports.append(await stack.enter_async_context(manager.port(f"port {number}", channel, **options)))
        yield ports


async def ask_all(ports: list[Port], rounds: int = 1) -> None:
    """Ask all at once, and look at each answer."""

    async def ask(number: int, port: Port) -> None:
        for turn in range(rounds):
            assert await port.request({"port": number, "turn": turn}) == {"port": number, "turn": turn}

    async with trio.open_nursery() as nursery:
        for number, port in enumerate(ports):
            nursery.start_soon(ask, number, port)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often somebody waited for a file, by its number."""
    counted = Counter[int]()
    wait = trio.lowlevel.wait_readable

    async def wait_readable(file: Any) -> None:
        counted[file if isinstance(file, int) else file.fileno()] += 1
        await wait(file)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)
    return counted


@pytest.mark.parametrize("kind", KINDS)
async def test_one_reader_waits_for_the_sockets_of_all(
    kind: str, waits: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pace, "FEW", 1_000_000)  # on a busy machine a channel whose turn took long reads by itself
    async with a_server(kind) as (connect, _), a_crowd(connect, 20) as ports:
        await ask_all(ports, 3)  # until then each has waited for its own once, or while there were few
        waits.clear()
        await ask_all(ports, 20)
        assert len(waits) == 1, waits


async def test_few_wait_each_for_its_own(waits: Counter[int]) -> None:
    async with a_server() as (connect, _), a_crowd(connect, 3, busy_wait=False) as ports:
        await ask_all(ports, 3)
        waits.clear()
        await ask_all(ports, 3)
        assert len(waits) == 6, waits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("watching_all")
async def test_whoever_leads_may_leave_and_the_others_go_on(kind: str) -> None:
    async with a_server(kind) as (connect, _):
        manager = SessionManager()
        leave, gone = ([trio.Event() for _ in range(12)] for _ in range(2))
        ports: dict[int, Port] = {}

        async def hold(number: int, task_status: trio.TaskStatus[None]) -> None:
            async with connect() as channel, manager.port(f"port {number}", channel) as port:
                ports[number] = port
                task_status.started()
                await leave[number].wait()
            del ports[number]
            gone[number].set()

        async with trio.open_nursery() as nursery:
            for number in range(12):
                await nursery.start(hold, number)
            for number in (0, 11, 5, 1, 2, 3, 4, 10, 6, 7, 8):
                await ask_all(list(ports.values()))
                leave[number].set()
                await trio.testing.wait_all_tasks_blocked()
                with trio.fail_after(5):
                    await gone[number].wait()
                    await ask_all(list(ports.values()))
            leave[9].set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("watching_all")
async def test_a_peer_that_goes_is_noticed_by_its_own_port_alone(kind: str) -> None:
    async with a_server(kind) as (connect, far), a_crowd(connect, 5) as ports:
        await ask_all(ports)
        for number in (0, 3):
            ended = list(far.values())[number]
            ended.close()
            with trio.fail_after(5):
                await ports[number].wait_closed()
            with pytest.raises(psession.PortClosedError):
                await ports[number].request({})
        await ask_all([ports[number] for number in (1, 2, 4)], 3)


@pytest.mark.usefixtures("watching_all")
async def test_a_channel_that_is_closed_under_its_port_ends_it() -> None:
    async with a_server() as (connect, _), a_crowd(connect, 2) as (other, _):
        async with connect() as channel, SessionManager().port("closed", channel) as port:
            await ask_all([other, port])
            await channel.aclose()
            with trio.fail_after(5):
                await port.wait_closed()
        await ask_all([other])


@pytest.mark.usefixtures("watching_all")
async def test_what_ends_a_program_comes_out_of_the_block_whose_request_it_was() -> None:
    manager, outcomes = SessionManager(on_request=answer), dict[int, BaseException | None]()
    numbers = iter(range(10))

    async def meet(channel: Any) -> None:
        number = next(numbers)
        try:
            async with manager.accept(channel) as port:
                await port.wait_closed()
        except BaseException as error:
            outcomes[number] = error
            if not isinstance(error, SystemExit):
                raise

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_tcp, meet, 0, host=HERE))
        async with a_crowd(lambda: open_tcp(HERE, server.port), 4) as ports:
            await ask_all(ports)
            with trio.fail_after(5), pytest.raises(psession.SessionError):
                await ports[2].request({"raise": "exit"})
            await ask_all([ports[0], ports[1], ports[3]])
            assert {number: type(error) for number, error in outcomes.items()} == {2: SystemExit}
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("watching_all")
async def test_a_message_that_comes_in_pieces_and_a_long_one_are_read() -> None:
    got: list[Any] = []
    all_came = trio.Event()

    def take(message: Any) -> None:
        got.append(message)
        if len(got) == 5:
            all_came.set()

    async def meet(channel: Any) -> None:
        async with SessionManager(on_message=take).port("far", channel) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_tcp, meet, 0, host=HERE))
        stream = await trio.open_tcp_stream(HERE, server.port)
        long = '{"text":"%s"}\n' % ("x" * 300_000)
        for piece in ('{"a":1}\n', '{"a"', ":2}", "\n", '{"a":3}\n{"a":', "4}\n", long[:200_000], long[200_000:]):
            await stream.send_all(piece.encode())
            await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(5):
            await all_came.wait()
        assert [message.get("a") for message in got] == [1, 2, 3, 4, None]
        assert len(got[4]["text"]) == 300_000
        await stream.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("watching_all")
async def test_long_messages_of_one_read_are_all_taken() -> None:
    rows = [{"row": number, "text": "x" * 40} for number in range(200)]
    async with a_server() as (connect, _), a_crowd(connect, 2) as (one, other), trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(one.request, {"rows": rows})
            nursery.start_soon(other.request, {"rows": rows})


@contextmanager
def a_server_of_its_own() -> Iterator[str]:
    """A server of WebSockets in a thread, which answers while this one stands still. Gives its URL."""
    urls, stops = queue.Queue[str](), queue.Queue[Any]()

    async def run() -> None:
        async with a_server("websocket") as (connect, _), connect() as channel:
            token, over = trio.lowlevel.current_trio_token(), trio.Event()
            stops.put(lambda: token.run_sync_soon(over.set))
            urls.put(f"ws://{HERE}:{channel.remote[1]}")
            await over.wait()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    try:
        yield urls.get(timeout=5)
    finally:
        stops.get(timeout=5)()
        thread.join()


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch, watching_all: None) -> None:
    """Have sockets watched together, and one of them read in a pass."""
    monkeypatch.setattr(_poller, "MOST_AT_ONCE", 1)


@pytest.mark.usefixtures("one_by_one")
async def test_no_reply_that_has_come_is_too_late_because_others_are_read_first() -> None:
    async def ask(port: Port) -> None:
        assert await port.request({"in": "time"}, timeout=0.5) == {"in": "time"}

    with a_server_of_its_own() as url:
        async with a_crowd(lambda: open_websocket(url), 60, busy_wait=False) as ports:
            await ask_all(ports, 2)
            async with trio.open_nursery() as nursery:
                for port in ports:
                    nursery.start_soon(ask, port)
                while sum(port.statistics().sent for port in ports) < 3 * len(ports):
                    await trio.lowlevel.checkpoint()
                time.sleep(0.8)  # noqa: ASYNC251 - all replies come, and all are due


@pytest.mark.usefixtures("one_by_one")
async def test_no_peer_whose_pong_has_come_is_taken_for_silent() -> None:
    with a_server_of_its_own() as url:
        often = partial(open_websocket, url, ping_interval=0.2, ping_timeout=0.3)
        async with a_crowd(often, 60, busy_wait=False) as ports:
            await ask_all(ports, 2)
            for _ in range(4):
                for _ in range(4):  # passes in which pings are written, and hardly a pong is read
                    await trio.lowlevel.checkpoint()
                time.sleep(0.5)  # noqa: ASYNC251 - the program stutters: pongs come, and are due
            assert [port.name for port in ports if port.closed] == []


@pytest.mark.usefixtures("watching_all")
async def test_a_link_that_breaks_is_resumed_and_the_next_one_is_watched(waits: Counter[int]) -> None:
    async with a_server(resume_within=10) as (connect, _), a_crowd(connect, 3) as ports:
        links: list[Any] = []

        @asynccontextmanager
        async def noting() -> AsyncIterator[Any]:
            async with connect() as channel:
                links.append(channel)
                yield channel

        options: dict[str, Any] = {"dialect": psession.Exact(), "resume_within": 10}
        async with reconnecting(noting) as channel, SessionManager().port("resumed", channel, **options) as port:
            for _ in range(3):
                await ask_all([port, *ports], 3)
                await links[-1].aclose()
                await ask_all([port, *ports], 3)
            waits.clear()
            await ask_all([port, *ports], 5)
            assert len(waits) == 1, waits
        assert len(links) > 2


async def test_channels_that_are_closed_count_no_more() -> None:
    poller = poller_of_this_run()
    assert poller is not None
    for kind in KINDS:
        async with a_server(kind) as (connect, _), a_crowd(connect, 9, busy_wait=False) as ports:
            await ask_all(ports, 2)
            assert poller.channels == 18
        assert poller.channels == 0


@pytest.mark.usefixtures("watching_all")
@pytest.mark.parametrize("failing", ["epoll", "register"])
async def test_where_nothing_can_be_watched_each_reader_waits_for_its_own(
    failing: str, monkeypatch: pytest.MonkeyPatch, waits: Counter[int]
) -> None:
    class Full:
        def register(self, *_: object) -> None:
            raise OSError(28, "no space left on device")

    def epoll() -> Full:
        if failing == "epoll":
            raise OSError(24, "too many open files")
        return Full()

    monkeypatch.setattr(_poller.select, "epoll", epoll)
    async with a_server() as (connect, _), a_crowd(connect, 3) as ports:
        await ask_all(ports, 3)
        assert len(waits) >= 6


@pytest.mark.usefixtures("watching_all")
async def test_a_system_without_epoll_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_poller.select, "epoll")
    async with a_server() as (connect, _), a_crowd(connect, 3) as ports:
        await ask_all(ports, 3)
        assert poller_of_this_run() is None


async def test_a_stream_that_somebody_else_may_close_is_not_watched(watching_all: None, waits: Counter[int]) -> None:
    here, there = socket.socketpair()
    near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in (here, there))
    async with (
        SessionManager(on_request=answer).port("far", psession.channels.lines(far)),
        SessionManager(busy_wait=False).port("near", psession.channels.lines(near)) as port,
    ):
        assert await port.request({"a": 1}) == {"a": 1}
        await near.aclose()
        with trio.fail_after(5):
            await port.wait_closed()
    assert not any(number in waits for number in range(3))


class TestAPoller:
    """The sockets alone."""

    async def test_each_socket_is_looked_into_whoever_leads(self) -> None:
        poller, pairs = Poller(), [socket.socketpair() for _ in range(4)]
        seen: list[int] = []

        def look(number: int) -> bool:
            seen.append(number)
            return not os.read(pairs[number][0].fileno(), 10)

        watches = [poller.watch(pair[0].fileno(), partial(look, number)) for number, pair in enumerate(pairs)]
        async with trio.open_nursery() as nursery:
            for watch in watches:
                assert watch is not None
                nursery.start_soon(watch.until_stopped)
            for leaver in (0, 2, 1, 3):
                seen.clear()
                for (_, far), watch in zip(pairs, watches, strict=True):
                    if watch is not None:
                        far.send(b"x")
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert sorted(seen) == [number for number, watch in enumerate(watches) if watch is not None]
                watches[leaver].stop()  # type: ignore[union-attr]
                watches[leaver] = None
                pairs[leaver][0].close()
                await trio.testing.wait_all_tasks_blocked(0.01)
        for near, far in pairs:
            near.close()
            far.close()

    async def test_what_a_look_raises_is_its_own_readers(self) -> None:
        poller, (one, far_one), (other, far_other) = Poller(), socket.socketpair(), socket.socketpair()
        seen: list[bytes] = []

        def look() -> bool:
            seen.append(os.read(one.fileno(), 10))
            return seen[-1] == b"last"

        def fail() -> bool:
            raise KeyError("mine")

        with one, other, far_one, far_other:
            first = poller.watch(one.fileno(), look)
            second = poller.watch(other.fileno(), fail)
            assert first is not None
            assert second is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.until_stopped)  # leads
                await trio.testing.wait_all_tasks_blocked()
                far_other.send(b"x")
                with pytest.raises(KeyError, match="mine"):
                    await second.until_stopped()
                far_one.send(b"y")
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert seen == [b"y"]
                far_one.send(b"last")

    async def test_one_that_was_closed_does_not_end_the_watch_of_the_next_with_its_number(self) -> None:
        poller, (near, far) = Poller(), socket.socketpair()
        number = near.fileno()
        first = poller.watch(number, int)
        assert first is not None
        near.close()  # behind its back
        again, far_again = socket.socketpair()
        if again.fileno() != number:
            os.dup2(again.fileno(), number)
        seen: list[bytes] = []
        second = poller.watch(number, lambda: seen.append(os.read(number, 10)))
        assert second is not None
        with trio.fail_after(5):
            await first.until_stopped()  # it found out
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.until_stopped)
            far_again.send(b"x")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert seen == [b"x"]
            second.stop()
        for one in (far, again, far_again):
            one.close()

    async def test_other_tasks_have_a_turn_between_looks_that_take_long(self) -> None:
        poller, pairs = Poller(), [socket.socketpair() for _ in range(8)]
        seen: list[str] = []

        def look(near: socket.socket) -> None:
            near.recv(10)
            time.sleep(0.003)
            seen.append("look")

        async def other() -> None:
            while seen.count("look") < 8:
                seen.append("turn")
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for near, far in pairs:
                watch = poller.watch(near.fileno(), partial(look, near))
                assert watch is not None
                nursery.start_soon(watch.until_stopped)
                far.send(b"x")
            await other()
            nursery.cancel_scope.cancel()
        assert "look look look" not in " ".join(seen)  # the order within a pass is Trio's, by chance
        for near, far in pairs:
            near.close()
            far.close()


def test_an_epoll_can_be_waited_for_by_another() -> None:
    """What all of this rests on, said where it would fail first."""
    with select.epoll() as inner, select.epoll() as outer:
        near, far = socket.socketpair()
        inner.register(near, select.EPOLLIN)
        outer.register(inner.fileno(), select.EPOLLIN)
        assert outer.poll(0) == []
        far.send(b"x")
        assert [number for number, _ in outer.poll(0)] == [inner.fileno()]
        near.close()
        far.close()
