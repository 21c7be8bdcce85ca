"""How Sphinx makes the site of these pages: ``nox -s docs``."""

from __future__ import annotations

import html
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import Directive

import psession

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "psession"
author = "psession contributors"
project_copyright = author
version = release = psession.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

# -- text --------------------------------------------------------------------------------------------------------------

myst_heading_anchors = 4  # links to a heading are the same here and where a repository is shown
myst_fence_as_directive = ["mermaid"]
myst_enable_extensions = ["attrs_block"]
smartquotes = False
pygments_style = "default"
copybutton_exclude = ".linenos, .gp, .go"  # what a program prints is not for the clipboard

# -- names -------------------------------------------------------------------------------------------------------------

nitpicky = True
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_type_aliases: dict[str, str] = {}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
add_module_names = False
maximum_signature_line_length = 90

suppress_warnings = ["ref.python"]  # a name that two modules have, each on its page: it leads to one of them

nitpick_ignore_regex = [
    ("py:obj", r"\w+(\(\))?"),  # an argument, a field, a local word: shown as code
    (
        "py:.*",
        r"(trio|outcome|msgspec|anyio|websockets|ssl|wsproto|trio_websocket|collections|contextlib|typing|logging)\..*",
    ),
    # The standard library's, and what a signature shows of them without their module.
    ("py:(class|exc|obj)", r"(os|types|pathlib|subprocess|enum|dataclasses|abc|re|gc|asyncio|logging|signal)\..*"),
    ("py:class", r"(psession\.typed\.)?(Ask|Reply|T|Function|psession\.service\.Function)"),  # for type checkers alone
    ("py:obj", r"psession\.(channels\._server|testing\._clauses)\.ChannelT"),
    ("py:class", r"(AbstractAsyncContextManager|WebSocketConnection|ssl\.SSLContext)"),
    ("py:class", r"(TracerProvider|MeterProvider|TextMapPropagator|Authenticate|Properties|RetainHandling)"),
    ("py:class", r"psession\.brokers\._\w+\.[A-Z]"),  # type variables
]

# -- the look ----------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"psession {release}"
html_static_path = ["_site"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e4f", "color-brand-content": "#0b6e4f"},
    "dark_css_variables": {"color-brand-primary": "#5fd3a6", "color-brand-content": "#5fd3a6"},
}

ROOT = Path(__file__).parent.parent
MERMAID = os.environ.get("PSESSION_MERMAID", "")
"""The file mermaid.min.js, which draws the diagrams; without one the site shows their sources."""

ELSEWHERE = {"SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files beside the folder of these pages that have a page here."""

if MERMAID:
    html_js_files = [("mermaid.min.js", {"defer": "defer"}), ("diagrams.js", {"defer": "defer"})]


class Mermaid(Directive):
    """A diagram, which a script draws in the browser in the colours that the reader chose."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        source = html.escape("\n".join(self.content))
        return [nodes.raw("", f'<pre class="diagram">{source}</pre>', format="html")]


def link_within(app: Sphinx, page: str, source: list[str]) -> None:
    """Links to a file that has a page here lead to the page."""
    up = "../" * (page.count("/") + 1)
    for name, target in ELSEWHERE.items():
        source[0] = source[0].replace(f"]({up}{name}", f"]({up[3:]}{target}")


def alias_for_class(app: Sphinx, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """A name in a signature may be that of an alias, which is documented as data."""
    if node.get("refdomain") != "py" or node.get("reftype") != "class":
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", node["reftarget"], node, content)


def bring_mermaid(app: Sphinx, error: Exception | None) -> None:
    """Put the script that draws the diagrams beside the pages."""
    if MERMAID and error is None and app.builder.format == "html":
        shutil.copy(MERMAID, Path(app.outdir) / "_static" / "mermaid.min.js")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("mermaid", Mermaid)
    app.connect("source-read", link_within)
    app.connect("missing-reference", alias_for_class)
    app.connect("build-finished", bring_mermaid)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
