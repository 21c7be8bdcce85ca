"""A server of the Model Context Protocol: tools for a language model, over standard input and output.

Its client starts it, such as {"command": "python", "args": ["mcp_server.py"]} in its settings.
"""

import os

import trio

from psession import Service, SessionManager
from psession.channels import lines
from psession.dialects import Mcp

INFO = {"capabilities": {"tools": {}}, "serverInfo": {"name": "lamp", "version": "1"}}
lamp = {"level": 20}
tools = Service("name")
protocol = Service("method")


@tools.method
async def dim(level: int, seconds: float = 0.0) -> int:
    """Dim the lamp to a level from 0 to 100, within so many seconds."""
    await trio.sleep(seconds)  # cancelled when the client gives the call up
    lamp["level"] = level
    return level


@tools.method
def status() -> int:
    """Say how bright the lamp is."""
    return lamp["level"]


@protocol.method
def initialize(protocolVersion: str, capabilities: dict, clientInfo: dict) -> dict:
    return {"protocolVersion": protocolVersion, **INFO}


@protocol.method
def ping() -> dict:
    return {}


@protocol.method("tools/list")
def list_tools() -> dict:
    described = tools.describe()["methods"].items()
    about = [(name, method["description"], method["arguments"]) for name, method in described]
    return {"tools": [{"name": name, "description": text, "inputSchema": schema} for name, text, schema in about]}


@protocol.method("tools/call")
async def call_tool(name: str, arguments: dict | None = None) -> dict:
    result = tools.call(name, arguments or {})
    if not isinstance(result, int):
        result = await result
    return {"content": [{"type": "text", "text": f"the lamp is at {result} %"}]}


async def main():
    pipes = trio.StapledStream(trio.lowlevel.FdStream(os.dup(1)), trio.lowlevel.FdStream(os.dup(0)))
    manager = SessionManager(dialect=Mcp(), on_request=protocol, on_message=lambda message: None)
    async with manager.port("client", lines(pipes)) as client:
        await client.wait_closed()


if __name__ == "__main__":
    trio.run(main)
