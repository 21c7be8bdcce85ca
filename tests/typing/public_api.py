"""What type checkers see of the public API. Checked by `nox -s types`, never run.

A wrong use carries `# type: ignore`: mypy complains of one that is not needed, so each is a test as well.
"""

import math
from typing import Any, assert_type

import trio

from psession import Port, Replies, Retry, Session, SessionManager, SessionTimeoutError, Statistics
from psession.channels import (
    FramedChannel,
    Framing,
    LinkState,
    ProcessChannel,
    ReconnectingChannel,
    TcpServer,
    UnixServer,
    framed,
    lines,
    open_tcp,
    open_unix,
    open_websocket,
    process,
    reconnecting,
    serve_tcp,
    serve_unix,
)
from psession.errors import MessageError


async def handle(session: Session) -> None:
    async for message in session:
        assert_type(message, Any)
        await session.post({"status": "ok"})
        await session.finish({"status": "ok"})
        await session.finish()


async def a_channel_of_ones_own(channel: trio.abc.Channel[dict[str, Any]]) -> None:
    manager = SessionManager(session_timeout=5, session_max_life=600)
    async with manager.port("server", channel, on_session=handle, max_incoming_sessions=10) as port:
        assert_type(port, Port)
        assert_type(await port.request({"q": 1}, timeout=3, retry_count=3, retry_interval=0.5), Any)
        async with port.session(timeout=1.5) as session:
            assert_type(session, Session)
            assert_type(await session.receive(timeout=1), Any)
            async with session.stream({"q": 1}, timeout=3, total=60, count=5, credit=8, retry_count=1) as replies:
                assert_type(replies, Replies)
                assert_type(await replies.receive(), Any)
            session.stream({"q": 1}, size=8)  # type: ignore[call-overload]
        async with port.stream({"q": 1}, timeout=None, retry=Retry(2, 0.5)) as replies:
            async for reply in replies:
                assert_type(reply, Any)
        assert_type(port.statistics(), Statistics)
    assert_type(manager.statistics(), Statistics)


async def retries(manager: SessionManager, port: Port, session: Session) -> None:
    careful = Retry(3, 0.5, backoff=2, max_interval=5, jitter=0.5, budget=0.1)
    manager.port("server", print, retry=careful, retry_count=4)
    assert_type(await session.send({"q": 1}, retry=careful), Any)
    assert_type(await port.request({"q": 1}, retry=Retry(math.inf), retry_interval=1), Any)
    assert_type(port.create(retry=careful), Session)
    port.session(retry=careful)
    port.session(retry=3)  # type: ignore[arg-type]
    Retry("3")  # type: ignore[arg-type]
    careful.count = 4  # type: ignore[misc]


async def a_sender(message: Any) -> None:
    """An async sender may take any message; `print` is a sync one."""


async def a_receive_loop_of_ones_own(messages: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
    async with SessionManager(print, session_id_name="id") as manager, manager.port("other", a_sender) as port:
        assert_type(manager.create_session(), Session)
        assert_type(port.create(retry_count=2), Session)
        async for message in messages:
            if manager.is_session(message):
                assert_type(manager.get_session(message), Session | None)
                assert_type(manager.dispatch(message), bool)


async def dial() -> FramedChannel:
    return lines(await trio.open_tcp_stream("127.0.0.1", 1))


def on_state(state: LinkState) -> None:
    assert_type(state.error, Exception | None)


async def a_channel_that_reopens(manager: SessionManager) -> None:
    async with reconnecting(lambda: open_websocket("ws://here"), on_state=on_state, give_up_on=(OSError,)) as channel:
        assert_type(channel, ReconnectingChannel)
        assert_type(await channel.open(), trio.abc.Channel[Any])
        assert_type(await channel.receive(), Any)
    async with reconnecting(dial, max_attempts=3, on_state=print) as channel, manager.port("server", channel):
        pass
    reconnecting(open_websocket("ws://here"))  # type: ignore[arg-type]
    reconnecting(lambda: "ws://here")  # type: ignore[arg-type,return-value]


class Dots(Framing):
    def frame(self, payload: bytes) -> bytes:
        return payload + b"."

    def cut(self, data: bytes, at: int) -> tuple[bytes | MessageError, int] | int:
        end = data.find(b".", at)
        return (data[at:end], end + 1) if end >= 0 else len(data) + 1


async def streams_of_bytes(stream: trio.abc.Stream) -> None:
    assert_type(framed(stream, Dots, codec="msgpack"), FramedChannel)
    framed(stream, "content_length")
    framed(stream, "dots")  # type: ignore[arg-type]
    framed(stream, Dots(10))  # type: ignore[arg-type]
    async with process(["lamp"], framing=Dots, stderr=print, cwd="/") as child:
        assert_type(child, ProcessChannel)
        assert_type(child.process, trio.Process)
    process("lamp --stdio", stderr="drop")  # type: ignore[arg-type]
    async with open_tcp("here", 1, framing="lines") as tcp, open_unix("/run/lamp", framing=Dots) as unix:
        assert_type(tcp, FramedChannel)
        assert_type(unix, FramedChannel)


async def talk(channel: FramedChannel) -> None:
    assert_type(channel.remote, tuple[Any, ...] | None)


def servers_say_where_they_listen(tcp: TcpServer, unix: UnixServer) -> None:
    assert_type((tcp.port, tcp.connections, unix.path), tuple[int, int, str])


async def a_tcp_server(task_status: trio.TaskStatus[TcpServer]) -> None:
    await serve_tcp(talk, 4000, host="here", framing=Dots, task_status=task_status)


async def a_unix_server(task_status: trio.TaskStatus[UnixServer]) -> None:
    await serve_unix(talk, "/run/lamp", mode=0o660, task_status=task_status)


async def a_server_without_a_handler() -> None:
    await serve_tcp(print, 4000)  # type: ignore[arg-type]


def an_error_says_what_is_known(error: SessionTimeoutError) -> tuple[str | None, int | None, int, float]:
    assert isinstance(error, TimeoutError)
    return error.port, error.sid, error.attempts, error.waited


async def what_is_wrong_is_seen(manager: SessionManager, port: Port) -> None:
    SessionManager(session_timout=5)  # type: ignore[call-arg]
    SessionManager(session_timeout="5")  # type: ignore[arg-type]
    manager.port(1)  # type: ignore[arg-type]
    await port.request({"q": 1}, 3)  # type: ignore[call-overload]
    port.clear("now")  # type: ignore[arg-type]
    Port("server")  # type: ignore[arg-type]
    Session(port)  # type: ignore[arg-type]
    Replies({"q": 1})  # type: ignore[arg-type]
