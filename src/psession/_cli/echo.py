"""``psession echo``: a peer that answers each message with the message itself."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from psession import SessionManager
from psession._cli._console import complain, say
from psession._cli._echoing import EchoingChannel
from psession._cli._problem import Exit
from psession._cli._url import serve_url
from psession.checks import LARGEST

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from psession import Session
    from psession._cli._address import Address
    from psession._cli._url import Channel, Listening


OWN_IDS: Final = range(LARGEST, LARGEST + 1)
"""The numbers of sessions that echo opens. It opens none, so that a peer may use any other number."""


async def run(address: Address, *, drain: float, tls: ssl.SSLContext | None = None) -> Exit:
    """Listen on `address`, print the URL, and answer until SIGINT or SIGTERM.

    Args:
        address: The address to listen on.
        drain: Seconds that sessions have to come to their end after SIGTERM.
        tls: For ``wss`` and ``tls``.

    Raises:
        Problem: It cannot listen there.
    """
    echo = Echo()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            listening: Listening = await nursery.start(partial(serve_url, echo.serve, address, tls=tls))
            say(str(listening.address))
            last: int | None = await anext(signals)
            if last == signal.SIGTERM:
                listening.stop()
                last = await echo.leave(drain, signals)
            nursery.cancel_scope.cancel()
    return Exit.INTERRUPTED if last == signal.SIGINT else Exit.OK


class Echo:
    """The connections of an echo, a port for each."""

    def __init__(self) -> None:
        self._manager = SessionManager(on_session=echo_session, session_ids=OWN_IDS)
        self._leaving = False

    async def serve(self, channel: Channel) -> None:
        """Answer the messages of one connection until it ends.

        Raises:
            trio.BrokenResourceError: It broke.
        """
        if self._leaving:
            return  # the peer connected just before
        echoing = EchoingChannel(channel)
        async with self._manager.accept(echoing) as port:
            await port.wait_closed()
        if echoing.broken is not None:
            raise echoing.broken

    async def leave(self, within: float, signals: AsyncIterator[int]) -> int | None:
        """Refuse new sessions, and return when the open ones have ended, or the next signal if it comes before that."""
        self._leaving = True
        last = None

        async def hurry() -> None:
            nonlocal last
            last = await anext(signals)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hurry)
            if not await self._manager.drain(within):
                complain(f"sessions that had not ended in {within:g} s (--drain) were cut off")
            nursery.cancel_scope.cancel()
        return last


async def echo_session(session: Session) -> None:
    """Answer each payload with itself."""
    async for payload in session:
        await session.post(payload)
