"""Lines of the log for turns that wait long: how many, since when and why."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

import trio

from psession import checks
from psession.hooks import LinkDown, LinkUp, PortClosed
from psession.inspector._look import why
from psession.inspector._record import Record
from psession.inspector._redaction import redact_secrets
from psession.text import port_named

if TYPE_CHECKING:
    from psession.hooks import Waiting
    from psession.shell.manager import SessionManager
    from psession.shell.port import Port

log: logging.Logger = logging.getLogger("psession")

MAX_LINES: Final = 10
"""Ports that one round names; of the others it says how many there are."""


async def log_waiting(manager: SessionManager, *, after: float = 10.0, every: float = 60.0) -> None:
    """Log the ports whose oldest turn waits long, with how many wait, since when, and why; until it is cancelled.

    ``nursery.start_soon(inspector.log_waiting, manager)``. A warning for each such port, the longest wait first, for at
    most 10 a round: its ``event_name`` is ``"turns_waiting"``, its fields are ``port``, ``label``, ``waiting`` and
    ``oldest``.

    Args:
        manager: The manager.
        after: Seconds that the oldest turn of a port may wait before it is named.
        every: Seconds from one round to the next.

    Raises:
        TypeError: A time is no number.
        ValueError: A time is below zero, or `every` is zero or infinite.
    """
    checks.seconds("after", after)
    checks.seconds("every", every)
    if not 0 < every < math.inf:
        raise ValueError(f"every must be more than 0 and finite, not {every!r}")
    record = Record(redact_secrets)
    with manager.observe(record, LinkUp, LinkDown, PortClosed):  # all that it asks the record for
        while True:
            await trio.sleep(every)
            late = [(port, turns) for port in manager.ports.values() if (turns := port.waiting)]
            late = sorted((one for one in late if one[1][0].seconds >= after), key=lambda one: -one[1][0].seconds)
            for port, turns in late[:MAX_LINES]:
                _say(port, turns, record.link(port.name))
            if len(late) > MAX_LINES:
                more = len(late) - MAX_LINES
                log.warning("turns wait at %d more ports", more, extra={"event_name": "turns_waiting"})


def _say(port: Port, waiting: list[Waiting], lost: tuple[str, float] | None) -> None:
    """Log what one port waits for."""
    oldest = waiting[0]
    since = time.strftime("%H:%M:%S", time.localtime(time.time() - oldest.seconds))
    log.warning(
        "%s: %d %s for an answer, the oldest (session %s) since %s (%.1f s): %s",
        port_named(port.name, port.label),
        len(waiting),
        "turn waits" if len(waiting) == 1 else "turns wait",
        oldest.sid,
        since,
        oldest.seconds,
        why(oldest, port.statistics().silent, lost),
        extra={
            "event_name": "turns_waiting",
            "port": port.name,
            "label": port.label,
            "waiting": len(waiting),
            "oldest": oldest.seconds,
        },
    )
