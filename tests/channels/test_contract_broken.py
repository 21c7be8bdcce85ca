"""The contract catches each way of breaking it, by name: fakes that keep all of it but for one place."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
import trio
import trio.testing

from psession.channels import FrameChannel, MemoryChannel, memory_pair
from psession.testing import check_channel


class Honest(FrameChannel):
    """Keeps the contract; what a fake below does not say is this."""

    other: Self

    def __init__(self, inner: MemoryChannel) -> None:
        self.inner = inner
        self.closed = False
        self.gone = trio.Event()

    def encode(self, message: Any) -> Any:
        return self.inner.encode(message)

    async def send(self, value: Any) -> None:
        await self.inner.send(value)

    async def send_frames(self, frames: Sequence[Any]) -> None:
        await self.inner.send_frames(frames)

    def send_frame_now(self, frame: Any) -> Any:
        return self.inner.send_frame_now(frame)

    async def receive(self) -> Any:
        return await self.inner.receive()

    async def receive_batch(self) -> list[Any]:
        return await self.inner.receive_batch()

    def receive_batch_now(self) -> list[Any]:
        return self.inner.receive_batch_now()

    async def aclose(self) -> None:
        self.closed = True
        await self.inner.aclose()
        self.gone.set()


@asynccontextmanager
async def pair_of(fake: type[Honest]) -> AsyncIterator[tuple[Honest, Honest]]:
    left, right = (fake(end) for end in memory_pair(8))
    left.other, right.other = right, left
    yield left, right
    for end in (left, right):
        await end.inner.aclose()
        end.gone.set()


class SwapsNeighbours(Honest):
    kept: Any = None

    async def send(self, value: Any) -> None:
        if self.kept is None:
            self.kept = value
            await trio.lowlevel.checkpoint()
        else:
            await self.inner.send(value)
            await self.inner.send(self.kept)
            self.kept = None


class SendsInHalves(Honest):
    async def send(self, value: Any) -> None:
        await self.inner.send(value["number"])
        await self.inner.send(value["text"])

    async def receive(self) -> Any:
        return {"number": await self.inner.receive(), "text": await self.inner.receive()}


class LosesWhatACancelledReceiveHeld(Honest):
    async def receive(self) -> Any:
        message = await self.inner.receive()
        await trio.lowlevel.checkpoint()
        return message


class SendsWhatWasCancelled(Honest):
    async def send(self, value: Any) -> None:
        with trio.CancelScope(shield=True):
            await self.inner.send(value)
        await trio.lowlevel.checkpoint()


class CannotSendAfterACancelledSend(Honest):
    cut = False

    async def send(self, value: Any) -> None:
        if self.cut:
            raise trio.BrokenResourceError
        try:
            await self.inner.send(value)
        except trio.Cancelled:
            self.cut = True
            raise


class LeavesItsOwnReceiveWaiting(Honest):
    async def receive(self) -> Any:
        if self.closed:
            raise trio.ClosedResourceError
        try:
            return await self.inner.receive()
        except trio.ClosedResourceError:
            return await trio.sleep_forever()


class LeavesItsOwnSendWaiting(Honest):
    async def send(self, value: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self.inner.send_frame_now(value) is not None:
            return
        try:
            await self.inner.send(value)
        except trio.ClosedResourceError:
            await trio.sleep_forever()


class BlamesTheWorldForItsClosing(Honest):
    async def send(self, value: Any) -> None:
        broken = self.closed
        try:
            await self.inner.send(value)
        except trio.ClosedResourceError:
            if broken:
                raise trio.BrokenResourceError from None
            raise


class ReceivesAfterClosing(Honest):
    async def receive(self) -> Any:
        if self.closed:
            await trio.lowlevel.checkpoint()
            return {}
        return await self.inner.receive()


class DropsWhatIsUnreadAtTheEnd(Honest):
    async def receive(self) -> Any:
        if self.other.closed:
            raise trio.EndOfChannel
        return await self.inner.receive()


class LeavesThePeerWaiting(Honest):
    async def receive(self) -> Any:
        waited = not self.other.closed
        try:
            return await self.inner.receive()
        except trio.EndOfChannel:
            return await trio.sleep_forever() if waited else self.ends()

    def ends(self) -> Any:
        raise trio.EndOfChannel


class SaysTheEndOnce(Honest):
    ended = False

    async def receive(self) -> Any:
        if self.ended:
            await trio.sleep_forever()
        try:
            return await self.inner.receive()
        except trio.EndOfChannel:
            self.ended = True
            raise


class SwallowsWhatNobodyReceives(Honest):
    async def send(self, value: Any) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await self.inner.send(value)


class ClosesOnce(Honest):
    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed twice")
        await super().aclose()


class WaitsForThePeerToClose(Honest):
    async def aclose(self) -> None:
        await super().aclose()
        await self.other.gone.wait()


class StaysOpenWhereClosingIsCancelled(Honest):
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        await super().aclose()


class SendsWithoutACheckpoint(Honest):
    async def send(self, value: Any) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.inner.send_frame_now(value) is None:
            await self.inner.send(value)


class ReceivesWithoutACheckpoint(Honest):
    def __init__(self, inner: MemoryChannel) -> None:
        super().__init__(inner)
        self.waiting: list[Any] = []

    async def receive(self) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed:
            raise trio.ClosedResourceError
        if not self.waiting:
            self.waiting += await self.inner.receive_batch()
        return self.waiting.pop(0)

    async def receive_batch(self) -> list[Any]:
        return [await self.receive()]


class ClosesWithoutACheckpoint(Honest):
    async def aclose(self) -> None:
        if not self.closed:
            await super().aclose()


class WritesIntoTheMessage(Honest):
    def encode(self, message: Any) -> Any:
        message["sid"] = 1
        return message


class SendsFramesBackwards(Honest):
    async def send_frames(self, frames: Sequence[Any]) -> None:
        await self.inner.send_frames(frames[::-1])


class ForgetsTheRestOfABatch(Honest):
    async def receive_batch(self) -> list[Any]:
        return (await self.inner.receive_batch())[:1]


class LosesWhatACancelledBatchHeld(Honest):
    async def receive_batch(self) -> list[Any]:
        batch = await self.inner.receive_batch()
        await trio.lowlevel.checkpoint()
        return batch


class TakesFramesThatFindNoRoom(Honest):
    def send_frame_now(self, frame: Any) -> Any:
        self.inner.send_frame_now(frame)
        return b""


class WritesIntoASendUnderWay(Honest):
    def send_frame_now(self, frame: Any) -> Any:
        left = self.inner.send_frame_now(frame)
        return frame if left is None else left


class LosesABatchThatIsThereNow(Honest):
    def receive_batch_now(self) -> list[Any]:
        return self.inner._rest()[1:]


class TakesFramesWhenClosed(Honest):
    def send_frame_now(self, frame: Any) -> Any:
        return b"" if self.closed else self.inner.send_frame_now(frame)


BREAKS = {
    SwapsNeighbours: "messages keep their edges and their order",
    SendsInHalves: "tasks that send at the same time never mix",
    LosesWhatACancelledReceiveHeld: "a cancelled receive loses nothing",
    SendsWhatWasCancelled: "a send that is cancelled before it starts sends nothing",
    CannotSendAfterACancelledSend: "a send that is cancelled before it starts sends nothing",
    LeavesItsOwnReceiveWaiting: "closing wakes this side's receive",
    LeavesItsOwnSendWaiting: "closing wakes this side's send",
    BlamesTheWorldForItsClosing: "a closed channel refuses send and receive",
    ReceivesAfterClosing: "a closed channel refuses send and receive",
    DropsWhatIsUnreadAtTheEnd: "closing ends the other side's receive with EndOfChannel, after all that was sent",
    LeavesThePeerWaiting: "closing wakes the other side's receive",
    SaysTheEndOnce: "closing ends the other side's receive with EndOfChannel, after all that was sent",
    SwallowsWhatNobodyReceives: "sending to a side that closed raises BrokenResourceError",
    ClosesOnce: "aclose is idempotent",
    WaitsForThePeerToClose: "needs no help from the other side",
    StaysOpenWhereClosingIsCancelled: "aclose closes even where it is cancelled",
    SendsWithoutACheckpoint: "every call is a checkpoint",
    ReceivesWithoutACheckpoint: "every call is a checkpoint",
    ClosesWithoutACheckpoint: "every call is a checkpoint",
    WritesIntoTheMessage: "encode leaves the message as it was",
    SendsFramesBackwards: "send_frames sends each frame as send would",
    ForgetsTheRestOfABatch: "receive_batch and receive take turns",
    LosesWhatACancelledBatchHeld: "a cancelled receive_batch loses nothing",
    TakesFramesThatFindNoRoom: "send_frame_now sends the frame, or says what is left",
    WritesIntoASendUnderWay: "send_frame_now keeps out of a send that is under way",
    LosesABatchThatIsThereNow: "receive_batch_now gives what comes next",
    TakesFramesWhenClosed: "a closed channel refuses frames and batches too",
}


async def test_the_honest_fake_keeps_the_contract(autojump_clock: trio.testing.MockClock) -> None:
    await check_channel(lambda: pair_of(Honest))


@pytest.mark.parametrize("fake", BREAKS, ids=lambda fake: fake.__name__)
async def test_the_contract_names_what_a_channel_breaks(
    fake: type[Honest], autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(AssertionError, match=BREAKS[fake]) as caught:
        await check_channel(lambda: pair_of(fake))
    assert caught.value.__cause__ is not None


async def test_a_clause_that_hangs_fails_when_patience_ends(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(AssertionError, match=r"nothing happened for 3.0 s"):
        await check_channel(lambda: pair_of(WaitsForThePeerToClose), patience=3.0)
