"""``async with port.session()``: a session, opened on entering and ended on leaving."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psession._port import Port
    from psession._retry import Patience
    from psession._session import Session


class Opening:
    """What `Port.session` returns."""

    __slots__ = ("_max_life", "_patience", "_port", "_session")

    def __init__(self, port: Port, patience: Patience, max_life: float | None) -> None:
        self._port = port
        self._patience = patience
        self._max_life = max_life

    async def __aenter__(self) -> Session:
        port = self._port
        self._session = await port._table.open_when_free(self._patience, self._max_life)
        port._counters.opened += 1
        port._idle_enter(self._session)
        return self._session

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._session.end()
