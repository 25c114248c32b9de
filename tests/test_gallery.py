"""The pictures of the docs: every script makes its own, and every page has those it names."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(p.stem for p in (DOCS / "gallery").glob("*.py") if p.stem != "gallery")
LARGEST, OF_PHOTOGRAPHS = 150_000, 500_000  # bytes of a picture


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A copy of the pages without their pictures, and a place for runs that all scripts share."""
    place = tmp_path_factory.mktemp("gallery")
    (place / "docs").mkdir()
    for page in PAGES:
        shutil.copy(DOCS / f"{page}.md", place / "docs")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_script_makes_its_picture_and_says_what_is_in_it(gallery, page, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "gallery"))
    shared, script = importlib.import_module("gallery"), importlib.import_module(page)
    docs = gallery / "docs"
    places = ["--runs", str(gallery / "runs"), "--docs", str(docs), "--tiny"]
    shared.main(page, script.make, places)
    with Image.open(docs / "pictures" / f"{page}.png") as picture:
        assert picture.width > 400 and picture.height > 100
        assert len(picture.convert("L").getcolors()) > 20  # something is drawn on it
    block = shown(docs / f"{page}.md")
    assert f"(pictures/{page}.png)" in block
    assert re.search(r"has seen\s+64\b", block)
    assert (docs / f"{page}.md").read_text().split(block) == (
        (DOCS / f"{page}.md").read_text().split(shown(DOCS / f"{page}.md"))
    )


def shown(page: Path) -> str:
    """What stands between the marks of a page."""
    _, rest = page.read_text().split("<!-- gallery -->")
    return rest.split("<!-- end of gallery -->")[0]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_its_script_made(page):
    assert f"](pictures/{page}.png)" in shown(DOCS / f"{page}.md")


def test_every_picture_is_there_small_and_shown_somewhere():
    readme = (DOCS.parent / "README.md").read_text().replace("docs/pictures", "pictures")
    pages = [readme, *(page.read_text() for page in DOCS.glob("*.md"))]
    named = {name for text in pages for name in re.findall(r"\]\((pictures/[^)]+\.png)\)", text)}
    there = {f"pictures/{path.name}" for path in (DOCS / "pictures").glob("*.png")}
    assert named == there
    assert all((DOCS / name).stat().st_size < OF_PHOTOGRAPHS for name in named)
    assert all((DOCS / f"pictures/{page}.png").stat().st_size < LARGEST for page in PAGES)
