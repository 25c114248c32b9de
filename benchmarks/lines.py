"""Line drawings for the pages of the docs: SVG, both axes logarithmic, names at the ends."""

from collections.abc import Callable, Sequence
from html import escape
from math import log

from ornstein.evaluate.pages.curve import Line

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 50, 190, 34, 44
APART = 15  # between two names, at the least
ROUND = [m * 10.0**e for e in range(-3, 6) for m in (1, 1.5, 2, 3, 5)]
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0a7d8c", "#57606a")


def drawn(lines: Sequence[Line], *, across: str, down: str, describe: str) -> str:
    """The drawing, whose lines are named from top to bottom.

    Args:
        lines: To draw; all their numbers positive.
        across: What is on the first axis.
        down: What is on the second.
        describe: What the drawing shows, in a sentence, for those who do not see it.
    """
    lines = sorted(lines, key=lambda line: -line.y[-1])
    xs, ys = ([v for line in lines for v in getattr(line, axis)] for axis in "xy")
    column = _axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    row = _axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="8" y="18">{escape(down)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(across)}</text>',
    ]
    for y in (tick for tick in ROUND if min(ys) <= tick <= max(ys)):
        parts.append(f'<path stroke="#d0d7de" d="M{LEFT} {row(y):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{row(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in (tick for tick in ROUND if min(xs) <= tick <= max(xs)):
        place = f'x="{column(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle"'
        parts.append(f"<text {place}>{x:g}</text>")
    below = 0.0
    for i, line in enumerate(lines):
        points = [f"{column(x):.1f} {row(y):.1f}" for x, y in zip(line.x, line.y, strict=True)]
        below = max(below + APART, row(line.y[-1]) + 4)
        colour, dash = COLOURS[i % len(COLOURS)], "6 3" if i >= len(COLOURS) else "none"
        style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        parts.append(f'<path {style} d="M{"L".join(points)}"/>')
        place = f'x="{WIDTH - RIGHT + 16}" y="{below:.1f}" fill="{colour}"'
        parts.append(f"<text {place}>{escape(line.name)}</text>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'role="img" aria-label="{escape(describe)}" font-family="sans-serif" font-size="12" '
        f'fill="#24292f">{"".join(parts)}</svg>\n'
    )


def _axis(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    def place(value: float) -> float:
        return first + log(value / low) / log(high / low) * (last - first)

    return place
