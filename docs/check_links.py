"""Look at every link of the built site: ``python docs/check_links.py FOLDER`` says which lead nowhere, and ends with 1.

Links to other sites are not followed; ``sphinx-build -b linkcheck`` does that (`nox -s docs -- --online`).
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag."""
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif (name, tag) in {("href", "a"), ("href", "link"), ("src", "img"), ("src", "script")}:
                self.links.append(value)


def broken(root: Path) -> list[str]:
    """The links that lead nowhere: where each stands, and where it leads."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    found = list[str]()
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file():
                found.append(f"{path.relative_to(root.resolve())}: {link} is no file")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                found.append(f"{path.relative_to(root.resolve())}: {link} has no such place")
    return found


if __name__ == "__main__":
    wrong = broken(Path(sys.argv[1]))
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    sys.exit(bool(wrong))
