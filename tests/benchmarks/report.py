"""The figures as tables, and a chart that reads well on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_ROW, _BAR, _LABEL, _PANEL, _TOP = 26, 16, 184, 186, 58

_STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-weight: 600 }
    .quiet { fill: #59636e }
    .ours { fill: #5e35b1 }
    .other { fill: #a5adb8 }
    .floor { stroke: #bf3989; stroke-width: 1.5; stroke-dasharray: 3 2 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .quiet { fill: #9da7b3 }
      .ours { fill: #b39ddb }
      .other { fill: #596270 }
      .floor { stroke: #f778ba }
    }"""


@dataclass(frozen=True)
class Bar:
    """A bar of the chart.

    :param label: who.
    :param value: seconds.
    :param is_ours: whether it stands out.
    :param floor: what it cannot fall below, if anything.
    """

    label: str
    value: float
    is_ours: bool
    floor: float = 0.0


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; all columns but the first are numbers.

    :param head: the names of the columns.
    :param rows: the cells.
    """
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(value: float) -> str:
    """Return seconds with as many digits as can be told apart."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def chart(title: str, panels: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Return bars as an SVG image, one panel beside the other, each to its own scale.

    :param title: what the bars are.
    :param panels: the title and the bars of each; the same labels in the same order.
    """
    height = _TOP + _ROW * len(panels[0][1]) + 12
    width = _LABEL + _PANEL * len(panels)
    drawn = [_text(0, 18, title, "title")]
    for at, bar in enumerate(panels[0][1]):
        drawn.append(_text(_LABEL - 10, _TOP + _ROW * at + 13, bar.label, "title" if bar.is_ours else "", "end"))
    for number, (panel_title, bars) in enumerate(panels):
        left = _LABEL + _PANEL * number
        drawn.append(_text(left, 44, panel_title, "quiet"))
        scale = (_PANEL - 62) / max(bar.value for bar in bars)
        for at, bar in enumerate(bars):
            top, length = _TOP + _ROW * at, max(bar.value * scale, 1.0)
            kind = "ours" if bar.is_ours else "other"
            drawn.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{length:.1f}" height="{_BAR}" rx="2"/>')
            if bar.floor:
                x = left + bar.floor * scale
                drawn.append(f'<path class="floor" d="M{x:.1f} {top - 3}v{_BAR + 6}"/>')
            drawn.append(_text(left + length + 6, top + 13, f"{seconds(bar.value)} s"))
    content = "\n  ".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
        f"  <title>{escape(title)}</title>\n  <style>{_STYLE}\n  </style>\n  {content}\n</svg>\n"
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
