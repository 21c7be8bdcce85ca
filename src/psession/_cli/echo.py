"""``psession echo``: a peer that answers each message with the message itself."""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING, Final

import trio

from psession._cli._console import complain, say
from psession._cli._echoing import EchoingChannel, answer_to
from psession._cli._problem import Exit
from psession._cli._url import serve_url
from psession._manager import SessionManager
from psession.envelope import LARGEST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession._cli._address import Address
    from psession._cli._sockets import Channel, Listening
    from psession._session import Session


OWN_IDS: Final = range(LARGEST, LARGEST + 1)
"""Numbers of sessions that echo opens, which is none: every number that a peer may use is the peer's."""


async def run(address: Address, *, drain: float) -> Exit:
    """Listen on `address`, say on which URL, and answer until SIGINT or SIGTERM.

    Args:
        address: Where to listen.
        drain: Seconds that sessions have to come to their end after SIGTERM.

    Raises:
        Problem: It cannot listen there.
    """
    echo = Echo()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            listening: Listening = await nursery.start(serve_url, echo.serve, address)
            say(str(dataclasses.replace(address, port=listening.port)))
            if await anext(signals) == signal.SIGTERM:
                listening.stop()
                await echo.leave(drain, signals)
            nursery.cancel_scope.cancel()
    return Exit.OK


class Echo:
    """The connections of an echo, a port for each."""

    def __init__(self) -> None:
        self._manager = SessionManager(on_session=echo_session, session_ids=OWN_IDS)
        self._leaving = False
        self._served = 0

    async def serve(self, channel: Channel) -> None:
        """Answer what comes on one connection until that is over.

        Raises:
            trio.BrokenResourceError: It broke.
        """
        if self._leaving:
            return  # it connected just before
        self._served += 1
        echoing = EchoingChannel(channel, lambda: any(not session._is_idle for session in port.sessions.values()))
        async with self._manager.port(f"connection {self._served}", echoing) as port:
            await port.wait_closed()
        if echoing.broken is not None:
            raise echoing.broken

    async def leave(self, within: float, signals: AsyncIterator[int]) -> None:
        """Take no new sessions, and return when those that there are have ended; another signal ends them at once."""
        self._leaving = True

        async def hurry() -> None:
            await anext(signals)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hurry)
            if not await self._manager.drain(within):
                complain(f"sessions that had not ended in {within:g} s (--drain) were cut off")
            nursery.cancel_scope.cancel()


async def echo_session(session: Session) -> None:
    """Answer each turn with itself."""
    async for message in session:
        if answer_to(message) is not None:
            await session.post(message)
