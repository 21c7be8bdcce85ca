"""The handlers of the sessions that the peer opens: who is let in, and what becomes of what they raise."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING

from psession import errors
from psession._ending import MADE_ROOM

if TYPE_CHECKING:
    from psession._port import Port
    from psession._session import Session

log = logging.getLogger("psession")


class Handlers:
    """The handlers of one port.

    Attributes:
        running: How many there are; some may outlive their session.
    """

    def __init__(self, port: Port) -> None:
        self.running = 0
        self._port = port

    def take_in(self, sid: int) -> Session | None:
        """A session that the peer opens, its handler not started yet; ``None`` where all are at work."""
        options = self._port._options
        if self._port._drained is not None:
            self._port._counters.refused += 1
            return None
        if self.running >= options.max_incoming_sessions:
            # At twice as many, sessions were ended for others and their handlers take their time to notice.
            idle = None if self.running >= 2 * options.max_incoming_sessions else self._longest_idle()
            if idle is None:
                self._port._counters.refused += 1
                self._port._warn(
                    "refused", "not taken: max_incoming_sessions (%d) are all at work", options.max_incoming_sessions
                )
                return None
            self._port._counters.recycled += 1
            idle._end(MADE_ROOM)
        session = self._port._table.accept(sid)
        self._port._counters.accepted += 1
        self.running += 1
        return session

    def _longest_idle(self) -> Session | None:
        """The session of the peer that has been idle longest, taken out of its queue."""
        idle = self._port._idle_incoming.pop_oldest()
        while idle is not None and not idle._is_idle:
            idle = self._port._idle_incoming.pop_oldest()  # busy: it comes back when its handler waits again
        return idle

    async def handle(self, session: Session) -> None:
        """The task of one session that the peer opened."""
        try:
            on_session = self._port._options.on_session
            result = on_session(session)  # type: ignore[misc]
            if not inspect.isawaitable(result):
                raise TypeError(f"on_session must be an async function, {on_session!r} returned {result!r}")
            if session._exchange is None or self._port._exact is None:
                await result
            else:
                await self._port._exact.answerer.handle(session, result)
        except errors.SessionRefusedError as error:
            log.debug("port %r: handler of session %d refused: %s", self._port.name, session.sid, error)
        except errors.SessionError as error:
            if self._port._ending is None and (session._ending is None or error.sid != session.sid):
                self.crashed(session.sid, error)
            else:
                log.debug("port %r: handler of session %d: %s", self._port.name, session.sid, error)
        except Exception as error:
            self.crashed(session.sid, error)
        finally:
            self.running -= 1
            session.end()
            self._port._note_drained()

    def crashed(self, sid: int | None, error: Exception) -> None:
        """User code raised: its session ends alone, unless ``strict``."""
        self._port._counters.crashed += 1
        if self._port._options.strict:
            raise error
        what = "on_message" if sid is None else f"the handler of session {sid}"
        log.error("port %r: %s raised", self._port.name, what, exc_info=error)
