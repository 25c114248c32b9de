"""The pages of named systems: their commands are commands, their configurations open."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from ornstein.cli import app, with_rows_ended
from ornstein.runs.config import RunConfig
from ornstein.train.recipes import RECIPES

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "systems").glob("*.md"))
STUDENTS = ("flow-map", "mean-flow", "progressive")  # by --method of distill


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_read_options_and_all(page):
    assert commands(page)
    for program, *words in commands(page):
        assert program == "ornstein"
        app.parse_args(with_rows_ended(words), exit_on_error=False, print_error=False)
        if "--recipe" in words:
            assert words[words.index("--recipe") + 1] in {*RECIPES, "flow-map", "mean-flow"}


def test_an_option_that_does_not_exist_is_not_read():
    with pytest.raises(Exception, match="--nois"):
        app.parse_args(["sample", "run", "--nois", "3"], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_configuration_of_a_page_opens(page):
    for text in blocks(page, "toml"):
        wanted = tomllib.loads(text)
        config = RunConfig.from_toml(text).to_toml()
        opened = tomllib.loads(config)
        for table, values in wanted.items():
            assert {key: opened[table][key] for key in values} == values


def test_the_index_names_every_page_and_every_link_leads_somewhere():
    index = (DOCS / "systems.md").read_text()
    assert {f"systems/{page.name}" for page in PAGES} == set(re.findall(r"systems/\S+?\.md", index))
    for page in (*PAGES, DOCS / "systems.md"):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert links and not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_samplers_methods_and_grids_of_a_page_exist(page):
    from ornstein.core.measured import METHODS
    from ornstein.core.sample import SAMPLERS

    known = {"--sampler": SAMPLERS, "--method": {*METHODS, *STUDENTS}}
    for words in commands(page):
        for flag, names in known.items():
            assert flag not in words or words[words.index(flag) + 1] in names
