"""Serving links to all who want one: a task for each, places for so many."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio

from psession import checks
from psession.brokers._channel import BrokerChannel
from psession.protocol.bucket import Lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger("psession")

DEFAULT_MAX_LINKS: Final = 10_000
"""Links at once. Each costs no file, and 3 kB beside its port."""

C = TypeVar("C", bound=BrokerChannel)  # type: ignore[type-arg]


class LinkServer(Generic[C]):
    """The links of one address that is served.

    Args:
        address: What is served, for the log.
        handler: Called with each channel, in a task of its own.
        max_links: How many there may be at once.

    Attributes:
        links: The number of links that are open.
        refused: The number of links so far for which there was no place.
        strangers: The number of messages so far that did not want a link.
    """

    def __init__(self, address: str, handler: Callable[[C], Awaitable[object]], max_links: int) -> None:
        checks.count("max_links", max_links)
        self.links: int = 0
        self.refused: int = 0
        self.strangers: int = 0
        self._address = address
        self._handler = handler
        self._max_links = max_links
        self._lines = Lines(trio.current_time())

    def _note_stranger(self) -> None:
        self.strangers += 1

    def _has_place(self) -> bool:
        if self.links < self._max_links:
            return True
        self.refused += 1
        return False

    def _start(self, channel: C, nursery: trio.Nursery, address: str = "") -> None:
        address = address or self._address
        self.links += 1
        nursery.start_soon(self._talk, channel, address, name=f"psession link of {address}")

    async def _talk(self, channel: C, address: str) -> None:
        try:
            await self._handler(channel)
        except (trio.EndOfChannel, trio.BrokenResourceError) as error:
            log.debug(
                "a link of %s ended: %s",
                address,
                str(error) or "closed by the other end",
                extra={"event_name": "connection_ended"},
            )
        except Exception:
            more = self._lines.take(trio.current_time())
            if more is not None:
                log.exception(
                    "the handler of a link of %s failed%s",
                    address,
                    more,
                    extra={"event_name": "connection_handler_raised"},
                )
        finally:
            self.links -= 1
            with trio.CancelScope(shield=True):
                await channel.aclose()
