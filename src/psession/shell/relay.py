"""What one peer asks, passed on to another: requests, dialogues, posts, streams, errors, deadlines, giving up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic

import trio

from psession import errors
from psession.nursery import open_quiet_nursery
from psession.shell.handlers import PassedOnError
from psession.shell.passing import Onward, Passing, lost, passed_on, time_left
from psession.shell.port import engine_of, live_of
from psession.shell.turn import Turn
from psession.typed import Ask, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Unpack

    from psession.options import TurnOptions
    from psession.protocol.dialogue import ExactState
    from psession.shell.port import Port, Session


class Relay(Generic[Ask, Reply]):
    """Passes on what a peer asks, whole, to the peer of another port; for gateways. ::

        relay = Relay(device)  # the port towards the device
        async with manager.accept(channel, on_request=relay.request, on_session=relay.session) as user:
            await user.wait_closed()

    With ``on_message=relay.message`` what is no session's goes on too.

    A question is asked of the other peer, once, and its answer goes back; so do a stream's, each as it comes, with no
    more on its way than the asker has room for. In a dialogue each message goes on in order, posts and questions back
    among them, until one side ends it: then it is over on the other. Giving up and the asker's time reach the other
    peer, and its errors the asker:

    ========================================= ==========================================================================
    what became of the question               what its asker gets, a `SessionRemoteError`
    ========================================= ==========================================================================
    the other peer answered with an error     that error: its code, text and data
    nothing was done: it was not sent         ``"refused.closed"``, ``"refused.timeout"``, ``"refused.full"``,
                                              ``"refused.too_large"``, ``"refused.malformed"``, ``"refused.unsent"``;
                                              the outcome is ``"refused"``
    it was sent, and there is no answer       ``"relay.closed"``, ``"relay.timeout"``, ``"relay.lost"``; the outcome is
                                              ``"sent"``
    ========================================= ==========================================================================

    An asker on the classic wire, which has no errors, gets ``error_reply`` of its port for a request, and nothing in a
    dialogue. All that it says in a dialogue goes on as posts, and all that the other peer posts comes back.

    A question is not asked again by the relay where the asker says how long it waits: who retries is the asker, and on
    the exact wire its retry is no second question.

    Args:
        port: The port to whose peer all is passed on.
        options: ``timeout``, ``retry`` and so on, as for `Port.request`: for each question. By default the time of the
            asker, with no retry; where it does not say its time those of `port`.

    Raises:
        TypeError, ValueError: An option that will not do.
    """

    __slots__ = ("_onward", "port")

    port: Port[Ask, Reply]

    def __init__(self, port: Port[Ask, Reply], **options: Unpack[TurnOptions]) -> None:
        self._onward = Onward(port, options)
        self.port = port

    def __repr__(self) -> str:
        return f"<psession.Relay to {engine_of(self.port).said.who}>"

    def request(self, message: Ask) -> Awaitable[Reply]:
        """Pass on one question; the answer is awaited: for ``on_request=``.

        What it returns is an awaitable. A port that asks exactly needs no task for it: the answer goes back in the pass
        in which it comes.

        Raises:
            SessionError: What its asker gets.
        """
        return Passing(self._onward, message)

    async def message(self, message: Ask) -> None:
        """Pass on a message that is no session's: for ``on_message=``.

        Raises:
            SessionError: It was not sent.
        """
        await self.port.post(message)

    async def session(self, session: Session) -> None:
        """Pass on a dialogue: for ``on_session=``.

        Raises:
            SessionError: What its asker gets.
        """
        opening = self.port.session()
        try:
            onward = await opening.__aenter__()
        except errors.SessionError as error:
            raise passed_on(error) from error
        async with onward:
            try:
                await _Passage(self._onward, session, onward).run()
            except PassedOnError:
                raise
            except errors.SessionError as error:
                if not session.closed:
                    raise lost(error) from error


class _Passage:
    """One dialogue that is passed on: two sessions, and a task for each direction and each question."""

    def __init__(self, way: Onward, asker: Session, onward: Session) -> None:
        self._way = way
        self._asker = asker
        self._onward = onward
        self._lanes = (trio.Lock(), trio.Lock())

    async def run(self) -> None:
        """Pass on what either says, until one has ended it and the questions on their way are over."""
        async with open_quiet_nursery() as listening:
            async with open_quiet_nursery() as questions:
                listening.start_soon(self._hear_asker, questions, listening.cancel_scope)
                await self._hear(self._onward, questions)
            listening.cancel_scope.cancel()

    async def _hear_asker(self, questions: trio.Nursery, whole: trio.CancelScope) -> None:
        await self._hear(self._asker, questions)
        whole.cancel()

    async def _hear(self, source: Session, questions: trio.Nursery) -> None:
        """Pass on what one of the two says, until it has ended the dialogue, or its channel is broken."""
        try:
            async for message in source:
                question = _Question.asked_in(source)
                if question is None:
                    await self._post(message, self._other(source))
                elif question.is_streamed or self._onward.closed:
                    await self._pass_on(message, question)  # to receive would end the many answers to it
                else:
                    # It is sent before the next message is looked at, which may be a post that belongs to it.
                    await questions.start(self._pass_on, message, question)
        except PassedOnError:
            raise
        except errors.SessionError:
            if not source.closed:
                raise

    async def _pass_on(
        self, message: Any, question: _Question, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Pass on a question, and all that its answer asks back in turn."""
        task_status.started()
        answered: _Question | None = None
        asked: _Question | None = question
        while asked is not None:
            target = self._other(asked.session)
            with _Leg(is_onward=target is self._onward):
                if answered is not None:
                    answered.hold()
                if asked.is_streamed:
                    await self._pass_on_parts(message, asked, target)
                    return
                message = await Turn(live_of(target)).run(message, self._way.patience_now(asked.exact))
            answered, asked = asked, _Question.asked_in(target)
        assert answered is not None
        answered.hold()
        await self._post(message, answered.session)

    async def _pass_on_parts(self, message: Any, asked: _Question, target: Session) -> None:
        """Pass on a question that has many answers, and these."""
        options = self._way.options_for(asked.exact)
        parts = target.stream(
            message,
            timeout=options.get("timeout"),
            retry=options.get("retry"),
            retry_count=options.get("retry_count"),
            retry_interval=options.get("retry_interval"),
            total=None if asked.exact.due == math.inf else time_left(asked.exact),
            credit=asked.credit,
        )
        # What else is said to the source meanwhile would be one of the answers.
        async with parts, self._lane_to(asked.session):
            asked.hold()
            async for part in parts:
                with _Leg(is_answer=True):
                    await asked.session.post(part)
            with _Leg(is_answer=True):
                await asked.session.finish()

    async def _post(self, message: Any, target: Session) -> None:
        with _Leg(is_onward=target is self._onward):
            lane = self._lane_to(target)
            if lane.locked():
                async with lane:
                    await target.post(message)
            else:
                await target.post(message)

    def _lane_to(self, target: Session) -> trio.Lock:
        return self._lanes[target is self._onward]

    def _other(self, source: Session) -> Session:
        return self._asker if source is self._onward else self._onward


