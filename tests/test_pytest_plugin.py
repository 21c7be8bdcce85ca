"""The pytest plugin, in suites of users: each is run by a pytest of its own."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

import psession

ROOT = Path(__file__).parent.parent
SOURCES = Path(psession.__file__).parent.parent

pytest_plugins = ["pytester"]

LAMP = """
import pytest


async def lamp(message):
    return {"light": "on" if message["command"] == "turnOnLight" else "unknown"}

"""

PASSES = """
async def test_a_lamp_answers(port_pair, clock):
    async with port_pair(far={"on_request": lamp}) as (near, far, link):
        assert await near.request({"command": "turnOnLight"}) == {"light": "on"}
        assert (near.name, far.name, len(link.log)) == ("far", "near", 2)
"""

FAILS = """
async def test_a_lamp_that_is_too_far_away(lossy_pair, autojump_clock):
    async with lossy_pair(drop=0.9, delay=(0, 2), far={"on_request": lamp}) as (near, _, _):
        for _ in range(50):
            await near.request({"command": "turnOnLight"}, timeout=1, retry_count=9)
"""

CLOCK = """
@pytest.fixture
def clock(autojump_clock):
    return autojump_clock

"""

NO_CLOCK = """
pytestmark = pytest.mark.anyio


@pytest.fixture
def clock():
    pass


@pytest.fixture
def anyio_backend():
    return "{}"

"""

TRIO = ["-p", "pytest_trio.plugin", "-o", "trio_mode=true"]
ANYIO = ["-p", "anyio"]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder of a user's, where pytest loads no plugin by itself."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")])))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the tests there with the plugin."""
    return suite.runpytest_subprocess("-p", "no:cacheprovider", "-p", "pytest_psession", *arguments)


def section(result: pytest.RunResult, title: str) -> list[str]:
    """The lines of one section of a report."""
    lines = result.stdout.str().splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.strip("- ") == f"psession: {title}"]
    end = next(number for number in range(start + 1, len(lines)) if re.match(r"[-=]{4}", lines[number]))
    return lines[start + 1 : end]


def test_a_test_gets_two_ports_that_talk(suite: pytest.Pytester) -> None:
    suite.makepyfile(LAMP + CLOCK + PASSES)
    run(suite, *TRIO).assert_outcomes(passed=1)


def test_the_report_of_a_failed_test_has_the_messages_and_the_seed(suite: pytest.Pytester) -> None:
    suite.makepyfile(LAMP + FAILS)
    result = run(suite, *TRIO)
    result.assert_outcomes(failed=1)
    network, *diagram = section(result, "messages between near and far")
    (again,) = section(result, "the same network again")
    found = re.fullmatch(r"pytest --psession-seed=(\d+) '(.*::test_a_lamp_that_is_too_far_away)'", again)
    assert found is not None
    assert network.startswith(f"the network was lossy(channel, seed={found[1]}, drop=0.9, delay=(0, 2)): ")
    assert diagram[0].split() == ["time", "near", "far"]
    assert any(line.endswith("|  lost") for line in diagram)
    once_more = run(suite, *TRIO, f"--psession-seed={found[1]}", found[2])
    assert section(once_more, "messages between near and far") == [network, *diagram]


def test_another_run_has_another_seed(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os

        async def test_it(lossy_pair):
            async with lossy_pair() as first, lossy_pair() as second, lossy_pair(seed=7) as third:
                seeds = [repr(pair.link).partition("seed=")[2].rstrip(")") for pair in (first, second, third)]
                with open("seeds", "a") as file:
                    print(*seeds, file=file)
        """
    )
    for options in ([], [], ["--psession-seed=5"]):
        run(suite, *TRIO, *options).assert_outcomes(passed=1)
    first, second, last = [line.split() for line in (suite.path / "seeds").read_text().splitlines()]
    assert (first[1], last) == (f"'{first[0]}/2'", ["5", "'5/2'", "7"])
    assert first[0] != second[0]


def test_a_network_of_the_tests_own_is_attached_where_it_says_so(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from psession.channels import memory_pair
        from psession.testing import lossy

        async def test_it(sequence_diagram):
            here, there = memory_pair()
            async with lossy(here, seed=1, drop=1) as link:
                sequence_diagram(link, left="client", right="server")
                for number in range(9):
                    await link.send({"n": number})
            assert False
        """
    )
    result = run(suite, *TRIO, "--psession-messages=2")
    result.assert_outcomes(failed=1)
    network, hidden, names, *messages = section(result, "messages between client and server")
    assert network.startswith("the network was lossy(channel, seed=1, drop=1): 9 (9 dropped) sent")
    assert hidden == "7 earlier messages are not shown (--psession-messages=2)"
    assert names.split() == ["time", "client", "server"]
    assert ["'n': 7" in messages[0], "'n': 8" in messages[1], len(messages)] == [True, True, 2]
    assert "the same network again" not in result.stdout.str()  # its seed is in the test


