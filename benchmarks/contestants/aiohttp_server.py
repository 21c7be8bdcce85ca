"""The server of aiohttp, for those that stand on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web

from contestants.sharing import HOST

if TYPE_CHECKING:
    from contestants.sharing import Ready


async def serve_application(application: web.Application, ready: Ready, **options: Any) -> None:
    """Serve it until cancelled."""
    runner = web.AppRunner(application, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0, shutdown_timeout=1).start()
        ready(runner.addresses[0][1])
        await asyncio.get_running_loop().create_future()
    finally:
        await runner.cleanup()
