"""What the page of a run of scenes says is what was counted."""

from ornstein.core.shares import Share
from ornstein.evaluate.measures.scenes import RESPECTS, Judged
from ornstein.evaluate.pages.report import Section, render
from ornstein.evaluate.pages.scenes import scenes


def shares(hits: int) -> dict[str, Share]:
    return {name: Share(hits=hits + 10 * i, n=200) for i, name in enumerate(RESPECTS)}


def test_each_share_stands_in_its_column_with_its_interval():
    sides = [shares(hits) for hits in (20, 40, 60, 80)]
    unseen, held_out, real, real_held_out = sides
    judged = Judged(unseen=unseen, held_out=held_out, real=real, real_held_out=real_held_out)
    picture, table = scenes(judged)
    assert len(table.rows) == len(RESPECTS)  # pyright: ignore
    for name, row in zip(RESPECTS, table.rows, strict=True):  # pyright: ignore
        shown = [f"{side[name].hits / 2:.1f}" for side in (unseen, real, held_out, real_held_out)]
        assert [row[0], *(cell.split(" (")[0] for cell in row[1:])] == [name.capitalize(), *shown]
    assert table.rows[0][1] == "10.0 (6.6…14.9)"  # pyright: ignore  # by Wilson
    page = render("A run", "", [Section("Does it draw what is asked for?", [picture, table])])
    assert "Of 200 captions each" in page and page.count('class="s2"') == len(RESPECTS) + 1
