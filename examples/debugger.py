"""A debugger as the peer: stop a program at a line, and look into it. Debug Adapter Protocol, with debugpy.

python debugger.py [PYTHON]      a Python that has debugpy
"""

import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import trio

from psession import SessionManager, SessionRemoteError
from psession.channels import process
from psession.dialects import Dap

PROGRAM = "watts = [40, 60, 9]\ntotal = sum(watts)\nprint(total)\n"


async def main(python=sys.executable):
    happened, bodies = defaultdict(trio.Event), {}

    def heard(message):
        bodies[message["event"]] = message["body"]
        happened[message["event"]].set()

    manager = SessionManager(dialect=Dap(), session_timeout=30, on_message=heard)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "lamps.py")
        await trio.Path(program).write_text(PROGRAM)
        async with (
            process([python, "-m", "debugpy.adapter"], framing="content_length", stderr="keep") as channel,
            manager.port("debugger", channel) as debugger,
            trio.open_nursery() as nursery,
        ):

            async def ask(command, **arguments):
                return await debugger.request({"command": command, "arguments": arguments})

            async def launch():
                await ask("launch", program=str(program), python=[python], console="internalConsole")

            await ask("initialize", adapterID="debugpy", pathFormat="path")
            nursery.start_soon(launch)  # answered when the configuration is done
            await happened["initialized"].wait()
            await ask("setBreakpoints", source={"path": str(program)}, breakpoints=[{"line": 3}])
            await ask("configurationDone")
            await happened["stopped"].wait()
            thread = bodies["stopped"]["threadId"]
            frame = (await ask("stackTrace", threadId=thread))["stackFrames"][0]
            print(f"stopped at line {frame['line']} of {frame['name']}: {bodies['stopped']['reason']}")
            for name in ("watts", "total", "lamp"):
                try:
                    print(f"{name} = {(await ask('evaluate', expression=name, frameId=frame['id']))['result']}")
                except SessionRemoteError as error:
                    print(f"{name}: {(error.text or str(error.code)).strip().splitlines()[-1]}")
            await ask("continue", threadId=thread)
            await happened["terminated"].wait()
            await ask("disconnect")


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
