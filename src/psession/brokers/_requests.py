"""Channels of plain requests over a broker: what those that ask, and those that answer, have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from psession.brokers._channel import BrokerChannel, R
from psession.channels.codecs import JsonCodec, MsgpackCodec
from psession.errors import MessageTooLargeError

if TYPE_CHECKING:
    from psession.channels.codecs import Codec, CodecName
    from psession.errors import SessionError

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


class AskingBase(PlainChannel[R]):
    """Asks, and remembers what was asked until it is answered."""

    def __init__(self, road: R, codec: Codec | CodecName, max_message_bytes: float, close_timeout: float) -> None:
        super().__init__(road, codec, max_message_bytes, close_timeout)
        self._asked: dict[int, None] = {}
        self._lost: list[dict[str, Any]] = []

    def _note_asked(self, id: int) -> None:
        self._asked[id] = None
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]

    def _take_lost(self) -> list[dict[str, Any]]:
        lost, self._lost = self._lost, []
        return lost

    @property
    def keepalive(self) -> float:
        """Never: there is no other end in particular."""
        return math.inf

    def look(self, now: float) -> None:
        """There is nobody in particular to look after."""

    def broke(self, error: SessionError) -> None:
        """The connection broke: what was asked is not answered any more. The channel lives on with the next."""
        text = error.why
        self._lost += [{"kind": "fail", "id": id, "code": "disconnected", "text": text} for id in self._asked]
        self._asked.clear()
        self._tell_lost()

    def _tell_lost(self) -> None:
        """Have the reader look."""
        raise NotImplementedError
