"""A language server as the peer: what is wrong with a file, and what could be written there.

python language_server.py [COMMAND ...]     such as pylsp (by default), or pyright-langserver --stdio
"""

import sys
import tempfile
from pathlib import Path

import trio

from psession import SessionManager
from psession.channels import process
from psession.dialects import Lsp

TEXT = "import os\n\n\ndef lamp(:\n    return os.pa\n"


def answer(question):
    """Answer what the server asks its client: pyright wants to know its settings."""
    if question["method"] == "workspace/configuration":
        return [{} for _ in question["params"]["items"]]
    return None


async def main(command=("pylsp",)):
    with tempfile.TemporaryDirectory() as folder:
        uri = Path(folder, "lamp.py").as_uri()
        diagnosed = trio.Event()
        problems = []

        def heard(message):
            if message["method"] == "textDocument/publishDiagnostics" and message["params"]["diagnostics"]:
                problems[:] = message["params"]["diagnostics"]
                diagnosed.set()

        manager = SessionManager(dialect=Lsp(), session_timeout=30, on_message=heard, on_request=answer)
        async with (
            process(command, framing="content_length", stderr="keep") as channel,
            manager.port("server", channel) as server,
        ):
            client = {
                "processId": None,
                "rootUri": Path(folder).as_uri(),
                "capabilities": {"workspace": {"configuration": True}},
            }
            began = await server.request({"method": "initialize", "params": client})
            print("the server can:", ", ".join(sorted(began["capabilities"])[:3]), "...")
            await server.post({"method": "initialized", "params": {}})
            document = {"uri": uri, "languageId": "python", "version": 1, "text": TEXT}
            await server.post({"method": "textDocument/didOpen", "params": {"textDocument": document}})
            with trio.fail_after(30):
                await diagnosed.wait()
            for problem in problems:
                print(f"line {problem['range']['start']['line'] + 1}: {problem['message'].splitlines()[0]}")
            place = {"textDocument": {"uri": uri}, "position": {"line": 4, "character": 16}}
            found = await server.request({"method": "textDocument/completion", "params": place})
            items = found["items"] if isinstance(found, dict) else found
            print("os.pa could be:", ", ".join(item["label"] for item in items if item["label"].startswith("pa")))
            await server.request({"method": "shutdown"})
            await server.post({"method": "exit"})
            await server.wait_closed()


if __name__ == "__main__":
    trio.run(main, sys.argv[1:] or ("pylsp",))
