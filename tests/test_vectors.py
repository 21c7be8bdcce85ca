"""The wire contract as data: each story in `vectors/`, told step by step to a port (the format is in its README)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import (
    Exact,
    MalformedMessageError,
    SessionAbortError,
    SessionCancelError,
    SessionError,
    SessionInvalidError,
    SessionManager,
    SessionOverrunError,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
)

from .peers import Caught, plain_pair, settle

if TYPE_CHECKING:
    from trio.testing import MockClock

    from psession import Port, Replies, Session

PATHS = sorted((Path(__file__).parent / "vectors").glob("*.json"))
VECTORS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in PATHS}
ERRORS = {
    "timeout": SessionTimeoutError,
    "cancel": SessionCancelError,
    "abort": SessionAbortError,
    "invalid": SessionInvalidError,
    "overrun": SessionOverrunError,
    "remote": SessionRemoteError,
    "malformed": MalformedMessageError,
}
STREAM_OPTIONS = ("timeout", "retry_count", "retry_interval", "total", "count", "credit")
STRAYS = {
    "late": ("late",),
    "duplicate": ("duplicate",),
    "unknown_sid": ("unknown_sid", "no_handler", "no_session"),
    "other_life": ("stale_own", "stale_peer"),
    "malformed": ("malformed",),
    "repeated": ("repeated",),
    "given_up": ("given_up",),
}
"""For each word of the vectors the counters that it stands for."""


class Listening(Caught):
    """A stream whose application takes so many replies, and leaves it when it is told to."""

    def __init__(self, allowed: float) -> None:
        super().__init__()
        self.allowed = allowed
        self.got: list[Any] = []
        self.scope = trio.CancelScope()
        self.more = trio.Event()

    async def listen(self, ask: Replies) -> None:
        """Take what is allowed, until the end or an error."""
        async with ask as replies:
            with self.scope:
                while True:
                    while len(self.got) >= self.allowed:
                        await self.more.wait()
                    try:
                        self.got.append(await replies.receive())
                    except trio.EndOfChannel:
                        return

    def allow(self, count: int) -> None:
        """The application takes so many more."""
        self.allowed += count
        self.more.set()
        self.more = trio.Event()


class Story:
    """One port, the turns and sessions that the steps name, and the peer's end of the channel."""

    def __init__(self, port: Port, peer: trio.abc.Channel[Any], nursery: trio.Nursery, sid_name: str) -> None:
        self.port = port
        self.sid_name = sid_name
        self.peer = peer
        self.nursery = nursery
        self.turns: dict[str, Caught] = {}
        self.streams: dict[str, Listening] = {}
        self.sessions: dict[str, Session] = {}
        self.opened: list[Session] = []
        self.plain: list[Any] = []
        self.leaving: dict[Session, tuple[trio.Event, list[Exception]]] = {}
        self.known: dict[str, Any] = {}
        self.parts: dict[int, Any] = {}

    def payload(self, message: dict[str, Any]) -> dict[str, Any]:
        """What the application gets of a session's message; names with an underscore are those of the exact wire."""
        return {name: value for name, value in message.items() if name != self.sid_name and not name.startswith("_")}

    async def handle(self, session: Session) -> None:
        """The handler of a session: it stays until the story says that it leaves."""
        self.opened.append(session)
        event, errors = self.leaving[session] = trio.Event(), []
        await event.wait()
        if errors:
            raise errors[0]

    def filled(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message with what is known by now in the place of its `$names`."""
        return {key: self.known.get(value, value) if type(value) is str else value for key, value in message.items()}

    async def step(self, step: dict[str, Any]) -> None:
        """Do one, and let everybody react."""
        [kind] = step.keys() & {"do", "out", "quiet", "in", "error", "wait"}
        await getattr(self, f"on_{kind}")(step)
        await settle()

    async def on_do(self, step: dict[str, Any]) -> None:
        deed, session = step["do"], self.sessions.get(step.get("session", ""))
        if deed == "open":
            self.sessions[step["session"]] = self.port.create()
        elif deed in ("send", "request"):
            call = self.port.request if session is None else session.send
            patience = {key: step[key] for key in ("timeout", "retry_count", "retry_interval") if key in step}
            turn = self.turns[step["turn"]] = Caught()
            self.nursery.start_soon(lambda: turn.run(lambda: call(step["message"], **patience)))
        elif deed == "stream":
            ask = (self.port if session is None else session).stream
            options = {key: step[key] for key in STREAM_OPTIONS if key in step}
            listening = self.turns[step["turn"]] = self.streams[step["turn"]] = Listening(step.get("take", math.inf))
            self.nursery.start_soon(listening.run, listening.listen, ask(step["message"], **options))
        elif deed == "take":
            listening = self.streams[step["turn"]]
            before = len(listening.got)
            listening.allow(step["count"])
            await settle()
            assert listening.got[before:] == [self.parts[place] for place in step["gives"]]
        elif deed == "stop":
            self.streams[step["turn"]].scope.cancel()
        elif deed in ("post", "finish"):
            assert session is not None
            caught = Caught()
            self.nursery.start_soon(caught.run, getattr(session, deed), step.get("message"))
            await settle()  # one that waits for credit goes on with the story
            if caught.error is not None:
                raise caught.error
        elif deed == "clear":
            self.port.clear()
        elif deed == "leave":
            assert session is not None
            event, errors = self.leaving[session]
            if "refused" in step:
                errors.append(SessionRefusedError(step["refused"][1], code=step["refused"][0]))
            elif "crashed" in step:
                errors.append(ValueError(step["crashed"]))
            event.set()
        else:
            getattr(session, deed)()

    async def on_out(self, step: dict[str, Any]) -> None:
        with trio.fail_after(0.001):
            message = await self.peer.receive()
        for key, value in step["out"].items():
            if type(value) is str and value.startswith("$"):
                self.known.setdefault(value, message.get(key))
        step = {"out": self.filled(step["out"])}
        assert list(message.items()) == list(step["out"].items())
        assert [type(value) for value in message.values()] == [type(value) for value in step["out"].values()]

    async def on_quiet(self, step: dict[str, Any]) -> None:
        await self.finish()

    async def finish(self) -> None:
        """Nothing is on the wire."""
        with trio.move_on_after(0):
            raise AssertionError(f"not expected on the wire: {await self.peer.receive()!r}")

    async def on_wait(self, step: dict[str, Any]) -> None:
        await trio.sleep(step["wait"])

    async def on_error(self, step: dict[str, Any]) -> None:
        error = self.turns[step["turn"]].error
        assert type(error) is ERRORS[step["error"]]
        for attribute in ("code", "text", "outcome"):
            if attribute in step:
                assert getattr(error, attribute) == step[attribute]

    async def on_in(self, step: dict[str, Any]) -> None:
        [(kind, name)] = step["to"].items()
        step = {**step, "in": self.filled(step["in"])}
        self.parts[step["in"].get("_part")] = self.payload(step["in"])
        before = self.port.statistics()
        waiting = {turn for turn, caught in self.turns.items() if caught.at is None}
        had = {turn: len(listening.got) for turn, listening in self.streams.items()}
        await self.peer.send(step["in"])
        await settle()
        after = self.port.statistics()
        strays = {
            stray for stray, names in STRAYS.items() if sum(getattr(after, one) - getattr(before, one) for one in names)
        }
        settled = {turn for turn in waiting if self.turns[turn].at is not None}
        assert settled == ({name} if kind in ("turn", "fails", "done") else set())
        given = {turn: listening.got[had[turn] :] for turn, listening in self.streams.items()}
        gives = step.get("gives", [step["in"]["_part"]] if kind == "stream" else [])
        assert given.pop(name, []) == [self.parts[place] for place in gives]
        assert not any(given.values())
        assert strays == ({name} - {None} if kind == "nobody" else {"given_up"} & strays if kind == "ends" else set())
        assert after.plain - before.plain == (kind == "plain")
        assert after.accepted - before.accepted == (kind == "opens")
        if kind == "turn":
            assert self.turns[name].value == self.payload(step["in"])
        elif kind == "plain":
            assert self.plain.pop() == step["in"]
        elif kind in ("session", "opens"):
            if kind == "opens":
                self.sessions[name] = self.opened.pop()
            assert await self.sessions[name].receive(timeout=0) == self.payload(step["in"])
        elif kind == "ends":
            assert self.sessions[name].closed
        else:
            for session in self.sessions.values():
                with pytest.raises(SessionError):
                    await session.receive(timeout=0)


@pytest.mark.parametrize("name", VECTORS)
async def test_a_port_does_on_the_wire_what_the_vector_says(autojump_clock: MockClock, name: str) -> None:
    vector = VECTORS[name]
    options: dict[str, Any] = dict(vector["options"])
    if "session_ids" in options:
        options["session_ids"] = range(*options["session_ids"])
    if options.pop("exact", False):
        options["dialect"] = Exact()
    plain: list[Any] = []
    stories: list[Story] = []
    if vector.get("handler"):
        options["on_session"] = lambda session: stories[0].handle(session)
    here, there = plain_pair()
    async with trio.open_nursery() as nursery:
        async with SessionManager(on_message=plain.append).port("p", here, **options) as port:
            story = Story(port, there, nursery, options.get("session_id_name", "sid"))
            story.plain = plain
            stories.append(story)
            for number, step in enumerate(vector["steps"]):
                try:
                    await story.step(step)
                except BaseException as error:
                    error.add_note(f"{name}.json, step {number}: {step}")
                    raise
            await story.finish()
        nursery.cancel_scope.cancel()


def test_there_are_vectors_and_each_says_what_it_is_about() -> None:
    assert len(VECTORS) >= 80
    for vector in VECTORS.values():
        assert vector.keys() <= {"description", "options", "handler", "steps"}
        assert vector["description"].endswith(".")
        assert vector["steps"]
