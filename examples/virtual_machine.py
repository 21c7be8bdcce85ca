"""A virtual machine as the peer: stop it while something copies its disk, let it go on, press its power button. QMP.

Needs QEMU: python virtual_machine.py [COMMAND ...]     which must speak QMP on its standard input and output
"""

import sys
from itertools import count

import trio

from psession import SessionManager, SessionRemoteError
from psession.channels import process
from psession.dialects import Answer, Event, Failure, TurnDialect

QEMU = ("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio")


class Qmp(TurnDialect):
    def begin(self):
        self.ids = count(1)

    def new_id(self):
        return next(self.ids)

    def ask(self, payload, id):
        return {**payload, "id": id}

    def read(self, message):
        if "return" in message:
            return Answer(message["id"], message["return"])
        if "error" in message:
            return Failure(message["id"], message["error"]["class"], message["error"]["desc"])
        return Event(message)


async def main(command=QEMU):
    tell, happened = trio.open_memory_channel(100)

    async def wait_for(event):
        async for said in happened:
            if event in (said.get("event"), *said):
                return said

    manager = SessionManager(dialect=Qmp(), session_timeout=30, on_message=tell.send_nowait)
    async with process(command, stderr="keep") as channel, manager.port("machine", channel) as machine:

        async def ask(name, **arguments):
            return await machine.request({"execute": name, "arguments": arguments})

        with trio.fail_after(30):
            version = (await wait_for("QMP"))["QMP"]["version"]["qemu"]
            print(f"QEMU {version['major']}.{version['minor']}")
            await ask("qmp_capabilities")
            for name, event in (("stop", "STOP"), ("cont", "RESUME"), ("system_powerdown", "POWERDOWN")):
                await ask(name)
                await wait_for(event)
                print(f"{name}: {event}, and it is {(await ask('query-status'))['status']}")
            try:
                await ask("eject", id="floppy")
            except SessionRemoteError as error:
                print(f"eject: {error.code}, {error.text}")
            await ask("quit")
            await machine.wait_closed()
    print("the machine ended with status", channel.process.returncode)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:] or QEMU)
