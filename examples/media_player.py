"""mpv as the peer: play something, hear how far it is, and pause it. JSON IPC over a Unix socket.

Needs mpv: python media_player.py [FILE]     without one it plays a tone
"""

import sys
import tempfile
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import trio

from psession import SessionManager, SessionRemoteError
from psession.channels import open_unix
from psession.dialects import Answer, Event, Failure, TurnDialect

MPV = ("mpv", "--no-config", "--idle", "--no-video", "--no-terminal", "--pause")
TONE = "av://lavfi:sine=frequency=440:duration=3"


class Mpv(TurnDialect):
    def begin(self):
        self.ids = count(1)

    def new_id(self):
        return next(self.ids)

    def ask(self, payload, id):
        return {"command": payload, "request_id": id, "async": True}

    def quit(self, id, payload):
        return {"command": ["abort_async_command", id]}

    def read(self, message):
        id, error = message.get("request_id"), message.get("error")
        if "event" in message or not id:
            return Event(message)
        return Answer(id, message.get("data")) if error == "success" else Failure(id, error, error)


@asynccontextmanager
async def player(command):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = trio.Path(folder, "socket")
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.run_process, check=False), [*command, f"--input-ipc-server={path}"])
            while not await path.exists():  # noqa: ASYNC110 - a file has no event
                await trio.sleep(0.02)
            async with open_unix(path) as channel:
                yield channel


async def main(file=TONE, command=MPV):
    tell, happened = trio.open_memory_channel(1000)
    manager = SessionManager(dialect=Mpv(), session_timeout=10, on_message=tell.send_nowait)
    async with player(command) as channel, manager.port("mpv", channel) as mpv:
        print(await mpv.request(["get_property", "mpv-version"]))
        try:
            await mpv.request(["set_property", "volume", "loud"])
        except SessionRemoteError as error:
            print("volume:", error.text)
        await mpv.request(["observe_property", 1, "time-pos"])
        await mpv.request(["loadfile", file])
        await mpv.request(["set_property", "pause", False])
        async for said in happened:
            if said["event"] == "property-change" and (said.get("data") or 0) >= 1:
                break
        await mpv.request(["set_property", "pause", True])
        place = await mpv.request(["get_property", "time-pos"])
        print(f"paused after {place:.1f} s")
        await trio.sleep(1)
        later = await mpv.request(["get_property", "time-pos"])  # less what its buffers held when it paused
        print("it stays there:", abs(later - place) < 0.5)
        await mpv.request(["quit"])
        await mpv.wait_closed()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
