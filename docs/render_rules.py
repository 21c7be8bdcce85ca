"""Write the two transition tables of the exact wire into protocol.md: ``python docs/render_rules.py``."""

from __future__ import annotations

import re
from pathlib import Path

from psession import _rules as rules

PAGE = Path(__file__).with_name("protocol.md")
BETWEEN = re.compile(r"(<!-- rules: begin[^>]*-->\n).*?(<!-- rules: end -->)", re.DOTALL)


def table(steps: dict[tuple[str, str], rules.Step], state: str) -> list[str]:
    """One table, in Markdown."""
    rows = [f"| {at} | {event} | {step.do} | {step.to} | {step.why} |" for (at, event), step in steps.items()]
    return [f"| {state} | what comes | what is done | then | because |", "|---|---|---|---|---|", *rows]


def diagram(steps: dict[tuple[str, str], rules.Step], first: str) -> list[str]:
    """The same as a state diagram, what changes nothing left out."""
    changes = [
        f"    {at} --> {step.to}: {event} / {step.do}"
        for (at, event), step in steps.items()
        if at != step.to or step.do == rules.RUN
    ]
    return ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}", *changes, "```"]


def render() -> str:
    """What stands between the markers of protocol.md."""
    lines = [
        "**Who answers**, for each number of a session:",
        "",
        *table(rules.ANSWERER, "it remembers"),
        "",
        *diagram(rules.ANSWERER, rules.NOTHING),
        "",
        "**Who asks**, for each session:",
        "",
        *table(rules.ASKER, "its turn is"),
        "",
        *diagram(rules.ASKER, rules.IDLE),
    ]
    return "\n".join(lines) + "\n"


def updated(page: str) -> str:
    """The page with the tables as they are now."""
    return BETWEEN.sub(lambda found: found[1] + render() + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
