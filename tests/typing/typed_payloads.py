"""What type checkers see of ``reply_type`` and of ports whose types are named. Checked by `nox -s types`, never run."""

import dataclasses
from typing import Any, TypedDict, assert_type

import msgspec
import trio

from psession import Port, Replies, Session, SessionManager
from psession.channels import JsonCodec, lines


class Command(msgspec.Struct):
    command: str


class Status(msgspec.Struct):
    level: int


@dataclasses.dataclass
class Point:
    x: int


class Named(TypedDict):
    name: str


async def replies_of_a_type(port: Port, session: Session) -> None:
    assert_type(await port.request({"q": 1}, reply_type=Status), Status)
    assert_type(await port.request({"q": 1}, reply_type=Point, timeout=3, retry_count=2), Point)
    assert_type(await port.request({"q": 1}, reply_type=Named), Named)
    assert_type(await port.request({"q": 1}, reply_type=dict[str, int]), dict[str, int])
    assert_type(await port.request({"q": 1}, reply_type=None), Any)
    assert_type(await port.request({"q": 1}), Any)
    assert_type(await session.send({"q": 1}, reply_type=Status, timeout=3), Status)
    assert_type(await session.send({"q": 1}), Any)
    async with port.stream({"q": 1}, reply_type=Status, total=60) as replies:
        assert_type(replies, Replies[Status])
        assert_type(await replies.receive(), Status)
        async for reply in replies:
            assert_type(reply, Status)
    async with session.stream({"q": 1}, reply_type=Status) as more:
        assert_type(more, Replies[Status])
    async with session.stream({"q": 1}) as plain:
        assert_type(plain, Replies)
        assert_type(plain, Replies[Any])


async def a_type_that_checkers_have_no_word_for(port: Port) -> None:
    status: Status | Point = await port.request({"q": 1}, reply_type=Status | Point)
    del status


async def a_port_whose_types_are_named(port: Port[Command, Status]) -> None:
    assert_type(await port.request(Command("status")), Status)
    assert_type(await port.request(Command("where"), reply_type=Point), Point)
    async with port.session(timeout=1) as session:
        assert_type(session, Session[Command, Status])
        assert_type(await session.send(Command("status")), Status)
        assert_type(session.port, Port[Command, Status])
        await session.post(Command("on"))
        await session.finish()
        assert_type(await session.receive(), Any)
    with port.create() as made:
        assert_type(made, Session[Command, Status])
    async with port.stream(Command("watch")) as replies:
        assert_type(await replies.receive(), Status)


async def such_a_port_is_any_port(manager: SessionManager, stream: trio.SocketStream) -> None:
    async with manager.port("lamp", lines(stream, codec=JsonCodec(type=Status))) as port:
        assert_type(port, Port[Any, Any])
        assert_type(port, Port)
        await a_port_whose_types_are_named(port)
        named: Port[Command, Status] = port
        await replies_of_a_type(named, named.create())
        wider: Port[Command, object] = named
        del wider


async def what_is_wrong_is_seen(port: Port[Command, Status], session: Session[Command, Status]) -> None:
    await port.request({"command": "status"})  # type: ignore[call-overload]
    await session.send(Status(1))  # type: ignore[call-overload]
    await session.post(Status(1))  # type: ignore[arg-type]
    await port.request(Command("status"), reply_typ=Status)  # type: ignore[call-overload]
    await session.send(Command("status"), reply_type=Status, timeout="3")  # type: ignore[call-overload]
    point: Point = await port.request(Command("status"))  # type: ignore[assignment]
    del point
