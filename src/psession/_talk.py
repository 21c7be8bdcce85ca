"""Messages of two exact ports about themselves, in no session: hello and welcome, a sign of life, leaving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psession import _rules as rules

if TYPE_CHECKING:
    from psession._exact import Exact


class PortTalk:
    """What two ports tell each other beside their sessions.

    Attributes:
        ticket: The name and the secret by which the accepting side finds its port again; ``None``: it does not.
        host_life: The epoch of the accepting side's port, as it said in its welcome.
        secret: What this side, accepting, gives away as such a secret; ``None``: it will not find its port again.
        guest_life: The epoch of the port that said hello.
        peer_left: Whether the peer said that it leaves for good, so that the end of the line is no break.
        peer_closing: Whether the peer takes no new sessions any more.
    """

    def __init__(self, exact: Exact) -> None:
        self.exact = exact
        self.ticket: tuple[str, str] | None = None
        self.host_life: int | None = None
        self.secret: str | None = None
        self.guest_life: int | None = None
        self.peer_left = False
        self.peer_closing = False
        self._known = exact.port._envelope.exact_names

    # -- what goes ---------------------------------------------------------------------------------------------------

    def hello(self) -> dict[str, Any]:
        """Who this side is, at the beginning of a line that it opened."""
        names = self.exact.names
        message: dict[str, Any] = {names.new: True, names.life: self.exact.life}
        if self.ticket is not None:
            message[names.port], message[names.resume] = self.ticket
        return message

    def welcome(self) -> dict[str, Any]:
        """The accepting side's answer: by its life the other knows whether it is known."""
        names = self.exact.names
        message: dict[str, Any] = {names.port: self.exact.port.name, names.life: self.exact.life}
        if self.secret is not None:
            message[names.resume] = self.secret
        return message

    def say_hello(self) -> None:
        """Begin the first line."""
        self.say(self.hello())

    def ask_for_life(self, patience: float) -> None:
        """The peer is to say something within so many seconds."""
        names = self.exact.names
        self.say({names.wait: patience, names.life: self.exact.life})

    def say_closing(self) -> None:
        """No new sessions: what opens one with a higher turn than this was not taken."""
        names = self.exact.names
        self.say({names.turn: max(1, self.exact.taken.highest), names.end: True, names.life: self.exact.life})

    def say_goodbye(self) -> None:
        """This side leaves for good."""
        names = self.exact.names
        self.say({names.end: True, names.life: self.exact.life})

    def say(self, message: dict[str, Any]) -> None:
        """Send one of these, unless the channel is gone or full."""
        self.exact.put(self.exact.port._outbox.encode(message))

    # -- what comes --------------------------------------------------------------------------------------------------

    def take(self, message: Any) -> bool:
        """Whether `message`, which is no session's, is one of these; then it is dealt with."""
        if type(message) is not dict or not message or not message.keys() <= self._known:
            return False
        header = self.exact.port._envelope.header(message)
        if header is None or header.life is None:
            return False
        self.exact.peer = rules.EXACT
        if header.new:
            self.guest_life = header.life
            self.say(self.welcome())
        elif header.end and header.turn is not None:
            self.peer_closing = True
            self.exact.asker.refuse_openings(header.turn)
        elif header.end:
            self.peer_left = True
        elif header.wait is not None:
            self.say({self.exact.names.life: self.exact.life})
        else:
            before = self.host_life
            if self.welcomed(message) is False and before is not None:
                self.exact.line_reopened(False)  # somebody else answers on the line that stands
        return True

    def welcomed(self, message: Any) -> bool | None:
        """Whether the peer still knows this side; ``None`` where `message` is no welcome."""
        names = self.exact.names
        if type(message) is not dict or not message.keys() <= self._known or names.port not in message:
            return None
        life, name, secret = message.get(names.life), message[names.port], message.get(names.resume)
        if type(life) is not int or type(name) is not str:
            return None
        known = life == self.host_life
        self.host_life = life
        self.ticket = (name, secret) if type(secret) is str else None
        return known


def credentials(message: Any, names: Any) -> tuple[str, str, Any] | None:
    """The name, secret and life in the hello of a peer that comes back; ``None`` where `message` is none."""
    if type(message) is not dict or message.get(names.new) is not True:
        return None
    name, secret = message.get(names.port), message.get(names.resume)
    return (name, secret, message.get(names.life)) if type(name) is str and type(secret) is str else None
