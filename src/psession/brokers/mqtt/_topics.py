"""Topics of MQTT: what may be published to, what may be subscribed to, and what is wrong with the others. Pure."""

from __future__ import annotations

import re
from typing import Final

MAX_TOPIC_BYTES: Final = 65535
"""How long a topic may be (MQTT 5, 1.5.4)."""

_PLAIN: Final = re.compile(r"[!\"%-*,-~][!-\"%-*,-~]*")
"""Printable ASCII without ``#``, ``$``, ``+`` and spaces: nearly all topics, which need no second look."""

SHARED: Final = "$share/"


def check_topic(topic: str, what: str = "topic") -> None:
    """Refuse what is no topic to publish to.

    Raises:
        TypeError: It is no text.
        ValueError: It is none; the text says why, and what would be right.
    """
    if type(topic) is str and len(topic) <= MAX_TOPIC_BYTES and _PLAIN.fullmatch(topic):
        return
    _check(topic, what)
    for wildcard in "+#":
        if wildcard in topic:
            raise ValueError(
                f"the {what} {topic!r} has the wildcard {wildcard!r}, which may be subscribed to and never published "
                "to: give one topic; token() makes a level of any text"
            )
    if topic.startswith("$"):
        raise ValueError(f"the {what} {topic!r} begins with '$': such topics are the broker's own")


def check_filter(pattern: str) -> None:
    """Refuse what is no topic filter, which may have wildcards.

    Raises:
        TypeError: It is no text.
        ValueError: It is none; the text says why.
    """
    _check(pattern, "topic filter")
    if pattern.startswith(SHARED) or pattern == SHARED[:-1]:
        raise ValueError(f"the topic filter {pattern!r} is shared: give the group as shared=, and the filter without")
    levels = pattern.split("/")
    for place, level in enumerate(levels):
        if ("+" in level or "#" in level) and len(level) > 1:
            raise ValueError(f"the topic filter {pattern!r} has {level!r}: a wildcard stands alone in its level")
        if level == "#" and place < len(levels) - 1:
            raise ValueError(f"the topic filter {pattern!r} has '#' before its end: it stands for all that follows")


def check_group(group: str) -> None:
    """Refuse what is no name of a group that shares a subscription.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, or has ``/``, ``+`` or ``#`` in it.
    """
    _check(group, "group (shared=)")
    if any(character in group for character in "/+#"):
        raise ValueError(f"the name of a group must have no '/', '+' or '#', as {group!r} has")


def token(text: str) -> str:
    """Return any text as one level of a topic, so that no name of a peer's becomes two levels or a wildcard.

    Letters, digits, ``-`` and ``_`` stay; all else is written as ``=`` and two hexadecimal digits for each byte. Two
    texts never make the same token.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, or too long for a topic.
    """
    if not isinstance(text, str):
        raise TypeError(f"a token is made of a str, not {text!r}")
    if not text:
        raise ValueError("a token of a topic must not be empty")
    made = "".join(
        chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or byte in b"-_") else f"={byte:02X}"
        for byte in text.encode(errors="surrogatepass")
    )
    if len(made) > MAX_TOPIC_BYTES:
        raise ValueError(f"{len(made)} bytes as a token of a topic; {MAX_TOPIC_BYTES} may be in a topic")
    return made


def matches(pattern: str, topic: str) -> bool:
    """Return True for a topic that a filter (without its group) stands for."""
    if pattern == topic:
        return True
    if topic.startswith("$") and pattern[:1] in ("+", "#"):
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(levels) or level not in ("+", levels[place]):
            return False
    return len(wanted) == len(levels)


def has_wildcard(pattern: str) -> bool:
    """Return True for a filter that more than one topic matches."""
    return "+" in pattern or "#" in pattern


def is_topic_name(topic: str) -> bool:
    """Return True for what a broker may send a message under."""
    return bool(topic) and "#" not in topic and "+" not in topic and "\0" not in topic


def _check(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"a {what} must be a str, not {text!r}")
    if not text:
        raise ValueError(f"a {what} must not be empty")
    if "\0" in text:
        raise ValueError(f"the {what} {text!r} has a NUL in it, which no topic may have")
    for character in text:
        if not character.isprintable():
            raise ValueError(f"the {what} {text!r} has {character!r} in it, which brokers may refuse (MQTT 5, 1.5.4)")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the {what} {text!r} is no text that UTF-8 has a form for") from None
    if size > MAX_TOPIC_BYTES:
        raise ValueError(f"a {what} of {size} bytes; {MAX_TOPIC_BYTES} are the most")
