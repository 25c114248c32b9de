"""Line charts as small SVG drawings that follow the page into dark mode and onto a phone."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 22, 34


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, and where it goes. A faint one has no name."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def chart(lines: Sequence[Line], *, x_name: str, y_name: str, describe: str) -> str:
    """An SVG chart of positive y, on a logarithmic axis, over x from 0 on.

    Args:
        lines: The lines; values that are not positive and finite are left out.
        x_name: Of the axis.
        y_name: Of the axis.
        describe: What the chart shows, in a sentence, for those who do not see it.
    """
    lines = [_drawable(line) for line in lines]
    values = [y for line in lines for y in line.y]
    if not values:
        raise ValueError("expected at least one positive, finite value, got none")
    most = max(x for line in lines for x in line.x) or 1.0
    ticks = log_ticks(min(values), max(values))
    low, high = log10(min(ticks[0], *values)), log10(max(ticks[-1], *values))

    def across(x: float) -> float:
        return LEFT + x / most * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (high - log10(y)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT - 36}" y="12">{escape(y_name)}</text>']
    for y in ticks:
        at = down(y)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in linear_ticks(most):
        anchor = "end" if across(x) > WIDTH - 30 else "middle" if x else "start"
        place = f'x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="{anchor}"'
        parts.append(f"<text {place}>{short(x)}</text>")
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escape(x_name)}</text>'
    )
    named = 0
    for line in lines:
        path = "".join(
            f"{'L' if i else 'M'}{across(x):.1f} {down(y):.1f}"
            for i, (x, y) in enumerate(zip(line.x, line.y, strict=True))
        )
        kind = f"s{named}" if line.name else "faint"
        parts.append(f'<path class="{kind}" d="{path}"/>')
        if line.name:
            at = WIDTH - RIGHT - 110 * (1 - named)
            place = f'class="{kind}" x="{at}" y="12" text-anchor="end"'
            parts.append(f"<text {place}>{escape(line.name)}</text>")
            named += 1
    inside = "".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(describe)}">'
        f"{inside}</svg>"
    )


def smooth(values: Sequence[float], span: float) -> list[float]:
    """The running mean over about `span` values, unbiased at the start."""
    keep, total, weight, out = 1 - 1 / max(1.0, span), 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        out.append(total / weight)
    return out


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers that span [low, high]: 1, 2 and 5 times the powers of ten, at most seven."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        all_of_them = [round(m * 10.0**e, 12) for e in decades for m in steps]
        below = max((v for v in all_of_them if v <= low), default=all_of_them[0])
        above = min((v for v in all_of_them if v >= high), default=all_of_them[-1])
        ticks = [v for v in all_of_them if below <= v <= above]
        if len(ticks) <= 7:
            break
    return ticks if len(ticks) > 1 else [low / 1.5, high * 1.5]


def linear_ticks(high: float) -> list[float]:
    """Round numbers from 0 to at most `high`, three to seven of them."""
    decade = 10.0 ** (floor(log10(high)) - 1)
    step = next(decade * m for m in (1, 2, 5, 10, 20, 50) if high / (decade * m) < 7 - 1e-9)
    return [i * step for i in range(int(high / step + 1e-9) + 1)]


def short(number: float) -> str:
    """1,500 as 1.5 k, 2,000,000 as 2 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _drawable(line: Line) -> Line:
    pairs = [(x, y) for x, y in zip(line.x, line.y, strict=True) if 0 < y < float("inf")]
    return Line(line.name, [x for x, _ in pairs], [y for _, y in pairs])
