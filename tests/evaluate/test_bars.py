"""Bars are as long as their shares, and say so."""

import re
from xml.etree import ElementTree

import pytest

from ornstein.evaluate.bars import LEFT, Bars, bars


def drawn(svg: str) -> list[float]:
    """The widths of the bars, without the two of the legend."""
    return [
        float(w) for w in re.findall(r'<rect class="s\d" x="132" y="(?!4")\d+" width="(.*?)"', svg)
    ]


def test_bars_are_as_long_as_their_shares():
    kinds = [Bars("drawn", [(0.2, 0.0), (0.1, 0.0)]), Bars("data", [(0.4, 0.0), None])]
    svg = bars(["ant", "bee"], kinds, describe="shares")
    first, second, third = drawn(svg)
    assert first == pytest.approx(second / 2, abs=0.1)
    assert third == pytest.approx(first / 2, abs=0.1)
    texts = [t.text for t in ElementTree.fromstring(svg).iter("text")]
    assert texts == ["drawn", "data", "ant", "20.0\u2009%", "40.0\u2009%", "bee", "10.0\u2009%"]


def test_whiskers_reach_as_far_as_errors_and_never_below_zero():
    svg = bars(["ant"], [Bars("drawn", [(0.1, 0.1)])], describe="shares")
    low, high = map(float, re.search(r'whisker" d="M(.*?) [\d.]+H(.*?)"', svg).groups())
    width = drawn(svg)[0]
    assert low == LEFT
    assert high - LEFT == pytest.approx(2.96 * width, abs=0.2)


def test_names_are_escaped_and_cut():
    svg = bars(["<b>" + 30 * "x"], [Bars("a & b", [(0.5, 0.1)])], describe='say "so"')
    assert "&lt;b&gt;" in svg and "a &amp; b" in svg and "\u2026" in svg
    ElementTree.fromstring(svg)
