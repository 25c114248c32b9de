"""Bars of shares with their intervals, as small SVG drawings for pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, ROW, GAP = 480, 11, 9
RIGHT, TOP, LETTER = 52, 24, 6.2


@dataclass(frozen=True)
class Bars:
    """One kind of bar: its name, and for each row a share and its standard error; None for none."""

    name: str
    shares: Sequence[tuple[float, float] | None]


def bars(rows: Sequence[str], kinds: Sequence[Bars], *, describe: str) -> str:
    """An SVG of one to three bars for each row, with whiskers of 95 %.

    Args:
        rows: Names, from top to bottom.
        kinds: The bars of each row.
        describe: What the drawing shows, in a sentence, for those who do not see it.
    """
    ends = [s + 1.96 * e for kind in kinds for s, e in filter(None, kind.shares)]
    most = max([*ends, 1e-9])
    names = [name if len(name) < 21 else f"{name[:19]}\u2026" for name in rows]
    left = round(14 + LETTER * max(map(len, names)))
    tall = ROW * len(kinds) + GAP
    height = TOP + tall * len(rows)

    def across(share: float) -> float:
        return left + max(0.0, share) / most * (WIDTH - left - RIGHT)

    parts, at = [], left
    for k, kind in enumerate(kinds):
        parts.append(f'<rect class="s{k}" x="{at}" y="4" width="10" height="10"/>')
        parts.append(f'<text x="{at + 15}" y="13">{escape(kind.name)}</text>')
        at += 26 + 7 * len(kind.name)
    for i, name in enumerate(names):
        top = TOP + i * tall
        middle = top + ROW * len(kinds) / 2 + 4
        parts.append(
            f'<text x="{left - 8}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>'
        )
        for k, kind in enumerate(kinds):
            if (share := kind.shares[i]) is None:
                continue
            y, (value, error) = top + k * ROW, share
            wide = max(1.0, across(value) - left)
            low, high = across(value - 1.96 * error), across(value + 1.96 * error)
            parts.append(
                f'<rect class="s{k}" x="{left}" y="{y}" width="{wide:.1f}" height="{ROW - 2}"/>'
                f'<path class="whisker" d="M{low:.1f} {y + 4.5}H{high:.1f}"/>'
                f'<text x="{high + 4:.1f}" y="{y + 9}">{100 * value:.1f}\u2009%</text>'
            )
    return (
        f'<svg class="bars" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(describe)}">{"".join(parts)}</svg>'
    )
