"""Pictures for the README, as SVG written by hand: bars and curves, in colours for a light and for a dark page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDTH = 840
TEXT = "#7d8590"
OURS = "#2f81f7"
THEIRS = "#9aa4af"
COLOURS = (OURS, "#e0823d", "#3fb27f", "#b083f0")
FONT = "font-family='system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif'"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `ours` is drawn to be seen first, and `note` stands behind the value."""

    label: str
    value: float
    ours: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """A group of bars with one scale."""

    title: str
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves by name, of counts on a logarithmic axis and values from zero."""

    title: str
    unit: str
    points: dict[str, list[tuple[int, float]]]


def bar_chart(title: str, panels: list[Bars], notes: list[str]) -> str:
    """Horizontal bars, one panel below the other, and lines of text below them all."""
    label_width, note_width, row, bar_height = 270, 140, 21, 14
    parts, y = [_text(12, 26, title, size=15, weight=600)], 44
    for panel in panels:
        y += 20
        parts.append(_text(12, y, panel.title, size=13, weight=600))
        y += 10
        longest = max((bar.value for bar in panel.bars), default=1.0)
        for bar in panel.bars:
            length = (WIDTH - label_width - note_width) * bar.value / longest
            middle = y + bar_height / 2 + 4.5
            colour, weight = (OURS, 600) if bar.ours else (THEIRS, 400)
            parts += [
                _text(label_width - 10, middle, bar.label, anchor="end", weight=weight),
                f"<rect x='{label_width}' y='{y}' width='{length:.1f}' height='{bar_height}' rx='2' fill='{colour}'/>",
                _text(label_width + length + 7, middle, f"{bar.value:,.0f}  {bar.note}".strip(), weight=weight),
            ]
            y += row
        y += 8
    for note in notes:
        y += 18
        parts.append(_text(12, y, note))
    return _svg(y + 12, title, parts)


def curve_chart(title: str, panels: list[Curves]) -> str:
    """Panels side by side, each with its own axes."""
    margin, gap, top, height = 52, 50, 64, 210
    width = (WIDTH - margin - 14 - gap * (len(panels) - 1)) / len(panels)
    parts = [_text(12, 26, title, size=15, weight=600)]
    for number, panel in enumerate(panels):
        parts += _curves(panel, margin + number * (width + gap), top, width, height)
    keys = max((len(panel.points) for panel in panels), default=0)
    return _svg(top + height + 48 + 18 * keys, title, parts)


def _curves(panel: Curves, left: float, top: float, width: float, height: float) -> list[str]:
    points = [point for curve in panel.points.values() for point in curve]
    counts = sorted({count for count, _ in points})
    highest = _round_up(max(value for _, value in points))
    decades = math.log10(max(counts[-1], 2))
    bottom = top + height
    parts = [_text(left - 40, top - 12, f"{panel.title}, {panel.unit}", size=12.5, weight=600)]
    for step in range(5):
        y = bottom - height * step / 4
        parts.append(f"<path d='M{left:.1f} {y:.1f}h{width:.1f}' stroke='{TEXT}' stroke-opacity='.3'/>")
        parts.append(_text(left - 7, y + 4, f"{highest * step / 4:g}", anchor="end", size=11))

    def place(count: int, value: float) -> tuple[float, float]:
        return left + width * math.log10(max(count, 1)) / decades, bottom - height * value / highest

    parts += [
        _text(place(count, 0)[0], bottom + 17, _short(count), anchor="middle", size=11) for count in _spaced(counts)
    ]
    for number, (label, curve) in enumerate(panel.points.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [place(count, value) for count, value in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>" for x, y in places]
        key = bottom + 40 + 18 * number
        parts.append(f"<circle cx='{left:.1f}' cy='{key - 4:.1f}' r='4' fill='{colour}'/>")
        parts.append(_text(left + 10, key, label))
    return parts


def _round_up(value: float) -> float:
    """The next number that four steps divide well."""
    size = 10 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * size for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * size >= value)


def _spaced(counts: list[int]) -> list[int]:
    """Those whose labels do not touch."""
    return [count for number, count in enumerate(counts) if number == 0 or count >= 4 * counts[number - 1]]


def _short(count: int) -> str:
    return f"{count / 1000:.0f}k" if count >= 1000 else str(count)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: float = 12, weight: int = 400) -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'"
    return f"<text {place} font-size='{size}' font-weight='{weight}' fill='{TEXT}'>{escape(text)}</text>"


def _svg(height: float, title: str, parts: list[str]) -> str:
    box = f"viewBox='0 0 {WIDTH} {height:.0f}' width='{WIDTH}' height='{height:.0f}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {box} {FONT} role='img'><title>{escape(title)}</title>"
    return "\n".join([head, *parts, "</svg>\n"])
