"""What a message may be made of before it is decoded: how many containers, and how many arrays as keys.

A decoder makes an object of every container, 70 to 180 ns each, and 1 MiB has room for a million. Arrays as keys of
MessagePack become tuples, and tuples can be made to have one hash (``hash(-1) == hash(-2)``), so that each new key is
compared with all others. (Text and bytes have a secret in their hash. No map or extension can be a key.)

Both are found out with what runs in C: counting bytes, which tells too many, and only then a second look.
"""

from __future__ import annotations

import gc
import re
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from psession.channels._faults import not_decoded
from psession.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Callable

FEW_CONTAINERS: Final = 65_536
"""So many are always allowed: 5 to 12 ms. A message shorter than that cannot have more."""

_JSON_BYTES_EACH: Final = 5
_MSGPACK_BYTES_EACH: Final = 4
"""Bytes that a container has on average, at least: a pair of digits takes six in JSON, ``[1,2],``, and a map of one
digit four in MessagePack."""

KEYED_BYTES: Final = 2048
"""A MessagePack message shorter than that has room for 200 arrays as keys of one hash, which take 1.5 ms: they are
compared with each other 20,000 times."""

BIG_MAP: Final = 32
"""Entries of a map whose keys are looked at. In smaller ones a key is compared with 15 others on average, at most."""

MOST_ARRAY_KEYS: Final = 256
MOST_ARRAY_KEY_BYTES: Final = 4096
"""Arrays as keys of big maps, in one message. The bytes count as well, since equal beginnings are compared too."""

_MOST_MIXED: Final = 65_536
"""Keys that are looked at one by one, of maps with keys of several kinds."""

_MOST_WALKED: Final = 8
"""How many times its own length a message is walked through for big maps inside of big maps."""

_WINDOWS: Final = 64
_WINDOW_BYTES: Final = 64

_CONTAINERS: Final = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
_ARRAYS: Final = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])
_HEADER_BYTES: Final = {0xDC: 3, 0xDD: 5, 0xDE: 3, 0xDF: 5}
_NO_VALUE: Final = 0xC1
"""The one byte that begins no value: a decoder that meets it says where, and one that passes it over was in a text."""

_ENDLESS: Final = b"\xdd\xff\xff\xff\xff"
"""The header of an array that ends nowhere: behind it the rest of any message is read value by value."""


def _marking(marked: bytes) -> bytes:
    return bytes(_NO_VALUE if byte in marked else byte for byte in range(256))


_MARK_CONTAINERS: Final = _marking(_CONTAINERS)
_MARK_BIG_MAPS: Final = _marking(b"\xde\xdf")
_MARK_ARRAYS: Final = _marking(bytes(_ARRAYS))

_skip: Final = msgspec.msgpack.Decoder(msgspec.Raw).decode
_each: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_safe_keys: Final[tuple[Callable[[Any], Any], ...]] = (
    msgspec.msgpack.Decoder(dict[str | int | float | bool | None, msgspec.Raw]).decode,
    msgspec.msgpack.Decoder(dict[bytes, msgspec.Raw]).decode,
    msgspec.msgpack.Decoder(dict[datetime, msgspec.Raw]).decode,
)
_byte_of: Final = re.compile(r"\(byte (\d+)\)$").search


