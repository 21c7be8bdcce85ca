"""How a message becomes bytes and comes back: JSON and MessagePack on msgspec, or any object with the same two methods.

Both codecs refuse what would reach the peer as something else: NaN and infinities (JSON has no word for them, msgspec
writes ``null``), and by default whatever is not an object, since a message is a mapping. What is refused raises
`MalformedMessageError`, whose text says what was wrong and where. Nothing here waits or keeps state: one codec may
serve many channels.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec
import msgspec.inspect

from psession.channels import _faults, _limits
from psession.channels._faults import FLOAT32, FLOAT64
from psession.channels._limits import FEW_CONTAINERS, KEYED_BYTES
from psession.errors import MalformedMessageError, MessageError
from psession.message import Joined, flat

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Codec", "CodecName", "JsonCodec", "MsgpackCodec", "Undecoded"]

CodecName = Literal["json", "msgpack"]
"""The short name of a codec."""

_MAPPING: Final = dict[str, Any]
_JSON_OBJECT: Final = ord("{")
_MSGPACK_OBJECTS: Final = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])  # fixmap, map 16, map 32


_null_in: Final = re.compile(b"null").search
"""Not `find`: that takes as long for 100 bytes, and for 100 kB 55 to 78 us where this takes 27 to 52."""

_LONG: Final = 8192
_SAMPLE: Final = 1024


def _is_mostly_text(data: bytes) -> bool:
    """Return True if a long message seems to have few members: these are sooner encoded than its bytes are searched.

    100 kB of text are encoded as MessagePack in 2 us, of rows in 120; both are searched for ``null`` in 30 to 50.
    """
    middle = len(data) // 2
    return data.count(b",", middle, middle + _SAMPLE) < _SAMPLE // 32


class Undecoded:
    """A message that came through a codec with a type of the user's, not decoded to that type yet.

    A port reads the fields of the protocol first, and the payload without them: 0.5 us for both, of a message of 100
    bytes, against 0.3 us for a dict with its fields taken out.

    Attributes:
        fields: Everything in the message, by name; empty where it is no object.
    """

    __slots__ = ("_codec", "_data", "fields")

    def __init__(self, fields: dict[str, Any], data: bytes | str, codec: JsonCodec | MsgpackCodec) -> None:
        self.fields: dict[str, Any] = fields
        self._data = data
        self._codec = codec

    def __repr__(self) -> str:
        return f"<psession.channels.codecs.Undecoded {self.fields!r:.100}>"

    def payload(self, without: frozenset[str]) -> Any:
        """Decode the payload to the codec's type, without the named fields.

        Raises:
            MalformedMessageError: It is not of that type.
        """
        return self._codec.payload(self.fields, self._data, without)

    def decode(self) -> Any:
        """Decode all of the message to the codec's type.

        Raises:
            MalformedMessageError: It is not of that type.
        """
        return self._codec._decode_opened(self._data)


class Codec(Protocol):
    """An object that makes bytes of messages and messages of bytes.

    ``text = True`` on it says that its bytes are UTF-8 text without line breaks.
    """

    def encode(self, message: Any) -> bytes:
        """The message as bytes; whatever it raises makes the message malformed."""
        ...

    def decode(self, data: Any) -> Any:
        """The message in ``data`` (``bytes``, or ``str`` from a channel of text); whatever it raises likewise."""
        ...


class _TypedCodec:
    """The common part of the two codecs: it tells a payload with a type of the user's from the fields beside it."""

    __slots__ = ("_names", "_only_objects")

    _form: str

    def __init__(self, type: Any) -> None:
        self._only_objects = type is _MAPPING
        self._names = None if self._only_objects else _ignoring_names(type)

    def _decode_any(self, data: bytes | str) -> Any:
        raise NotImplementedError

    def _strip(self, data: Any, without: frozenset[str]) -> bytes:
        """The same object without the named members; the bytes of the others stay as they are."""
        raise NotImplementedError

    def _decode_opened(self, data: Any) -> Any:
        """Decode a whole message, of which `open` found out that it is not too much to decode."""
        raise NotImplementedError

    def open(self, data: Any) -> Any:
        """Decode as much of a message as a port needs to read its header; where that is a ``dict``, `decode` is that.

        Returns:
            An `Undecoded`.

        Raises:
            MalformedMessageError: It is not well-formed, or too much to decode.
        """
        try:
            value = self._decode_any(data)
        except MalformedMessageError:
            raise
        except Exception as error:
            raise _faults.not_decoded(self._form, data, error) from error
        fields: dict[str, Any] = value if type(value) is dict else {}
        return Undecoded(fields, data, self)  # type: ignore[arg-type]

    def payload(self, fields: dict[str, Any], data: bytes | str, without: frozenset[str]) -> Any:
        """Decode a payload to the codec's type, without the named fields beside it, of data that `open` has taken.

        A type that ignores fields which it does not have reads the bytes as they are. Any other (a mapping, a Struct
        with ``forbid_unknown_fields``, one that has a field of such a name) is decoded from the bytes of the members
        that are left: made of `fields`, a ``Decimal`` would have the digits of a float.

        Raises:
            MalformedMessageError: It is not of that type.
        """
        if self._names is not None and without.isdisjoint(self._names):
            return self._decode_opened(data)
        if without.isdisjoint(fields):
            return self._decode_opened(data)
        return self._decode_opened(self._strip(data, without))


