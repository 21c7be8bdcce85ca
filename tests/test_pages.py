"""The tutorial and the recipes, done as a reader does them: each program as it stands, each command, each answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import Reader, blocks_of, name_of

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md"))]
ELSEWHERE = {"asyncio.md": "tests/foreign/test_web_frameworks.py"}
"""Pages whose programs need others' packages, and what follows them."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE], ids=lambda page: page.stem)
def test_a_reader_of_the_page_gets_what_it_says(page: Path, tmp_path: Path) -> None:
    Reader(tmp_path).follow(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_program_of_the_page_is_run_by_a_command_of_it(page: Path) -> None:
    blocks = blocks_of(page)
    typed = " ".join(block.code for block in blocks if block.language == "console")
    programs = [(block.line, name_of(block)) for block in blocks if block.language == "python"]
    assert [line for line, name in programs if name is None] == [], "a block of Python begins with its name: # name.py"
    texts = [block.code for block in blocks]
    for _, name in programs:
        assert name is not None
        stem = name.removesuffix(".py")
        assert (
            name in typed
            or f"uvicorn {stem}:app" in typed
            or any(f"from {stem} import" in text or f"import {stem}\n" in text for text in texts)
        ), name


def test_there_are_pages_with_programs() -> None:
    assert sum(name_of(block) is not None for page in PAGES for block in blocks_of(page)) >= 15
