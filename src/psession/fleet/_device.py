"""A device, asked by its name from anywhere."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, final, overload

import trio

from psession.errors import MessageError, SessionAbortError, SessionError, SessionRemoteError, SessionTimeoutError
from psession.options import checked
from psession.typed import Ask, Reply, form_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import TypeVar, Unpack

    from psession.fleet._links import DeviceLink, LinkPool
    from psession.options import TurnOptions
    from psession.protocol.retry import Patience, Retry
    from psession.shell.port import Port, Session
    from psession.shell.replies import Replies
    from psession.shell.stream import StreamOptions

    T = TypeVar("T")

ELSEWHERE: Final = frozenset({"refused.closed", "refused.closing"})
"""What is said of a turn that was not brought to the device, since its connection is over (`Relay`), or one of the two
is being drained: it may be asked again. A device whose own handler refuses by one of these is asked again too, which
does no harm, since nothing was done."""

FIRST_PAUSE: Final = 0.02
MAX_PAUSE: Final = 1.0
"""Seconds between two times that a request is asked again: the first after 0."""


class Asking:
    """What all devices of a fleet share.

    Attributes:
        calls: The number of calls so far.
        asked_again: The number of requests that were asked again.
    """

    def __init__(self, links: Callable[[], LinkPool], patience: Patience) -> None:
        self.calls: int = 0
        self.asked_again: int = 0
        self.links = links
        self.patience = patience


@final
class FleetDevice(Generic[Ask, Reply]):
    """A device of a fleet, by its name; `Fleet.device` makes it, without any I/O. It has a port's calls.

    ``FleetDevice[Command, Status]`` tells type checkers what is asked and answered.

    Attributes:
        name: Its name.
        wait: Seconds that a call waits for it while it is nowhere.
    """

    def __init__(self, name: str, wait: float, asking: Asking) -> None:
        self.name = name
        self.wait = wait
        self._asking = asking

    def __repr__(self) -> str:
        return f"<psession.fleet.FleetDevice {self.name!r}>"

    @overload
    async def request(self, payload: Ask, *, reply_type: None = None, **options: Unpack[TurnOptions]) -> Reply: ...
    @overload
    async def request(self, payload: Ask, *, reply_type: type[T], **options: Unpack[TurnOptions]) -> T: ...
    @overload
    async def request(self, payload: Ask, *, reply_type: Any, **options: Unpack[TurnOptions]) -> Any: ...
    async def request(
        self,
        payload: Ask,
        *,
        reply_type: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Port.request
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
    ) -> Any:
        """Ask the device one thing, wherever it is, and return its answer. Arguments as in `psession.Port.request`.

        A request of which it is certain that nothing was done, since its link was over or the device moved, is asked
        again at the device's next place; one that may have been done never is.

        It takes `wait` seconds more than a port's at the most.

        Raises:
            DeviceNotFoundError: The device is nowhere, and was not there in `wait` seconds; ``"not_sent"``.
            FleetDisconnectedError: There is no connection to the broker, likewise.
            FleetError: As the text says; ``"not_sent"``.
            SessionError: As `psession.Port.request`. A gateway that was lost in the middle is a `PortClosedError` or a
                `SessionRemoteError`; the outcome is ``"sent"``.
        """
        asking = self._asking
        asking.calls += 1
        patience = checked(asking.patience, timeout, retry, retry_count, retry_interval, retry_on)
        if reply_type is not None:
            form_of(reply_type)
        started = trio.current_time()
        due, pause = started + self.wait + patience.total, 0.0
        bound = math.inf  # the turn's own time is within `due` where it is asked once
        while True:
            links = asking.links()
            link = links.standing(self.name) or await self._link(due, started)
            try:
                asked = link.port.request(
                    payload,
                    reply_type=reply_type,
                    timeout=timeout,
                    retry=retry,
                    retry_count=retry_count,
                    retry_interval=retry_interval,
                    retry_on=retry_on,
                )
                if bound == math.inf:
                    return await asked
                with trio.move_on_at(bound):
                    return await asked
                raise SessionTimeoutError(
                    f"device {self.name!r} was asked again where it had moved, and has not answered in time",
                    waited=trio.current_time() - started,
                    outcome="sent",
                )
            except SessionError as error:
                if not is_elsewhere(error) or trio.current_time() + pause >= due:
                    raise
                links.moved(link)
            finally:
                links.give_back(link)
            asking.asked_again += 1
            bound = due
            await trio.sleep(pause)
            pause = min(MAX_PAUSE, max(FIRST_PAUSE, pause * 2))

    @overload
    def stream(
        self, payload: Ask, *, reply_type: None = None, **options: Unpack[StreamOptions]
    ) -> AbstractAsyncContextManager[Replies[Reply]]: ...
    @overload
    def stream(
        self, payload: Ask, *, reply_type: type[T], **options: Unpack[StreamOptions]
    ) -> AbstractAsyncContextManager[Replies[T]]: ...
    @overload
    def stream(
        self, payload: Ask, *, reply_type: Any, **options: Unpack[StreamOptions]
    ) -> AbstractAsyncContextManager[Replies]: ...
    def stream(
        self, payload: Ask, *, reply_type: Any = None, **options: Unpack[StreamOptions]
    ) -> AbstractAsyncContextManager[Replies]:
        """``async with device.stream(payload) as replies``: many replies to one message, as `psession.Port.stream`.

        It is asked once, at the place where the device is as the block begins, and never again: an error's outcome says
        what is known of it.

        Raises:
            FleetError: As `request`, on entering.
            SessionError: As `psession.Port.stream`.
        """
        return self._stream(payload, reply_type, options)

    @asynccontextmanager
    async def _stream(self, payload: Any, reply_type: Any, options: StreamOptions) -> AsyncIterator[Replies]:
        async with self._port() as port, port.stream(payload, reply_type=reply_type, **options) as replies:
            yield replies

    def session(
        self,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
        session_max_life: float | None = None,
    ) -> AbstractAsyncContextManager[Session[Ask, Reply]]:
        """``async with device.session() as session``: a dialogue, as `psession.Port.session`, in one place.

        It ends where the device leaves that place: nothing of it is asked again elsewhere.

        Raises:
            FleetError: As `request`, on entering.
            SessionError: As `psession.Port.session`.
        """
        return self._session(
            timeout=timeout,
            retry=retry,
            retry_count=retry_count,
            retry_interval=retry_interval,
            retry_on=retry_on,
            session_max_life=session_max_life,
        )

    @asynccontextmanager
    async def _session(self, **options: Any) -> AsyncIterator[Session[Ask, Reply]]:
        async with self._port() as port, port.session(**options) as session:
            yield session

    async def post(self, payload: Ask) -> None:
        """Send the device a message that wants no answer. It returns when the message is on its way to the gateway.

        Whether the device gets it is not known: whoever must know asks with `request`.

        Raises:
            FleetError: As `request`.
            SessionError: As `psession.Port.post`.
        """
        async with self._port() as port:
            await port.post(payload)

    @asynccontextmanager
    async def _port(self) -> AsyncIterator[Port[Ask, Reply]]:
        self._asking.calls += 1
        started = trio.current_time()
        link = await self._link(started + self.wait + self._asking.patience.total, started)
        try:
            yield link.port
        finally:
            self._asking.links().give_back(link)

    async def _link(self, due: float, started: float) -> DeviceLink:
        with trio.move_on_at(due):
            return await self._asking.links().take(self.name, started + self.wait)
        raise SessionTimeoutError(
            f"device {self.name!r} was not asked: no link to its gateway stood in time",
            waited=trio.current_time() - started,
            outcome="not_sent",
        )


def is_elsewhere(error: SessionError) -> bool:
    """Return True where nothing of a turn was done, since the link or the device's connection was over."""
    if isinstance(error, SessionRemoteError):
        return error.outcome == "refused" and error.code in ELSEWHERE
    return error.outcome == "not_sent" and isinstance(error, SessionAbortError) and not isinstance(error, MessageError)
