"""What must be empty when all is over: the tables of a manager and its ports, the scheduler's tasks and timers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psession import Port, SessionManager

IN_USE = 1


def assert_idle(port: Port) -> None:
    """No session, no number in use, nothing queued, nobody waiting: the port may be open or closed."""
    table, outbox = port._table, port._outbox
    assert dict(port.sessions) == {}
    assert list(table.by_age) == []
    assert table.pool._state.count(IN_USE) == 0
    assert len(table._freed) == 0
    assert (len(port._idle), len(port._idle_incoming)) == (0, 0)
    assert (port._outbox.turns, len(port._timekeeper)) == (0, 0)
    assert list(outbox._queue) == []
    assert outbox.queued_bytes == 0
    assert len(outbox._for_room) == 0
    if port._exact is not None:
        taken = port._exact.taken
        assert taken.running == {}
        assert all(stream.is_complete and taken._held[sid].size for sid, stream in taken.streams.items())
        assert all(held.size for held in taken._held.values())
        assert taken.stored_bytes == sum(held.size for held in taken._held.values())


def assert_empty(manager: SessionManager, *ports: Port) -> None:
    """The manager has no trace of its ports, nor the ports of what was in them, nor the scheduler of any of it."""
    assert dict(manager.ports) == {}
    assert manager._listeners == []
    assert manager._default is None
    for port in ports:
        assert port.closed
        assert_idle(port)
        outbox = port._outbox
        assert outbox.closed
        assert not outbox.writing
        assert outbox.finished.is_set()
        assert len(outbox._asleep) == 0
    assert [task.name for task in tasks() if task.name.startswith("psession ")] == []


def assert_no_timers() -> None:
    """Nothing is left that would wake the scheduler."""
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf


def tasks() -> Iterator[trio.lowlevel.Task]:
    """Every task of this run."""
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)
