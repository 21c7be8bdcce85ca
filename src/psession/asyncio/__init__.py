"""psession for programs on asyncio: Trio runs beside asyncio in the same thread, and both may call each other.

::

    async with psession.asyncio.bridge() as bridged:
        async with (
            bridged.open(open_websocket(url)) as channel,
            bridged.open(manager.port("lamp", channel)) as port,
        ):
            reply = await port.request({"command": "status"}, timeout=3)

What `bridge` gives opens anything of Trio's for as long as a block lasts. A port that is opened so is a `Port` of this
package, whose methods are asyncio's: ``asyncio.timeout`` ends a turn as Trio's scopes do, and an exact peer is told.
"""

from psession.asyncio._bridge import Bridge, bridge
from psession.asyncio._guest import BridgeClosedError
from psession.asyncio._ports import Port, Replies, Session

__all__ = ["Bridge", "BridgeClosedError", "Port", "Replies", "Session", "bridge"]
