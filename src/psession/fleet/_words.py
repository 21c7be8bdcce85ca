"""What gateways and watchers say to each other, and on which subjects. Pure.

======================================== ======================== ======================================================
subject                                  what                     who listens
======================================== ======================== ======================================================
``<prefix>.<fleet>.device.<device>``     links of ports           the gateway that has the device
``<prefix>.<fleet>.claim.<device>``      `Claim`                  the same; and calls that wait for the device
``<prefix>.<fleet>.gateway.<gateway>``   `Held`                   that gateway
``<prefix>.<fleet>.ask.<gateway>``       `Ask`                    the same
``<prefix>.<fleet>.gateways``            `Ask`                    every gateway
``<prefix>.<fleet>.beat.<gateway>``      `Beat`                   watchers
``<prefix>.<fleet>.change.<gateway>``    `Change`                 watchers
======================================== ======================== ======================================================

Only gateways may publish `Claim`, `Held`, `Beat` and `Change`, and nothing else is heard on those subjects: a broker's
permissions see to it that nobody poses as a gateway. Answers to `Ask` go to its ``reply``: a `Beat`, and `Part` where
the list is wanted. All are JSON.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from psession.errors import MalformedMessageError
from psession.fleet._epochs import MAX_NUMBER

MAX_NAME_BYTES: Final = 256
"""The bytes of a device's name: as a token of a subject they are 768 at most, of 1,024 that a subject may have."""

MAX_LABEL_BYTES: Final = 64
"""The bytes of a fleet's name, a gateway's and a prefix, likewise."""

MOVING: Final = "moving"
"""The reason for which a gateway that is drained refuses links to a device: it was sent elsewhere."""

Numbers: TypeAlias = list[tuple[str, int]]
"""Devices, with the numbers of their epochs."""


class Claim(msgspec.Struct, tag="claim", frozen=True):
    """A gateway has a device; `settled` where it has claimed it for some time."""

    device: str
    number: int
    gateway: str
    settled: bool


class Held(msgspec.Struct, tag="held", frozen=True):
    """The answer to a claim that is lower, likewise."""

    device: str
    number: int
    gateway: str
    settled: bool


class Beat(msgspec.Struct, tag="beat", frozen=True):
    """A gateway is there, has so many devices, and has published so many changes."""

    gateway: str
    name: str
    seq: int
    count: int
    number: int
    draining: bool = False


class Change(msgspec.Struct, tag="change", frozen=True):
    """A gateway's devices joined and left; `seq` counts these messages from 1."""

    gateway: str
    seq: int
    joined: Numbers
    left: Numbers


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """A watcher wants to know; with `list` all devices too."""

    list: bool = False


class Part(msgspec.Struct, tag="part", frozen=True):
    """A part of all devices of a gateway, as they were after `seq` changes."""

    gateway: str
    seq: int
    part: int
    parts: int
    devices: Numbers


Word: TypeAlias = Claim | Held | Beat | Change | Ask | Part

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Word] = msgspec.json.Decoder(Word)


def encode(word: Word) -> bytes:
    """Return a word as it travels."""
    return _encoder.encode(word)


def decode(data: bytes) -> Word:
    """Return the word that came.

    Raises:
        MalformedMessageError: It is none.
    """
    try:
        word = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedMessageError(f"no word of a fleet's: {error}") from error
    if isinstance(word, Claim | Held | Beat | Change | Part) and not 0 < len(word.gateway) <= MAX_LABEL_BYTES:
        raise MalformedMessageError("a word of a fleet's from a gateway whose id is none")
    numbers = [word.number] if isinstance(word, Claim | Held | Beat) else []
    if isinstance(word, Change):
        numbers = [number for _, number in (*word.joined, *word.left)] + [word.seq]
    elif isinstance(word, Part):
        numbers = [number for _, number in word.devices] + [word.seq, word.part, word.parts]
    if any(not 0 <= number <= MAX_NUMBER for number in numbers):
        raise MalformedMessageError("a word of a fleet's with a number that is none")
    return word


def checked_name(what: str, name: object, most: int) -> str:
    """Return a name, which may be any text of `most` bytes.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, too long, or has no form in UTF-8.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a {what} must be a str, not {name!r}")
    if not name:
        raise ValueError(f"the name of a {what} must not be empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the name of a {what} must be text that UTF-8 has a form for, not {name!r:.100}") from None
    if size > most:
        raise ValueError(f"the name of a {what} may have {most} bytes, not {size}")
    return name
