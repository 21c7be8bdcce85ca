"""The clauses that every `trio.abc.Channel` of messages keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio
import trio.testing

from psession.testing._clauses import (
    Channel,
    Clause,
    cancelled,
    carry,
    clause,
    collect_with_cancelling,
    receive_each,
    require,
    require_error,
    require_same,
    send_each,
    settle,
)

if TYPE_CHECKING:
    from psession.testing._clauses import MessageMaker

CHANNEL_CLAUSES: Final[list[Clause]] = []

_LARGE: Final = 70_000
"""Characters of a message that no single read of 65,536 bytes holds."""


def mixed_messages(make: MessageMaker, count: int) -> list[Any]:
    """Return messages from empty to large, in a fixed mixture."""
    sizes = [_LARGE if number % 100 == 50 else number * 37 % 300 for number in range(count)]
    return [make(number, "x" * size) for number, size in enumerate(sizes)]


@clause(CHANNEL_CLAUSES, "messages keep their edges and their order, both ways at once", symmetric=True)
async def edges_and_order(left: Channel, right: Channel, make: MessageMaker) -> None:
    messages = mixed_messages(make, 1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, left, right, messages)
        nursery.start_soon(carry, right, left, list(reversed(messages)))


@clause(CHANNEL_CLAUSES, "tasks that send at the same time never mix their messages")
async def concurrent_senders(left: Channel, right: Channel, make: MessageMaker) -> None:
    senders, each = 8, 25
    sent = [[make(sender * each + n, "x" * (n * 997 % 3000)) for n in range(each)] for sender in range(senders)]
    async with trio.open_nursery() as nursery:
        for messages in sent:
            nursery.start_soon(send_each, left, messages)
        got = await receive_each(right, senders * each)
    for messages in sent:
        require_same([message for message in got if message in messages], messages)


@clause(CHANNEL_CLAUSES, "a cancelled receive loses nothing")
async def cancelled_receive(left: Channel, right: Channel, make: MessageMaker) -> None:
    messages = mixed_messages(make, 200)

    async def receive() -> list[Any]:
        return [await right.receive()]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_each, left, messages)
        require_same(await collect_with_cancelling(receive, messages[-1]), messages)


@clause(CHANNEL_CLAUSES, "a send that is cancelled before it starts sends nothing, and the next one goes through")
async def cancelled_send(left: Channel, right: Channel, make: MessageMaker) -> None:
    with cancelled() as scope:
        await left.send(make(0, "never"))
    require(scope.cancelled_caught, "send ran on in a cancelled scope")
    await carry(left, right, [make(1, "sent")])


@clause(CHANNEL_CLAUSES, "aclose is idempotent, and needs no help from the other side")
async def closing_twice(left: Channel, right: Channel, make: MessageMaker) -> None:
    for channel in (left, left, right, right, left):
        await channel.aclose()


@clause(CHANNEL_CLAUSES, "closing wakes this side's receive with ClosedResourceError")
async def closing_wakes_own_receive(left: Channel, right: Channel, make: MessageMaker) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(require_error, trio.ClosedResourceError, left.receive, "the receive that waited")
        await settle()
        await left.aclose()


@clause(CHANNEL_CLAUSES, "closing wakes this side's send with ClosedResourceError")
async def closing_wakes_own_send(left: Channel, right: Channel, make: MessageMaker) -> None:
    large = make(0, "x" * _LARGE)
    done = False

    async def flood() -> None:
        nonlocal done
        for _ in range(1000):  # 70 MB: a channel that takes all of it has nobody to wake
            await left.send(large)
        done = True

    async def flood_ends() -> None:
        try:
            await flood()
        except trio.ClosedResourceError:
            return
        require(done, "the send that waited was not woken")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood_ends)
        await settle()
        await left.aclose()


@clause(CHANNEL_CLAUSES, "a closed channel refuses send and receive with ClosedResourceError")
async def closed_refuses(left: Channel, right: Channel, make: MessageMaker) -> None:
    await left.aclose()
    await require_error(trio.ClosedResourceError, lambda: left.send(make(0, "")), "send after aclose")
    await require_error(trio.ClosedResourceError, left.receive, "receive after aclose")


@clause(CHANNEL_CLAUSES, "closing wakes the other side's receive with EndOfChannel")
async def closing_wakes_other_side(left: Channel, right: Channel, make: MessageMaker) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(require_error, trio.EndOfChannel, right.receive, "the receive that waited")
        await settle()
        await left.aclose()


@clause(CHANNEL_CLAUSES, "closing ends the other side's receive with EndOfChannel, after all that was sent")
async def closing_ends_other_side(left: Channel, right: Channel, make: MessageMaker) -> None:
    messages = mixed_messages(make, 60)

    async def send_and_close() -> None:
        await send_each(left, messages)
        await left.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_and_close)
        await settle()
        require_same(await receive_each(right, len(messages)), messages)
        for time in ("first", "second"):
            await require_error(trio.EndOfChannel, right.receive, f"the {time} receive after the last message")


@clause(CHANNEL_CLAUSES, "sending to a side that closed raises BrokenResourceError, at the latest after some messages")
async def sending_to_nobody(left: Channel, right: Channel, make: MessageMaker) -> None:
    await right.aclose()

    async def send_some() -> None:
        for number in range(1000):  # a network learns of it only by an answer to the first
            await left.send(make(number, ""))

    await require_error(trio.BrokenResourceError, send_some, "sending 1,000 messages to nobody")


@clause(CHANNEL_CLAUSES, "both sides may close at once", symmetric=True)
async def closing_at_once(left: Channel, right: Channel, make: MessageMaker) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(left.aclose)
        nursery.start_soon(right.aclose)


@clause(CHANNEL_CLAUSES, "aclose closes even where it is cancelled")
async def closing_cancelled(left: Channel, right: Channel, make: MessageMaker) -> None:
    with cancelled():
        await left.aclose()
    await require_error(trio.ClosedResourceError, lambda: left.send(make(0, "")), "send after aclose")
    try:
        given = await right.receive()
    except (trio.EndOfChannel, trio.BrokenResourceError):
        return
    raise AssertionError(f"the other side received {given!r:.80} where its channel had ended")


@clause(CHANNEL_CLAUSES, "every call is a checkpoint")
async def checkpoints(left: Channel, right: Channel, make: MessageMaker) -> None:
    messages = [make(number, "") for number in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_checked, left, messages)
        await settle()
        for message in messages:
            with trio.testing.assert_checkpoints():
                got = await right.receive()
            require_same([got], [message])
    for _time in ("first", "second"):
        with trio.testing.assert_checkpoints():
            await left.aclose()


async def _send_checked(channel: Channel, messages: list[Any]) -> None:
    for message in messages:
        with trio.testing.assert_checkpoints():
            await channel.send(message)