def test_the_log_of_a_network_may_be_attached_as_well(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from psession.channels import memory_pair
        from psession.testing import lossy

        async def test_it(sequence_diagram):
            here, there = memory_pair()
            async with lossy(here, seed=1, drop=1) as link:
                sequence_diagram(link.log, left="client", right="server")
                await link.send({"n": 1})
            assert False

        def test_the_next():
            pass
        """
    )
    result = run(suite, *TRIO)
    result.assert_outcomes(failed=1, passed=1)
    names, message = section(result, "messages between client and server")
    assert (names.split(), message.split("|")[1]) == (["time", "client", "server"], "-- #1 {'n': 1} --x ")


def test_what_is_no_network_is_refused_where_it_is_given(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from psession.channels import memory_pair

        def test_it(sequence_diagram):
            with pytest.raises(TypeError, match="takes a channel that psession.testing.lossy made, or its log, not <"):
                sequence_diagram(memory_pair()[0])
        """
    )
    run(suite, *TRIO).assert_outcomes(passed=1)


def test_messages_that_cannot_be_drawn_stop_no_run(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        class Unshowable:
            def __repr__(self):
                raise RuntimeError("no")

        async def test_it(port_pair):
            async with port_pair() as (near, far, link):
                await near.post({"x": Unshowable()})
                raise ValueError("what the test failed of")

        def test_the_next():
            pass
        """
    )
    result = run(suite, *TRIO)
    result.assert_outcomes(failed=1, passed=1)
    assert section(result, "messages between near and far") == ["[its messages cannot be drawn: RuntimeError]"]
    result.stdout.fnmatch_lines(["*ValueError: what the test failed of"])


def test_secrets_are_hidden_in_a_report(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        async def test_it(port_pair, autojump_clock):
            async with port_pair(far={"on_request": lambda message: {"token": "t-1"}}) as (near, far, link):
                await near.request({"login": "lamp", "secret": "lamp-1"})
            assert not link.log
        """
    )
    result = run(suite, *TRIO)
    result.assert_outcomes(failed=1)
    _, _, asked, answered = section(result, "messages between near and far")
    assert "{'login': 'lamp', 'secret': '[redacted]', 'sid': 1}" in asked
    assert "{'token': '[redacted]', 'sid': 1}" in answered


def test_a_failure_in_a_fixture_or_after_the_test_has_the_messages_too(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        LAMP
        + """
@pytest.fixture
async def asked(port_pair):
    async with port_pair(far={"on_request": lamp}) as (near, far, link):
        await near.request({"command": "turnOnLight"})
        yield near
        raise RuntimeError("in the end")


async def test_it(asked):
    pass
"""
    )
    result = run(suite, *TRIO)
    assert "in the end" in result.stdout.str()
    network, _names, asked, *_ = section(result, "messages between near and far")
    assert network == "the network was lossy(channel, seed=0): 1 sent, 1 received"
    assert "#1 {'command': 'turnOnLight', 'sid': 1}" in asked


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n", "1"]], ids=["alone", "xdist"])
def test_the_messages_of_a_test_that_passes_are_shown_on_demand(workers: list[str], suite: pytest.Pytester) -> None:
    suite.makepyfile(LAMP + CLOCK + PASSES)
    options = [*TRIO, *workers]
    quiet = run(suite, *options)
    quiet.assert_outcomes(passed=1)
    quiet.stdout.no_fnmatch_line("*turnOnLight*")
    shown = run(suite, *options, "--psession-trace")
    shown.assert_outcomes(passed=1)
    shown.stdout.fnmatch_lines(
        [
            "*::test_a_lamp_answers: messages between near and far",
            "the network was lossy(channel, seed=0): 1 sent, 1 received",
            " time  near * far",
            "0.000  |-- #1 {'command': 'turnOnLight', 'sid': 1} --->|",
            "0.000  |<* #1 {'light': 'on', 'sid': 1} --|*",
        ]
    )


