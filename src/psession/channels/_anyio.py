"""Messages over a stream of AnyIO's making: its bytes cut into messages, or its objects as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import anyio.abc


class _ByteStream(trio.abc.Stream):
    """An AnyIO byte stream with Trio's methods and errors."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._receiving: trio.CancelScope | None = None
        ...
