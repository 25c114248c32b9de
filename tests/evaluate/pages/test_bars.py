"""Bars are as long as their shares, and say so."""

import re
from xml.etree import ElementTree

import pytest

from ornstein.evaluate.pages.bars import Bars, bars


def drawn(svg: str) -> list[tuple[float, float]]:
    """Where the bars begin and how wide they are, without those of the legend."""
    found = re.findall(r'<rect class="s\d" x="(\d+)" y="(\d+)" width="(.*?)"', svg)
    return [(float(x), float(width)) for x, y, width in found if y != "4"]


def test_bars_are_as_long_as_their_shares():
    kinds = [Bars("drawn", [(0.2, 0.0), (0.1, 0.0)]), Bars("data", [(0.4, 0.0), None])]
    svg = bars(["ant", "bee"], kinds, describe="shares")
    first, second, third = (width for _, width in drawn(svg))
    assert first == pytest.approx(second / 2, abs=0.1)
    assert third == pytest.approx(first / 2, abs=0.1)
    texts = [t.text for t in ElementTree.fromstring(svg).iter("text")]
    assert texts == ["drawn", "data", "ant", "20.0\u2009%", "40.0\u2009%", "bee", "10.0\u2009%"]


def test_whiskers_reach_as_far_as_errors_and_never_below_zero():
    svg = bars(["ant"], [Bars("drawn", [(0.1, 0.1)])], describe="shares")
    low, high = map(float, re.search(r'whisker" d="M(.*?) [\d.]+H(.*?)"', svg).groups())
    left, width = drawn(svg)[0]
    assert low == left
    assert high - left == pytest.approx(2.96 * width, abs=0.2)


def test_names_are_escaped_and_cut():
    svg = bars(["<b>" + 30 * "x"], [Bars("a & b", [(0.5, 0.1)])], describe='say "so"')
    assert "&lt;b&gt;" in svg and "a &amp; b" in svg and "\u2026" in svg
    ElementTree.fromstring(svg)
