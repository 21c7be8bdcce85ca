"""A server made by the official SDK of MCP: python mcp_sdk_server.py FILE, where it notes that a call was given up."""

import sys
from pathlib import Path

import anyio
from mcp.server.mcpserver import Context, MCPServer

app = MCPServer("lamp")


@app.tool()
async def dim(level: int, ctx: Context, seconds: float = 0) -> str:
    """Dim the lamp."""
    try:
        for n in range(3):
            await ctx.report_progress(n, 3)
            await anyio.sleep(seconds / 3)
    except BaseException:
        Path(sys.argv[1]).write_text("yes")  # noqa: ASYNC240 - it is being cancelled
        raise
    return f"at {level}"


if __name__ == "__main__":
    app.run()
