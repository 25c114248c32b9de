import json

import pytest

from ornstein.runs.card import MARK, escape, told, write
from ornstein.runs.config import RunConfig
from ornstein.runs.folder import RunFolder

FACTS = {"run": "digits-1", "kind": "image", "data": "digits", "examples": 1617, "seen": 64_000}


def front_matter(card: str) -> list[str]:
    start, head, _ = card.split("---\n", 2)
    assert start == ""
    return head.splitlines()


def test_the_hub_finds_the_library_the_task_and_the_tags():
    assert front_matter(write(FACTS)) == [
        "library_name: ornstein",
        "pipeline_tag: unconditional-image-generation",
        "tags:",
        '- "diffusion"',
        '- "ornstein"',
        '- "image"',
    ]


def test_what_has_no_task_on_the_hub_claims_none():
    assert "pipeline_tag" not in write(FACTS | {"kind": "points"})


def test_licence_datasets_and_metrics_are_told_when_given():
    card = write(FACTS, license="cc-by-4.0", datasets=["ylecun/mnist"], metrics={"Fréchet": 1.25})
    lines = front_matter(card)
    assert 'license: "cc-by-4.0"' in lines
    assert lines[lines.index("datasets:") + 1] == '- "ylecun/mnist"'
    (index,) = [line.removeprefix("model-index: ") for line in lines if "model-index" in line]
    (entry,) = json.loads(index)
    assert entry["name"] == "digits-1"
    (result,) = entry["results"]
    assert result["task"] == {"type": "unconditional-image-generation"}
    assert result["dataset"] == {"name": "digits", "type": "custom"}
    assert result["metrics"] == [{"name": "Fréchet", "type": "Fréchet", "value": 1.25}]
    assert "| Fréchet | 1.25 |" in card


def test_facts_are_rows_and_what_is_not_known_is_left_out():
    card = write(FACTS)
    assert "# digits-1\n" in card and "| Training examples | 1,617 |" in card
    assert "Training loss" not in card


def test_a_metric_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        write(FACTS, metrics={"loss": float("nan")})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text 1.5", "plain text 1.5"),
        (1_234_567, "1,234,567"),
        (0.25, "0.25"),
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("[x](y)", r"\[x\](y)"),
        ("two\nlines", "two\N{REPLACEMENT CHARACTER}lines"),
    ],
)
def test_texts_mean_nothing_but_themselves(text, shown):
    assert escape(text) == shown


def test_a_card_keeps_its_license_and_what_was_measured_of_the_same_weights(tmp_path):
    run = RunFolder.create(tmp_path / "run", config_toml=RunConfig().to_toml(), identity={})
    assert run.write_card(metrics={"Fréchet": 1.25}) and run.write_card(license="mit")
    assert run.write_card(metrics={"recall": 0.5}) and run.write_card()
    card = (run.path / "README.md").read_text()
    assert 'license: "mit"' in card and "| Fréchet | 1.25 |" in card and "| recall | 0.5 |" in card
    assert told(write(FACTS, license="mit", metrics={"a": 1}), FACTS | {"seen": 65_000}) == {
        "license": "mit"
    }
    (run.path / "README.md").write_text("mine")
    assert not run.write_card(license="mit")


def test_a_card_of_a_stranger_is_read_without_harm():
    row = "| Examples seen | 64,000 |"
    for index in (
        "[",
        "[" * 99_999,
        "[]",
        "{}",
        "3",
        '[{"results": [{"metrics": [{"name": 1}]}]}]',
    ):
        assert told(f"license: [\nmodel-index: {index}\n{MARK}\n{row}", FACTS) == {}
