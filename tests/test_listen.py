"""One channel, many ports: each message to its port, and nobody waits for anybody."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel

from psession import MalformedMessageError, MessageError, SessionManager
from psession.channels import memory_pair
from psession.shell.listen import MAX_HELD_MESSAGES, MAX_UNKNOWN_NAMES

from .peers import Caught, Message, PlainChannel, Wire, plain_pair, settle
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from psession import Session

PAIRS = pytest.mark.parametrize("pair", [memory_pair, plain_pair])


def by_from(message: Message) -> str | None:
    """The port's name as this bus writes it."""
    return message.get("from")


@PAIRS
async def test_each_message_goes_to_its_port_by_name(pair: Callable[[], tuple[Any, Any]]) -> None:
    bus, world = pair()
    manager = SessionManager()
    async with trio.open_nursery() as nursery:

        async def device() -> None:
            async for message in world:
                await world.send({"from": message["to"], "sid": message["sid"], "n": message["n"]})

        def sender(name: str) -> Callable[[Message], Any]:
            async def send(message: Message) -> None:
                await bus.send({**message, "to": name})

            return send

        nursery.start_soon(device)
        nursery.start_soon(lambda: manager.listen(bus, port_of=by_from))
        async with manager.port("a", sender("a")) as a, manager.port("b", sender("b")) as b:
            for n in range(5):
                for port in (a, b):
                    reply = await port.request({"n": n})
                    assert (reply["from"], reply["n"]) == (port.name, n)
        nursery.cancel_scope.cancel()
    assert_empty(manager, a, b)


@PAIRS
async def test_listening_ends_when_the_channel_does(pair: Callable[[], tuple[Any, Any]]) -> None:
    bus, world = pair()
    manager = SessionManager()
    await world.send({"from": "nobody"})
    await world.aclose()
    await manager.listen(bus, port_of=by_from)
    assert manager.statistics().unknown_port == 1
    assert_empty(manager)


async def test_a_broken_channel_raises_its_own_error_bare() -> None:
    error = trio.BrokenResourceError("bus")

    class Broken(PlainChannel):
        async def receive(self) -> Message:
            await trio.lowlevel.checkpoint()
            raise error

    left, _ = plain_pair()
    manager = SessionManager()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await manager.listen(Broken(left.outgoing, left.incoming), port_of=by_from)
    assert caught.value is error
    assert_empty(manager)


async def test_a_slow_port_holds_up_no_other(autojump_clock: MockClock) -> None:
    bus, world = memory_pair()

    async def stuck(session: Session) -> None:
        await trio.sleep_forever()

    async def never(message: Message) -> None:
        await trio.sleep_forever()

    manager = SessionManager(inbox_limit=4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: manager.listen(bus, port_of=by_from))
        async with (
            manager.port("slow", never, on_session=stuck, on_message=never, grace=0) as slow,
            manager.port("quick", Wire()) as quick,
        ):
            nursery.start_soon(Caught().run, slow.request, {})
            waiting = Caught()
            nursery.start_soon(waiting.run, quick.request, {})
            await settle()
            for n in range(50):
                await world.send({"from": "slow", "sid": 1 + n % 3})
                await world.send({"from": "slow", "plain": n})
            await world.send({"from": "quick", "sid": 1, "ok": 1})
            await settle()
            assert (waiting.value["ok"], waiting.at) == (1, 0.0)
            assert slow.statistics().overrun > 0
            await quick.post({})
            assert not quick.closed
        nursery.cancel_scope.cancel()
    assert_empty(manager, slow, quick)


@PAIRS
async def test_on_unknown_opens_a_port_that_gets_everything_that_came_for_it(
    pair: Callable[[], tuple[Any, Any]],
) -> None:
    bus, world = pair()
    manager = SessionManager()
    seen: list[tuple[str, int]] = []
    asked: list[str] = []

    def note(name: str, n: int) -> None:
        seen.append((name, n))

    async def handle(session: Session) -> None:
        async for message in session:
            note(session.port.name, message["n"])

    async def open_port(name: str, message: Message) -> None:
        asked.append(name)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        async with manager.port(name, Wire(), on_session=handle):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: manager.listen(bus, port_of=by_from, on_unknown=open_port))
        for n in range(4):
            await world.send({"from": "a", "sid": 7, "n": n})
            await world.send({"from": "b", "sid": 7, "n": n})
        await settle()
        assert sorted(manager.ports) == ["a", "b"]
        assert sorted(asked) == ["a", "b"]
        assert sorted(seen) == [(name, n) for name in "ab" for n in range(4)]
        assert [n for name, n in seen if name == "a"] == [0, 1, 2, 3]
        await world.send({"from": "a", "sid": 7, "n": 4})
        await settle()
        assert seen[-1] == ("a", 4)
        await world.aclose()
    assert_empty(manager)


async def test_on_unknown_may_refuse_and_what_came_is_dropped_and_counted() -> None:
    bus, world = memory_pair()
    manager = SessionManager()
    asked: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: manager.listen(bus, port_of=by_from, on_unknown=lambda name, message: asked.append(name))
        )
        for _ in range(3):
            await world.send({"from": "x"})
            await settle()
        await world.send({"no": "name"})
        await settle()
        assert (asked, manager.statistics().unknown_port) == (["x"] * 3, 4)
        await world.aclose()
    assert_empty(manager)