class JsonCodec(_TypedCodec):
    """Messages as JSON (RFC 8259), one line of UTF-8 each.

    A number that no float holds (``1e400``), invalid UTF-8, nesting deeper than Python's recursion limit and anything
    after the value are refused, and so are more than 65,536 lists and objects where the message has less than five
    bytes for each of them: ``[],[],[],``. Of a key given twice the last value counts. Keys that are numbers become
    text.

    Args:
        type: What is decoded: a ``dict`` by default. A msgspec Struct, a dataclass, a TypedDict or whatever else
            msgspec reads makes messages of that type, checked field by field; ``Any`` lets arrays and scalars through.
    """

    __slots__ = ("_decode", "_encode", "_split")

    text = True
    _form = "JSON"

    def __init__(self, type: Any = _MAPPING) -> None:
        super().__init__(type)
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder[Any](type).decode
        self._split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    def _decode_any(self, data: bytes | str) -> Any:
        if len(data) < FEW_CONTAINERS:
            return msgspec.json.decode(data)
        _limits.check_json(data)
        return _limits.call_without_collector(msgspec.json.decode, data)

    def _strip(self, data: Any, without: frozenset[str]) -> bytes:
        members = self._split(data)
        return self._encode({name: member for name, member in members.items() if name not in without})

    def encode(self, message: Any) -> bytes:
        """The message as one line of JSON.

        Raises:
            MalformedMessageError: It holds NaN, an infinity or something else that JSON has no form for.
        """
        if type(message) is Joined:
            return self._encode_joined(message)
        try:
            data = self._encode(message)
        except Exception as error:
            raise _faults.not_encoded("JSON", message, self._encode, error) from error
        if (len(data) >= _LONG and _is_mostly_text(data)) or _null_in(data):
            _faults.refuse_null_from_float(message)
        if self._only_objects and data[0] != _JSON_OBJECT:
            raise _faults.not_an_object(message)
        return data

    def _encode_joined(self, message: Joined) -> bytes:
        """One object of a payload and its fields, which stand behind the payload's own members."""
        try:
            data = self._encode(message.content)
        except Exception as error:
            raise _faults.not_encoded("JSON", message.content, self._encode, error) from error
        if (len(data) >= _LONG and _is_mostly_text(data)) or _null_in(data):
            _faults.refuse_null_from_float(message.content)
        if data[0] != _JSON_OBJECT:
            raise _faults.not_an_object(message.content)
        fields = self._encode(message.fields)
        return fields if len(data) == 2 else data[:-1] + b"," + fields[1:]

    def decode(self, data: bytes | str) -> Any:
        """The message in ``data``.

        Raises:
            MalformedMessageError: It is not JSON, not of the codec's type, or holds too many lists and objects.
        """
        if len(data) >= FEW_CONTAINERS:
            _limits.check_json(data)
            return self._decode_opened(data)
        try:
            return self._decode(data)
        except Exception as error:
            raise _faults.not_decoded("JSON", data, error) from error

    def _decode_opened(self, data: Any) -> Any:
        """Decode a message that is known to be not too much to decode."""
        try:
            return _limits.call_without_collector(self._decode, data)
        except Exception as error:
            raise _faults.not_decoded("JSON", data, error) from error


