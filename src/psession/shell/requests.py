"""Questions that ``on_request`` answers one by one: no session, no inbox, and a task only for one that waits."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from psession import errors
from psession.protocol import states as codes
from psession.protocol.counters import Drop
from psession.protocol.dialogue import BUSY
from psession.protocol.endings import ENDED
from psession.protocol.events import Dropped
from psession.shell.handler_scope import HandlerScope, answering
from psession.shell.user_code import await_, call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Context

    from psession.protocol.dialogue import Dialogue
    from psession.protocol.events import Ended, Received
    from psession.shell.engine import Engine
    from psession.shell.handlers import Handlers

log = logging.getLogger("psession")


class Requests:
    """What a port answers by ``on_request``.

    Args:
        engine: The middle of the port.
        handlers: Tells askers what a handler raised.
        context: The context variables of who opened the port, in which the function is called.
        spawn: Starts a task of the port's.
        crashed: Counts and logs what the function raised, in the session of that number; under ``strict`` it fails the
            port, and not the task that brought the message.
    """

    def __init__(
        self,
        engine: Engine,
        handlers: Handlers,
        context: Context,
        spawn: Callable[..., None],
        crashed: Callable[[int, Exception], None],
    ) -> None:
        assert engine.options.on_request is not None
        self.engine = engine
        self.handlers = handlers
        self.spawn = spawn
        self.crashed = crashed
        self._answer = engine.options.on_request
        self._context = context

    def takes(self, dialogue: Dialogue) -> bool:
        """Return True if what a dialogue opens with is a request.

        Beside ``on_session`` that is what says so: a question of the exact wire that is the last of its session.
        """
        if self.engine.options.on_session is None:
            return True
        return dialogue.exact is not None and dialogue.exact.is_final

    def open(self, dialogue: Dialogue) -> None:
        """Answer what the peer asks in this dialogue."""
        dialogue.owner = Request(self, dialogue)

    def call(self, payload: Any) -> Any:
        """Call the function."""
        return self._context.copy().run(call, self._answer, payload)


class Request:
    """The owner of a `Dialogue` whose questions are answered one by one.

    On the classic wire, where any message may be the last of its number, nothing of a dialogue is kept. On the exact
    one it stays until its last question is answered, for a peer that asks several in it.

    Attributes:
        held: The bytes of messages that nobody has received: there are none.
    """

    __slots__ = ("_at_work", "_dialogue", "_handler", "_is_counted", "_requests")

    held = 0

    def __init__(self, requests: Requests, dialogue: Dialogue) -> None:
        self._requests = requests
        self._dialogue = dialogue
        self._handler: HandlerScope | None = None
        self._at_work = 0
        self._is_counted = True

    # -- what the engine calls ---------------------------------------------------------------------------------------

    def received(self, event: Received) -> None:
        """Answer a question, at once where the function does not wait."""
        requests, dialogue = self._requests, self._dialogue
        engine, question = requests.engine, event.question
        self._at_work += 1
        if dialogue.exact is None:
            engine.end(dialogue, ENDED)
        else:
            dialogue.idle_since = BUSY
            if question:
                engine.connection.hold(dialogue, question)
        try:
            reply = requests.call(event.payload)
        except Exception as error:
            self._failed(question, error)
            return
        if not inspect.isawaitable(reply):
            self._answer(question, reply)
            return
        lent = engine.account.lend(event.payload)
        if lent is None:
            if inspect.iscoroutine(reply):
                reply.close()
            self._overrun()
            return
        requests.spawn(self._wait_for, question, reply, lent, name=f"psession on_request of {engine.name!r}")

    def ended(self, event: Ended) -> None:
        """The dialogue is over: answered, given up, or the port is."""
        self._dialogue.owner = None
        if event.cancels and self._handler is not None:
            self._handler.scope.cancel()
        self._count()

    def settle(self, ending: object) -> None:
        """Nobody of this side's waits here."""

    # -- the answer --------------------------------------------------------------------------------------------------

    async def _wait_for(self, question: int, reply: Awaitable[Any], lent: int) -> None:
        """Await an answer within the time that its asker gives it."""
        requests, dialogue = self._requests, self._dialogue
        engine, exact = requests.engine, dialogue.exact
        result: Any = None
        try:
            if exact is None or not question:
                result = await await_(reply)
            else:
                handler = self._handler = HandlerScope(exact)
                answering.set(handler)
                handler.begin(engine.timekeeper.watch_handler)
                with handler.scope:
                    result = await await_(reply)
                if handler.scope.cancelled_caught:
                    if dialogue.ending is None:
                        engine.connection.stop(dialogue)
                    self._over()
                    return
        except Exception as error:
            self._failed(question, error)
        except BaseException:
            self._over()
            raise
        else:
            self._answer(question, result)
        finally:
            engine.account.give_back(lent)

    def _answer(self, question: int, reply: Any) -> None:
        """Send the answer; where there is no room for it a task waits for that."""
        requests, dialogue = self._requests, self._dialogue
        engine, exact = requests.engine, dialogue.exact
        if not self._is_wanted(question):
            self._rest()
            return
        if reply is None:
            if exact is not None:
                engine.said.once("no answer", "on_request returned None, so its asker gets an error: return a reply")
                engine.leave(dialogue, codes.UNANSWERED)
            self._over()
            return
        try:
            frame, answers, _ = engine.connection.post(dialogue, reply)
        except errors.MessageError as error:
            self._failed(question, error)
            return
        if engine.outbox.put_if_room(frame):
            self._sent(answers)
        else:
            requests.spawn(self._post, frame, answers, name=f"psession answer of {engine.name!r}")

    def _is_wanted(self, question: int) -> bool:
        """Return True if somebody waits for the answer: it is no post, and was not given up."""
        exact = self._dialogue.exact
        if exact is None:
            return self._requests.engine.ending is None
        return self._dialogue.ending is None and question != 0 and exact.holding == question

    async def _post(self, frame: Any, answers: int) -> None:
        """Send an answer that there was no room for."""
        engine = self._requests.engine
        try:
            await engine.outbox.post(frame, engine.check_open)
        except BaseException as error:
            if answers:
                engine.connection.not_posted(self._dialogue, answers, opened=False)
                engine.leave(self._dialogue, codes.OVERRUN)
            self._over()
            if not isinstance(error, errors.SessionError):
                raise
        else:
            self._sent(answers)

    def _sent(self, answers: int) -> None:
        engine, dialogue = self._requests.engine, self._dialogue
        if answers and dialogue.exact is not None and dialogue.exact.is_final:
            engine.perform(engine.connection.answer_sent(dialogue, engine.now()))
        self._rest()

    def _failed(self, question: int, error: Exception) -> None:
        """The function raised, or its answer cannot travel."""
        requests, dialogue = self._requests, self._dialogue
        engine = requests.engine
        if dialogue.exact is not None and question:
            is_expected = requests.handlers.tell(dialogue, error)
        else:
            is_expected = isinstance(error, errors.SessionRefusedError)
            self._reply_to_error(error)
        if is_expected:
            log.debug("port %r: request %s was refused: %s", engine.name, dialogue.sid, error)
        else:
            requests.crashed(dialogue.sid, error)
        self._over()

    def _reply_to_error(self, error: Exception) -> None:
        """Say on the classic wire, which has no errors, what the application would have said."""
        engine, dialogue = self._requests.engine, self._dialogue
        make = engine.options.error_reply
        if make is None or dialogue.exact is not None or not self._is_wanted(0):
            return
        try:
            reply = call(make, error)
            if reply is not None:
                engine.say(engine.connection.post(dialogue, reply)[0])
        except Exception as another:
            self._requests.crashed(dialogue.sid, another)

    def _overrun(self) -> None:
        """There is no room for what the answer is made of."""
        engine, dialogue = self._requests.engine, self._dialogue
        engine.connection.counters.drop(Drop.OVERRUN)
        engine.perform([Dropped(Drop.OVERRUN, dialogue.sid)])
        engine.leave(dialogue, codes.OVERRUN)
        self._over()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """A question is done with; the peer may ask another one in this dialogue."""
        self._at_work -= 1
        if self._dialogue.ending is None:
            self._requests.engine.rests(self._dialogue)
        self._count()

    def _over(self) -> None:
        """A question is done with, and so is its dialogue."""
        self._at_work -= 1
        self._requests.engine.end(self._dialogue, ENDED)
        self._count()

    def _count(self) -> None:
        """Count it no more, once it is over and nobody is at work on it."""
        if self._is_counted and not self._at_work and self._dialogue.ending is not None:
            self._is_counted = False
            engine = self._requests.engine
            engine.connection.handler_done()
            engine.note_drained()
