"""`psession completion`: its scripts offer what the parser takes, in a real shell."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from psession._cli import main
from psession._cli._arguments import COMMANDS, SHELLS, make_parser
from psession._cli._wires import WIRES
from psession._cli.completion import URLS

if TYPE_CHECKING:
    from pathlib import Path

Captured = pytest.CaptureFixture[str]

COMPLETE = """\
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
compopt() {{ :; }}  # it works while a user types, and nowhere else
_psession
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
"""What bash does at a press of the Tab key."""


@pytest.fixture
def scripts(tmp_path: Path, capsys: Captured) -> Path:
    """A folder with a script for each shell."""
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        (tmp_path / shell).write_text(capsys.readouterr().out)
    return tmp_path


def flags_of(command: str) -> set[str]:
    """Every flag of a command."""
    return {flag for action in make_parser()[1][command].arguments for flag in action.option_strings}


def in_bash(scripts: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    quoted = " ".join(f"'{word}'" for word in words)
    code = COMPLETE.format(script=scripts / "bash", words=quoted)
    done = subprocess.run(
        ["bash", "--norc", "-c", code], check=False, capture_output=True, text=True, timeout=10, cwd=scripts
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


def test_bash_offers_the_commands(scripts: Path) -> None:
    assert in_bash(scripts, "psession", "") == [*COMMANDS, "-h", "--help", "--version"]
    assert in_bash(scripts, "psession", "co") == ["completion"]


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_offers_every_flag_of_a_command(command: str, scripts: Path) -> None:
    assert set(in_bash(scripts, "psession", command, "-")) == flags_of(command)
    assert set(in_bash(scripts, "psession", command, "x", "--")) == flags_of(command) - {"-h"}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["call", "w"], ["ws://", "wss://"]),
        (["echo", "u"], ["unix:"]),
        (["call", "ws://x", "{}", "--dialect", ""], list(WIRES)),
        (["call", "ws://x", "{}", "--exact", "--stream", "--lines", "--rate", "5", "--dialect", "js"], ["json-rpc"]),
        (["call", "ws://x", "--cafile", "b"], ["bash"]),
        (["echo", "ws://x", "--keyfile", "a b"], ["a b c"]),
        (["call", "ws://x", "--timeout", ""], [""]),
        (["call", "ws://x", "{}", "--dialect", "=", "js"], ["json-rpc"]),
        (["call", "ws://x", "{}", "--dialect", "="], list(WIRES)),
        (["completion", ""], [*SHELLS, "-h", "--help"]),
        (["unknown", ""], [""]),
    ],
)
def test_bash_offers_what_may_stand_at_a_place(words: list[str], offered: list[str], scripts: Path) -> None:
    (scripts / "a b c").touch()
    assert in_bash(scripts, "psession", *words) == offered


def test_bash_completes_what_a_user_types(scripts: Path) -> None:
    """An interactive bash on a terminal of its own, and a real Tab."""
    terminal, behind = pty.openpty()
    command = ["bash", "--norc", "--noprofile", "-i"]
    environment = os.environ | {"PS1": "ready> ", "INPUTRC": os.devnull, "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=behind, stdout=behind, stderr=behind, env=environment, start_new_session=True
    ) as bash:
        os.close(behind)

        def answer(typed: str, wanted: str) -> str:
            os.write(terminal, typed.encode())
            shown = ""
            while wanted not in shown:
                shown += os.read(terminal, 4096).decode()
            return shown

        answer("", "ready> ")
        answer(f"psession() {{ printf 'run with %s.' \"$*\"; }}; source {scripts / 'bash'}\n", "ready> ")
        shown = answer("psession ca\tws://x --dialect js\t--ins\t--dialect=l\t{}\n", ".ready> ")
        os.write(terminal, b"exit\n")
        assert bash.wait(10) == 0
    os.close(terminal)
    assert "run with call ws://x --dialect json-rpc --insecure --dialect=lsp {}." in shown


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_says_nothing_of_python_or_of_where_it_was_made(shell: str, scripts: Path) -> None:
    text = (scripts / shell).read_text()
    assert "%(" not in text
    assert "==SUPPRESS==" not in text
    assert str(scripts) not in text
    assert all(flag[2:] in text for command in COMMANDS for flag in flags_of(command))
    assert all(url.replace(":", "\\:") in text or url in text for url in URLS)


@pytest.mark.foreign
@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
def test_fish_offers_the_same(scripts: Path) -> None:
    def offered(line: str) -> set[str]:
        code = f"source {scripts / 'fish'}; complete -C '{line}'"
        done = subprocess.run(["fish", "-N", "-c", code], check=True, capture_output=True, text=True, timeout=10)
        return {line.split("\t")[0] for line in done.stdout.splitlines()}

    assert offered("psession ") == set(COMMANDS)
    assert offered("psession call --dialect ") == set(WIRES)
    assert offered("psession call --") == flags_of("call") - {"-h"}
    assert offered("psession echo w") == {"ws://", "wss://"}


ZSH = """\
zmodload zsh/zpty
zpty shell zsh -fi
zpty -w shell 'PS1=; autoload -U compinit; compinit -D -u; source {script}; LISTMAX=500; print rea''dy'
zpty -r shell output '*ready*'
zpty -w -n shell $'{typed}\\t\\t'
zpty -r shell output '*{last}*'
print -r -- "$output"
zpty -d shell
"""
"""A zsh in a terminal of its own, and a user who types."""


@pytest.mark.foreign
@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
@pytest.mark.parametrize(
    ("typed", "last"),
    [
        ("psession ", "see it work"),
        ("psession call ws://x --dialect gr", "graphql-ws"),
        ("psession call ws://x --ins", "--insecure"),
    ],
)
def test_zsh_completes_the_same(typed: str, last: str, scripts: Path) -> None:
    code = ZSH.format(script=scripts / "zsh", typed=typed, last=last)
    done = subprocess.run(["zsh", "-f", "-c", code], check=True, capture_output=True, text=True, timeout=20)
    assert last in done.stdout
