"""Servers of channels, whatever their protocol: a task for each client, places for so many, and how all this ends."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeAlias, TypeVar

import trio

from psession._listeners import PatientListener, UnixListener
from psession.channels._framed import FramedChannel
from psession.nursery import open_quiet_nursery
from psession.protocol.bucket import Lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psession.channels._places import Places, Visit

ChannelT = TypeVar("ChannelT", bound=FramedChannel)
ServerT = TypeVar("ServerT", bound="Server[Any]")
T = TypeVar("T")
Handler: TypeAlias = Callable[[ChannelT], Awaitable[object]]
"""An async function that gets the channel of each client."""

DEFAULT_HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for TLS and a request: its first packets lost twice are 3 s (RFC 6298, 2.1), and a phone may be slow."""

log = logging.getLogger("psession")


class Server(ABC, Generic[ChannelT]):
    """A server that runs; ``await nursery.start(...)`` of one of the functions that serve gives it.

    Args:
        kind: The name of a connection, for the log.
        places: The places for clients.
        handler: The user's handler.
        handshake_timeout: Seconds for a handshake.

    Attributes:
        addresses: Where it listens, as its sockets say.
    """

    def __init__(
        self,
        kind: str,
        places: Places,
        handler: Handler[ChannelT],
        handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    ) -> None:
        if not handshake_timeout > 0:
            raise ValueError(f"handshake_timeout must be above 0 seconds, not {handshake_timeout!r}")
        self.addresses: list[Any] = []
        self._kind = kind
        self._places = places
        self._handler = handler
        self._handshake_timeout = handshake_timeout
        self._channels: set[ChannelT] = set()
        self._lines = Lines(trio.current_time())
        self._leaving = False
        self._listening = trio.CancelScope()

    @property
    def connections(self) -> int:
        """The number of clients that are in, with their handshake done and their channel not closed yet."""
        return self._places.connections

    @property
    def handshakes(self) -> int:
        """The number of clients that are not in yet, those being refused included."""
        return self._places.handshakes

    @property
    def handlers(self) -> int:
        """The number of handlers that run, those included that go on though their channel is closed."""
        return self._places.handlers

    @property
    def refused(self) -> int:
        """The number of clients so far that were turned away, since there was no place for them."""
        return self._places.refused

    @property
    def given_up(self) -> int:
        """The number of handshakes so far that were given up in favour of newcomers."""
        return self._places.given_up

    def stop_listening(self) -> None:
        """Take no more clients, for good. Those that are there stay."""
        self._listening.cancel()
        self._leave()

    def _leave(self) -> None:
        """Have every channel that is closed from now on say that the server is going away, whoever closes it."""
        self._leaving = True
        for channel in self._channels:
            self._say_leaving(channel)

    def _say_leaving(self, channel: ChannelT) -> None:
        """Have this channel's goodbye say that the server is going away, if its protocol has a word for it."""

    def _say_failed(self, channel: ChannelT) -> None:
        """Have this channel's goodbye say that its handler failed, if its protocol has a word for it."""

    def _let_in(self, visit: Visit) -> bool:
        """Give a client its places. Return False where there are none: it is to be turned away."""
        if visit.enter():
            return True
        self._refuse()
        return False

    def _refuse(self) -> None:
        self._places.refused += 1
        text = "a %s was refused: there is no place for it"
        log.debug(text, self._kind, extra={"event_name": "connection_refused"})

    @abstractmethod
    async def _welcome(self, stream: trio.SocketStream, visit: Visit) -> None:
        """Let a client in where there is a place, and `_talk` to it; close what is made beside `stream`."""

    async def _visit(self, stream: trio.SocketStream) -> None:
        """One client, from its first byte to its last; whatever goes wrong ends this one alone."""
        with self._places.visit() as visit:
            try:
                await self._welcome(stream, visit)
            except Exception:
                self._log_failure("connection_failed", "a %s failed", self._kind)

    async def _shake_hands(self, shake: Callable[[trio.CancelScope], Awaitable[T | None]]) -> T | None:
        """Run a handshake, in bounded time and in one of the places for that; ``None`` where nothing comes of it."""
        try:
            with self._places.handshake(self._handshake_timeout) as scope:
                return await shake(scope)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            text = "the handshake of a %s broke off: %s"
            log.debug(text, self._kind, error.__cause__ or error, extra={"event_name": "handshake_broke_off"})
            return None
        log.debug(
            "the handshake of a %s took %g s, or longer than those that came after it",
            self._kind,
            self._handshake_timeout,
            extra={"event_name": "handshake_timed_out"},
        )
        return None

    async def _talk(self, channel: ChannelT) -> None:
        """Run the handler, and close the channel."""
        self._channels.add(channel)
        if self._leaving:
            self._say_leaving(channel)
        try:
            await self._handler(channel)
        except (trio.EndOfChannel, trio.BrokenResourceError) as error:
            # Most often a client that went, and a handler that leaves it at that.
            text, why = "the %s of %s ended: %s", str(error) or "closed by the client"
            log.debug(text, self._kind, channel.remote, why, extra={"event_name": "connection_ended"})
            self._say_failed(channel)
        except Exception:
            text = "the handler of the %s of %s failed"
            self._log_failure("connection_handler_raised", text, self._kind, channel.remote)
            self._say_failed(channel)
        finally:
            self._channels.discard(channel)
            with trio.CancelScope(shield=True):  # aclose takes close_timeout seconds at most
                await channel.aclose()

    def _log_failure(self, event_name: str, text: str, *values: object) -> None:
        """Log what was raised, within a budget: a client may be able to cause it as often as it connects."""
        more = self._lines.take(trio.current_time())
        if more is not None:
            log.exception(f"{text}%s", *values, more, extra={"event_name": event_name})


class PortServer(Server[ChannelT]):
    """A server that listens on a TCP port."""

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self.addresses[0][1]
        return port


async def serve(
    server: ServerT,
    open_listeners: Callable[[], Awaitable[Sequence[trio.SocketListener | UnixListener]]],
    task_status: trio.TaskStatus[ServerT],
) -> NoReturn:
    """Run a server until cancelled.

    Raises:
        OSError: It cannot listen.
    """
    async with open_quiet_nursery() as nursery:
        # The handlers stand behind a shield, so that being cancelled is a step of ours, and each says why it goes.
        handlers: trio.Nursery = await nursery.start(_handlers_nursery)
        listeners = await open_listeners()  # no checkpoint from here to `serve_listeners`
        server.addresses = [listener.socket.getsockname() for listener in listeners]
        lines = Lines(trio.current_time())
        patient = [PatientListener(listener, server._places.give_up_handshake, lines) for listener in listeners]
        handlers.cancel_scope.shield = True  # only now: cancelled while the server starts, they must be left
        try:
            task_status.started(server)
            with server._listening:
                await trio.serve_listeners(server._visit, patient, handler_nursery=handlers)
            await trio.sleep_forever()
        finally:
            server._leave()
            handlers.cancel_scope.cancel()
    raise AssertionError("nobody cancelled it")


async def _handlers_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with open_quiet_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()