async def test_a_flood_of_invented_names_and_of_messages_for_one_is_bounded() -> None:
    bus, world = plain_pair(10)
    manager = SessionManager()
    running: list[int] = [0, 0]

    async def think(name: str, message: Message) -> None:
        running[0] += 1
        running[1] = max(running)
        try:
            await trio.sleep_forever()
        finally:
            running[0] -= 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: manager.listen(bus, port_of=by_from, on_unknown=think))
        for _ in range(MAX_HELD_MESSAGES + 10):
            await world.send({"from": "first"})
        for n in range(MAX_UNKNOWN_NAMES + 50):
            await world.send({"from": f"n{n}"})
        await settle()
        assert running == [MAX_UNKNOWN_NAMES] * 2
        assert (manager.statistics().refused, manager.statistics().overrun) == (51, 10)
        await world.aclose()
    assert running[0] == 0
    assert_empty(manager)


async def test_more_devices_than_names_in_question_can_be_served_by_ports_opened_in_on_unknown() -> None:
    bus, world = plain_pair(10)
    manager = SessionManager()
    many = MAX_UNKNOWN_NAMES + 20

    async def open_port(name: str, message: Message) -> None:
        async with manager.port(name, Wire()):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: manager.listen(bus, port_of=by_from, on_unknown=open_port))
        for n in range(many):
            await world.send({"from": f"n{n}"})
        await settle()
        assert len(manager.ports) == many
        await world.aclose()
    assert_empty(manager)


async def test_a_port_of_that_raises_costs_that_message_alone(caplog: pytest.LogCaptureFixture) -> None:
    bus, world = memory_pair()
    manager = SessionManager()
    async with trio.open_nursery() as nursery, manager.port("a", Wire()) as a:
        nursery.start_soon(lambda: manager.listen(bus, port_of=lambda message: message["from"]))
        waiting = Caught()
        nursery.start_soon(waiting.run, a.request, {})
        await settle()
        await world.send({"no": "name"})
        await world.send({"from": "a", "sid": 1})
        await settle()
        assert waiting.value == {"from": "a"}
        assert manager.statistics().malformed == 1
        await world.aclose()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_malformed_message_costs_itself_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Garbled(PlainChannel):
        async def receive(self) -> Message:
            message = await super().receive()
            if message.get("bad"):
                raise MalformedMessageError("garbled")
            return message

    left, world = plain_pair()
    manager = SessionManager()
    seen: list[int] = []
    async with (
        trio.open_nursery() as nursery,
        manager.port("a", Wire(), on_message=lambda message: seen.append(message["n"])),
    ):
        nursery.start_soon(lambda: manager.listen(Garbled(left.outgoing, left.incoming), port_of=by_from))
        for n in range(4):
            await world.send({"from": "a", "n": n, "bad": n == 1})
        await settle()
        assert (seen, manager.statistics().malformed) == ([0, 2, 3], 1)
        await world.aclose()
    assert issubclass(MalformedMessageError, MessageError)


async def test_what_on_unknown_raises_comes_out_bare_where_it_is_strict() -> None:
    bus, world = memory_pair()
    error = KeyError("mine")

    def broken(name: str, message: Message) -> None:
        raise error

    await world.send({"from": "x"})
    manager = SessionManager(strict=True)
    with pytest.raises(KeyError) as caught:
        await manager.listen(bus, port_of=by_from, on_unknown=broken)
    assert caught.value is error
    assert_empty(manager)


async def test_what_on_unknown_raises_costs_the_messages_for_that_name_alone(caplog: pytest.LogCaptureFixture) -> None:
    bus, world = memory_pair()

    async def broken(name: str, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError(message["no such field"])

    manager = SessionManager()
    async with trio.open_nursery() as nursery, manager.port("a", Wire()) as port:
        nursery.start_soon(lambda: manager.listen(bus, port_of=by_from, on_unknown=broken))
        for n in range(3):
            await world.send({"from": "x", "n": n})
        waiting = Caught()
        nursery.start_soon(waiting.run, port.request, {})
        await settle()
        await world.send({"from": "a", "sid": 1})
        await settle()
        assert waiting.value == {"from": "a"}
        assert (manager.statistics().crashed, manager.statistics().unknown_port) == (1, 3)
        await world.aclose()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert_empty(manager)


@pytest.mark.parametrize("name", [[], {}, 5, True, b"a"], ids=repr)
async def test_a_name_that_is_no_text_costs_its_message_alone(name: Any) -> None:
    bus, world = memory_pair()
    manager = SessionManager()
    asked: list[Any] = []
    async with trio.open_nursery() as nursery, manager.port("a", Wire()) as port:
        nursery.start_soon(
            lambda: manager.listen(bus, port_of=by_from, on_unknown=lambda name, message: asked.append(name))
        )
        await world.send({"from": name, "sid": 1})
        waiting = Caught()
        nursery.start_soon(waiting.run, port.request, {})
        await settle()
        await world.send({"from": "a", "sid": 1})
        await settle()
        assert (waiting.value, asked, manager.statistics().malformed) == ({"from": "a"}, [], 1)
        await world.aclose()


@pytest.mark.parametrize("strict", [False, True])
async def test_an_on_message_that_raises_does_not_end_the_listening_to_others(
    strict: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bus, world = memory_pair()
    error = KeyError("mine")

    def broken(message: Message) -> None:
        raise error

    manager = SessionManager()
    listening = Caught()
    left = Caught()
    async with trio.open_nursery() as nursery, manager.port("good", Wire()) as good:
        nursery.start_soon(lambda: listening.run(lambda: manager.listen(bus, port_of=by_from)))

        async def bad() -> None:
            async with manager.port("bad", Wire(), on_message=broken, strict=strict):
                await trio.lowlevel.checkpoint()
                await trio.sleep_forever()

        nursery.start_soon(left.run, bad)
        waiting = Caught()
        nursery.start_soon(waiting.run, good.request, {})
        await settle()
        await world.send({"from": "bad"})
        await world.send({"from": "good", "sid": 1})
        await settle()
        assert (listening.at, waiting.value) == (None, {"from": "good"})
        assert left.error is (error if strict else None)
        nursery.cancel_scope.cancel()
