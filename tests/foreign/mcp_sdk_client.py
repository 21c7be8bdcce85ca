"""A client made by the official SDK of MCP: python mcp_sdk_client.py SERVER."""

import os
import sys

import anyio
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main() -> None:
    server = StdioServerParameters(command=sys.executable, args=[sys.argv[1]], env=dict(os.environ))
    async with stdio_client(server) as (reads, writes), ClientSession(reads, writes) as session:
        print("server:", (await session.initialize()).server_info.name)
        print("tools:", *[tool.name for tool in (await session.list_tools()).tools])
        print("answer:", (await session.call_tool("dim", {"level": 7})).content[0].text)
        try:
            await session.list_prompts()
        except Exception as error:
            print("prompts:", type(error).__name__, error)
        try:
            await session.call_tool("dim", {"level": 7, "seconds": 60}, read_timeout_seconds=1)
        except Exception as error:
            print("slow:", error)
        await session.send_ping()
        print("still there")


if __name__ == "__main__":
    anyio.run(main)
