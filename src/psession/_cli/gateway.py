"""``psession gateway``: where devices of a fleet connect, by WebSockets."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from psession import Exact, SessionManager, tune_gc
from psession._cli._console import complain, say
from psession._cli._problem import Exit, Problem
from psession._cli._tokens import Tokens, name_in, token_in
from psession._cli._url import serve_url

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from psession._cli._address import Address
    from psession._cli._nats import NatsPlace
    from psession._cli._url import Channel, Listening
    from psession.brokers.nats import NatsState
    from psession.fleet import Gateway

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

SPARE_FILES: Final = 300
"""Files beside those of devices: handshakes (200), the broker, and the program's own."""

HELLO_TIMEOUT: Final = 2.0
"""Seconds for the first word of a device that comes back, which is on its way with the handshake's last. One that says
nothing, since it has no ``resume_within``, is a new one, and waits so long."""

UNKNOWN: Final = (401, "Who are you? Give the header Authorization: Bearer TOKEN, or ?token=TOKEN.\n")
NAMELESS: Final = (400, "Which device is this? Its name is the path: /NAME.\n")
DRAINING: Final = (503, "This gateway takes no more devices; try another one.\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a gateway on the command line.

    Attributes:
        fleet: The fleet's name.
        name: The gateway's name; ``None``: its id.
        tokens: The file of tokens; ``None``: whoever connects says its name by the path.
        drain: Seconds that turns have to end after a signal.
        resume: Seconds in which a device may come back to its turns.
        max_devices: Devices at once.
        tls: For ``wss://``.
    """

    fleet: str
    name: str | None = None
    tokens: str | None = None
    drain: float = 10.0
    resume: float = 30.0
    max_devices: int = 10_000
    tls: ssl.SSLContext | None = None


class Door:
    """A check of who gets in, and as which device.

    Args:
        tokens: Whose each token is; ``None``: the path is the name.
    """

    def __init__(self, tokens: Tokens | None) -> None:
        self.tokens = tokens
        self.draining = False

    def look(self, request: Any) -> tuple[int, str] | None:
        """Return why a handshake is refused, as an HTTP status and a text; ``None``: it is not."""
        if self.draining:
            return DRAINING
        if self.name_of(request):
            return None
        return NAMELESS if self.tokens is None else UNKNOWN

    def name_of(self, request: Any) -> str | None:
        """Return the name of the device that sent a handshake; ``None`` or ``""``: it is none."""
        if self.tokens is None:
            return name_in(request.path)
        token = token_in(request.path, request.headers.get_all("Authorization"))
        return None if token is None else self.tokens.name_of(token)


async def run(address: Address, broker: NatsPlace, options: Options) -> Exit:
    """Serve devices at `address` until SIGTERM or Ctrl-C, then let their turns end.

    Raises:
        Problem: There is no broker, or it cannot listen there, or the broker wants this client no more.
    """
    tokens = None if options.tokens is None else Tokens.read(options.tokens)
    if tokens is None and address.host not in LOOPBACK:
        text = f"without --tokens FILE anybody is any device, so it listens on 127.0.0.1 alone, not on {address.host}"
        raise Problem(text, Exit.USAGE)
    tune_gc()
    raise_file_limit(options.max_devices)
    from psession.fleet import Gateway

    closed = trio.Event()
    watch = Watch(closed)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with (
            broker.open(f"psession gateway {options.name or ''}".strip(), on_state=watch.tell) as nats,
            make_gateway(Gateway, nats, options) as gateway,
        ):
            return await Serving(gateway, Door(tokens), options).run(address, signals, closed)


def make_gateway(kind: type[Gateway], nats: Any, options: Options) -> Gateway:
    """Return the gateway that the options ask for.

    Raises:
        Problem: A name will not do.
    """
    try:
        return kind(nats, options.fleet, name=options.name, max_devices=options.max_devices)
    except ValueError as error:
        raise Problem(str(error), Exit.USAGE) from error


def raise_file_limit(devices: int) -> None:
    """Let the process have as many files as it needs, if it may; complain if it may not."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    wanted = devices + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        complain(f"{devices} devices (--max-devices) need {wanted} files, and this process may have {hard}: ulimit -n")
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Watch:
    """Tells what becomes of the connection to the broker.

    Args:
        closed: Set when there will be no more connections.
    """

    def __init__(self, closed: trio.Event) -> None:
        self._closed = closed
        self._is_broken = False

    def tell(self, state: NatsState) -> None:
        """Tell of a break, and of its end."""
        if state.state == "broken" and not self._is_broken:
            self._is_broken = True
            complain(f"the connection to {state.url} broke: {state.error}; devices stay, and it is tried again")
        elif state.state == "open" and self._is_broken:
            self._is_broken = False
            complain(f"connected to {state.url}")
        elif state.state == "closed":
            self._closed.set()


class Serving:
    """A gateway's devices, from listening to the last goodbye.

    Args:
        gateway: The gateway.
        door: Who gets in.
        options: As the command line says.
    """

    def __init__(self, gateway: Gateway, door: Door, options: Options) -> None:
        self._gateway = gateway
        self._door = door
        self._options = options
        self._manager = SessionManager(dialect=Exact(), resume_within=options.resume)

    async def run(self, address: Address, signals: AsyncIterator[int], closed: trio.Event) -> Exit:
        """Serve until a signal, then drain.

        Raises:
            Problem: It cannot listen there, or the broker wants this client no more.
        """
        last = 0
        async with trio.open_nursery() as nursery:
            listening: Listening = await nursery.start(
                partial(
                    serve_url,
                    self._serve,
                    address,
                    tls=self._options.tls,
                    process_request=self._door.look,
                    origins=[None] if self._door.tokens is None else None,
                    max_connections=self._options.max_devices,
                )
            )
            if self._door.tokens is None:
                complain("WITHOUT --tokens FILE: whoever connects from this machine is the device that its path names")
            say(str(listening.address))
            nursery.start_soon(self._give_up, closed)
            while (last := await anext(signals)) == signal.SIGHUP:
                self._read_tokens()
            self._door.draining = True
            listening.stop()
            await self._leave(signals)
            nursery.cancel_scope.cancel()
        return Exit.INTERRUPTED if last == signal.SIGINT else Exit.OK

    async def _serve(self, channel: Channel) -> None:
        """Serve one device until it goes."""
        from psession.fleet import FleetError

        name = self._door.name_of(getattr(channel, "request", None))
        if not name:
            return  # its token was taken away a moment ago
        with suppress(FleetError):  # full, or draining: counted, and the device finds its connection closed
            accepting = self._manager.accept(channel, hello_timeout=HELLO_TIMEOUT)
            async with accepting as port, self._gateway.device(name, port):
                await port.wait_closed()

    def _read_tokens(self) -> None:
        """Read the file of tokens once more; one that will not do changes nothing."""
        if self._options.tokens is None:
            return
        try:
            self._door.tokens = Tokens.read(self._options.tokens)
        except Problem as problem:
            complain(f"{problem}; the tokens stay as they were")
        else:
            complain(f"read {len(self._door.tokens)} tokens")

    async def _give_up(self, closed: trio.Event) -> None:
        await closed.wait()
        if not self._door.draining:
            raise Problem("the broker wants this gateway no more; see the servers' log", Exit.CONNECTION)

    async def _leave(self, signals: AsyncIterator[int]) -> None:
        """Let turns end and send the devices elsewhere, or leave at the next signal if that comes first."""

        async def hurry() -> None:
            await anext(signals)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hurry)
            if not await self._gateway.drain(self._options.drain):
                complain(f"turns that had not ended in {self._options.drain:g} s (--drain) were cut off")
            nursery.cancel_scope.cancel()
