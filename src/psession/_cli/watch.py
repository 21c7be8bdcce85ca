"""``psession watch``: what the ports of a running program do, in a terminal, or as a page of one's own."""

from __future__ import annotations

import math
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from psession import Port, SessionError, SessionManager
from psession._cli._console import in_colour, one_line, say
from psession._cli._problem import Exit, Problem, reason
from psession.channels import HandshakeError, open_websocket
from psession.inspector._page import MAX_MESSAGE_BYTES, serve_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from psession._cli._address import Address

WITHIN: Final = 10.0
"""Seconds for the connection, and for each answer."""
FEW: Final = 10
"""Waiting turns, ports and so on that a terminal shows of each."""
_CLEAR: Final = "\x1b[H\x1b[2J"


async def run(address: Address, *, every: float, once: bool) -> Exit:
    """Show what the program at `address` does, again and again, or once.

    Args:
        address: That of its inspector.
        every: Seconds from one look to the next.
        once: True for one look.

    Raises:
        Problem: No connection, or it was lost.
        OutputLost: It cannot be written.
    """
    clear = _CLEAR if in_colour() and not once and sys.stdout.isatty() else ""
    async with _connected(address) as port:
        while True:
            seen = await _ask(port, {"do": "look"})
            say(clear + "\n".join(lines(seen)))
            if once:
                return Exit.OK
            await trio.sleep(every)


async def serve(address: Address, host: str, port: int) -> Exit:
    """Serve the page here, with a token of its own, and hand its questions on to the program at `address`.

    Raises:
        Problem: No connection, or it was lost; or it cannot listen there.
        OutputLost: It cannot be written.
    """
    async with _connected(address) as inspected:

        async def answer(question: Any) -> Any:
            return await _ask(inspected, question)

        try:
            async with serve_page(answer, port, host=host, token=None) as page:
                say(page.url)
                await inspected.wait_closed()
        except OSError as error:
            raise Problem(f"cannot listen on {host}:{port}: {reason(error)}", Exit.CONNECTION) from error
    raise Problem(f"{_named(address)}: the connection was lost", Exit.CONNECTION)


@asynccontextmanager
async def _connected(address: Address) -> AsyncIterator[Port]:
    opening = open_websocket(str(address), connect_timeout=WITHIN, max_message_bytes=MAX_MESSAGE_BYTES)
    async with AsyncExitStack() as stack:
        try:
            channel = await stack.enter_async_context(opening)
        except HandshakeError as error:
            wrong = "it wants its token; give the whole URL that the program printed"
            text = wrong if error.status == 403 else reason(error)
            raise Problem(f"{_named(address)}: {text}", Exit.CONNECTION) from error
        except OSError as error:
            raise Problem(f"cannot connect to {_named(address)}: {reason(error)}", Exit.CONNECTION) from error
        yield await stack.enter_async_context(SessionManager(session_timeout=WITHIN).port("inspector", channel))


async def _ask(port: Port, question: Any) -> Any:
    try:
        return await port.request(question)
    except SessionError as error:
        raise Problem(f"the inspector does not answer: {error}", Exit.CONNECTION) from error


def _named(address: Address) -> str:
    """Return the address without its token, which is nobody's to read in a log."""
    return f"{address.host} port {address.port}"


def lines(seen: dict[str, Any]) -> Iterator[str]:
    """Return what a look shows, line by line."""
    now, offset = seen["now"], seen["wall"] - seen["now"]

    def clock(moment: float) -> str:
        return time.strftime("%H:%M:%S", time.localtime(moment + offset))

    last = next((second for second in reversed(seen["seconds"]) if second["at"] == math.floor(now) - 1), None)
    rates = {name: last[name] if last is not None else 0 for name in ("answered", "failed", "dropped")}
    yield (
        f"{clock(now)}  {seen['ports_total']} ports, {seen['waiting_total']} turns waiting;"
        f" a second: {rates['answered']} answered, {rates['failed']} failed, {rates['dropped']} dropped"
        + (f"; 99 % within {last['p99']:g} s" if last is not None and last["p99"] is not None else "")
    )
    yield ""
    waiting = [
        f"{_called(turn['port'], turn)}, session {turn['sid']}: since {clock(turn['started'])}"
        f" ({now - turn['started']:.1f} s), {turn['why']}: {turn['payload']}"
        for turn in seen["waiting"][:FEW]
    ]
    yield from _part("waiting turns, the oldest first", waiting, seen["waiting_total"])
    in_need = sorted(seen["ports"], key=lambda port: (port["state"] == "open", -port["waiting"]))
    yield from _part("ports, those in need first", [_port(port) for port in in_need[:FEW]], seen["ports_total"])
    labels = {port["name"]: port for port in seen["ports"]}
    drops = [
        f"{_called(drop['port'], labels.get(drop['port'], {}))}: {drop['reason']}, {drop['count']} times,"
        f" last at {clock(drop['t'])} {drop['detail']}".rstrip()
        for drop in seen["drops"][:FEW]
    ]
    yield from _part("dropped messages, the last first", drops, len(seen["drops"]))
    closed = [
        f"{_called(port['port'], port)}: at {clock(port['t'])}, {port['reason']}"
        for port in seen["closed"][: -FEW - 1 : -1]
    ]
    yield from _part("ports that closed, the last first", closed, len(seen["closed"]))


def _called(name: str, known: dict[str, Any]) -> str:
    """Return a port's name, and its label beside it. A program of an older version knows no labels."""
    label = known.get("label")
    return f"{name} ({label})" if label else name


def _port(port: dict[str, Any]) -> str:
    state = f"{port['state']}: {port['why']}" if port["why"] else port["state"]
    silent = "ever" if port["silent"] is None else f"{port['silent']:.1f} s"
    counts = f"{port['sessions']} sessions, {port['waiting']} waiting"
    return f"{_called(port['name'], port)}: {state}, {counts}, peer silent for {silent}"


def _part(title: str, items: list[str], total: int) -> Iterator[str]:
    if total:
        left = f", {total - len(items)} left out" if total > len(items) else ""
        yield f"{title} ({total}{left}):"
        yield from (f"  {one_line(item)}" for item in items)
        yield ""
