"""The handlers of the sessions that the peer opens, and the end of what they raise."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

import trio

from psession import errors
from psession.protocol import states as codes
from psession.shell.handler_scope import answering

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from psession.protocol.dialogue import Dialogue
    from psession.shell.engine import Engine
    from psession.shell.handler_scope import HandlerScope
    from psession.shell.live_session import LiveSession

log: logging.Logger = logging.getLogger("psession")


class PassedOnError(errors.SessionRemoteError):
    """The error of a question that was passed on to another peer: its asker gets the code, the text and the data."""

    code: int | str
    text: str
    data: Any

    def __init__(self, code: str, text: str, data: Any = None, **known: Any) -> None:
        super().__init__(f"{code}: {text}" if text else code, **known)
        self.code, self.text, self.data = code, text, data


EXPECTED = (errors.SessionRefusedError, PassedOnError)
"""What a handler raises on purpose, for its asker to be told of: no fault of its own."""


def untold_code(error: Exception) -> str:
    """The code for the listeners of what a handler raised whose asker, on the classic wire, is not told of it."""
    if isinstance(error, PassedOnError):
        return str(error.code)
    return codes.REFUSED if isinstance(error, errors.SessionRefusedError) else codes.CRASHED


class Handlers:
    """The handlers of one port."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run(self, live: LiveSession, session: object) -> None:
        """The task of one session that the peer opened. A Ctrl-C in it ends the port, as in any task of a nursery."""
        try:
            self._returned(live.dialogue.sid, await self._begun(live, session))
        except errors.SessionError as error:
            self._failed(live.dialogue, error)
        except Exception as error:
            self._tell_crashed(live.dialogue, error)
            self._engine.crashed(live.dialogue.sid, error)
        finally:
            self._over(live)

    def _begun(self, live: LiveSession, session: object) -> Awaitable[object]:
        """Call ``on_session``. A frame of `run` is kept for each session, so what need not be in it is here."""
        on_session, handler = self._engine.options.on_session, live.handler
        assert on_session is not None
        result = on_session(session)
        if not inspect.isawaitable(result):
            hint = "write `async def`" if result is None else f"it returned {result!r}"
            raise TypeError(f"on_session must be an async function, which {on_session!r} is not: {hint}")
        return result if handler is None else self._answer(live, handler, result)

    async def _answer(self, live: LiveSession, handler: HandlerScope, result: Awaitable[object]) -> object:
        """Await a handler within the time that its asker gives it; what it raises becomes the asker's error."""
        engine, dialogue = self._engine, live.dialogue
        answering.set(handler)
        with handler.scope:
            try:
                returned = await result
                await live.finish_stream()
                return returned
            except Exception as error:
                if not self.tell(dialogue, error):
                    raise
        if handler.scope.cancelled_caught and dialogue.ending is None:
            engine.connection.stop(dialogue)
            if engine.told.listens:
                engine.told.failed(dialogue, codes.TIMEOUT)
        return None

    def tell(self, dialogue: Dialogue, error: Exception) -> bool:
        """Tell an asker on the exact wire what its handler raised. Return False if that is a fault of the handler's."""
        engine, options = self._engine, self._engine.options
        if isinstance(error, errors.SessionRefusedError):
            code = f"{codes.REFUSED}.{error.code}" if error.code else codes.REFUSED
            engine.leave(dialogue, code, error.why, error.data, error)
            return True
        if isinstance(error, PassedOnError):
            engine.leave(dialogue, str(error.code), error.text, error.data, error)
            return True
        known = next((code for kind, code in options.error_codes.items() if isinstance(error, kind)), None)
        if known is not None:
            engine.leave(dialogue, known, str(error), error=error)
            return True
        engine.leave(dialogue, codes.CRASHED, repr(error) if options.debug else "", error=error)
        return False

    def _tell_crashed(self, dialogue: Dialogue, error: Exception) -> None:
        """Tell the listeners of an error that its asker, on the classic wire, is not told of."""
        told = self._engine.told
        if told.listens:
            told.failed(dialogue, untold_code(error), error)

    def _failed(self, dialogue: Dialogue, error: errors.SessionError) -> None:
        """A handler ended by an error of a session: by its own most often, which is over then."""
        engine = self._engine
        self._tell_crashed(dialogue, error)
        if isinstance(error, EXPECTED):
            extra = {"event_name": "handler_refused", **engine.said.about, "sid": dialogue.sid}
            log.debug("%s: handler of session %s refused: %s", engine.said.who, dialogue.sid, error, extra=extra)
        elif engine.ending is None and (dialogue.ending is None or error.sid != dialogue.sid):
            engine.crashed(dialogue.sid, error)
        else:
            extra = {"event_name": "handler_ended", **engine.said.about, "sid": dialogue.sid}
            log.debug("%s: handler of session %s: %s", engine.said.who, dialogue.sid, error, extra=extra)

    @trio.lowlevel.enable_ki_protection
    def _over(self, live: LiveSession) -> None:
        """A handler is at work no more."""
        self._engine.connection.handler_done(live.dialogue)
        live.handled()
        self._engine.note_drained()

    def _returned(self, sid: int, value: object) -> None:
        """Say that what a handler returns goes nowhere."""
        if value is not None:
            text = "the handler of session %s returned %.100r, which nobody gets: answer with `await session.post(...)`"
            self._engine.said.once("handler_returned", text, sid, value, sid=sid)
