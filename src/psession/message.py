"""What a message is before it is encoded and after it came: a payload, and the fields that travel beside it. Pure.

A message whose payload is a mapping is one ``dict`` with the fields behind the payload's own. Any other payload (a
`msgspec.Struct`, a dataclass) cannot take fields in, so the two stay apart until a codec writes them into one object.
"""

from __future__ import annotations

from typing import Any

import msgspec

from psession.errors import MalformedMessageError


class Joined:
    """A payload that is no mapping, and the fields that travel beside it.

    A dialect makes it; a codec writes the fields behind the payload's own members; a memory channel carries it as is.

    Attributes:
        content: The payload.
        fields: What travels beside it, by the names of the wire.
    """

    __slots__ = ("content", "fields")

    def __init__(self, content: Any, fields: dict[str, Any]) -> None:
        self.content: Any = content
        self.fields: dict[str, Any] = fields

    def __repr__(self) -> str:
        return f"<psession.message.Joined {self.content!r} with {self.fields!r}>"

    def payload(self, without: frozenset[str]) -> Any:
        """The payload. `without` names what is no part of it, which here it never holds."""
        return self.content


def flat(message: Any) -> Any:
    """One object of a payload and its fields, for a channel or sender that knows nothing of `Joined`.

    Raises:
        MalformedMessageError: The payload has no form as an object.
    """
    if type(message) is not Joined:
        return message
    try:
        members = msgspec.to_builtins(message.content)
    except (TypeError, ValueError) as error:
        raise MalformedMessageError(f"the payload cannot be made into an object: {error}") from error
    if type(members) is not dict:
        raise MalformedMessageError(
            f"not an object: {type(message.content).__name__}; this channel carries objects, so a payload must be a "
            "mapping, a msgspec.Struct or a dataclass"
        )
    return {**members, **message.fields}
