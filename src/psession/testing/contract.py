"""The contract that every channel keeps, checked clause by clause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from psession.channels import FrameChannel
from psession.testing._channel_clauses import CHANNEL_CLAUSES
from psession.testing._clauses import MessageMaker, Pair, plain_message
from psession.testing._frame_clauses import FRAME_CLAUSES

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from psession.testing._clauses import Clause

__all__ = ["check_channel"]


async def check_channel(
    pair_maker: Callable[[], AbstractAsyncContextManager[Pair[Any]]],
    *,
    make_message: MessageMaker = plain_message,
    patience: float = 10.0,
) -> None:
    """Check that a kind of channel keeps the contract that a port relies on.

    Messages keep their edges and order, even when several tasks send at once; a cancelled receive loses nothing;
    closing wakes both sides, each with its own error; ``aclose`` is idempotent and bounded, cancelled or not; every
    call is a checkpoint. Where both ends are a `FrameChannel`, its further methods agree with ``send`` and ``receive``.
    Each clause gets a fresh pair and is tried from both ends.

    ::

        @asynccontextmanager
        async def pair():
            left, right = memory_pair()
            async with left, right:
                yield left, right

        async def test_my_channel():
            await check_channel(pair)

    Args:
        pair_maker: Returns a context manager of two connected, open channels, which cleans up after them. A
            channel that is slow to say goodbye to a silent peer should be made with a short close timeout: some clauses
            leave the peer silent.
        make_message: Makes a message of a number and a text, for channels that carry no ``dict``; equal arguments make
            equal messages.
        patience: Seconds on Trio's clock that one clause may take before it counts as hanging.

    Raises:
        AssertionError: A clause is not kept; the text names it, and ``__cause__`` is the underlying error.
    """
    async with pair_maker() as pair:
        framed = all(isinstance(end, FrameChannel) for end in pair)
    for clause in [*CHANNEL_CLAUSES, *(FRAME_CLAUSES if framed else [])]:
        for left in (0,) if clause.symmetric else (0, 1):
            await _check(clause, left, pair_maker, make_message, patience)


async def _check(
    clause: Clause,
    left: int,
    pair_maker: Callable[[], AbstractAsyncContextManager[Pair[Any]]],
    make_message: MessageMaker,
    patience: float,
) -> None:
    # The clause's failure is carried out of the maker's context, whose own nursery would wrap it in a group.
    failure: Exception | None = None
    with trio.move_on_after(2 * patience) as whole:
        async with pair_maker() as pair:
            with trio.move_on_after(patience) as scope:
                try:
                    await clause.check(pair[left], pair[1 - left], make_message)
                except Exception as error:
                    failure = _innermost(error)
            if scope.cancelled_caught:
                failure = TimeoutError(f"nothing happened for {patience} s")
    if failure is None and whole.cancelled_caught:
        failure = TimeoutError(f"the pair could not be closed within {patience} s")
    if failure is not None:
        text = str(failure) if isinstance(failure, AssertionError | TimeoutError) else repr(failure)
        raise AssertionError(f"{clause.sentence}: {text}") from failure


def _innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
