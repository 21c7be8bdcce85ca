"""The further clauses of a `FrameChannel`: its methods agree with ``send`` and ``receive``."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

import trio
import trio.testing

from psession.testing._channel_clauses import mixed_messages
from psession.testing._clauses import (
    Clause,
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
    from psession.channels import FrameChannel
    from psession.testing._clauses import MessageMaker

FRAME_CLAUSES: Final[list[Clause]] = []


@clause(FRAME_CLAUSES, "encode leaves the message as it was")
async def encoding(left: FrameChannel, right: FrameChannel, make: MessageMaker) -> None:
    message = make(1, "text")
    before = copy.deepcopy(message)
    left.encode(message)
    require(message == before, f"the message became {message!r}")


@clause(FRAME_CLAUSES, "send_frames sends each frame as send would, in order")
async def sending_frames(left: FrameChannel, right: FrameChannel, make: MessageMaker) -> None:
    messages = mixed_messages(make, 150)

    async def send_both_ways() -> None:
        for start in range(0, len(messages), 50):
            alone, joined = messages[start : start + 10], messages[start + 10 : start + 50]
            await send_each(left, alone)
            with trio.testing.assert_checkpoints():
                await left.send_frames([left.encode(message) for message in joined])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_both_ways)
        require_same(await receive_each(right, len(messages)), messages)


@clause(FRAME_CLAUSES, "receive_batch and receive take turns without losing a message")
async def batches_and_singles(left: FrameChannel, right: FrameChannel, make: MessageMaker) -> None:
    messages = mixed_messages(make, 150)
    got: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_each, left, messages)
        await settle()
        while len(got) < len(messages):
            got.append(await right.receive())
            if len(got) < len(messages):
                with trio.testing.assert_checkpoints():
                    batch = await right.receive_batch()
                require(len(batch) > 0, "a batch was empty")
                got += batch
    require_same(got, messages)


@clause(FRAME_CLAUSES, "a cancelled receive_batch loses nothing")
async def cancelled_batch(left: FrameChannel, right: FrameChannel, make: MessageMaker) -> None:
    messages = mixed_messages(make, 200)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_each, left, messages)
        require_same(await collect_with_cancelling(right.receive_batch, messages[-1]), messages)


@clause(FRAME_CLAUSES, "send_frame_now sends the frame, or says what is left of it")
async def sending_now(left: FrameChannel, right: FrameChannel, make: MessageMaker) -> None:
    messages = [make(number, "x" * 20_000) for number in range(250)]  # 5 MB: more than a socket takes at once

    async def send_now() -> None:
        for message in messages:
            frame = left.encode(message)
            rest = left.send_frame_now(frame)
            if rest is None:
                await left.send_frames([frame])
            elif rest:
                await left.send_frames([rest])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_now)
        await settle()
        require_same(await receive_each(right, len(messages)), messages)


@clause(FRAME_CLAUSES, "send_frame_now keeps out of a send that is under way")
async def sending_now_meanwhile(left: FrameChannel, right: FrameChannel, make: MessageMaker) -> None:
    messages = [make(number, "x" * 200_000) for number in range(32)]  # 6 MB: more than a socket takes at once
    between = make(-1, "between")
    sent = False

    async def send_all() -> None:
        nonlocal sent
        await send_each(left, messages)
        sent = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all)
        await settle()
        rest = None if sent else left.send_frame_now(left.encode(between))
        require(not rest, "it wrote a part of a frame into another one's place")
        got = await receive_each(right, len(messages) + (rest is not None))
    require_same([message for message in got if message != between], messages)


@clause(FRAME_CLAUSES, "receive_batch_now gives what comes next, and leaves who waits in receive_batch waiting")
async def batches_now(left: FrameChannel, right: FrameChannel, make: MessageMaker) -> None:
    messages = mixed_messages(make, 42)
    got: list[Any] = []

    async def receive_the_rest() -> None:
        while len(got) < len(messages):
            got.extend(await right.receive_batch())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_each, left, messages[:40])
        await settle()
        got.append(await right.receive())
        while len(got) < 40:
            got += right.receive_batch_now() or await right.receive_batch()
        nursery.start_soon(receive_the_rest)
        await settle()
        sent = left.send_frame_now(left.encode(messages[40])) == b""
        got += right.receive_batch_now()
        nursery.start_soon(send_each, left, messages[41:] if sent else messages[40:])
    require_same(got, messages)


@clause(FRAME_CLAUSES, "a closed channel refuses frames and batches too")
async def closed_refuses_frames(left: FrameChannel, right: FrameChannel, make: MessageMaker) -> None:
    frame = left.encode(make(0, ""))
    await left.aclose()
    require(left.send_frame_now(frame) is None, "send_frame_now took a frame after aclose")
    await require_error(trio.ClosedResourceError, lambda: left.send_frames([frame]), "send_frames after aclose")
    await require_error(trio.ClosedResourceError, left.receive_batch, "receive_batch after aclose")
    require(left.receive_batch_now() == [], "receive_batch_now gave messages after aclose")
