"""aria2 as the peer: download a file and hear how it goes. JSON-RPC over a WebSocket.

Needs aria2: aria2c --enable-rpc --rpc-secret=SECRET; python download.py URL FOLDER SECRET [RPC_URL]
"""

import sys
from functools import partial

import trio

from psession import SessionManager, SessionRemoteError
from psession.channels import open_websocket
from psession.dialects import JsonRpc

RPC = "ws://127.0.0.1:6800/jsonrpc"


async def main(url, folder, secret="", rpc=RPC):
    ended = {}

    def heard(message):
        event, (download,) = message["method"].removeprefix("aria2.on"), message["params"]
        print(f"{event}: {download['gid']}")
        if event in ("DownloadComplete", "DownloadError"):
            ended.setdefault(download["gid"], trio.Event()).set()

    async def call(name, *params):
        return await aria2.request({"method": f"aria2.{name}", "params": [f"token:{secret}", *params]})

    async def show(gid):
        while True:
            status = await call("tellStatus", gid, ["completedLength", "totalLength"])
            print(f"{int(status['completedLength']) // 1000} of {int(status['totalLength']) // 1000} kB")
            await trio.sleep(0.2)

    manager = SessionManager(dialect=JsonRpc(), session_timeout=10, on_message=heard)
    async with open_websocket(rpc) as channel, manager.port("aria2", channel) as aria2:
        print("aria2", (await call("getVersion"))["version"])
        for address in (url, url + ".missing"):
            gid = await call("addUri", [address], {"dir": folder})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(show, gid)
                await ended.setdefault(gid, trio.Event()).wait()
                nursery.cancel_scope.cancel()
            status = await call("tellStatus", gid)
            print(f"{status['status']}: {status.get('errorMessage') or status['files'][0]['path']}")
        try:
            await call("remove", "0123456789abcdef")
        except SessionRemoteError as error:
            print(f"remove: error {error.code}, {error.text}")


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))
