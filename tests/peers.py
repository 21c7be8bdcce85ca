"""The other side of a port, as small as a test can have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from psession import Port, Session

Message = dict[str, Any]


class Wire:
    """A synchronous sender that keeps what was sent; the test answers through `Port.dispatch` when it likes."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def __call__(self, message: Message) -> None:
        self.sent.append(message)


class Echo:
    """A synchronous sender whose peer answers at once with the request's own fields and its number."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.port: Port | None = None

    def __call__(self, message: Message) -> None:
        self.sent.append(message)
        assert self.port is not None
        self.port.dispatch({**message, "echo": True})


class PlainChannel(trio.abc.Channel[Message]):
    """Somebody else's channel: nothing but what `trio.abc.Channel` asks for."""

    def __init__(self, outgoing: trio.MemorySendChannel[Message], incoming: trio.MemoryReceiveChannel[Message]) -> None:
        self.outgoing = outgoing
        self.incoming = incoming
        self.closed = False

    async def send(self, value: Message) -> None:
        await self.outgoing.send(value)

    async def receive(self) -> Message:
        return await self.incoming.receive()

    async def aclose(self) -> None:
        self.closed = True
        self.outgoing.close()
        self.incoming.close()
        await trio.lowlevel.checkpoint()


def plain_pair(size: float = 64) -> tuple[PlainChannel, PlainChannel]:
    """Two connected channels."""
    to_right, from_left = trio.open_memory_channel[Message](size)
    to_left, from_right = trio.open_memory_channel[Message](size)
    return PlainChannel(to_right, from_right), PlainChannel(to_left, from_left)


async def serve_echo(channel: trio.abc.Channel[Message], *, delay: float = 0.0) -> None:
    """Answer each message with its own fields; after `delay` seconds, one after the other."""
    try:
        async for message in channel:
            if delay:
                await trio.sleep(delay)
            await channel.send({**message, "echo": True})
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def answers(session: Session) -> None:
    """A handler that talks back: the peer answers it."""
    async for message in session:
        if message.get("ask"):
            assert (await session.send({"question": 1}))["answer"] == 1
        await session.post({**message, "ok": True})


async def settle() -> None:
    """Let every task run until it waits; takes no virtual time."""
    await trio.testing.wait_all_tasks_blocked()


class Caught:
    """What a call in another task came to."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.at: float | None = None

    async def run(self, call: Callable[..., Any], *args: Any) -> None:
        """Await the call and keep what it returned or raised, and when."""
        try:
            self.value = await call(*args)
        except Exception as error:
            self.error = error
        self.at = trio.current_time()


async def start_and_cancel(passes: int, serve: Callable[..., Awaitable[Any]], *arguments: Any) -> trio.CancelScope:
    """Start a server as a nursery does, and cancel it after so many passes of the scheduler, started or not.

    Returns:
        The scope, which caught the cancellation.
    """
    async with trio.open_nursery() as nursery:

        async def cancel() -> None:
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel)
        await nursery.start(serve, *arguments)
        await trio.sleep_forever()
    return nursery.cancel_scope
