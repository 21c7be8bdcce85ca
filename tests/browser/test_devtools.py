"""Chromium over its DevTools protocol: what nobody here wrote answers a `Cdp` port."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
EXAMPLE = Path(__file__).parents[2] / "examples" / "chromium.py"


async def test_the_example_opens_a_page_hears_what_it_loads_and_takes_a_picture(
    chromium: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("chromium_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    picture = tmp_path / "lamp.png"
    await example.main(str(picture))
    said = capsys.readouterr().out
    assert said.startswith("browser: ")
    assert "loaded: text/html 200" in said
    assert "title: A lamp" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