class MsgpackCodec(_TypedCodec):
    """Messages as MessagePack: smaller than JSON and faster, with ``bytes`` values, binary on the wire.

    NaN and infinities have a form here and are refused all the same, both ways: what one codec carries the other one
    carries too, and no peer can put into our arithmetic what JSON would have kept out.

    What would take long to decode is refused as well: more than 65,536 lists and maps, where the message has less than
    four bytes for each of them (about: they are counted in samples), and more than 256 arrays, or 4,096 bytes of
    them, as keys of maps with 32 entries or more, since Python's tuples can be made to have one hash.

    Args:
        type: What is decoded, as for `JsonCodec`.
    """

    __slots__ = ("_decode", "_decode_generic", "_encode", "_split")

    text = False
    _form = "MessagePack"

    def __init__(self, type: Any = _MAPPING) -> None:
        super().__init__(type)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder[Any](type).decode
        self._split = msgspec.msgpack.Decoder(dict[Any, msgspec.Raw]).decode
        self._decode_generic = msgspec.msgpack.Decoder[Any](Any).decode

    def _decode_any(self, data: Any) -> Any:
        if len(data) < KEYED_BYTES:
            value = self._decode_generic(data)
        else:
            _limits.check_msgpack(data)
            value = _limits.call_without_collector(self._decode_generic, data)
        if FLOAT64 in data or FLOAT32 in data:
            _faults.refuse_odd_message(value, data)
        return value

    def _strip(self, data: Any, without: frozenset[str]) -> bytes:
        members = self._split(data)
        return self._encode({name: member for name, member in members.items() if name not in without})

    def _encode_joined(self, message: Joined) -> bytes:
        """One map of a payload and its fields, which stand behind the payload's own members."""
        content = self.encode(message.content)
        if content[0] not in _MSGPACK_OBJECTS:
            raise _faults.not_an_object(message.content)
        own, start = _map_size(content)
        size = own + len(message.fields)
        if size < 16:
            head = bytes([0x80 | size])
        else:
            head = b"\xde" + size.to_bytes(2, "big") if size < 2**16 else b"\xdf" + size.to_bytes(4, "big")
        fields = self._encode(message.fields)
        return head + content[start:] + fields[_map_size(fields)[1] :]

    def encode(self, message: Any) -> bytes:
        """The message as MessagePack.

        Raises:
            MalformedMessageError: It holds NaN, an infinity, an integer beyond 64 bits or something else that
                MessagePack has no form for.
        """
        if type(message) is Joined:
            return self._encode_joined(message)
        try:
            data = self._encode(message)
        except Exception as error:
            raise _faults.not_encoded("MessagePack", message, self._encode, error) from error
        if FLOAT64 in data and _faults.has_odd_float(data):
            _faults.refuse_odd_members(message)
        if self._only_objects and data[0] not in _MSGPACK_OBJECTS:
            raise _faults.not_an_object(message)
        return data

    def decode(self, data: Any) -> Any:
        """The message in ``data``, which is ``bytes``: text is refused.

        Raises:
            MalformedMessageError: It is not MessagePack, not of the codec's type, holds NaN or an infinity, too many
                lists and maps, or too many arrays as keys.
        """
        if len(data) >= KEYED_BYTES:
            _limits.check_msgpack(data)
            message = self._decode_opened(data)
        else:
            try:
                message = self._decode(data)
            except Exception as error:
                raise _faults.not_decoded("MessagePack", data, error) from error
        if FLOAT64 in data or FLOAT32 in data:
            _faults.refuse_odd_message(message, data)
        return message

    def _decode_opened(self, data: Any) -> Any:
        """Decode a message that is known to be not too much to decode. `open` and `decode` refuse NaN in it."""
        try:
            return _limits.call_without_collector(self._decode, data)
        except Exception as error:
            raise _faults.not_decoded("MessagePack", data, error) from error


