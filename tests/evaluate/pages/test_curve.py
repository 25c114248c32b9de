"""Charts: round ticks, lines where they belong, well-formed SVG."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ornstein.evaluate.pages.curve import (
    LEFT,
    RIGHT,
    WIDTH,
    Line,
    chart,
    linear_ticks,
    log_ticks,
    short,
    smooth,
)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.47, 1.97, [0.3, 0.5, 0.7, 1, 1.5, 2]),
        (1, 10, [1, 1.5, 2, 3, 5, 7, 10]),
        (0.1, 10, [0.1, 0.2, 0.5, 1, 2, 5, 10]),
        (3e-3, 40, [1e-3, 1e-2, 1e-1, 1, 10, 100]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round_and_span_the_values(low, high, ticks):
    assert log_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("high", [1, 7, 8, 14, 81984, 53184, 2.1e6, 0.35])
def test_ticks_of_a_linear_axis_are_few_and_within(high):
    ticks = linear_ticks(high)
    assert ticks[0] == 0
    assert 3 <= len(ticks) <= 7
    assert ticks[-1] <= high * (1 + 1e-9)


def test_the_running_mean_is_unbiased_from_the_start():
    assert smooth([3.0] * 5, 10) == pytest.approx([3.0] * 5)
    assert smooth([1.0, 3.0], 10)[1] == pytest.approx((0.9 * 1 + 3) / 1.9)


def test_a_chart_is_well_formed_and_escapes_its_words():
    lines = [Line("", [0, 100], [1.0, 0.1]), Line("<a>", [0, 50, 100], [1.0, np.nan, 0.1])]
    svg = chart(lines, x_name="x & y", y_name="loss", describe='It "falls"')
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'It "falls"'
    texts = [element.text for element in root if element.tag == "text"]
    assert "<a>" in texts
    assert "x & y" in texts
    faint, named = [p.get("d") for p in root if p.tag == "path" and p.get("class") != "grid"]
    assert faint == named  # the value that is no number is left out


def test_a_chart_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        chart([Line("a", [0, 1], [0.0, np.nan])], x_name="", y_name="", describe="")


@pytest.mark.parametrize("y", [1e-3, 0.35, 1.0, 3.0, 81984.0])
def test_a_constant_line_is_drawn_level_and_between_two_ticks(y):
    svg = chart([Line("a", [0, 10], [y, y])], x_name="", y_name="", describe="")
    paths = [p for p in ElementTree.fromstring(svg) if p.tag == "path"]
    [line] = [p.get("d", "") for p in paths if p.get("class") != "grid"]
    ticks = [float(p.get("d", "").split()[1].split("H")[0]) for p in paths[:-1]]
    begin, end = re.findall(r"[ML]([\d.]+) ([\d.]+)", line)
    assert (float(begin[0]), float(end[0])) == (LEFT, WIDTH - RIGHT)
    assert begin[1] == end[1] and min(ticks) < float(end[1]) < max(ticks)


def test_a_line_of_one_point_begins_at_the_axis():
    svg = chart([Line("a", [0], [1.0])], x_name="", y_name="", describe="")
    [line] = [p.get("d", "") for p in ElementTree.fromstring(svg) if p.get("class") == "s0"][:1]
    assert line.startswith(f"M{LEFT}.0 ") and "L" not in line


def test_numbers_are_short():
    assert [short(n) for n in (0, 950, 1500, 2e6)] == ["0", "950", "1.5 k", "2 M"]
