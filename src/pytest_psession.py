"""The pytest plugin of psession: ports that talk to each other, and the messages of a test that failed in its report.

It stands beside the package, and imports nothing of it until a test asks for a fixture: a suite that has no use for it
starts as fast as without it, and coverage sees all of psession's lines.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator
    from contextlib import AbstractAsyncContextManager

    from psession.testing import EventLog, LossyChannel, PortPair

    OpenPair: TypeAlias = Callable[..., AbstractAsyncContextManager[PortPair]]

NAMES: Final = ("psession", "pytest_psession")
"""What the plugin may be called: by its entry point, and by its module (``-p pytest_psession``)."""

MESSAGES: Final = 50
"""The messages of a network that a report shows, by default: about two screens."""

TITLE: Final = "psession: "


@dataclass(frozen=True)
class _Network:
    """A network whose messages a report may show.

    Attributes:
        log: What happened to its messages.
        note: Returns what it did, in a line; ``None`` where the log alone is known.
        left: The name of the side that holds it.
        right: The name of the other.
    """

    log: EventLog
    note: Callable[[], str] | None
    left: str
    right: str

    def drawn(self, most: int) -> str:
        """Return its last messages as a diagram, below what it did. Never raises: a report is made of it."""
        try:
            return self._drawn(most)
        except Exception as error:
            return f"[its messages cannot be drawn: {type(error).__name__}]"

    def _drawn(self, most: int) -> str:
        from psession.inspector._redaction import without_secrets
        from psession.testing import sequence_diagram

        def label(message: object) -> str:
            return repr(without_secrets(message))

        shown = self.log[-most:]
        hidden = self.log.forgotten + len(self.log) - len(shown)
        left_out = [f"{hidden} earlier messages are not shown (--psession-messages={most})"] if hidden else []
        diagram = sequence_diagram(shown, left=self.left, right=self.right, label=label)
        return "\n".join([*([] if self.note is None else [self.note()]), *left_out, diagram])


_NETWORKS: Final = pytest.StashKey[list[_Network]]()
_SEEDED: Final = pytest.StashKey[bool]()
_SEED: Final = pytest.StashKey[int]()


def pytest_plugin_registered(plugin: object, manager: pytest.PytestPluginManager) -> None:
    """See to it that the plugin is not loaded a second time by its other name, which would be an error of pytest's."""
    if plugin is sys.modules[__name__]:
        for name in NAMES:
            if not manager.has_plugin(name):
                manager.set_blocked(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("psession", "psession: networks of the fixtures port_pair and lossy_pair")
    seed = "the seed of lossy_pair, as the report of a failed test says it (a new one each time)"
    group.addoption("--psession-seed", metavar="N", type=int, help=seed)
    trace = "show the messages of each test, also where it passes"
    group.addoption("--psession-trace", action="store_true", help=trace)
    most = f"how many of the last messages of each network are shown ({MESSAGES})"
    group.addoption("--psession-messages", metavar="N", type=_at_least_one, default=MESSAGES, help=most)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"1 or more, not {number}")
    return number


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed, and have the messages of tests that pass shown where that is wanted."""
    given = config.getoption("--psession-seed")
    config.stash[_SEED] = int.from_bytes(os.urandom(4), "big") if given is None else given
    if config.getoption("--psession-trace") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Tracer(config), "psession-trace")


class _Tracer:
    """Shows the messages of a test that passed. A failed one's are in its report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None or report.failed:
            return
        for title, text in report.sections:
            if title.startswith(TITLE):
                terminal.ensure_newline()
                if self._config.get_terminal_writer().width_of_current_line:  # dots, with -q
                    terminal.line("")
                terminal.write_line(f"{report.nodeid}: {title.removeprefix(TITLE)}", bold=True)
                terminal.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the messages of a failed test to its report."""
    report = yield
    networks = item.stash.get(_NETWORKS, None)
    if networks and (report.failed or (report.when == "call" and item.config.getoption("--psession-trace"))):
        most: Any = item.config.getoption("--psession-messages")
        for network in networks:
            title = f"{TITLE}messages between {network.left} and {network.right}"
            report.sections.append((title, network.drawn(most)))
        if report.failed and item.stash.get(_SEEDED, False):
            again = f"pytest --psession-seed={item.config.stash[_SEED]} '{item.nodeid}'"
            report.sections.append((f"{TITLE}the same network again", again))
    return report


@pytest.fixture
def sequence_diagram(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Attach the messages of a network to the test's report if it fails: ``sequence_diagram(link)``.

    ``link`` is a `psession.testing.lossy` channel, or its ``log``; ``left=`` and ``right=`` name its two sides. The
    networks of ``port_pair`` and ``lossy_pair`` are attached without that. Anything else is a TypeError.
    """

    def attach(link: LossyChannel | EventLog, *, left: str = "here", right: str = "there") -> None:
        from psession.testing import EventLog, LossyChannel

        if isinstance(link, LossyChannel):
            network = _Network(link.log, link.note, left, right)
        elif isinstance(link, EventLog):
            network = _Network(link, None, left, right)
        else:
            raise TypeError(
                f"sequence_diagram takes a channel that psession.testing.lossy made, or its log, not {link!r:.100}: "
                "`async with lossy(channel, seed=1) as link` keeps a log of what passes"
            )
        request.node.stash.setdefault(_NETWORKS, []).append(network)

    return attach


@pytest.fixture
def port_pair(sequence_diagram: Callable[..., None]) -> OpenPair:
    """Open two ports that talk to each other: ``async with port_pair(far={"on_request": lamp}) as (near, far, link)``.

    The arguments are those of `psession.testing.port_pair`. A test may open several.
    """

    @asynccontextmanager
    async def open_pair(**options: Any) -> AsyncIterator[PortPair]:
        from trio.lowlevel import current_task

        try:
            current_task()
        except RuntimeError as error:
            raise RuntimeError(
                "port_pair and lossy_pair need Trio, and this test runs on something else: with AnyIO's plugin, "
                'have a fixture anyio_backend that returns "trio"'
            ) from error
        from psession.testing import port_pair

        async with port_pair(**options) as pair:
            sequence_diagram(pair.link, left="near", right="far")
            yield pair

    return open_pair


@pytest.fixture
def lossy_pair(port_pair: OpenPair, request: pytest.FixtureRequest) -> OpenPair:
    """Open two ports over a bad network: ``async with lossy_pair(drop=0.2, far=...) as (near, far, link)``.

    As ``port_pair``, but by another seed each time, which the report of a failed test says; ``--psession-seed`` is for
    once more.
    """
    numbers = count(1)

    def open_pair(**options: Any) -> AbstractAsyncContextManager[PortPair]:
        if "seed" not in options:
            seed, number = request.config.stash[_SEED], next(numbers)
            options["seed"] = seed if number == 1 else f"{seed}/{number}"
            request.node.stash[_SEEDED] = True
        return port_pair(**options)

    return open_pair