# ----------------------------------------------------------------------------------------------------------- containers
def check_json(data: bytes | str) -> None:
    """Refuse JSON of `FEW_CONTAINERS` bytes or more that holds too many containers.

    Raises:
        MalformedMessageError: It does.
    """
    if len(data) <= 2 * FEW_CONTAINERS:
        return  # each takes two bytes at least, beside those that are open when the decoder gives up
    data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    most = max(FEW_CONTAINERS, len(data) // _JSON_BYTES_EACH)
    if data.count(b"[") + data.count(b"{") <= most:
        return
    # They may be part of texts: without escaped quotes, every other piece between quotes is none.
    plain = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    count = plain.count(b"[") + plain.count(b"{")
    if count > most:
        raise _too_many(f"{count}", most, len(data), _JSON_BYTES_EACH)


def check_msgpack(data: bytes | str) -> None:
    """Refuse MessagePack of `KEYED_BYTES` or more that holds too many containers, or arrays as keys.

    Raises:
        MalformedMessageError: It does.
    """
    if isinstance(data, str):
        return  # the decoder refuses it
    data = bytes(data)  # which copies nothing but another kind of buffer
    if len(data) >= FEW_CONTAINERS:
        most = max(FEW_CONTAINERS, len(data) // _MSGPACK_BYTES_EACH)
        if len(data) - len(data.translate(None, _CONTAINERS)) > most:
            # Text, bytes and numbers hold such bytes too. A fifth more than allowed is what a sample may be wrong by.
            count = _estimate(data)
            if count > most * 1.2:
                raise _too_many(f"about {count}", most, len(data), _MSGPACK_BYTES_EACH)
    if 0xDE in data or 0xDF in data:
        _check_keys(data)


def _too_many(count: str, most: int, size: int, bytes_each: int) -> MalformedMessageError:
    return MalformedMessageError(
        f"{count} lists and objects in {size} bytes; {most} may be in it, one in {bytes_each} bytes or "
        f"{FEW_CONTAINERS}: send it in several messages, or with numbers in fewer, longer lists"
    )


class _Values:
    """A MessagePack message read value by value, in C, as far as the next byte that was marked as none.

    A marked byte inside a text, bytes or a number is passed over like any other: what is found begins a value.
    """

    def __init__(self, data: bytes) -> None:
        self._bytes = bytearray(len(_ENDLESS)) + data
        self._view = memoryview(self._bytes)
        self._start = 0

    def mark(self, start: int, marked: bytes) -> None:
        """Put other bytes in the place of those from ``start`` on."""
        start += len(_ENDLESS)
        self._view[start : start + len(marked)] = marked

    def go_to(self, place: int) -> None:
        """Go on with the value that begins at this place."""
        self._start = place

    def find(self, end: int) -> int:
        """The place of the next marked byte that begins a value and stands before ``end``; -1: there is none."""
        self._view[self._start : self._start + len(_ENDLESS)] = _ENDLESS
        try:
            _skip(self._view[self._start : end + len(_ENDLESS)])
        except msgspec.DecodeError as error:
            found = _byte_of(str(error))
            place = self._start - len(_ENDLESS) + int(found[1]) if found else end
            return place if place < end and self._bytes[place + len(_ENDLESS)] == _NO_VALUE else -1
        except RecursionError:
            return -1
        return -1  # pragma: no cover - an endless array has no end


def _estimate(data: bytes) -> int:
    """About how many containers a long message holds, by counting those in windows at places that no peer knows.

    Their places come from the hash of the bytes, which has a secret of the process in it.
    """
    values, secret, stride = _Values(data), hash(data), len(data) // _WINDOWS
    count = 0
    for index in range(_WINDOWS):
        start = index * stride + hash((secret, index)) % (stride - _WINDOW_BYTES)
        end = start + _WINDOW_BYTES
        values.mark(start, bytes([_NO_VALUE]) * _WINDOW_BYTES)
        place = values.find(end)  # where the first value of this window begins, if there is one
        values.mark(start, data[start:end].translate(_MARK_CONTAINERS))
        if place < 0:
            continue
        values.go_to(place)
        while (place := values.find(end)) >= 0:
            count += 1
            values.go_to(place + _HEADER_BYTES.get(data[place], 1))
    return count * len(data) // (_WINDOWS * _WINDOW_BYTES)


# ------------------------------------------------------------------------------------------------------- arrays as keys
def _check_keys(data: bytes) -> None:
    """Refuse a message whose big maps have too many arrays as keys: nothing is made of the keys to find that out."""
    values, size = _Values(data), len(data)
    values.mark(0, data.translate(_MARK_BIG_MAPS))
    most_maps, walked = max(4096, size // 128), _MOST_WALKED * size
    arrays = _ArrayKeys()
    maps = 0
    place = values.find(size)
    if place < 0 or not _has_array_behind(data, place):
        return
    while place >= 0:
        maps += 1
        if maps > most_maps:
            raise MalformedMessageError(
                f"more than {most_maps} maps of {BIG_MAP} entries or more, with arrays among them; one in 128 bytes or "
                "4096 may be in it: send it in several messages"
            )
        if data[place] == _NO_VALUE:
            return  # of the peer's: the decoder does not get further either
        header = _HEADER_BYTES[data[place]]
        if int.from_bytes(data[place + 1 : place + header], "big") >= BIG_MAP:
            walked -= arrays.look(memoryview(data)[place:], header)
            if walked < 0:
                raise MalformedMessageError(f"too many maps of {BIG_MAP} entries or more inside of each other")
        values.go_to(place + header)
        place = values.find(size)


def _has_array_behind(data: bytes, place: int) -> bool:
    """Return True if an array begins behind the header of this map, whatever it belongs to."""
    values = _Values(data)
    values.mark(0, data.translate(_MARK_ARRAYS))
    values.go_to(place + _HEADER_BYTES.get(data[place], 1))
    return values.find(len(data)) >= 0


class _ArrayKeys:
    """The arrays that were keys of the big maps of one message."""

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0
        self._mixed = 0

    def look(self, data: memoryview, header: int) -> int:
        """Look at the keys of the map that ``data`` begins with. Return how many bytes the map has."""
        for decode in _safe_keys:
            try:
                decode(data)
                return len(data)
            except msgspec.ValidationError:
                continue  # a key of another kind
            except msgspec.DecodeError as error:  # something stands behind it, or it breaks off, with these keys alone
                found = _byte_of(str(error))
                return int(found[1]) if found else len(data)
            except (RecursionError, UnicodeDecodeError):
                return len(data)  # the decoder does not get further either
        entries = int.from_bytes(data[1:header], "big")
        self._mixed += entries
        if self._mixed > _MOST_MIXED:
            raise MalformedMessageError(
                f"maps of {self._mixed} entries or more with arrays among their keys, or keys of several kinds; "
                f"{_MOST_MIXED} may be in one message: use text or numbers as keys"
            )
        try:
            _skip(data)
            size = len(data)
        except msgspec.DecodeError as error:
            found = _byte_of(str(error))
            if found is None or "trailing" not in str(error):
                raise not_decoded("MessagePack", bytes(data), error) from error
            size = int(found[1])
        # A map is, on the wire, an array of keys and values in turn.
        members = _each(b"\xdd" + (2 * entries).to_bytes(4, "big") + data[header:size])
        for key in map(bytes, members[::2]):
            if key[0] in _ARRAYS:
                self._count += 1
                self._bytes += len(key)
        if self._count > MOST_ARRAY_KEYS or self._bytes > MOST_ARRAY_KEY_BYTES:
            raise MalformedMessageError(
                f"{self._count} arrays as keys, of {self._bytes} bytes, in maps of {BIG_MAP} entries or more; "
                f"{MOST_ARRAY_KEYS} may be in one message, of {MOST_ARRAY_KEY_BYTES} bytes: use text or numbers as keys"
            )
        return 4 * size  # it was walked through so often


# -------------------------------------------------------------------------------------------------------- the collector
if sys.version_info >= (3, 12):

    def call_without_collector(decode: Callable[[Any], Any], data: bytes | str) -> Any:
        """Decode a long message. Since Python 3.12 the collector waits until a call into C is over."""
        return decode(data)

else:

    def call_without_collector(decode: Callable[[Any], Any], data: bytes | str) -> Any:
        """Decode a message, a long one without Python's collector, which would look for garbage in what is being made.

        Python 3.11 collects after each 700 new containers, and now and then all that the program holds: a list of
        175,000 pairs in JSON takes 88 ms with it and 33 without, in a program that holds 600,000 containers; 262,000
        lists in MessagePack 139 and 54 (the one collection that follows is in both figures). Messages of objects alone
        cost the same.
        """
        if len(data) < FEW_CONTAINERS or not gc.isenabled():
            return decode(data)
        gc.disable()
        try:
            return decode(data)
        finally:
            gc.enable()
