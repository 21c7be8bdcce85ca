"""Questions that ``on_request`` answers one by one: no session, no inbox, and a task only for one that waits."""

from __future__ import annotations

import inspect
import logging
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from psession import errors
from psession.protocol import states as codes
from psession.protocol.counters import Drop
from psession.protocol.dialogue import BUSY
from psession.protocol.endings import ENDED
from psession.protocol.events import Dropped
from psession.protocol.turn_dialect import TurnDialect
from psession.service import Service
from psession.shell.handler_scope import HandlerScope, answering
from psession.shell.handlers import EXPECTED, untold_code
from psession.shell.live_session import LiveSession
from psession.shell.passing import Passing, passed_on
from psession.shell.user_code import OVER, await_, call, next_

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextvars import Context

    from psession.protocol.dialogue import Dialogue
    from psession.protocol.events import Asked, Ended, Received
    from psession.shell.engine import Engine
    from psession.shell.handlers import Handlers
    from psession.shell.passing import PassedTurn

log: logging.Logger = logging.getLogger("psession")

SENT: Final = object()
"""The result of a function whose answer has been sent."""


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

    __slots__ = ("_answer", "_context", "crashed", "engine", "handlers", "spawn")

    def __init__(
        self,
        engine: Engine,
        handlers: Handlers,
        context: Context,
        spawn: Callable[..., None],
        crashed: Callable[[int, Exception], None],
    ) -> None:
        assert engine.options.on_request is not None
        self.engine: Engine = engine
        self.handlers: Handlers = handlers
        self.spawn: Callable[..., None] = spawn
        self.crashed: Callable[[int, Exception], None] = crashed
        self._answer = _callable(engine.options.on_request, engine.options.dialect)
        self._context = context

    def asked(self, event: Asked) -> None:
        """Answer a question that stands alone, at once where the function does not wait and there is room.

        That is the fast way for nearly every question to a plain function: nothing is kept of it. What takes time, or
        goes wrong, is a `Request`.
        """
        engine = self.engine
        context = self._tell(event) if engine.told.listens else None
        try:
            reply = self.call(event.payload, context)
            if (type(reply) is dict or self.is_answer(reply)) and engine.outbox.has_room:
                frame = engine.connection.answer(event, reply)
                if frame is not None and engine.ending is None:
                    engine.outbox.put(frame, None)
                if context is not None:
                    engine.told.answered(event, reply)
                engine.connection.handler_done()
                if engine.drained is not None:
                    engine.note_drained()
                return
        except Exception as error:
            self._keep(event, context).failed(event.turn, error)
        else:
            self._keep(event, context).replied(event.turn, reply, event.payload)

    def _tell(self, event: Asked) -> Context:
        """Tell the listeners of a question that stands alone, in the context that it is answered in."""
        context = self.new_context()
        engine = self.engine
        came = event.began if event.turn else engine.now()
        context.run(engine.told.asked, event, event.sid, event.payload, came, event.turn, False, event.trace)
        return context

    def _keep(self, event: Asked, context: Context | None) -> Request:
        dialogue = self.engine.connection.keep(event)
        request = Request(self, dialogue)
        request.at_work = 1
        if context is not None:
            request.context = context
            self.engine.told.rename(event, dialogue)
        if dialogue.ending is None:
            dialogue.owner = request
        return request

    def open(self, dialogue: Dialogue) -> None:
        """Answer what the peer asks in this dialogue."""
        dialogue.owner = Request(self, dialogue)

    def is_answer(self, reply: object) -> bool:
        """Return True if what the function has returned is the answer, and not what makes one in time."""
        if reply is None:
            return self.engine.connection.answers_none
        return not inspect.isawaitable(reply) and not inspect.isasyncgen(reply)

    def new_context(self) -> Context:
        """The context variables of who opened the port, for one call."""
        return self._context.copy()

    def call(self, payload: Any, context: Context | None = None) -> Any:
        """Call the function, in this context or in one of its own."""
        return (self._context.copy() if context is None else context).run(call, self._answer, payload)