class _Leg:
    """What is said to one of the two, and what becomes of an error of it.

    Args:
        is_onward: True for what goes to the onward peer, and was not done where it was not sent.
        is_answer: True for the answer to what was done.
    """

    __slots__ = ("_is_answer", "_is_onward")

    def __init__(self, *, is_onward: bool = False, is_answer: bool = False) -> None:
        self._is_onward = is_onward
        self._is_answer = is_answer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, errors.SessionError):
            if self._is_answer:
                raise lost(error) from error
            if self._is_onward:
                raise passed_on(error) from error


class _Question:
    """A question that was received, and is not answered by what else is said in its session, until it is held again.

    Attributes:
        session: Where it was asked.
        exact: What is known of that.
        number: The number of its turn.
        credit: How many answers its asker has room for; 0 where it wants one.
    """

    __slots__ = ("credit", "exact", "number", "session")

    def __init__(self, session: Session, exact: ExactState) -> None:
        self.session: Session = session
        self.exact: ExactState = exact
        self.number: int = exact.holding
        self.credit: int = 0 if exact.stream is None else max(1, exact.stream.credit)
        exact.holding, exact.stream = 0, None

    @classmethod
    def asked_in(cls, session: Session) -> _Question | None:
        """The question that a session's last message asks; ``None``: it asks nothing."""
        exact = live_of(session).dialogue.exact
        return cls(session, exact) if exact is not None and exact.holding else None

    @property
    def is_streamed(self) -> bool:
        """True where its asker wants many answers."""
        return self.credit > 0

    def hold(self) -> None:
        """What is said next in its session answers it."""
        live = live_of(self.session)
        live.engine.connection.hold(live.dialogue, self.number)
