"""A server that writes down each turn that it runs, before and after: to be killed in the middle of its work.

python valve.py PORT LOG FORM

FORM: on_session, async on_request or plain on_request.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

from psession import SessionManager
from psession.channels import lines

WORK_SECONDS = 0.002


async def main(port: int, log: Path, form: str) -> None:
    """Serve until killed."""
    manager = SessionManager(resume_within=30)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(word: str, message: Any) -> None:
        os.write(written, f"{word} {message['n']}\n".encode())

    async def work(message: Any) -> Any:
        note("begun", message)
        await trio.sleep(WORK_SECONDS)
        note("done", message)
        return {"done": message["n"]}

    def work_at_once(message: Any) -> Any:
        note("begun", message)
        time.sleep(WORK_SECONDS)
        note("done", message)
        return {"done": message["n"]}

    async def open_valve(session: Any) -> None:
        async for message in session:
            await session.post(await work(message))

    forms: dict[str, dict[str, Any]] = {
        "on_session": {"on_session": open_valve},
        "async on_request": {"on_request": work},
        "plain on_request": {"on_request": work_at_once},
    }

    async def serve(stream: trio.SocketStream) -> None:
        async with manager.accept(lines(stream), **forms[form]) as client:
            await client.wait_closed()

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, serve, port, host="127.0.0.1"))
        print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
