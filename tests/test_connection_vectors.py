"""The wire contract told to a connection alone, without port, loop or clock: the vectors that need no more."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from psession import (
    Exact,
    MalformedMessageError,
    SessionCancelError,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.options import Options
from psession.protocol import events
from psession.protocol import states as codes
from psession.protocol.endings import CANCELLED, ENDED, TIMED_OUT, aborted

from .machines import begin_turn, connection
from .test_vectors import ERRORS, STRAYS, VECTORS

if TYPE_CHECKING:
    from psession.protocol.dialogue import AskedTurn, Dialogue

LEFT_TO_THE_PORT = {
    "is asked for many replies, which an application consumes at its own pace": [
        "exact_stream",
        "exact_stream_asks_again",
        "exact_stream_classic_peer",
        "exact_stream_count",
        "exact_stream_empty",
        "exact_stream_error",
        "exact_stream_error_placeless",
        "exact_stream_grants",
        "exact_stream_last",
        "exact_stream_order",
        "exact_stream_overrun",
        "exact_stream_plain_answer",
        "exact_stream_stops",
    ],
    "has a handler that waits for credit": ["exact_stream_credit", "exact_stream_given_up"],
    "tries again after a pause": ["exact_progress_waits", "reply_in_the_pause", "retry"],
    "waits for a free number, or for the turn before": [
        "exact_end_frees",
        "exact_late_confirmation",
        "one_turn_at_a_time",
    ],
    "ends all sessions of a port": ["clear"],
}
"""What only a port does, and the vectors that are about it."""

GIVE_UPS = {"cancel": CANCELLED, "abort": aborted(None), "timeout": TIMED_OUT}
CODES = {SessionTimeoutError: codes.TIMEOUT, SessionCancelError: codes.CANCELLED}
"""What an exact peer is told of a turn that ended with such an error; any other is `ABORTED`."""


async def handle(session: object) -> None:
    """The options need one: without it the peer could open nothing."""
    raise AssertionError(session)


class Asked:
    """A turn of the story's, and what came of it."""

    def __init__(self, turn: AskedTurn | None, within: float) -> None:
        self.turn = turn
        self.within = within
        self.is_over = False
        self.value: Any = None
        self.error: type[Exception] | None = None
        self.told: tuple[str, str] = ("", "")