class GuardedCodec:
    """Somebody else's codec, whose errors become ours, so that a bad message costs that message alone."""

    __slots__ = ("_codec", "text")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.text: bool = bool(getattr(codec, "text", False))

    def encode(self, message: Any) -> bytes:
        """Encode with the user's codec, which gets one mapping of a payload and its fields."""
        message = flat(message)
        try:
            return self._codec.encode(message)
        except MessageError:
            raise
        except Exception as error:
            raise MalformedMessageError(f"{self._codec!r} cannot encode it: {_faults.reason(error)}") from error

    def decode(self, data: bytes | str) -> Any:
        """Decode with the user's codec."""
        try:
            return self._codec.decode(data)
        except MessageError:
            raise
        except Exception as error:
            raise MalformedMessageError(f"{self._codec!r} cannot decode it: {_faults.reason(error)}") from error


SafeCodec = JsonCodec | MsgpackCodec | GuardedCodec
"""A codec that raises nothing but `MessageError`."""


def opener(codec: SafeCodec) -> Callable[[Any], Any]:
    """The function that decodes as much of a message as a port needs to read its header."""
    return codec.open if isinstance(codec, _TypedCodec) and not codec._only_objects else codec.decode


_BY_NAME: Final[dict[str, SafeCodec]] = {"json": JsonCodec(), "msgpack": MsgpackCodec()}
"""They keep nothing between two calls, so that all channels share them: what a thousand of them read is then near."""


def find_codec(codec: Codec | CodecName) -> SafeCodec:
    """The codec of that name, or the one given with its errors made into `MalformedMessageError`.

    Raises:
        ValueError: No codec has that name.
        TypeError: It is neither a name nor an object that encodes and decodes.
    """
    if isinstance(codec, JsonCodec | MsgpackCodec | GuardedCodec):
        return codec
    if isinstance(codec, str) and codec in _BY_NAME:
        return _BY_NAME[codec]
    choices = 'give "json", "msgpack" or an object with encode() and decode()'
    if isinstance(codec, str):
        raise ValueError(f"no codec is called {codec!r}; {choices}")
    methods = [getattr(codec, name, None) for name in ("encode", "decode")]
    if isinstance(codec, type) or not all(callable(method) for method in methods):
        raise TypeError(f"not a codec: {codec!r}; {choices}")
    return GuardedCodec(codec)


def _map_size(data: bytes) -> tuple[int, int]:
    """The number of members of a MessagePack map, and the place of the first."""
    if data[0] < 0x90:
        return data[0] & 0x0F, 1
    length = 2 if data[0] == 0xDE else 4
    return int.from_bytes(data[1 : 1 + length], "big"), 1 + length


def _ignoring_names(kind: Any) -> frozenset[str] | None:
    """The names on the wire of a type that ignores fields which it does not have; ``None`` where it is no such type."""
    try:
        info = msgspec.inspect.type_info(kind)
    except Exception:  # a type that msgspec cannot look into: it is asked with the fields taken out
        return None
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    names: set[str] = set()
    for one in kinds:
        if isinstance(one, msgspec.inspect.StructType) and not one.forbid_unknown_fields and not one.array_like:
            names.update(field.encode_name for field in one.fields)
            if one.tag_field is not None:
                names.add(one.tag_field)
        elif isinstance(one, msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType):
            names.update(field.encode_name for field in one.fields)
        else:
            return None
    return frozenset(names)