def test_messages_on_demand_begin_on_a_line_of_their_own_also_with_q(suite: pytest.Pytester) -> None:
    suite.makepyfile(LAMP + CLOCK + PASSES + PASSES.replace("test_a_lamp", "test_another_lamp"))
    lines = run(suite, *TRIO, "-q", "--psession-trace").stdout.str().splitlines()
    titles = [line for line in lines if "messages between near and far" in line]
    assert titles == [
        f"{titles[0].partition('::')[0]}::test_{name}_answers: messages between near and far"
        for name in ("a_lamp", "another_lamp")
    ]
    assert titles[0].startswith("test_")


def test_it_works_with_anyios_plugin(suite: pytest.Pytester) -> None:
    suite.makepyfile(LAMP + NO_CLOCK.format("trio") + PASSES + "    assert False\n")
    result = run(suite, *ANYIO)
    result.assert_outcomes(failed=1)
    network, *diagram = section(result, "messages between near and far")
    assert network == "the network was lossy(channel, seed=0): 1 sent, 1 received"
    assert "#1 {'command': 'turnOnLight', 'sid': 1}" in diagram[1]


def test_on_asyncio_it_says_what_to_do(suite: pytest.Pytester) -> None:
    suite.makepyfile(LAMP + NO_CLOCK.format("asyncio") + PASSES)
    result = run(suite, *ANYIO)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*need Trio, and this test runs on something else*anyio_backend that returns "trio"'])


@pytest.mark.parametrize("given", ["0", "-1", "many"])
def test_a_number_of_messages_that_is_none_is_refused(given: str, suite: pytest.Pytester) -> None:
    result = run(suite, f"--psession-messages={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*argument --psession-messages: *'{given}'"])


def test_a_suite_that_does_not_use_it_imports_nothing_of_psession_or_trio(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import sys

        def test_it():
            assert "pytest_psession" in sys.modules
            assert not {"psession", "trio", "msgspec", "anyio"} & sys.modules.keys()
        """
    )
    run(suite).assert_outcomes(passed=1)


def entry_point(folder: Path) -> None:
    """Install what pip would: the metadata with the entry point as pyproject.toml has it."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]["pytest11"]
    metadata = folder / "psession_again-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: psession-again\nVersion: 1\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))


@pytest.mark.parametrize("given", [[], ["-p", "psession"], ["-p", "pytest_psession"]], ids=" ".join)
@pytest.mark.parametrize("conftest", ["", 'pytest_plugins = ["pytest_psession"]', 'pytest_plugins = ["psession"]'])
def test_the_entry_point_loads_it_and_whoever_names_it_again_does_no_harm(
    given: list[str], conftest: str, suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_point(suite.path)
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    suite.makeconftest(conftest)
    suite.makepyfile(
        "def test_it(port_pair, pytestconfig):\n    assert pytestconfig.getoption('psession_messages') == 50"
    )
    blocked = [part for name in ("hypothesispytest", "xdist", "anyio", "trio") for part in ("-p", f"no:{name}")]
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{suite.path}")
    suite.runpytest_subprocess("-p", "no:cacheprovider", *blocked, *given).assert_outcomes(passed=1)


def test_whoever_names_it_twice_gets_it_once(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_point(suite.path)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{suite.path}")
    suite.makepyfile("def test_it(port_pair):\n    pass")
    suite.runpytest_subprocess("-p", "psession", "-p", "psession").assert_outcomes(passed=1)


def test_it_can_be_turned_off(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_it(port_pair):\n    pass")
    result = suite.runpytest_subprocess("-p", "no:psession", "-p", "no:pytest_psession")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'port_pair' not found*"])


def test_the_metadata_name_the_plugin() -> None:
    (point,) = importlib.metadata.entry_points(group="pytest11", name="psession")
    assert point.value == "pytest_psession"
    assert point.load() is sys.modules["pytest_psession"]
