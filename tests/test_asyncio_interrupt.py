"""Ctrl-C, as a real signal, in programs with a bridge: all is left in order, and nothing said but the interrupt."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, sys, threading
import trio
import psession.asyncio
from psession import Exact, SessionManager
from psession.channels import memory_pair
from psession.nursery import in_trio_run

def interrupt_soon():
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()

async def wait(session):
    async for message in session:
        interrupt_soon()
        try:
            await trio.sleep_forever()
        finally:
            print("handler cancelled")

async def spin(port):
    while True:
        await port.request({"do": "echo"})

async def echo(message):
    return message

async def main():
    here, there = memory_pair()
    async with psession.asyncio.bridge() as bridge:
        options = {"on_session": wait} if WHAT != "busy" else {"on_request": bridge.handler(echo)}
        async with (
            bridge.open(SessionManager(**options).port("far", there)),
            bridge.open(SessionManager(dialect=Exact()).port("near", here)) as port,
        ):
            try:
                if WHAT == "busy":
                    interrupt_soon()
                    await asyncio.gather(*(spin(port) for _ in range(8)))
                await port.request({})
            finally:
                print("body left")
    print("not here")

try:
    if WHAT == "bare loop":  # without asyncio's own handling of Ctrl-C
        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        try:
            loop.run_until_complete(task)
        finally:
            if not task.done():
                task.cancel()
                loop.run_until_complete(asyncio.wait([task]))
            if not task.cancelled():
                task.exception()
            loop.close()
    elif WHAT == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", in_trio_run())
"""


@pytest.mark.parametrize("what", ["waiting", "busy", "uvloop", "bare loop"])
def test_ctrl_c_leaves_everything_in_order(what: str) -> None:
    command = [sys.executable, "-W", "error", "-c", f"WHAT = {what!r}\n{PROGRAM}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = ran.stdout.splitlines()
    assert said[-1:] == ["interrupted False"], ran.stdout + ran.stderr
    assert "body left" in said
    assert ("handler cancelled" in said) == (what != "busy")
    assert (ran.stderr, ran.returncode) == ("", 0)
