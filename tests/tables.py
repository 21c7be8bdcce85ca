"""What must be empty when all is over: the tables of a manager and its ports, the scheduler's tasks and timers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from psession.protocol.connection import Connection
from psession.protocol.turns import TurnConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psession import Port, SessionManager

IN_USE = 1


def assert_idle(port: Port) -> None:
    """No session, no number in use, nothing queued, nobody waiting: the port may be open or closed."""
    engine = port._engine
    connection, outbox = engine.connection, engine.outbox
    sessions = connection.sessions
    assert dict(port.sessions) == {}
    assert (sessions.own, sessions.peers, sessions.oldest()) == ({}, {}, None)
    assert sessions.pool._state.count(IN_USE) == 0
    assert len(engine._for_number) == 0
    assert engine.needy == {}
    assert engine.account.used == 0
    spare = connection._spare
    assert all(dialogue.entry != due or dialogue in spare for due, _, dialogue in connection.deadlines._heap)
    assert all((dialogue.turn, dialogue.ending, dialogue.owed) == (None, None, 0) for dialogue in spare)
    assert outbox.turns == 0
    assert list(outbox._queue) == []
    assert outbox.queued_bytes == 0
    assert len(outbox._for_room) == 0
    if isinstance(connection, TurnConnection):
        assert (connection._turns, connection._theirs, connection._latest) == ({}, {}, {})
        return
    assert isinstance(connection, Connection)
    turns = connection._shared.turns
    held = list(turns._held.values())
    assert all(last.running == 0 and last.size for last in held)
    assert all(last.stream is None or last.stream.is_complete for last in held)
    assert turns.stored_bytes == sum(last.size for last in held)


def assert_empty(manager: SessionManager, *ports: Port) -> None:
    """The manager has no trace of its ports, nor the ports of what was in them, nor the scheduler of any of it."""
    assert dict(manager.ports) == {}
    assert manager._listeners == []
    assert manager._default is None
    assert (manager.budget.used, manager.budget._accounts, manager.budget.absent) == (0, {}, 0)
    for port in ports:
        assert port.closed
        assert_idle(port)
        outbox = port._engine.outbox
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
