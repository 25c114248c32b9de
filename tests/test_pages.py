"""Every page: its commands are commands, its configurations open, its links lead somewhere."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from ornstein.cli import app, with_rows_ended
from ornstein.core.measured import METHODS
from ornstein.core.sample import SAMPLERS
from ornstein.runs.config import RunConfig
from ornstein.train.recipes import AHEAD, RECIPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
SYSTEMS = sorted((DOCS / "systems").glob("*.md"))
NAMES = {
    "--recipe": {"auto", *AHEAD, *RECIPES},
    "--sampler": set(SAMPLERS),
    "--method": {*METHODS, *AHEAD, "progressive"},  # the latter of distill
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """What follows `ornstein` in the lines of a page's shell, word by word."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    typed = [shlex.split(line, comments=True) for line in lines]
    return [words for program, *words in filter(None, typed) if program == "ornstein"]


def prose(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_every_command_of_a_page_is_read_options_and_all(page):
    for words in commands(page):
        app.parse_args(with_rows_ended(words), exit_on_error=False, print_error=False)
        for flag, names in NAMES.items():
            assert flag not in words or words[words.index(flag) + 1] in names


def test_an_option_that_does_not_exist_is_not_read():
    with pytest.raises(Exception, match="--nois"):
        app.parse_args(["sample", "run", "--nois", "3"], exit_on_error=False, print_error=False)


@pages
def test_every_configuration_of_a_page_opens(page):
    for text in blocks(page, "toml"):
        wanted = tomllib.loads(text)
        config = RunConfig.from_toml(text).to_toml()
        opened = tomllib.loads(config)
        for table, values in wanted.items():
            assert {key: opened[table][key] for key in values} == values


@pages
def test_every_link_of_a_page_leads_somewhere(page):
    for link, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", prose(page)):
        there = page.parent / link if link else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), f"{link}#{anchor}"


@pytest.mark.parametrize("page", SYSTEMS, ids=lambda page: page.stem)
def test_a_named_system_is_in_the_index_and_has_its_commands(page):
    index = (DOCS / "systems.md").read_text()
    assert f"systems/{page.name}" in index
    assert commands(page)
