"""A client of the Model Context Protocol: start a server, list its tools, call one and see its progress.

python mcp_client.py [COMMAND ...]     by default the server of mcp_server.py
"""

import sys
from pathlib import Path

import trio

from psession import SessionManager, SessionRemoteError, SessionTimeoutError
from psession.channels import process
from psession.dialects import Mcp

SERVER = (sys.executable, str(Path(__file__).with_name("mcp_server.py")))
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "psession", "version": "1"}}


async def main(command=SERVER):
    manager = SessionManager(dialect=Mcp(), session_timeout=20, on_message=lambda message: None)
    async with process(command) as channel, manager.port("server", channel) as server:

        def call(name, **arguments):
            return {"method": "tools/call", "params": {"name": name, "arguments": arguments}}

        began = await server.request({"method": "initialize", "params": HELLO})
        await server.post({"method": "notifications/initialized"})
        print("server:", began["serverInfo"]["name"])
        for tool in (await server.request({"method": "tools/list"}))["tools"]:
            print(f"{tool['name']}: {tool['description']}")
        async with server.stream(call("dim", level=40)) as parts:
            async for part in parts:
                print(part["content"][0]["text"] if "content" in part else f"{part['progress']} of {part['total']}")
        try:
            await server.request(call("dim", level=0, seconds=60), timeout=0.5)
        except SessionTimeoutError:
            print("no answer in 0.5 s: given up, and the server told")
        try:
            await server.request({"method": "tools/sing"})
        except SessionRemoteError as error:
            print(f"tools/sing: error {error.code}, {error.outcome}")


if __name__ == "__main__":
    trio.run(main, sys.argv[1:] or SERVER)
