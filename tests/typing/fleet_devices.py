"""What type checkers see of a fleet's devices, of any types and of named ones. Checked by `nox -s types`, never run."""

from typing import Any, assert_type

import msgspec

from psession import Replies, Session
from psession.fleet import Epoch, Fleet, FleetDevice, GatewayInfo, Joined, Left


class Command(msgspec.Struct):
    command: str


class Status(msgspec.Struct):
    level: int


class Point(msgspec.Struct):
    x: int


async def a_device_of_any_types(fleet: Fleet) -> None:
    device = fleet.device("lamp", wait=10)
    assert_type(device, FleetDevice[Any, Any])
    assert_type(device, FleetDevice)
    assert_type(await device.request({"q": 1}), Any)
    assert_type(await device.request({"q": 1}, reply_type=Status, timeout=3, retry_count=2), Status)
    assert_type(await device.request({"q": 1}, reply_type=dict[str, int]), dict[str, int])
    assert_type(await device.request({"q": 1}, reply_type=None), Any)
    async with device.stream({"q": 1}, reply_type=Status, total=60) as replies:
        assert_type(replies, Replies[Status])
        async for reply in replies:
            assert_type(reply, Status)
    async with device.stream({"q": 1}) as plain:
        assert_type(plain, Replies)
    async with device.session(timeout=1) as session:
        assert_type(session, Session)
        assert_type(await session.send({"q": 1}), Any)
    await device.post({"q": 1})
    assert_type(device.name, str)
    assert_type(device.wait, float)


async def a_device_whose_types_are_named(fleet: Fleet) -> None:
    device: FleetDevice[Command, Status] = fleet.device("lamp")
    assert_type(await device.request(Command("status")), Status)
    assert_type(await device.request(Command("status"), timeout=2), Status)
    assert_type(await device.request(Command("where"), reply_type=Point), Point)
    async with device.stream(Command("watch")) as replies:
        assert_type(replies, Replies[Status])
        assert_type(await replies.receive(), Status)
    async with device.stream(Command("watch"), reply_type=Point) as points:
        assert_type(points, Replies[Point])
    async with device.session() as session:
        assert_type(session, Session[Command, Status])
        assert_type(await session.send(Command("status")), Status)
    await device.post(Command("on"))
    wider: FleetDevice[Command, object] = device
    del wider


async def what_is_wrong_is_seen(fleet: Fleet, device: FleetDevice[Command, Status]) -> None:
    await device.request({"command": "status"})  # type: ignore[call-overload]
    await device.request(Command("status"), reply_typ=Status)  # type: ignore[call-overload]
    await device.request(Command("status"), timeout="3")  # type: ignore[call-overload]
    device.stream(Status(1))  # type: ignore[call-overload]
    await device.post(Status(1))  # type: ignore[arg-type]
    async with device.session() as session:
        await session.send(Status(1))  # type: ignore[call-overload]
    point: Point = await device.request(Command("status"))  # type: ignore[assignment]
    del point
    fleet.device("lamp", 10)  # type: ignore[call-arg]


async def who_is_where(fleet: Fleet) -> None:
    assert_type(await fleet.devices(), dict[str, Epoch])
    assert_type(await fleet.gateways(), list[GatewayInfo])
    async with fleet.presence() as presence:
        async for change in presence:
            assert_type(change, Joined | Left)
