"""What the sessions and the tasks of one port share; it carries out what the protocol's events say."""

from __future__ import annotations

import logging
import random
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from psession.budget import Account
from psession.protocol import events
from psession.protocol.bucket import RETRY_TOKENS, TokenBucket
from psession.protocol.endings import expired, gave_way
from psession.protocol.states import Peer, Turn
from psession.protocol.turn_dialect import TurnDialect
from psession.shell.timekeeper import Timekeeper
from psession.shell.told import Told
from psession.shell.waiting import Handed, WaitingLine
from psession.text import short

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession import errors
    from psession.budget import Budget
    from psession.options import Options
    from psession.protocol.counters import Latency, Statistics
    from psession.protocol.dialogue import AskedTurn, Dialogue
    from psession.protocol.endings import Ending
    from psession.protocol.machine import Machine
    from psession.protocol.retry import Patience
    from psession.shell.busy_wait import BusyWait
    from psession.shell.outbox import Outbox, Ticket
    from psession.shell.said import Said
    from psession.shell.told import Audience

log: logging.Logger = logging.getLogger("psession")

_NEVER = float("inf")

_ASYNCIOS: Final = ("trio.run received unrecognized yield message", "Timeout should be used inside a task")
"""What Trio, and ``asyncio.timeout``, say of a coroutine of asyncio's in a task of Trio's."""

_WRAP_IT: Final = (
    "this handler awaits what is asyncio's, and runs as a task of Trio's: beside psession.asyncio.bridge() give "
    "bridged.handler(function) in its place"
)


class Tasks(Protocol):
    """The tasks of a port, as its engine needs them."""

    def start_timekeeper(self) -> None:
        """Start the task that sleeps for the deadlines."""
        ...

    def opened(self, dialogue: Dialogue) -> None:
        """Start the handler of a session that the peer opened."""
        ...

    def asked(self, event: events.Asked) -> None:
        """Answer a question that stands alone."""
        ...

    def plain(self, payload: Any) -> None:
        """Give a message that is no session's to the application."""
        ...

    def stop(self) -> None:
        """Stop reading and close the channel: the port is closed, its block not left yet."""
        ...


class _NoTasks:
    """The tasks of a port that is over."""

    def start_timekeeper(self) -> None:
        pass

    def opened(self, dialogue: Dialogue) -> None:
        pass

    def asked(self, event: events.Asked) -> None:
        pass

    def plain(self, payload: Any) -> None:
        pass

    def stop(self) -> None:
        pass


_NO_TASKS: Final = _NoTasks()


