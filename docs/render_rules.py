"""Write the two transition tables of turns into protocol.md: ``python docs/render_rules.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psession.protocol import states
from psession.protocol.states import PeerDo, PeerTurn, State, Step, Turn

PAGE = Path(__file__).with_name("protocol.md")
BETWEEN = re.compile(r"(<!-- rules: begin[^>]*-->\n).*?(<!-- rules: end -->)", re.DOTALL)

Steps = Mapping[tuple[Any, Any], Step[Any, Any]]


def table(steps: Steps, state: str) -> list[str]:
    """Render one table in Markdown."""
    rows = [
        f"| {at.value} | {event.value} | {step.do.value} | {step.to.value} | {step.why} |"
        for (at, event), step in steps.items()
    ]
    return [f"| {state} | what comes | what is done | then | because |", "|---|---|---|---|---|", *rows]


def diagram(steps: Steps, first: State) -> list[str]:
    """Render the same as a state diagram, without what changes nothing."""
    changes = [
        f"    {at.value} --> {step.to.value}: {event.value} / {step.do.value}".replace(
            ";", ","
        )  # which ends a statement
        for (at, event), step in steps.items()
        if at is not step.to or step.do is PeerDo.RUN
    ]
    return ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.value}", *changes, "```"]


def render() -> str:
    """Render what stands between the markers of protocol.md."""
    lines = [
        "**Who answers**, for each number of a session:",
        "",
        *table(states.ANSWERER, "it remembers"),
        "",
        *diagram(states.ANSWERER, PeerTurn.NOTHING),
        "",
        "**Who asks**, for each session:",
        "",
        *table(states.ASKER, "its turn is"),
        "",
        *diagram(states.ASKER, Turn.IDLE),
    ]
    return "\n".join(lines) + "\n"


def updated(page: str) -> str:
    """The page with the tables as they are now."""
    return BETWEEN.sub(lambda found: found[1] + render() + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
