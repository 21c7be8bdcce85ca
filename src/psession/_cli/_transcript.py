"""The transcript of the demo: each message as it passes, on a line of its own."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from psession._cli._console import OutputLost, can_say, in_colour, one_line, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WIDTH = 96
"""The longest line. It fits half of a wide screen."""

LEAST = 40
"""As narrow as a line gets."""

NARROW = 80
"""With fewer columns than this what can be left out of a line is; 50 are enough then."""

INDENT = "       "
"""In front of what does not fit the line before it: as wide as a time."""

CENTRE, NAMES, SIDS = "centre", 8, 6

SHOWN = 9
"""The number of session numbers that fit a line."""

Part: TypeAlias = "tuple[str, str] | str"
"""A piece of a line: a text, or a text and its style."""

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
_PLAIN = str.maketrans({"→": ">", "←": "<", "─": "-", "✓": "+", "✗": "x", "·": ",", "…": "~"})


@dataclass
class Bundle:
    """Messages that are too many at once, and share a line in each direction.

    Attributes:
        expected: The number of messages that go out, and that come back.
        sent: The session numbers of those that went out.
        came: The session numbers of those that came back, in that order.
    """

    expected: int
    sent: list[int] = field(default_factory=list)
    came: list[int] = field(default_factory=list)


class Transcript:
    """A writer to standard output. If that is lost it cancels `scope`; an error from here would be taken for a port's.

    Attributes:
        lost: The error since which nothing can be written.
        failed: The number of checks that did not hold.
        messages: The number of messages that came in, and that went out.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self.lost: OutputLost | None = None
        self.failed = 0
        self.messages = [0, 0]
        self._scope = scope
        self._width = min(WIDTH, max(LEAST, shutil.get_terminal_size((WIDTH, 24)).columns))
        self._started = trio.current_time()
        self._begun = False
        self._colour = in_colour()
        self._fancy = can_say("→←─✓✗·…")
        self._bundles: dict[str, Bundle] = {}

    @property
    def elapsed(self) -> float:
        """The seconds since the start."""
        return trio.current_time() - self._started

    @property
    def narrow(self) -> bool:
        """True where lines are short: names are left out, and tables have one column."""
        return self._width < NARROW

    def line(self, *parts: Part) -> None:
        """Write a line of parts, each a text or a text and its style.

        Where it would be too long it is cut, on a narrow terminal wrapped between words.
        """
        lines, used = [""], 0
        for part in parts:
            text, style = (part, "") if isinstance(part, str) else part
            first, *others = self._fitted(text, used)
            lines[-1] += self._paint(first, style)
            lines += [INDENT + self._paint(other, style) for other in others]
            used = len(INDENT + others[-1]) if others else used + len(first)
        try:
            for line in lines:
                say(line.rstrip())
        except OutputLost as error:
            self.lost = error
            self._scope.cancel()

    def _fitted(self, text: str, used: int) -> list[str]:
        """Return a text in pieces: one for the rest of a line, on which so many columns are used, and one a line."""
        room = self._width - used
        if len(text) <= room:
            return [text]
        if not self.narrow:
            return [text[: max(0, room - 1)] + "…"]
        pieces = [""]
        for word in re.findall(r"\s*\S+|\s+", text):
            if len(pieces[-1] + word) <= room:
                pieces[-1] += word
                continue
            room, rest = self._width - len(INDENT), word.lstrip()
            pieces += [rest[at : at + room] for at in range(0, len(rest), room)]
        return pieces

    def title(self, text: str) -> None:
        """Write the title of a new part, below an empty line."""
        if self._begun:
            self.line()
        self._begun = True
        self.line((text, "bold"))

    def note(self, text: str, style: str = "dim") -> None:
        """Write down an event that is no message, with its time."""
        self.line((self._now(), "dim"), (text, style))

    def check(self, holds: bool, text: str) -> None:
        """Write down the result of a check, which was made just now."""
        self.failed += not holds
        self.line(
            INDENT if self.narrow else "           ", ("✓ " if holds else "✗ ", "green" if holds else "red"), text
        )

    def message(self, device: str, message: Any, *, out: bool, remark: str = "") -> None:
        """Write down a message that just went out to `device`, or came from it."""
        self.messages[out] += 1
        sid = message.get("sid")
        if device in self._bundles:
            self._bundle(device, sid, out)
            return
        text = json.dumps({key: value for key, value in message.items() if key != "sid"}, ensure_ascii=False)
        self._passed(device, out, f"#{sid}", (one_line(text), "dim" if remark else ""), (f"   {remark}", "red"))

    @contextmanager
    def together(self, device: str, expected: int) -> Iterator[None]:
        """Show the messages of `device` in two lines: `expected` that go out, and as many that come back."""
        self._bundles[device] = Bundle(expected)
        try:
            yield
        finally:
            del self._bundles[device]

    def _bundle(self, device: str, sid: int, out: bool) -> None:
        bundle = self._bundles[device]
        sids = bundle.sent if out else bundle.came
        sids.append(sid)
        if len(sids) != bundle.expected:
            return
        if out:
            self._passed(device, out, f"#{sids[0]}…#{sids[-1]}", f"{len(sids)} questions at once")
        else:
            order = " ".join(f"#{sid}" for sid in sids[:SHOWN])
            self._passed(device, out, "", f"{len(sids)} answers: {order} …")

    def _passed(self, device: str, out: bool, sid: str, *parts: Part) -> None:
        arrow = ("──→", "cyan") if out else ("←──", "green")
        now = (self._now(), "dim")
        if self.narrow:
            self.line(now, arrow, f" {device}", (f"{sid} ", "yellow"), *parts)
            return
        self.line(now, f"{CENTRE} ", arrow, f" {device:<{NAMES}} ", (f"{sid:>{SIDS}}", "yellow"), "   ", *parts)

    def _now(self) -> str:
        return f"{self.elapsed:5.2f}  " if self.narrow else f"  {self.elapsed:5.2f} s  "

    def _paint(self, text: str, style: str) -> str:
        if not self._fancy:
            text = text.translate(_PLAIN)
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._colour and style and text.strip() else text


class Tap(trio.abc.Channel[Any]):
    """A channel that reports each message as it passes, so that the transcript shows messages that did travel.

    Args:
        channel: The real one.
        report: Called with a message and True after it was sent, or with False before it is given to its receiver.
    """

    def __init__(self, channel: trio.abc.Channel[Any], report: Callable[[Any, bool], None]) -> None:
        self._channel = channel
        self._report = report

    async def send(self, value: Any) -> None:
        """Send a message, then report it."""
        await self._channel.send(value)
        self._report(value, True)

    async def receive(self) -> Any:
        """Receive the next message, and report it."""
        message = await self._channel.receive()
        self._report(message, False)
        return message

    async def aclose(self) -> None:
        """Close the real channel."""
        await self._channel.aclose()
