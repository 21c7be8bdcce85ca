"""Messages of two exact ports about themselves, in no session: hello and welcome, signs of life, leaving. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psession.protocol.dialect import Dialect
    from psession.protocol.header import Header


class Handshake:
    """The words of two ports about themselves.

    Args:
        dialect: The names of the fields.
        name: The name that the accepting side gives its port.
        life: The epoch of this port.

    Attributes:
        ticket: The name and the secret by which the accepting side finds its port again; ``None``: it does not.
        host_life: The epoch of the accepting side's port, as it said in its welcome.
        secret: The secret that this side, accepting, gives away; ``None``: it will not find its port again.
        guest_life: The epoch of the port that said hello.
        peer_left: True where the peer said that it leaves for good, so that the end of the link is no break.
        last_taken: The last turn that it took, as it said then.
    """

    __slots__ = (
        "_dialect",
        "_life",
        "_name",
        "_names",
        "guest_life",
        "host_life",
        "last_taken",
        "peer_left",
        "secret",
        "ticket",
    )

    def __init__(self, dialect: Dialect, name: str, life: int) -> None:
        self.ticket: tuple[str, str] | None = None
        self.host_life: int | None = None
        self.secret: str | None = None
        self.guest_life: int | None = None
        self.peer_left: bool = False
        self.last_taken: int = 0
        self._dialect = dialect
        self._names = dialect.fields
        self._name = name
        self._life = life

    # -- messages that go --------------------------------------------------------------------------------------------

    def hello(self) -> dict[str, Any]:
        """This side's name for itself, at the beginning of a link that it opened."""
        names = self._names
        message: dict[str, Any] = {names.new: True, names.life: self._life}
        if self.ticket is not None:
            message[names.port], message[names.resume] = self.ticket
        return message

    def welcome(self) -> dict[str, Any]:
        """The accepting side's answer: by its life the other knows whether it is known."""
        names = self._names
        message: dict[str, Any] = {names.port: self._name, names.life: self._life}
        if self.secret is not None:
            message[names.resume] = self.secret
        return message

    def ask_for_life(self, patience: float) -> dict[str, Any]:
        """The peer is to say something within so many seconds."""
        return {self._names.wait: patience, self._names.life: self._life}

    def sign_of_life(self) -> dict[str, Any]:
        """The answer to that."""
        return {self._names.life: self._life}

    def closing(self, highest: int) -> dict[str, Any]:
        """No new sessions: a turn above `highest` that opens one was not taken."""
        return {self._names.turn: max(1, highest), self._names.end: True, self._names.life: self._life}

    def goodbye(self) -> dict[str, Any]:
        """This side leaves for good."""
        return {self._names.end: True, self._names.life: self._life}

    # -- messages that come ------------------------------------------------------------------------------------------

    def read(self, fields: dict[str, Any] | None) -> Header | None:
        """The header of a message about a port; ``None`` where it is none."""
        if not fields or not fields.keys() <= self._dialect.exact_names:
            return None
        header = self._dialect.header_of(fields)
        return header if header is not None and header.life is not None else None

    def welcomed(self, message: Any) -> bool | None:
        """Return True if the peer still knows this side, False if not; ``None`` where `message` is no welcome."""
        names = self._names
        fields = self._dialect.fields_of(message)
        if not fields or not fields.keys() <= self._dialect.exact_names or names.port not in fields:
            return None
        life, name, secret = fields.get(names.life), fields[names.port], fields.get(names.resume)
        if type(life) is not int or type(name) is not str:
            return None
        known = life == self.host_life
        self.host_life = life
        self.ticket = (name, secret) if type(secret) is str else None
        return known


def credentials(message: Any, dialect: Dialect) -> tuple[str, str, Any] | None:
    """The name, secret and life in the hello of a peer that comes back; ``None`` where `message` is none."""
    names, fields = dialect.fields, dialect.fields_of(message)
    if fields is None or fields.get(names.new) is not True:
        return None
    name, secret = fields.get(names.port), fields.get(names.resume)
    return (name, secret, fields.get(names.life)) if type(name) is str and type(secret) is str else None
