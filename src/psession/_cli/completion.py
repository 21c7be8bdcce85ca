"""``psession completion``: a script that completes the commands in a shell, made from what the parser takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psession._cli._address import SCHEMES
from psession._cli._arguments import COMMANDS, make_parser
from psession._cli._console import say
from psession._cli._problem import Exit

if TYPE_CHECKING:
    import argparse

URLS: Final = [f"{scheme}:" if scheme == "unix" else f"{scheme}://" for scheme in SCHEMES]
"""How a URL begins; nobody wants a space behind it."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command.

    Attributes:
        flags: Its names; none where its place says what it is.
        help: A line about it.
        name: What stands for its value in the help; ``""`` where it has none.
        words: What it may be, or begin with, where that is known.
    """

    flags: list[str]
    help: str
    name: str
    words: list[str]

    @classmethod
    def of(cls, action: argparse.Action) -> Argument:
        """Return what argparse says of it."""
        name = "" if action.nargs == 0 else str(action.metavar or action.dest)
        words = URLS if name == "URL" else [str(choice) for choice in action.choices or ()]
        return cls(list(action.option_strings), action.help or "", name, words)


Commands = Mapping[str, list[Argument]]
"""The arguments of each command; those of ``""`` stand before any."""


async def run(shell: str) -> Exit:
    """Print the script for a shell.

    Raises:
        OutputLost: Standard output cannot be written.
    """
    for line in SCRIPTS[shell](taken()):
        say(line)
    return Exit.OK


def taken() -> Commands:
    """Return what the commands take."""
    parser, commands = make_parser()
    parsers = {"": parser, **commands}
    return {name: [Argument.of(action) for action in parsers[name].arguments] for name in parsers}


def _places(arguments: list[Argument]) -> list[Argument]:
    return [argument for argument in arguments if not argument.flags]


def _flags(arguments: list[Argument]) -> list[Argument]:
    return [argument for argument in arguments if argument.flags]


def _quoted(text: str) -> str:
    """Return a text in single quotes, as all three shells read it."""
    return "'" + text.replace("'", "'\\''") + "'"


def _bash(commands: Commands) -> Iterator[str]:
    def names(command: str) -> str:
        return " ".join(flag for argument in _flags(commands[command]) for flag in argument.flags)

    yield "_psession() {"
    yield "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words= files= IFS=$'\\n'"
    yield "    [[ $cur == = ]] && cur="
    yield "    [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD-2]}"
    yield '    case "$COMP_CWORD ${COMP_WORDS[1]} $prev" in'
    yield f'        "1 "*) words={_quoted(" ".join([*COMMANDS, names("")]))} ;;'
    for name in COMMANDS:
        for argument in _flags(commands[name]):
            pattern = "|".join(f'*" {name} {flag}"' for flag in argument.flags)
            if argument.name == "FILE":
                yield f"        {pattern}) files=yes ;;"
            elif argument.name:
                yield f"        {pattern}) words={_quoted(' '.join(argument.words))} ;;"
        for place in _places(commands[name])[:1]:
            words = _quoted(" ".join([*place.words, names(name)]))
            spaceless = "[[ $cur == -* ]] || compopt -o nospace 2>/dev/null; " if place.words is URLS else ""
            yield f'        "2 {name} "*) {spaceless}words={words} ;;'
        yield f'        *" {name} "*) words={_quoted(names(name))} ;;'
    yield "    esac"
    yield "    if [[ $files ]]; then"
    yield '        compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur"))'
    yield "    else"
    yield "        IFS=$' \\n'"
    yield '        COMPREPLY=($(compgen -W "$words" -- "$cur"))'
    yield "    fi"
    yield "}"
    yield "complete -F _psession psession"


def _zsh(commands: Commands) -> Iterator[str]:
    def escaped(text: str) -> str:
        return "".join(f"\\{char}" if char in ":[]\\" else char for char in text)

    def spec(argument: Argument, place: int) -> str:
        action = "_files" if argument.name == "FILE" else f"({' '.join(map(escaped, argument.words))})"
        value = f":{escaped(argument.name)}:{action if argument.words or argument.name == 'FILE' else ' '}"
        if not argument.flags:
            return _quoted(f"{place}{value}")
        others = f"({' '.join(argument.flags)})" if len(argument.flags) > 1 else ""
        ends = [
            _quoted(f"{others}{flag}[{escaped(argument.help)}]{value if argument.name else ''}")
            for flag in argument.flags
        ]
        return " ".join(ends)

    def specs(arguments: list[Argument]) -> list[str]:
        places = _places(arguments)
        return [spec(argument, places.index(argument) + 1 if argument in places else 0) for argument in arguments]

    yield "#compdef psession"
    yield "_psession() {"
    yield "    local -a commands"
    yield f"    commands=({' '.join(_quoted(f'{name}:{text}') for name, text in COMMANDS.items())})"
    yield "    if (( CURRENT == 2 )); then"
    yield "        _describe command commands"
    yield f"        _arguments {' '.join(specs(_flags(commands[''])))}"
    yield "        return"
    yield "    fi"
    yield "    shift words"
    yield "    (( CURRENT-- ))"
    yield "    case $words[1] in"
    for name in COMMANDS:
        yield f"        {name})"
        yield "            _arguments \\"
        for line in specs(commands[name]):
            yield f"                {line} \\"
        yield "            ;;"
    yield "    esac"
    yield "}"
    yield 'if [[ $funcstack[1] == _psession ]]; then _psession "$@"; else compdef _psession psession; fi'


def _fish(commands: Commands) -> Iterator[str]:
    def options(argument: Argument) -> str:
        flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in argument.flags)
        value = {"": "", "FILE": " -r -F"}.get(argument.name, " -x")
        words = f" -a {_quoted(' '.join(argument.words))}" if argument.words else ""
        return f"{flags}{value}{words} -d {_quoted(argument.help)}"

    yield "complete -c psession -f"
    for name, text in COMMANDS.items():
        yield f"complete -c psession -n __fish_use_subcommand -a {name} -d {_quoted(text)}"
    for argument in _flags(commands[""]):
        yield f"complete -c psession -n __fish_use_subcommand {options(argument)}"
    for name in COMMANDS:
        seen = f"complete -c psession -n '__fish_seen_subcommand_from {name}'"
        for argument in _flags(commands[name]):
            yield f"{seen} {options(argument)}"
        for argument in _places(commands[name])[:1]:
            yield f"{seen} -a {_quoted(' '.join(argument.words))}"


SCRIPTS: Final[Mapping[str, Callable[[Commands], Iterator[str]]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
