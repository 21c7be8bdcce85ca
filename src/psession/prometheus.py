"""A manager's statistics in the text format of Prometheus, for a route of the application's own web server.

::

    from psession.prometheus import CONTENT_TYPE, text

    body, headers = text(manager), {"content-type": CONTENT_TYPE}

It needs no library and no listener: the counters are there anyway, so a turn costs nothing more for being counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from psession.protocol.counters import BOUNDS, BYTES, GAUGES, NAMES, Drop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psession.protocol.counters import Statistics
    from psession.shell.manager import SessionManager

__all__ = ["CONTENT_TYPE", "text"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The type of that text, for the header of an HTTP response."""

_DROPS: Final = frozenset(reason.value for reason in Drop)
_LEVELS: Final = {
    "open": ("psession_sessions", "Sessions that are open."),
    "incoming": ("psession_sessions_incoming", "Of these, the ones that peers opened."),
    "resting": ("psession_session_numbers_resting", "Session numbers that rest after an unanswered turn."),
    "queued_bytes": ("psession_queued_bytes", "Bytes that wait for being written."),
    "waiting": ("psession_turns_waiting", "Turns that wait for their answer."),
}


def text(manager: SessionManager, *, by_port: bool = False) -> str:
    """The statistics of `manager` as they are now; may be called from any thread.

    Args:
        manager: The manager.
        by_port: True for the figures of each open port, labelled with its name, and not their sum. Each name is a set
            of time series of its own; and the counters of a port end with it.
    """
    counted: dict[str, Statistics] = {"": manager.statistics()}
    if by_port:
        ports = ((name, manager.ports.get(name)) for name in manager.ports)  # one may be left while a thread reads them
        counted = {f'port="{_escaped(name)}"': port.statistics() for name, port in ports if port is not None}
    lines = [*_family("psession_ports", "gauge", "Ports that are open."), f"psession_ports {len(manager.ports)}"]
    for name, (metric, about) in _LEVELS.items():
        lines += _family(metric, "gauge", about)
        lines += [_line(metric, labels, getattr(one, name)) for labels, one in counted.items()]
    lines += _family("psession_turn_oldest_seconds", "gauge", "The time that the oldest waiting turn has waited.")
    lines += [_line("psession_turn_oldest_seconds", labels, one.oldest) for labels, one in counted.items()]
    lines += _family("psession_peer_silent_seconds", "gauge", "The time since the last message of a peer's.")
    lines += [_line("psession_peer_silent_seconds", labels, one.silent) for labels, one in counted.items()]
    for name in NAMES:
        if name not in GAUGES and name not in _DROPS:
            metric = f"psession_{name.removeprefix('bytes_')}_{'bytes_' * (name in BYTES)}total"
            lines += _family(metric, "counter", f"psession.Statistics.{name}")
            lines += [_line(metric, labels, getattr(one, name)) for labels, one in counted.items()]
    lines += _dropped(counted)
    lines += _latency(counted)
    return "\n".join(lines) + "\n"


def _dropped(counted: dict[str, Statistics]) -> Iterator[str]:
    metric = "psession_messages_dropped_total"
    yield from _family(metric, "counter", "Messages of peers' that went nowhere, by reason.")
    for labels, one in counted.items():
        for reason in Drop:
            yield _line(metric, _joined(labels, f'reason="{reason.value}"'), getattr(one, reason.value))


def _latency(counted: dict[str, Statistics]) -> Iterator[str]:
    metric = "psession_turn_seconds"
    yield from _family(metric, "histogram", "The time that turns took, by outcome; streams left out.")
    for labels, one in counted.items():
        for outcome, histogram in one.latency.items():
            mine, so_far = _joined(labels, f'outcome="{outcome}"'), 0
            for bound, count in zip((*BOUNDS, math.inf), histogram.counts, strict=True):
                so_far += count
                yield _line(f"{metric}_bucket", _joined(mine, f'le="{_number(bound)}"'), so_far)
            yield _line(f"{metric}_sum", mine, histogram.seconds)
            yield _line(f"{metric}_count", mine, so_far)


def _family(metric: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {metric} {about}", f"# TYPE {metric} {kind}"]


def _line(metric: str, labels: str, value: float) -> str:
    return f"{metric}{{{labels}}} {_number(value)}" if labels else f"{metric} {_number(value)}"


def _joined(labels: str, more: str) -> str:
    return f"{labels},{more}" if labels else more


def _number(value: float) -> str:
    return "+Inf" if value == math.inf else repr(value)


def _escaped(name: str) -> str:
    return name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
