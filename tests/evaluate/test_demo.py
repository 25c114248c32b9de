"""The demo from end to end, in miniature: every part is there, and was measured."""

import io
import re
import shlex
from base64 import b64decode
from html import unescape
from pathlib import Path

import pytest
import torch
from PIL import Image

from ornstein.cli import app, run_command, with_rows_ended
from ornstein.evaluate import demo as made
from ornstein.evaluate.pages.sheets import HOLE, sheet
from ornstein.tasks.sample import sample


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "SETS", 1)
        patch.setattr(made, "FRAMES", 5)
        out = tmp_path_factory.mktemp("demo")
        said: list[str] = []
        demo, path = made.run_demo(out, minutes=0.02, device="cpu", say=said.append)
        return demo, path.read_text(), said


@pytest.mark.slow
def test_the_report_shows_every_part(done):
    demo, page, said = done
    headings = re.findall("<h2[^>]*>(.*?)</h2>", page)
    assert len(headings) == 9
    assert page.count("<img") == 10 + 1 + 1 + 2 + 2
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert f"{demo.quality.agreement.value:.1%}".replace("%", " %") in page
    assert f"{demo.model.seen:,}" in page
    assert said


@pytest.mark.slow
def test_the_animation_moves_from_noise_to_the_samples(done):
    demo, page, _ = done
    (data,) = re.findall('data:image/webp;base64,([^"]*)', page)
    movie = Image.open(io.BytesIO(b64decode(data)))
    assert movie.n_frames == len(demo.frames) == 5
    last = sample(demo.model, 10, range(10), seed=2, steps=5).x
    assert torch.equal(demo.frames[-1], last)
    assert (demo.frames[0] - last).std() > 0.05  # of a network that has learned next to nothing
    parts = {"training", "sampling", "animation", "mending", "editing", "measuring"}
    assert demo.seconds.keys() == parts


@pytest.mark.slow
def test_what_was_known_of_a_mended_digit_is_what_was_given(done):
    restored = done[0].restored
    drawn = restored.samples.x.unflatten(0, (4, 3))
    keep = restored.keep[:, None].expand_as(drawn)
    assert torch.equal(drawn[keep], restored.given[:, None].expand_as(drawn)[keep])
    assert 0 < restored.keep.float().mean() < 1


@pytest.mark.slow
def test_the_lines_of_the_report_work_as_they_stand(done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [unescape(line) for line in re.findall("<code>(ornstein .*?)</code>", done[1])]
    verbs = [line.split()[1] for line in lines]
    assert {"restore", "edit", "detect", "classify", "augment", "tune", "evaluate"} < {*verbs}
    for verb, line in zip(verbs, lines, strict=True):
        tokens = shlex.split(line)[1:]
        app.parse_args(with_rows_ended(tokens), exit_on_error=False, print_error=False)
        assert all(Path(t).exists() for t in tokens if t.startswith("/"))
        if verb in ("restore", "edit"):
            assert run_command([*tokens, "--steps", "2", "--device", "cpu"]) == 0
            assert Path(tokens[-1]).exists()


@pytest.mark.slow
def test_a_varied_digit_begins_with_what_was_given(done):
    demo = done[0]
    tried, of = demo.tried, demo.held_out
    first = of.stored[(of.label == int(tried.label)).nonzero()[0]]
    assert torch.equal(tried.varied[:1], of.codec.pack(first))
    assert len(tried.as_others) == len(tried.scans) == 10
    assert (tried.as_others[3] - tried.varied[0]).abs().mean() < 0.5  # decoded as what it is


@pytest.mark.slow
def test_the_labels_of_the_grid_are_what_was_asked_for(done):
    demo = done[0]
    assert demo.samples.labels is not None
    assert demo.samples.labels[:12] == (*"0123456789", "0", "1")
    assert len(demo.samples) == len(demo.held_out)
    assert demo.quality.frechet.n == len(demo.held_out)
    assert demo.facts["verdict"]


def test_a_sheet_has_clear_glass_between_pictures_and_marks_what_is_missing():
    from untrained import tiny_model

    codec = tiny_model().codec
    missing = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    missing[1] = True
    picture = sheet(codec, torch.zeros(3, 1, 8, 8), missing=missing)
    assert picture.size == (3 * 96 + 2 * 8, 96)
    assert picture.getpixel((100, 50)) == (0, 0, 0, 0)
    assert picture.getpixel((96 + 8 + 48, 48)) == (*HOLE, 255)
    assert picture.getpixel((48, 48)) != (*HOLE, 255)
