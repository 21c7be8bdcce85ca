"""The browser, and pages in it."""

import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from .browsing import Page, open_page

OpenPage = Callable[..., AbstractAsyncContextManager[Page]]
NAMES = ["chromium", "chromium-browser", "google-chrome"]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is; in CI its absence is a failure, as every skip is (tests/conftest.py)."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here; Debian has it: apt-get install chromium")
    return found


@pytest.fixture(name="open_page")
def give_open_page(chromium: str, tmp_path: Path) -> OpenPage:
    """`open_page` with the browser of this machine."""
    return partial(open_page, chromium, tmp_path)
