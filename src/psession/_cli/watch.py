"""``psession watch``: what the ports of a running program do, in a terminal, or as a page of one's own."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import trio

from psession import Port, SessionError, SessionManager
from psession._cli._console import cut, in_colour, one_line, say
from psession._cli._problem import Exit, Problem, reason
from psession.channels import HandshakeError, open_websocket
from psession.inspector._page import MAX_MESSAGE_BYTES, serve_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from psession._cli._address import Address

WITHIN: Final = 10.0
"""Seconds for the connection, and for each answer."""
FEW: Final = 10
"""Ports whose turns wait, ports and so on that a terminal shows of each."""
_PARTS: Final = {"now", "wall", "ports", "waiting", "drops", "closed", "seconds"}
"""Of what an inspector answers to a look."""
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
            say(clear + "\n".join(fitting(seen, *_room(refreshes=bool(clear)))))
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
        port = await stack.enter_async_context(SessionManager(session_timeout=WITHIN).port("inspector", channel))
        await _check(port, address)
        yield port


async def _check(port: Port, address: Address) -> None:
    """Ask for a first look: at the other end there may be any WebSocket server.

    Raises:
        Problem: It is no inspector, or did not say so in time.
    """
    try:
        seen = await port.request({"do": "look"})
    except SessionError as error:
        raise Problem(f"no inspector at {_named(address)}: {error.why}", Exit.CONNECTION) from error
    if not isinstance(seen, dict) or not seen.keys() >= _PARTS:
        text = "what answers there is something else; give the URL that inspector.serve printed"
        raise Problem(f"no inspector at {_named(address)}: {text}", Exit.CONNECTION)


async def _ask(port: Port, question: Any) -> Any:
    try:
        return await port.request(question)
    except SessionError as error:
        raise Problem(f"the inspector does not answer: {error}", Exit.CONNECTION) from error


def _named(address: Address) -> str:
    """Return the address without its token, which is nobody's to read in a log."""
    return f"{address.host} port {address.port}"


def _room(*, refreshes: bool) -> tuple[float, float]:
    """Return the columns and lines there are: those of the terminal, or of ``COLUMNS``; elsewhere no limit."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    size = shutil.get_terminal_size()
    columns = size.columns if is_terminal or os.environ.get("COLUMNS") else math.inf
    return columns, size.lines - 1 if refreshes else math.inf  # the cursor has the last line


def fitting(seen: dict[str, Any], columns: float = math.inf, rows: float = math.inf) -> list[str]:
    """Return what a look shows, line by line: as many of each kind as there is room for, cut to the columns."""
    shown = list(lines(seen))
    for few in range(FEW - 1, 0, -1):
        if len(shown) <= rows:
            break
        shown = list(lines(seen, few))
    if len(shown) > rows:
        shown = shown[: int(rows)]
    return [cut(line, columns) for line in shown]


def lines(seen: dict[str, Any], few: int = FEW) -> Iterator[str]:
    """Return what a look shows, line by line, with `few` of each kind."""
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
    by_port: dict[str, list[dict[str, Any]]] = {}
    for turn in seen["waiting"]:
        by_port.setdefault(turn["port"], []).append(turn)
    counted = {port["name"]: port["waiting"] for port in seen["ports"]}
    waiting = []
    for name, turns in islice(by_port.items(), few):
        turn, count = turns[0], max(counted.get(name, 0), len(turns))
        oldest = f", session {turn['sid']}" if count == 1 else f": {count} turns, the oldest in session {turn['sid']}"
        since = f"since {clock(turn['started'])} ({now - turn['started']:.1f} s)"
        between = ":" if count == 1 else ""
        waiting.append(f"{_called(name, turn)}{oldest}{between} {since}, {turn['why']}: {turn['payload']}")
    title = f"ports whose turns wait, the oldest first ({seen['waiting_total']} turns)"
    yield from _part(title, waiting, len(by_port))
    in_need = sorted(seen["ports"], key=lambda port: (port["state"] == "open", -port["waiting"]))
    yield from _part("ports, those in need first", [_port(port) for port in in_need[:few]], seen["ports_total"])
    labels = {port["name"]: port for port in seen["ports"]}
    drops = [
        f"{_called(drop['port'], labels.get(drop['port'], {}))}: {drop['reason']}, {drop['count']} times,"
        f" last at {clock(drop['t'])} {drop['detail']}".rstrip()
        for drop in seen["drops"][:few]
    ]
    yield from _part("dropped messages, the last first", drops, len(seen["drops"]))
    closed = [
        f"{_called(port['port'], port)}: at {clock(port['t'])}, {port['reason']}"
        for port in seen["closed"][: -few - 1 : -1]
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
        yield f"{title}: {total}{left}"
        yield from (f"  {one_line(item)}" for item in items)
        yield ""
