"""Channels of plain requests over a broker: what those that ask, and those that answer, have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

import trio

from psession.brokers._channel import BrokerChannel, L, R
from psession.channels.codecs import JsonCodec, MsgpackCodec
from psession.errors import MalformedMessageError, MessageError, MessageTooLargeError, SessionError

if TYPE_CHECKING:
    from psession.brokers._subscription import BrokerSubscription
    from psession.channels._base import Message
    from psession.channels.codecs import Codec, CodecName

MAX_ASKED: Final = 65536
"""Requests whose answers are awaited, as far as the channel remembers them: to say so when the connection breaks."""


class PlainChannel(BrokerChannel[R]):
    """A channel of plain requests: payloads of any kind, each in a message of its own."""

    def __init__(self, road: R, codec: Codec | CodecName, max_message_bytes: float, close_timeout: float) -> None:
        any_value: Codec | CodecName = codec
        if codec == "json":
            any_value = JsonCodec(Any)
        elif codec == "msgpack":
            any_value = MsgpackCodec(Any)
        super().__init__(road, any_value, max_message_bytes, close_timeout)

    def _data(self, payload: Any) -> bytes:
        data = b"" if payload is None else self._codec.encode(payload)
        limit = min(self._max_message_bytes, self._road.max_payload)
        if len(data) > limit:
            raise MessageTooLargeError(f"{len(data)} bytes; {limit:g} are the most (max_message_bytes, max_payload)")
        return data

    def _payload(self, data: bytes) -> Any:
        return self._codec.decode(data) if data else None


class _Look:
    """Stands in the mailbox where there is something to tell that did not come as a message."""

    size = 0


_LOOK: Final = _Look()


class AskingBase(PlainChannel[L]):
    """Asks, and remembers what was asked until it is answered.

    Answers come by a token of the client's inbox, and each says by a number what it is the answer to.
    """

    def __init__(self, road: L, codec: Codec | CodecName, max_message_bytes: float, close_timeout: float) -> None:
        super().__init__(road, codec, max_message_bytes, close_timeout)
        self._asked: dict[int, None] = {}
        self._lost: list[dict[str, Any]] = []

    def _begin(self, token: str) -> str:
        """Have the answers come, and return the address that they are wanted on."""
        self._token = token
        address = self._road.take_inbox(token, self._take)
        self._road.watch_link(self)
        return address

    def _leave(self) -> None:
        self._road.leave_inbox(self._token)
        self._road.forget_link(self)

    def _note_asked(self, id: int) -> None:
        self._asked[id] = None
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]

    def _tell(self, *lost: dict[str, Any]) -> None:
        """Have the reader told what will not be answered."""
        self._lost += lost
        self._take(_LOOK)

    def _take(self, message: Any) -> None:
        if self._over is None and not self._box.put(message):
            self._road.note_link_overrun()

    def _messages_of(self, messages: list[Any]) -> list[Message | MessageError]:
        made: list[Message | MessageError] = []
        for message in messages:
            if message is _LOOK:
                made += self._lost
                self._lost.clear()
                continue
            try:
                id = self._id_of(message)
            except MalformedMessageError as error:
                made.append(error)
                continue
            self._asked.pop(id, None)
            try:
                made.append(self._read_answer(id, message))
            except MessageError as error:
                made.append({"kind": "fail", "id": id, "code": "malformed", "text": error.why})
        return made

    @abstractmethod
    def _id_of(self, message: Any) -> int:
        """The number of what a message is the answer to.

        Raises:
            MalformedMessageError: It has none.
        """

    @abstractmethod
    def _read_answer(self, id: int, message: Any) -> dict[str, Any]:
        """An answer, or the error that it is.

        Raises:
            MessageError: It cannot be read.
        """

    @property
    def keepalive(self) -> float:
        """Never: there is no other end in particular."""
        return math.inf

    def look(self, now: float) -> None:
        """There is nobody in particular to look after."""

    def broke(self, error: SessionError) -> None:
        """The connection broke: what was asked is not answered any more. The channel lives on with the next."""
        text = error.why
        lost = [{"kind": "fail", "id": id, "code": "disconnected", "text": text} for id in self._asked]
        self._asked.clear()
        self._tell(*lost)


class AnsweringBase(PlainChannel[R]):
    """Brings the requests of all who ask, and takes the answers."""

    _subscription: BrokerSubscription[Any]

    async def _read(self) -> list[Message | MessageError]:
        self._check_open()
        try:
            messages = await self._subscription.receive_batch()
        except trio.EndOfChannel:
            self._check_open()
            raise
        except SessionError as error:
            raise trio.BrokenResourceError(error.why) from error
        self.bytes_received += sum(message.size for message in messages)
        return [self._read_question(message) for message in messages]

    def _read_question(self, message: Any) -> Message | MessageError:
        """A question, or a message that wants no answer. Who asked what cannot be read is told so."""
        asker = None
        try:
            asker = self._asker(message)
            question = self._question(message)
        except MessageError as error:
            if asker is not None:
                out = self._road.outgoing
                out.put(self._refusal(asker, error.why), out.answers_together())
            return error
        except ValueError as error:
            return MalformedMessageError(str(error))
        return {"kind": "tell" if asker is None else "ask", "id": asker, **question}

    @abstractmethod
    def _asker(self, message: Any) -> Any:
        """Return the address that the answer is to go to; ``None``: none is wanted.

        Raises:
            ValueError: That is no address.
        """

    @abstractmethod
    def _question(self, message: Any) -> dict[str, Any]:
        """The payload, and the address that it was sent to.

        Raises:
            MessageError: It cannot be read.
        """

    @abstractmethod
    def _refusal(self, asker: Any, why: str) -> bytes:
        """The answer to what cannot be read, as it travels."""

    def _leave(self) -> None:
        self._subscription.forget()