class Story:
    """A connection, and what a shell around it would keep: the turns, the inboxes, and what is to be sent."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.ports = connection(options)
        self.now = 0.0
        self.wire: deque[Any] = deque()
        self.plain: list[Any] = []
        self.opened: list[Dialogue] = []
        self.sessions: dict[str, Dialogue] = {}
        self.asked: dict[str, Asked] = {}
        self.inboxes: dict[Dialogue, deque[events.Received]] = {}
        self.at_work: set[Dialogue] = set()
        self.known: dict[str, Any] = {}

    # -- what a shell does -------------------------------------------------------------------------------------------

    def perform(self, happened: list[events.Event]) -> None:
        """Carry events out; then let the turns leave that have an outcome."""
        for event in happened:
            self.carry_out(event)
        for asked in self.asked.values():
            if asked.is_over and asked.turn is not None and asked.turn.dialogue.turn is asked.turn:
                self.leave(asked)

    def carry_out(self, event: events.Event) -> None:
        """Carry one event out."""
        match event:
            case events.Answered():
                self.asked_by(event.turn).value = event.payload
            case events.Refused():
                asked = self.asked_by(event.turn)
                asked.error, asked.told = SessionRemoteError, (event.code, event.text)
            case events.GivenUp():
                self.asked_by(event.turn).error = event.ending.error
            case events.Say():
                self.wire.append(event.frame)
            case events.Repeat():
                self.wire.extend(event.frames)
            case events.Opened():
                self.opened.append(event.dialogue)
                self.at_work.add(event.dialogue)
            case events.Received():
                self.inboxes.setdefault(event.dialogue, deque()).append(event)
            case events.Ended():
                if event.cancels:
                    self.handler_done(event.dialogue)
            case events.Plain():
                self.plain.append(event.payload)
            case _:
                assert isinstance(event, events.Dropped | events.NumberFree)

    def asked_by(self, turn: AskedTurn) -> Asked:
        """The story's turn, which is over now."""
        [asked] = [one for one in self.asked.values() if one.turn is turn]
        asked.is_over = True
        return asked

    def leave(self, asked: Asked) -> None:
        """A turn with an outcome leaves its session, which may have been for it alone."""
        assert asked.turn is not None
        session = asked.turn.dialogue
        code = codes.ENDED if asked.error is None else CODES.get(asked.error, codes.ABORTED)
        self.perform(self.ports.turn_over(asked.turn, code, self.now))
        if session.once:
            self.perform(self.ports.end(session, ENDED, self.now))

    def handler_done(self, session: Dialogue) -> None:
        """The handler of a session is at work no more."""
        if session in self.at_work:
            self.at_work.remove(session)
            self.ports.handler_done()

    # -- steps -------------------------------------------------------------------------------------------------------

    def step(self, step: dict[str, Any]) -> None:
        """Do one."""
        [kind] = step.keys() & {"do", "out", "quiet", "in", "error", "wait"}
        getattr(self, f"on_{kind}")(step)

    def on_do(self, step: dict[str, Any]) -> None:
        getattr(self, f"do_{step['do']}")(step)

    def do_open(self, step: dict[str, Any]) -> None:
        self.sessions[step["session"]] = self.open()

    def open(self) -> Dialogue:
        """A new session of this side."""
        session = self.ports.open(None, self.now, recycles=self.options.on_session_overflow == "recycle")
        self.perform(self.ports.take())
        return session

    def do_request(self, step: dict[str, Any]) -> None:
        session = self.open()
        session.once = True
        self.ask(session, step)

    def do_send(self, step: dict[str, Any]) -> None:
        self.ask(self.sessions[step["session"]], step)

    def ask(self, session: Dialogue, step: dict[str, Any]) -> None:
        """Ask a turn, under a number that no late reply can reach."""
        ports = self.ports
        patience = self.options.patience
        within = patience.within(step.get("timeout", patience.timeout)).total
        if session.ending is not None:
            asked = self.asked[step["turn"]] = Asked(None, within)
            asked.is_over, asked.error = True, session.ending.after
            return
        if self.options.on_unanswered != "keep" and ports.is_unsafe(session):
            assert ports.renew(session, self.now) is None
        try:
            turn, frame = begin_turn(ports, session, step["message"], self.now, within=within)
        except MalformedMessageError as error:
            asked = self.asked[step["turn"]] = Asked(session.turn, within)
            asked.is_over, asked.error = True, type(error)
            self.leave(asked)
        else:
            self.asked[step["turn"]] = Asked(turn, within)
            self.wire.append(frame)

    def do_post(self, step: dict[str, Any]) -> None:
        session = self.sessions[step["session"]]
        exact = session.exact
        if exact is not None and exact.stream is not None:
            assert exact.stream.spent < exact.stream.credit, "one that waits for credit is the port's"
            exact.stream.spent += 1
            self.wire.append(self.ports.part(session, step["message"], self.now, is_last=False))
        else:
            self.wire.append(self.ports.post(session, step["message"])[0])
            self.perform(self.ports.answer_sent(session, self.now))

    def do_finish(self, step: dict[str, Any]) -> None:
        session, payload = self.sessions[step["session"]], step.get("message")
        exact = session.exact
        is_many = exact is not None and exact.stream is not None
        if payload is not None and (not is_many or self.ports.is_empty(payload)):
            self.do_post(step)  # one of many that is empty would be taken for an end mark, if that were in it
            payload = None
        if not is_many:
            return
        self.wire.append(self.ports.part(session, payload or {}, self.now, is_last=True))
        self.perform(self.ports.answer_sent(session, self.now))

    def do_leave(self, step: dict[str, Any]) -> None:
        session = self.sessions[step["session"]]
        if "refused" in step:
            code, text = step["refused"]
            self.perform(self.ports.leave(session, f"{codes.REFUSED}.{code}", text))
        elif "crashed" in step:
            self.perform(self.ports.leave(session, codes.CRASHED))
        else:
            self.do_finish({"session": step["session"]})
        self.handler_done(session)
        self.perform(self.ports.end(session, ENDED, self.now))

    def do_end(self, step: dict[str, Any]) -> None:
        self.perform(self.ports.end(self.sessions[step["session"]], ENDED, self.now))

    def give_up(self, step: dict[str, Any]) -> None:
        turn = self.sessions[step["session"]].turn
        assert turn is not None
        self.perform(self.ports.give_up(turn, GIVE_UPS[step["do"]]))

    do_cancel = do_abort = do_timeout = give_up

    def on_out(self, step: dict[str, Any]) -> None:
        message = self.wire.popleft()
        for key, value in step["out"].items():
            if type(value) is str and value.startswith("$"):
                self.known.setdefault(value, message.get(key))
        expected = self.filled(step["out"])
        assert list(message.items()) == list(expected.items())
        assert [type(value) for value in message.values()] == [type(value) for value in expected.values()]

    def on_quiet(self, step: dict[str, Any]) -> None:
        assert not self.wire

    def on_wait(self, step: dict[str, Any]) -> None:
        self.now += step["wait"]
        for asked in self.asked.values():
            if not asked.is_over and asked.turn is not None and asked.turn.started + asked.within <= self.now:
                asked.is_over, asked.error = True, SessionTimeoutError
        self.perform([])

    def on_error(self, step: dict[str, Any]) -> None:
        asked = self.asked[step["turn"]]
        assert asked.error is ERRORS[step["error"]]
        code, text = asked.told
        assert (step.get("code", code), step.get("text", text)) == (code, text)
        if step.get("outcome") == "refused":
            assert codes.is_refusal(code)

    def on_in(self, step: dict[str, Any]) -> None:
        [(kind, name)] = step["to"].items()
        message = self.filled(step["in"])
        payload = self.payload(message)
        before = self.ports.counters.snapshot()
        waiting = {turn for turn, asked in self.asked.items() if not asked.is_over}
        self.perform(self.ports.receive(dict(message), self.now))
        after = self.ports.counters.snapshot()
        strays = {
            stray for stray, names in STRAYS.items() if sum(getattr(after, one) - getattr(before, one) for one in names)
        }
        settled = {turn for turn in waiting if self.asked[turn].is_over}
        assert settled == ({name} if kind in ("turn", "fails") else set())
        assert strays == ({name} - {None} if kind == "nobody" else {"given_up"} & strays if kind == "ends" else set())
        assert after.accepted - before.accepted == (kind == "opens")
        if kind == "turn":
            assert self.asked[name].value == payload
        elif kind == "plain":
            assert self.plain.pop() == message
        elif kind in ("session", "opens"):
            if kind == "opens":
                self.sessions[name] = self.opened.pop()
            self.take(self.sessions[name], payload)
        elif kind == "ends":
            assert self.sessions[name].ending is not None
        assert not any(self.inboxes.values())
        assert not self.plain
        assert not self.opened

    def take(self, session: Dialogue, payload: Any) -> None:
        """The application receives the message, and has the question in it."""
        received = self.inboxes[session].popleft()
        assert received.payload == payload
        if received.question:
            self.ports.hold(session, received.question)

    def payload(self, message: dict[str, Any]) -> dict[str, Any]:
        """What the application gets of a session's message; names with an underscore are those of the exact wire."""
        reserved = self.options.wire.session_id_name
        return {name: value for name, value in message.items() if name != reserved and not name.startswith("_")}

    def filled(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message with what is known by now in the place of its `$names`."""
        return {key: self.known.get(value, value) if type(value) is str else value for key, value in message.items()}


def is_the_ports(name: str) -> bool:
    """Return True if a vector has a deed in it that no connection does."""
    return any(name in names for names in LEFT_TO_THE_PORT.values())


@pytest.mark.parametrize("name", [name for name in VECTORS if not is_the_ports(name)])
def test_a_connection_does_on_the_wire_what_the_vector_says(name: str) -> None:
    vector = VECTORS[name]
    options: dict[str, Any] = dict(vector["options"])
    if "session_ids" in options:
        options["session_ids"] = range(*options["session_ids"])
    if options.pop("exact", False):
        options["dialect"] = Exact()
    if vector.get("handler"):
        options["on_session"] = handle
    story = Story(Options(**options))
    for number, step in enumerate(vector["steps"]):
        try:
            story.step(step)
        except BaseException as error:
            error.add_note(f"{name}.json, step {number}: {step}")
            raise
    assert not story.wire


def test_each_vector_that_is_left_to_the_port_is_one_and_few_are() -> None:
    left = [name for names in LEFT_TO_THE_PORT.values() for name in names]
    assert len(set(left)) == len(left)
    assert set(left) <= VECTORS.keys()
    assert len(left) < len(VECTORS) / 3
    deeds = {"stream", "take", "stop", "clear"}
    for name, vector in VECTORS.items():
        of_the_port = any(step.get("do") in deeds or "retry_count" in step for step in vector["steps"])
        assert not of_the_port or name in left