class Request:
    """The owner of a `Dialogue` whose questions are answered one by one.

    On the classic wire, where any message may be the last of its number, the dialogue is over already. On the exact one
    it stays until its last question is answered, for a peer that asks several in it.

    Attributes:
        held: The bytes of messages that nobody has received: there are none.
        at_work: The number of questions whose answers are being made.
        context: The context variables in which the question at hand is answered, where a listener may have set some;
            ``None``: those of who opened the port.
    """

    __slots__ = ("_dialogue", "_handler", "_is_counted", "_parts", "_requests", "_turn", "at_work", "context")

    held = 0

    def __init__(self, requests: Requests, dialogue: Dialogue) -> None:
        self._requests = requests
        self._dialogue = dialogue
        self._handler: HandlerScope | None = None
        self._parts: LiveSession | None = None
        self._turn: PassedTurn | None = None
        self.at_work: int = 0
        self.context: Context | None = None
        self._is_counted = True

    # -- what the engine calls ---------------------------------------------------------------------------------------

    def received(self, event: Received) -> None:
        """Answer a question of a dialogue, at once where the function does not wait."""
        requests, dialogue, question = self._requests, self._dialogue, event.question
        self.at_work += 1
        dialogue.idle_since = BUSY
        if question:
            requests.engine.connection.hold(dialogue, question)
        self.context = self._tell(event) if requests.engine.told.listens else None
        try:
            reply = requests.call(event.payload, self.context)
        except Exception as error:
            self.failed(question, error)
        else:
            self.replied(question, reply, event.payload)

    def _tell(self, event: Received) -> Context | None:
        """Tell the listeners of what the peer says in a dialogue, in the context in which it is answered."""
        dialogue, exact, told = self._dialogue, self._dialogue.exact, self._requests.engine.told
        if exact is None or not event.question:
            told.posted(dialogue.sid, event.payload, incoming=True)
            return None
        context = self._requests.new_context()
        context.run(
            told.asked,
            dialogue,
            dialogue.sid,
            event.payload,
            exact.began,
            event.question,
            exact.stream is not None,
            event.trace,
        )
        return context

    def ended(self, event: Ended) -> None:
        """The dialogue is over: answered, given up, or the port is."""
        self._dialogue.owner = None
        told = self._requests.engine.told
        if told.listens:
            told.turn_ended(event)
        if event.cancels and self._handler is not None:
            self._handler.scope.cancel()
        if self._parts is not None:
            self._requests.engine.outbox.turn_back(self._parts)
        if self._turn is not None:
            self._turn.give_up()
        self._count()

    def settle(self, ending: object) -> None:
        """Nobody of this side's waits here."""

    # -- the answer --------------------------------------------------------------------------------------------------

    def replied(self, question: int, reply: Any, payload: Any) -> None:
        """The function has returned: a reply, what is to be awaited for one, or a generator of many."""
        engine = self._requests.engine
        makes: Callable[[int, Any], Awaitable[Any]]
        if self._streams and self._requests.is_answer(reply):
            reply = _one(reply)
        if isinstance(reply, Passing) and self._pass_on(question, reply, payload):
            return
        if inspect.isasyncgen(reply):
            makes = self._send_parts
        elif inspect.isawaitable(reply):
            makes = self._wait_for
        else:
            self._answer(question, reply)
            return
        lent = engine.account.lend(payload)
        if lent is None:
            if inspect.iscoroutine(reply):
                reply.close()
            self._overrun()
            return
        name = f"psession on_request of {engine.name!r}"
        self._requests.spawn(self._within_time, question, makes, reply, lent, name=name, context=self.context)

    def _pass_on(self, question: int, passing: Passing[Any], payload: Any) -> bool:
        """Let another port's peer answer, without a task. Return False where it takes one: then nothing was done."""
        engine, exact = self._requests.engine, self._dialogue.exact
        if exact is None or not question or exact.stream is not None or self._dialogue.ending is not None:
            return False
        lent = engine.account.lend(payload)
        if lent is None:
            self._overrun()
            return True
        done = partial(self._passed, question, lent)
        try:
            context = self.context
            turn = passing.begin(exact, done) if context is None else context.run(passing.begin, exact, done)
        except errors.SessionError as error:
            self._passed(question, lent, None, error)
            return True
        if turn is None:
            engine.account.give_back(lent)
        elif turn.is_waiting:
            self._turn = turn
        return turn is not None

    def _passed(self, question: int, lent: int, reply: Any, error: BaseException | None) -> None:
        """A question that was passed on has its answer, or something in its place."""
        engine, dialogue = self._requests.engine, self._dialogue
        self._turn = None
        engine.account.give_back(lent)
        if error is None:
            self._answer(question, reply)
        elif isinstance(error, errors.SessionTimeoutError) and dialogue.exact and engine.now() >= dialogue.exact.due:
            self._timed_out()
        elif isinstance(error, errors.SessionError):
            self.failed(question, passed_on(error))
        elif isinstance(error, Exception):
            self.failed(question, error)
        else:
            self._over()

    def _timed_out(self) -> None:
        """The asker's time is over."""
        engine, dialogue = self._requests.engine, self._dialogue
        if dialogue.ending is None:
            engine.connection.stop(dialogue)
            if engine.told.listens:
                engine.told.failed(dialogue, codes.TIMEOUT)
        self._over()

    async def _within_time(
        self, question: int, makes: Callable[[int, Any], Awaitable[Any]], reply: Any, lent: int
    ) -> None:
        """Await an answer within the time that its asker gives it."""
        engine, dialogue = self._requests.engine, self._dialogue
        exact = dialogue.exact
        result: Any = None
        try:
            if exact is None or not question:
                result = await makes(question, reply)
            else:
                handler = self._handler = HandlerScope(exact)
                answering.set(handler)
                handler.begin(engine.timekeeper.watch_handler)
                if dialogue.ending is not None:
                    handler.scope.cancel()  # its asker gave it up before its first step
                with handler.scope:
                    result = await makes(question, reply)
                if handler.scope.cancelled_caught:
                    self._timed_out()
                    return
        except Exception as error:
            self.failed(question, error)
        except BaseException:
            self._over()
            raise
        else:
            if result is SENT:
                self._rest()
            else:
                self._answer(question, result)
        finally:
            engine.account.give_back(lent)

    @property
    def _streams(self) -> bool:
        """True where the asker wants many parts."""
        exact = self._dialogue.exact
        return exact is not None and exact.stream is not None

    async def _wait_for(self, question: int, reply: Awaitable[Any]) -> Any:
        result = await await_(reply)
        if self._streams and self._requests.is_answer(result):
            return await self._send_parts(question, _one(result))
        return result

    async def _send_parts(self, question: int, parts: AsyncGenerator[Any, None]) -> object:
        """Send what a generator yields: the parts of the answer to a stream.

        On the classic wire, which knows no streams, each is a message of its session.
        """
        engine, dialogue = self._requests.engine, self._dialogue
        exact = dialogue.exact
        async with aclosing(parts):
            if exact is None:
                while (part := await next_(parts)) is not OVER:
                    await engine.outbox.post(engine.connection.post(dialogue, part)[0], engine.check_open)
                    if engine.told.listens:
                        engine.told.sent_part(dialogue, part)
                if engine.told.listens:
                    engine.told.answered(dialogue)
                return SENT
            if question and exact.stream is None:
                raise errors.SessionRefusedError("the answer has many parts: ask for them with stream()", code="stream")
            live = self._parts = LiveSession(engine, dialogue, engine.patience)
            live.handler = self._handler
            dialogue.owner = self
            try:
                while (part := await next_(parts)) is not OVER:
                    if question:
                        await live.post(part)
                await live.finish_stream()
            finally:
                self._parts = None
        return SENT

    def _answer(self, question: int, reply: Any) -> None:
        """Send the answer; where there is no room for it a task waits for that."""
        requests, dialogue = self._requests, self._dialogue
        engine, exact = requests.engine, dialogue.exact
        if not self._is_wanted(question):
            self._rest()
            return
        if reply is None and not engine.connection.answers_none:
            if exact is not None:
                text = "on_request returned None, so its asker gets an error: return a reply"
                engine.said.once("no_answer", text)
                engine.leave(dialogue, codes.UNANSWERED)
            self._over()
            return
        try:
            frame, answers, _ = engine.connection.post(dialogue, reply)
        except errors.MessageError as error:
            self.failed(question, error)
            return
        if frame is None:  # it travels with the answers to others
            self._sent(answers, reply)
        elif engine.outbox.has_room:
            engine.outbox.put(frame, None)
            self._sent(answers, reply)
        else:
            requests.spawn(self._post, frame, answers, reply, name=f"psession answer of {engine.name!r}")

    def _is_wanted(self, question: int) -> bool:
        """Return True if somebody waits for the answer: it is no post, and was not given up."""
        exact = self._dialogue.exact
        if exact is None:
            return self._requests.engine.ending is None
        return self._dialogue.ending is None and question != 0 and exact.holding == question

    async def _post(self, frame: Any, answers: int, reply: Any) -> None:
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
            self._sent(answers, reply)

    def _sent(self, answers: int, reply: Any) -> None:
        engine, dialogue = self._requests.engine, self._dialogue
        if engine.told.listens:
            engine.told.answered(dialogue, reply)
        if answers and dialogue.exact is not None and dialogue.exact.is_final:
            engine.perform(engine.connection.answer_sent(dialogue, engine.now()))
        self._rest()

    def failed(self, question: int, error: Exception) -> None:
        """The function raised, or its answer cannot travel."""
        requests, dialogue = self._requests, self._dialogue
        engine = requests.engine
        if dialogue.exact is not None and question:
            is_expected = requests.handlers.tell(dialogue, error)
        else:
            is_expected = isinstance(error, EXPECTED)
            if engine.told.listens:
                engine.told.failed(dialogue, untold_code(error), error)
            self._reply_to_error(error)
        if is_expected:
            extra = {"event_name": "request_refused", **engine.said.about, "sid": dialogue.sid}
            log.debug("%s: request %s was refused: %s", engine.said.who, dialogue.sid, error, extra=extra)
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
        self.at_work -= 1
        if self._dialogue.ending is None:
            self._requests.engine.rests(self._dialogue)
        self._done()

    def _over(self) -> None:
        """A question is done with, and so is its dialogue."""
        self.at_work -= 1
        self._requests.engine.end(self._dialogue, ENDED)
        self._done()

    def _done(self) -> None:
        """A question is done with; one that nobody has told of got no answer."""
        told = self._requests.engine.told
        if told.listens:
            told.failed(self._dialogue, codes.UNANSWERED)
        self._count()

    def _count(self) -> None:
        """Count it no more, once it is over and nobody is at work on it."""
        if self._is_counted and not self.at_work and self._dialogue.ending is not None:
            self._is_counted = False
            engine = self._requests.engine
            engine.connection.handler_done(self._dialogue)
            engine.note_drained()


def _callable(answer: Callable[[Any], object], dialect: object) -> Callable[[Any], object]:
    """The function to call with a payload: of a `Service` the one that finds its method where the dialect has it."""
    if not isinstance(answer, Service) or not isinstance(dialect, TurnDialect):
        return answer
    service, call_of = answer, dialect.call_of

    def call_by_name(payload: Any) -> object:
        found = call_of(payload)
        return service(payload) if found is None else service.call(*found)

    return call_by_name


async def _one(reply: object) -> AsyncGenerator[object, None]:
    """A stream of one part."""
    yield reply
