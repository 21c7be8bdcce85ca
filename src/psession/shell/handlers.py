"""The handlers of the sessions that the peer opens, and the end of what they raise."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING

import trio

from psession import errors
from psession.protocol import states as codes
from psession.shell.handler_scope import answering
from psession.shell.user_code import await_, call

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from psession.shell.engine import Engine
    from psession.shell.handler_scope import HandlerScope
    from psession.shell.live_session import LiveSession

log = logging.getLogger("psession")


class Handlers:
    """The handlers of one port."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @trio.lowlevel.enable_ki_protection
    async def run(self, live: LiveSession, session: object) -> None:
        """The task of one session that the peer opened."""
        engine, dialogue = self._engine, live.dialogue
        try:
            on_session = engine.options.on_session
            assert on_session is not None
            result = call(on_session, session)
            if not inspect.isawaitable(result):
                hint = "write `async def`" if result is None else f"it returned {result!r}"
                raise TypeError(f"on_session must be an async function, which {on_session!r} is not: {hint}")
            if live.handler is None:
                returned = await await_(result)
            else:
                returned = await self._answer(live, live.handler, result)
            if returned is not None:
                self._returned(dialogue.sid, returned)
        except errors.SessionRefusedError as error:
            log.debug("port %r: handler of session %d refused: %s", engine.name, dialogue.sid, error)
        except errors.SessionError as error:
            if engine.ending is None and (dialogue.ending is None or error.sid != dialogue.sid):
                engine.crashed(dialogue.sid, error)
            else:
                log.debug("port %r: handler of session %d: %s", engine.name, dialogue.sid, error)
        except Exception as error:
            engine.crashed(dialogue.sid, error)
        finally:
            engine.connection.handler_done()
            live.end()
            engine.note_drained()

    async def _answer(self, live: LiveSession, handler: HandlerScope, result: Awaitable[object]) -> object:
        """Await a handler within the time that its asker gives it; what it raises becomes the asker's error."""
        engine, dialogue = self._engine, live.dialogue
        connection, options = engine.connection, engine.options
        answering.set(handler)
        with handler.scope:
            try:
                returned = await await_(result)
                await live.finish_stream()
                return returned
            except errors.SessionRefusedError as error:
                code = f"{codes.REFUSED}.{error.code}" if error.code else codes.REFUSED
                engine.perform(connection.leave(dialogue, code, error.why))
            except Exception as error:
                known = next((code for kind, code in options.error_codes.items() if isinstance(error, kind)), None)
                if known is not None:
                    engine.perform(connection.leave(dialogue, known, str(error)))
                    return None
                engine.perform(connection.leave(dialogue, codes.CRASHED, repr(error) if options.debug else ""))
                raise
        if handler.scope.cancelled_caught and dialogue.ending is None:
            connection.stop(dialogue)
        return None

    def _returned(self, sid: int, value: object) -> None:
        """Say that what a handler returns goes nowhere."""
        self._engine.say_once(
            "returned",
            "the handler of session %d returned %.100r, which nobody gets: answer with `await session.post(...)`",
            sid,
            value,
        )
