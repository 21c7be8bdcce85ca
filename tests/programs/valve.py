"""A server that writes down each turn that it runs, before and after: to be killed in the middle of its work.

python valve.py PORT LOG
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import trio

from psession import SessionManager
from psession.channels import lines


async def main(port: int, log: Path) -> None:
    """Serve until killed."""
    manager = SessionManager(resume_within=30)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def open_valve(session: Any) -> None:
        async for message in session:
            os.write(written, f"begun {message['n']}\n".encode())
            await trio.sleep(0.002)
            os.write(written, f"done {message['n']}\n".encode())
            await session.post({"done": message["n"]})

    async def serve(stream: trio.SocketStream) -> None:
        async with manager.accept(lines(stream), on_session=open_valve) as client:
            await client.wait_closed()

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, serve, port, host="127.0.0.1"))
        print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), Path(sys.argv[2]))
