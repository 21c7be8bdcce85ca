"""The parts of the contract's clauses: a register, and the few steps that most clauses share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Channel: TypeAlias = trio.abc.Channel[Any]
ChannelT = TypeVar("ChannelT", bound=Channel)
Pair: TypeAlias = tuple[ChannelT, ChannelT]
"""Two channels that are connected."""


class MessageMaker(Protocol):
    """Makes a message that holds a number and a text; equal arguments make equal messages."""

    def __call__(self, number: int, text: str, /) -> Any:
        """Return the message."""
        ...


def plain_message(number: int, text: str) -> dict[str, Any]:
    """Return the message of a channel that carries mappings."""
    return {"number": number, "text": text}


@dataclass(frozen=True, slots=True)
class Clause:
    """One promise of the contract: a sentence, and the function that raises where the promise is not kept."""

    sentence: str
    check: Callable[[Any, Any, MessageMaker], Awaitable[None]]
    symmetric: bool
    """True where it treats both ends alike, so that one run is enough."""


def clause(
    register: list[Clause], sentence: str, *, symmetric: bool = False
) -> Callable[[Callable[[ChannelT, ChannelT, MessageMaker], Awaitable[None]]], None]:
    """Enter the decorated function into the register under its sentence."""

    def enter(check: Callable[[ChannelT, ChannelT, MessageMaker], Awaitable[None]]) -> None:
        register.append(Clause(sentence, check, symmetric))

    return enter


def require(kept: bool, otherwise: str) -> None:
    """Raise AssertionError unless `kept`. An `assert` would vanish under ``python -O``."""
    if not kept:
        raise AssertionError(otherwise)


async def require_error(expected: type[Exception], call: Callable[[], Awaitable[object]], what: str) -> None:
    """Raise AssertionError unless the call raises the expected error."""
    try:
        given = await call()
    except expected:
        return
    except Exception as error:
        raise AssertionError(f"{what} raised {error!r} where {expected.__name__} belongs") from error
    raise AssertionError(f"{what} gave {given!r} where {expected.__name__} belongs")


def require_same(got: list[Any], sent: list[Any]) -> None:
    """Raise AssertionError unless all that was sent has come, once and in order. The text shortens long messages."""
    for number, (one, other) in enumerate(zip(got, sent, strict=False)):
        if one != other:  # not `require`: to write a large message down takes longer than to carry it
            raise AssertionError(f"message {number} came as {one!r:.80}, and was {other!r:.80}")
    require(len(got) == len(sent), f"{len(got)} messages came of {len(sent)}")


async def send_each(channel: Channel, messages: list[Any]) -> None:
    """Send one message after the other."""
    for message in messages:
        await channel.send(message)


async def receive_each(channel: Channel, count: int) -> list[Any]:
    """Receive the next messages, one after the other."""
    return [await channel.receive() for _ in range(count)]


async def carry(sender: Channel, receiver: Channel, messages: list[Any]) -> None:
    """Send the messages from one side to the other, and check that it receives the same."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_each, sender, messages)
        require_same(await receive_each(receiver, len(messages)), messages)


async def collect_with_cancelling(receive: Callable[[], Awaitable[list[Any]]], last: Any) -> list[Any]:
    """Receive up to the last message, and cancel `receive` again and again: at its start, and in its first passes.

    Each eighth call is not cancelled: where the last message gets lost, this hangs rather than spins.
    """
    got: list[Any] = []
    tries = 0
    async with trio.open_nursery() as nursery:
        while not got or got[-1] != last:
            with trio.move_on_after(math.inf) as scope:
                if tries % 8 < 7:
                    nursery.start_soon(_cancel_after, scope, tries % 8)
                got += await receive()
            tries += 1
    return got


async def _cancel_after(scope: trio.CancelScope, passes: int) -> None:
    for _ in range(passes):
        await trio.lowlevel.checkpoint()
    scope.cancel()


def cancelled() -> trio.CancelScope:
    """Return a scope in which every checkpoint is cancelled."""
    scope = trio.move_on_after(math.inf)
    scope.cancel()
    return scope


async def settle() -> None:
    """Wait until every task waits; all that can arrive without a further step has then arrived."""
    await trio.testing.wait_all_tasks_blocked()
