"""The report: whole in itself, escaped, readable without scripts, motion or sight."""

from html.parser import HTMLParser

import pytest

from ornstein.evaluate.pages.report import (
    Commands,
    Drawing,
    Facts,
    Picture,
    Prose,
    Section,
    Strips,
    Table,
    render,
    write_report,
)

PNG = b"\x89PNG rest"
EVIL = '<script>alert("x")</script>&"\''
VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and collects tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page():
    blocks = [
        Prose(EVIL),
        Facts([(EVIL, EVIL, EVIL)]),
        Picture(data=b"RIFFxx", alt=EVIL, caption=EVIL, still=PNG),
        Strips(strips=[(EVIL, PNG, EVIL)], caption=EVIL),
        Drawing('<svg role="img" aria-label="a"></svg>', EVIL),
        Table(head=(EVIL, "a"), rows=[(EVIL, "1")], caption=EVIL),
        Commands([(EVIL, EVIL)]),
    ]
    return Page(render(EVIL, EVIL, [Section(EVIL, blocks)], EVIL))


def test_no_string_becomes_markup(page):
    assert not page.all("script")
    assert page.text.count(EVIL) == 18
    assert {a["alt"] for a in page.all("img")} == {EVIL}


def test_nothing_is_fetched(page):
    links = [v for _, a in page.tags for k, v in a.items() if k in ("src", "srcset", "href")]
    assert len(links) == 3
    assert all(link.startswith("data:image/") for link in links)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_it_can_be_read_by_all(page):
    assert page.all("html") == [{"lang": "en"}]
    assert any(a.get("name") == "viewport" for a in page.all("meta"))
    assert all(a.get("alt") for a in page.all("img"))
    assert page.all("source")[0]["media"] == "(prefers-reduced-motion: reduce)"
    assert {a.get("scope") for a in page.all("th")} == {"col", "row"}
    assert len(page.all("h1")) == 1


@pytest.mark.parametrize("columns", [3, 4])
def test_each_cell_of_a_wide_table_says_its_column_on_a_phone(columns):
    head = ("", *(f"<{i}>" for i in range(1, columns)))
    table = Table(head=head, rows=[["a"] * columns] * 2, caption="")
    page = Page(render("", "", [Section("", [table])]))
    assert [a.get("data-head") for a in page.all("td")] == 2 * list(head[1:])
    assert page.all("table") == [{"class": "many"} if columns == 4 else {}]


def test_it_is_written_whole(tmp_path):
    path = write_report(tmp_path / "new" / "report.html", "Title", "Lede", [])
    assert "<title>Title</title>" in path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