class Engine:
    """The middle of a port.

    Args:
        name: The port's name.
        options: The options in force.
        connection: The protocol.
        outbox: The queue of frames, and their writer.
        tasks: The port's tasks.
        budget: What all ports may hold together.
        said: What is said about the port.
        audience: The listeners of its manager.
        hops: Scheduler passes from the socket to the port.
        busy: The place where a turn that is alone waits awake; ``None``: it does not.
        look: Takes what has come already, without waiting. Returns True if there was anything.
        kept_bytes: Measures what the channel keeps of a message that has come in part.

    Attributes:
        ending: Why the port is over; ``None`` while it is open.
        closed: Set when it is.
        drained: Set when it is being drained and nothing is left; ``None`` while it is not being drained.
        account: What the messages hold that nobody has received.
        thread: The thread of its ``trio.run``, in which there is no other while the port is open.
        tells_deadlines: True where this side's turns say how long their callers wait.
        needy: The turns that wait for a session number that no late reply can reach.
        said: As given.
        told: Who listens to this port, and what they are told.
        latency: How long this side's turns took.
    """

    __slots__ = (
        "_for_number",
        "_kept_bytes",
        "_sessions",
        "_tasks",
        "account",
        "bucket",
        "busy",
        "closed",
        "connection",
        "drained",
        "ending",
        "hops",
        "latency",
        "look",
        "luck",
        "name",
        "needy",
        "now",
        "options",
        "outbox",
        "patience",
        "said",
        "tells_deadlines",
        "thread",
        "timekeeper",
        "told",
    )

    def __init__(
        self,
        name: str,
        options: Options,
        connection: Machine,
        outbox: Outbox,
        tasks: Tasks,
        *,
        budget: Budget,
        said: Said,
        audience: Audience,
        hops: int,
        busy: BusyWait | None,
        look: Callable[[], bool],
        kept_bytes: Callable[[], int],
    ) -> None:
        self.name: str = name
        self.options: Options = options
        self.patience: Patience = options.patience
        self.connection: Machine = connection
        self.outbox: Outbox = outbox
        self.hops: int = hops
        self.busy: BusyWait | None = busy
        self.look: Callable[[], bool] = look
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        self.luck: Callable[[], float] = random.random
        self.bucket: TokenBucket = TokenBucket(RETRY_TOKENS)
        self.ending: Ending | None = None
        self.closed: trio.Event = trio.Event()
        self.drained: trio.Event | None = None
        self.needy: dict[AskedTurn, Callable[[], None]] = {}
        self.said: Said = said
        self.told: Told = Told(name, said, audience, self.now)
        self.timekeeper: Timekeeper = Timekeeper(
            connection.deadlines,
            start=tasks.start_timekeeper,
            hops=hops,
            look=look,
            received_bytes=lambda: outbox.wire_bytes()[1],
            silence=self._silence,
            expire=self._expire,
        )
        self.account: Account = Account(
            budget, options.max_held_bytes, options.inbox_limit, self._give_way, self._rest, self._dismiss
        )
        self._kept_bytes = kept_bytes
        self._tasks: Tasks = tasks
        self.thread: int = get_ident()
        self.latency: Latency = connection.counters.latency
        self.tells_deadlines: bool = connection.asks_exactly and options.deadlines
        self._sessions = connection.sessions
        self._for_number: WaitingLine[object] = WaitingLine()

    # -- events ------------------------------------------------------------------------------------------------------

    def perform(self, happened: list[events.Event]) -> None:
        """Carry events out, in order."""
        for event in happened:
            _DEEDS[type(event)](self, event)

    def carry_out(self, event: events.Event) -> None:
        """Carry one event out."""
        _DEEDS[type(event)](self, event)

    def receive(self, message: Any) -> None:
        """Take a message of the peer's."""
        self.perform(self.connection.receive(message, self.now()))

    def dispatch(self, message: Any) -> bool:
        """Take a message of the peer's, unless it is no session's. Return False then: it is the caller's."""
        self.check_run()
        happened = self.connection.receive(message, self.now())
        if happened and type(happened[-1]) is events.Plain:
            return False
        self.perform_unweighed(happened)
        return True

    def perform_unweighed(self, happened: list[events.Event]) -> None:
        """Carry out what a message leads to that did not come by the port's channel, and may be of any size."""
        account = self.account
        usual, account.weight = account.weight, None
        self.perform(happened)
        account.weight = usual

    def drain(self) -> trio.Event:
        """Take no new sessions. Return what is set when nothing is left."""
        if self.drained is None:
            self.drained = trio.Event()
        self.perform(self.connection.drain())
        self._wake_all_for_numbers()
        self.note_drained()
        return self.drained

    def _ended(self, event: events.Ended) -> None:
        if event.dialogue.owner is not None:
            event.dialogue.owner.ended(event)
        self.note_drained()

    def _dropped(self, event: events.Dropped) -> None:
        self.said.dropped(event.reason, event.sid, event.detail)
        if self.told.listens:
            self.told.dropped(event.reason.value, event.sid, event.detail)

    # -- frames of the protocol's own --------------------------------------------------------------------------------

    def say(self, frame: Any, *, must: bool = False) -> Ticket | None:
        """Send a frame that nobody waits on, unless the channel is gone or has too much to write already.

        Dropped frames are recovered by the peer's next retry. With `must` there is more room, for those that the peer
        cannot recover.
        """
        beyond = self.options.max_answer_bytes if must else 0
        return self._put(frame, self.options.max_queued_bytes + beyond)

    def say_at_once(self, frame: Any) -> Ticket | None:
        """Send a frame that the peer may wait for, however much is queued."""
        return self._put(frame, float("inf"), at_once=True)

    def _put(self, frame: Any, limit: float, *, at_once: bool = False) -> Ticket | None:
        outbox = self.outbox
        if frame is None or outbox.closed or outbox.queued_bytes >= limit:
            return None
        try:
            return outbox.put(frame, None, at_once=at_once)
        except Exception as error:  # what a sender of the user's raises has nobody to go to
            extra = {"event_name": "own_message_not_sent", **self.said.about}
            log.debug("%s: a message of the protocol's own was not sent: %r", self.said.who, error, extra=extra)
            return None

    def _say(self, event: events.Say) -> None:
        self.say(event.frame, must=event.must)

    def _repeat(self, event: events.Repeat) -> None:
        """Send stored frames again. A link that is back may ask for many at once; one stream is queued once."""
        stream = event.stream
        if stream is not None and stream.again is not None and not stream.again.written:
            return
        for frame in event.frames:
            ticket = self.say(frame, must=True)
            if stream is not None:
                stream.again = ticket

    # -- session numbers ---------------------------------------------------------------------------------------------

    async def wait_for_number(self) -> None:
        """Return when a session number may be free, or the one that has rested longest is safe."""
        next_safe = self.connection.sessions.pool.next_safe()
        with trio.move_on_at(float("inf") if next_safe is None else next_safe):
            # The next one takes over where this is cancelled: this one alone may have known when to look.
            await self._for_number.park(object(), self.number_free)

    def number_free(self) -> None:
        """Wake the first task that waits for a session's number: one is free."""
        if self._for_number:
            self._for_number.wake_first(Handed(None))
        elif self.needy:
            next(iter(self.needy.values()))()

    def _wake_all_for_numbers(self) -> None:
        while self._for_number:
            self._for_number.wake_first(Handed(None))

    # -- time --------------------------------------------------------------------------------------------------------

    def watch(self, dialogue: Dialogue, due: float) -> None:
        """Look at `due` whether the turn of a session has an outcome; there is no earlier look."""
        if self.connection.deadlines.watch(dialogue, due):
            self.timekeeper.look_by(due)

    def rests(self, dialogue: Dialogue, now: float | None = None) -> None:
        """A session is idle from now on: it ends after its life, unless something happens in it."""
        now = self.now() if now is None else now
        if dialogue.entry != _NEVER and not (dialogue.incoming and self._sessions.is_ranking):
            dialogue.idle_since = now  # its entry is put right when it comes to the front
        elif self.connection.rests(dialogue, now):
            self.timekeeper.look_by(now + dialogue.max_life)

    def _silence(self, turn: Any) -> None:
        turn.nudge()

    def _expire(self, dialogue: Dialogue) -> None:
        if dialogue.ending is None:
            self.connection.counters.expired += 1
            self.end(dialogue, expired(dialogue.max_life))

    # -- the end -----------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def end(self, dialogue: Dialogue, ending: Ending) -> None:
        """End a session; the first ending counts."""
        if dialogue.ending is None:
            self.perform(self.connection.end(dialogue, ending, self.now()))

    @trio.lowlevel.enable_ki_protection
    def leave(
        self, dialogue: Dialogue, code: str, text: str = "", data: Any = None, error: Exception | None = None
    ) -> None:
        """No answer will come to the turn that runs in a session: its asker is told, and listeners of the error too."""
        if self.told.listens:
            self.told.failed(dialogue, code, error)
        self.perform(self.connection.leave(dialogue, code, text, data))

    @trio.lowlevel.enable_ki_protection
    def close(self, ending: Ending) -> None:
        """The port is over: every waiter gets its error now; the first ending counts."""
        if self.ending is not None:
            return
        self.ending = ending
        self.perform(self.connection.close(ending, self.now()))
        self.outbox.close()
        self._wake_all_for_numbers()
        self.closed.set()
        self.told.port_closed(ending)
        self.account.close()
        self.said.end()

    def stop(self) -> None:
        """Stop reading and close the channel."""
        self._tasks.stop()

    def _rest(self) -> int:
        """The bytes that this port holds beside messages that nobody has received."""
        return self.outbox.held_bytes + self.connection.held_bytes + self._kept_bytes()

    def _dismiss(self) -> int:
        """End some of the peer's sessions that are idle. Return how many."""
        number = self.connection.dismiss()
        self.perform(self.connection.take())
        return number

    def _give_way(self) -> bool:
        """End the session that holds most of what this port does, or the port. Return False if it is over already."""
        if self.ending is not None:
            return False
        account = self.account
        held = account.all
        owners = [dialogue.owner for dialogue in self._sessions.all() if dialogue.owner is not None]
        most = max(owners, key=lambda owner: owner.held, default=None)
        if most is not None and most.held > account.rest + account.lent:
            most.overrun()
        else:
            self.said.limited("gave_way", "closed, since the budget is used up and it held the most, %d bytes", held)
            self.close(gave_way(held))
            self.outbox.discard()
            self.stop()
        return True

    def check_run(self) -> None:
        """Refuse a call from another ``trio.run`` than the port's, or from a thread: Trio's objects are not shared.

        Raises:
            RuntimeError: It says what to do. A port that is over may be called from anywhere: it says that it is.
        """
        if get_ident() != self.thread and self.ending is None:
            raise RuntimeError(
                f"{self.said.who} belongs to another trio.run: open a port in this one, or call this one from a "
                "thread by trio.from_thread.run"
            )

    def check_open(self) -> None:
        """Refuse what needs an open port.

        Raises:
            SessionError: As the port's ending says.
        """
        self.check_run()
        if self.ending is not None:
            why = f"the port is closed: {self.ending.why}"
            error = self.ending.after(why, port=self.name, label=self.said.label, outcome="not_sent")
            raise error from self.ending.cause

    def note_drained(self) -> None:
        """Set `drained` if that is so."""
        if self.drained is not None and not self.connection.sessions and not self.connection.handlers:
            self.drained.set()

    def left(self) -> None:
        """The port's tasks are over. A handler that a Ctrl-C met before its first step has not said so itself."""
        if self.drained is not None:
            self.drained.set()
        # Nothing here knows the port's tasks any more, nor they it: a port that is over is free at once, and not when
        # Python looks for circles; a thousand of them would be 150 ms then.
        self.connection.forget()
        self.outbox.let_go()
        self.timekeeper.let_go()
        self.told.let_go()
        self.look = bool
        self._tasks = _NO_TASKS

    def crashed(self, sid: int | None, error: Exception) -> None:
        """Count and log what user code raised: its session ends alone, unless ``strict``."""
        self.connection.counters.crashed += 1
        if isinstance(error, TypeError | RuntimeError) and any(sign in str(error) for sign in _ASYNCIOS):
            error.add_note(_WRAP_IT)
        if self.options.strict:
            raise error
        if sid is None:
            self.said.raised("on_message_raised", "on_message", "", error)
        else:
            self.said.raised("handler_raised", "the handler", f" of session {sid}", error, sid=sid)

    # -- what is told ------------------------------------------------------------------------------------------------

    def waiting_turns(self) -> list[AskedTurn]:
        """The turns of this side that wait for their answer, in no order."""
        turns = [dialogue.turn for dialogue in self._sessions.all()]
        return [turn for turn in turns if turn is not None and turn.state is not Turn.IDLE]

    def statistics(self) -> Statistics:
        """A snapshot of the counters."""
        sessions = self.connection.sessions
        sent, received = self.outbox.wire_bytes()
        now, heard = self.now(), self.connection.heard
        waiting = [turn.started for turn in self.waiting_turns()] if self.outbox.turns else []
        return self.connection.counters.snapshot(
            waiting=len(waiting),
            oldest=now - min(waiting, default=now),
            silent=now - heard,
            open=len(sessions),
            incoming=len(sessions.peers),
            resting=sessions.pool.resting,
            queued_bytes=self.outbox.queued_bytes,
            bytes_sent=sent,
            bytes_received=received,
        )

    def absence(self) -> str:
        """The words for a link that is missing, and how long the port waits for the next; empty while there is one."""
        if self.told.lost is None:
            return ""
        why, since = self.told.lost
        gone = self.now() - since
        left = max(self.options.resume_within - gone, 0.0)
        return (
            f"the port has had no link for {gone:.3g} s ({short(why)}); by resume_within it waits for the next one for "
            f"{left:.3g} s more"
        )

    def hints(self) -> str:
        """Everything known that may explain why an answer does not come; empty where nothing is."""
        dropped = self.connection.counters.dropped()
        hints = ""
        if dropped:
            reasons = ", ".join(f"{number} {reason.value}" for reason, number in dropped.items())
            hints = f"; dropped messages of this peer so far: {reasons} (see statistics())"
        on_classic_wire = not self.connection.asks_exactly and not isinstance(self.options.dialect, TurnDialect)
        if self.connection.peer is Peer.UNKNOWN and on_classic_wire and self.options.takes_sessions:
            hints += (
                "; if the peer takes sessions as well, both may count from the same number: "
                "give the two disjoint session_ids, or use the exact wire"
            )
        return hints

    def error(self, kind: type[errors.SessionError], why: str, sid: int | None = None) -> errors.SessionError:
        """A fresh error that says port and session."""
        return kind(why, port=self.name, label=self.said.label, sid=sid)

    def place(self, error: errors.SessionError, sid: int | None = None) -> None:
        """Let an error that knows no place say port and session."""
        error.port, error.label = self.name, self.said.label
        if sid is not None:
            error.sid = sid


_DEEDS: Final[dict[type, Callable[[Engine, Any], None]]] = {
    events.Answered: lambda _, event: event.turn.wake(Handed(event.payload)),
    events.Received: lambda _, event: event.dialogue.owner.received(event),
    events.Refused: lambda _, event: event.turn.refused(event),
    events.Postponed: lambda _, event: event.turn.postponed(event.until),
    events.Heard: lambda _, event: event.turn.heard(),
    events.Overrun: lambda _, event: event.turn.overrun(),
    events.GivenUp: lambda _, event: event.turn.given_up(event.ending),
    events.AskAgain: lambda _, event: event.turn.ask_again(),
    events.Opened: lambda engine, event: engine._tasks.opened(event.dialogue),
    events.Asked: lambda engine, event: engine._tasks.asked(event),
    events.Ended: Engine._ended,
    events.Say: Engine._say,
    events.Repeat: Engine._repeat,
    events.NumberFree: lambda engine, _: engine.number_free(),
    events.PeerClosing: lambda engine, _: engine._wake_all_for_numbers(),
    events.Plain: lambda engine, event: engine._tasks.plain(event.payload),
    events.Dropped: Engine._dropped,
}
"""What is done about each event; one table for all ports, since one each took 3 kB."""
