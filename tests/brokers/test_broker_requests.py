"""Plain requests over each broker as turns of a port, and a Service that answers such, in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import SessionManager, SessionRemoteError, SessionTimeoutError
from psession.errors import MalformedMessageError
from psession.testing import check_dialect

from .lamps import make_lamp
from .sides import Side, on_each_side

if TYPE_CHECKING:
    from trio.testing import MockClock

settle = trio.testing.wait_all_tasks_blocked
pytestmark = on_each_side


def manager(side: Side, **options: Any) -> SessionManager:
    """Ports of plain requests."""
    return SessionManager(dialect=side.Requests(), session_timeout=5, **options)


def test_the_dialect_keeps_its_contract(side: Side) -> None:
    check_dialect(side.Requests(), {"n": 1}, both_ways=True)


@pytest.mark.parametrize("message", [None, [], {}, {"kind": "other"}])
def test_what_is_no_message_of_the_channel_is_malformed(side: Side, message: Any) -> None:
    with pytest.raises(MalformedMessageError):
        side.Requests().for_link().read(message)


async def test_a_port_asks_a_plain_responder(autojump_clock: MockClock, side: Side) -> None:
    async with (
        side.both() as (_, client),
        side.answering(client, "echo"),
        client.requests("echo") as channel,
        manager(side).port("echo", channel) as port,
    ):
        got: list[Any] = [None] * 100

        async def ask(number: int) -> None:
            got[number] = await port.request({"n": number})

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
        assert got == [{"n": number} for number in range(100)]


async def test_nobody_there_is_not_sent_at_once_and_the_port_lives(autojump_clock: MockClock, side: Side) -> None:
    async with (
        side.both() as (_, client),
        client.requests("echo") as channel,
        manager(side).port("echo", channel) as port,
    ):
        for _ in range(2):
            with pytest.raises(SessionRemoteError, match="nobody serves") as caught:
                await port.request({}, timeout=60)
            assert (caught.value.outcome, caught.value.code) == ("not_sent", "no_responders")
        assert trio.current_time() == 0.0
        async with side.answering(client, "echo"):
            assert await port.request({"a": 1}) == {"a": 1}


async def test_a_service_answers_plain_requests(autojump_clock: MockClock, side: Side) -> None:
    async with (
        side.broker() as broker,
        side.client(broker) as there,
        side.client(broker) as client,
        there.requests("lamp", serves=True, **{side.group: "q"}) as channel,
        manager(side, on_request=make_lamp()).port("askers", channel),
    ):
        await settle()
        reply = await client.request("lamp", b'{"command": "dim", "level": 4}')
        assert json.loads(side.data(reply)) == {"level": 4}
        wrong = await client.request("lamp", b'{"command": "sing"}')
        assert (side.data(wrong), side.code(wrong)) == (b"", "refused.unknown_method")
        assert "no method is called 'sing'" in str(side.text(wrong))
        for data in (b"{", b"\xff"):
            broken = await client.request("lamp", data)
            assert side.code(broken) == "refused.malformed"
        async with client.requests("lamp") as asking, manager(side).port("lamp", asking) as port:
            assert await port.request({"command": "name"}) == {"result": "lamp"}
            with pytest.raises(SessionRemoteError) as refused:
                await port.request({"command": "dim"})
            assert (refused.value.code, refused.value.outcome) == ("refused.bad_arguments", "refused")
            with pytest.raises(SessionRemoteError) as refused:
                await port.request({"command": "refuse"})
            assert (refused.value.code, refused.value.data) == ("refused.holiday", {"until": 2})
            with pytest.raises(SessionRemoteError) as failed:
                await port.request({"command": "fail"})
            assert (failed.value.code, failed.value.outcome) == ("crashed", "sent")


async def test_silence_and_a_broken_connection_end_a_request_alone(autojump_clock: MockClock, side: Side) -> None:
    async with (
        side.both() as (broker, client),
        client.subscribe("deaf") as subscription,
        client.requests("deaf") as channel,
        manager(side).port("deaf", channel) as port,
    ):
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=2)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(SessionRemoteError, match="broke") as caught:
                    await port.request({}, timeout=60)
                assert (caught.value.code, caught.value.outcome) == ("disconnected", "sent")

            nursery.start_soon(ask)
            await settle()
            await broker.kill()
        await client.until_connected()
        await subscription.receive_batch()
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await client.respond(await subscription.receive(), b'"yes"')

            nursery.start_soon(answer)
            assert await port.request({}) == "yes"


async def test_what_wants_no_answer_goes_to_on_message(autojump_clock: MockClock, side: Side) -> None:
    got: list[Any] = []
    async with (
        side.both() as (_, client),
        client.requests(f"news{side.separator}{side.wild}", serves=True) as there,
        manager(side, on_message=got.append).port("there", there),
        client.requests(f"news{side.separator}a") as here,
        manager(side).port("here", here) as port,
    ):
        await port.post({"n": 1})
        await client.publish(f"news{side.separator}b", b"[2]")
        await settle()
    assert got == [{"n": 1}, [2]]


async def test_a_group_is_for_who_answers(autojump_clock: MockClock, side: Side) -> None:
    async with side.both() as (_, client):
        with pytest.raises(ValueError, match=f"{side.group} is for who answers: give serves=True"):
            async with client.requests("a", **{side.group: "q"}):
                raise AssertionError
