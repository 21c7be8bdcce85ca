"""Systems that nobody here wrote, brought by Debian's packages: a virtual machine."""

from __future__ import annotations

import shutil

import pytest
import trio

from .test_programs import LONGEST_RUN, check_said, example

pytestmark = pytest.mark.foreign


def need(program: str, package: str) -> str:
    """Where a program is that a package of Debian's brings."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here; Debian has it: apt-get install {package}")
    return found


async def test_a_virtual_machine_is_stopped_and_resumed_and_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = example("virtual_machine")
    program = need("qemu-system-x86_64", "qemu-system-x86")
    with trio.fail_after(LONGEST_RUN):
        await module.main([program, *module.QEMU[1:]])
    check_said(
        capsys.readouterr().out,
        r"QEMU \d+\.\d+",
        r"stop: STOP, and it is paused",
        r"cont: RESUME, and it is running",
        r"system_powerdown: POWERDOWN, and it is running",
        r"eject: DeviceNotFound, Device 'floppy' not found",
        r"the machine ended with status 0",
    )
