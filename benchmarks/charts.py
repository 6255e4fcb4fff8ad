"""Bar charts as SVG, by hand: readable on light and dark grounds, no dependency."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

__all__ = ["bar_chart"]

WIDTH, LABEL, BAR, GAP, TOP = 720, 150, 18, 8, 52
OURS_COLOUR, THEIR_COLOUR, FLOOR_COLOUR = "#d9480f", "#8a95a5", "#b9c2cd"
TEXT = "#6b7684"


def bar_chart(title: str, unit: str, values: list[tuple[str, float]], ours: str) -> str:
    """Horizontal bars, shorter is better; on a logarithmic scale where the values span more than a factor of 20."""
    positive = [value for _, value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    logarithmic = high / low > 20
    room = WIDTH - LABEL - 110
    base = 10 ** math.floor(math.log10(low) - 0.001)

    def length(value: float) -> float:
        if value <= 0:
            return 0.0
        if logarithmic:
            return room * math.log(value / base) / math.log(high / base)
        return room * value / high

    height = TOP + len(values) * (BAR + GAP) + 12
    scale = ", logarithmic scale" if logarithmic else ""
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
            f' font-family="system-ui, sans-serif" font-size="13">'
        ),
        f"<title>{escape(title)} ({escape(unit)}; shorter is better)</title>",
        f'<text x="8" y="20" fill="{TEXT}" font-size="15" font-weight="600">{escape(title)}</text>',
        f'<text x="8" y="40" fill="{TEXT}">{escape(unit)}; shorter is better{scale}</text>',
    ]
    for i, (name, value) in enumerate(values):
        y = TOP + i * (BAR + GAP)
        colour = OURS_COLOUR if name == ours else FLOOR_COLOUR if name in ("bare", "ideal") else THEIR_COLOUR
        weight = ' font-weight="600"' if name == ours else ""
        long = max(1.0, length(value))
        words = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        parts += [
            f'<text x="{LABEL - 8}" y="{y + 14}" fill="{TEXT}" text-anchor="end"{weight}>{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{long:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
            f'<text x="{LABEL + long + 6:.1f}" y="{y + 14}" fill="{TEXT}"{weight}>{words}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
