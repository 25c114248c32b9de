"""Empty cells are filled in, margins are drawn, and noise is as much in every column."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ornstein.core.denoise import Denoiser
from ornstein.data.image import ImageCodec
from ornstein.data.points import PointsCodec
from ornstein.errors import DataError, UsageError
from ornstein.tasks.holes import incomplete
from ornstein.tasks.measuring import masked
from ornstein.tasks.options import RestoreOptions
from ornstein.tasks.reading import Read
from ornstein.tasks.restore import restore
from untrained import tiny_model

MEAN, STD, RHO = (10.0, 200.0, 5.0), (2.0, 50.0, 0.5), 0.8


class Rows(Denoiser):
    """Exact for N(0, COV): three columns, of which each two are correlated by RHO."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.here = schedule, nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x_t, t, **cond):
        alpha, sigma = (c.reshape(-1, 1, 1).double() for c in self.schedule(t))
        covariance = RHO + (1 - RHO) * torch.eye(3, dtype=torch.float64)
        noisy = alpha**2 * covariance + sigma**2 * torch.eye(3)
        gain = alpha * covariance @ torch.linalg.inv(noisy)
        return (gain @ x_t.double()[..., None])[..., 0].to(x_t)


@pytest.fixture(scope="module")
def model():
    """Of a table of three columns; the third holds whole numbers."""
    made = tiny_model("mlp", steps=8)
    codec = PointsCodec(
        shape=(3,),
        dtype="float64",
        mean=MEAN,
        std=STD,
        columns=("width", "weight", "count"),
        whole=(2,),
    )
    return replace(made, denoiser=Rows(made.denoiser.schedule), codec=codec)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("weight,label,width,count\n250.1,ant,12.3,6\n,bee,14,?\n190,,NA,5\n")
    return path


def test_empty_cells_of_a_table_are_filled_in_and_all_others_kept(model, table, tmp_path):
    """Each draw is a whole table, of the columns of the run."""
    restored = restore(model, table, draws=2, steps=4)
    paths = restored.save(tmp_path / "out", uncertainty=True)
    assert [str(p.relative_to(tmp_path / "out")) for p in paths] == [
        "rows-0.csv",
        "rows-1.csv",
        "mean/rows.csv",
        "sd/rows.npy",
    ]
    drawn = []
    for path in paths[:3]:
        with path.open() as file:
            first, second, third = csv.DictReader(file)
        assert (first["width"], first["weight"], first["count"]) == ("12.3", "250.1", "6")
        assert (second["width"], third["weight"], third["count"]) == ("14.0", "190.0", "5")
        assert [row["label"] for row in (first, second, third)] == ["ant", "bee", ""]
        assert second["count"].isdecimal() and float(second["weight"]) > 0
        drawn.append(float(third["width"]))
    assert drawn[0] != drawn[1]
    sd = np.load(paths[3])
    assert sd.shape == (3, 3) and (sd[0] == 0).all() and sd[1, 1] > 0


def test_cells_are_drawn_from_what_the_others_leave_possible(model, table):
    """Of a Gaussian: the regression on the known columns, and the variance that it leaves."""
    rows = torch.tensor([[12.0, torch.nan, 5.5]]).double()
    restored = restore(model, rows, draws=400, steps=32, iterations=3, sampler="ddpm")
    weight = restored.drawn[0, :, 1].double()
    known = torch.tensor([1.0, 1.0]).double()
    cross, own = torch.full((2,), RHO).double(), torch.tensor([[1, RHO], [RHO, 1]]).double()
    gain = torch.linalg.solve(own, cross)
    mean, var = (gain @ known).item(), (1 - gain @ cross).item()
    assert weight.mean().item() == pytest.approx(mean, abs=5 * (var / 400) ** 0.5)
    assert weight.var().item() == pytest.approx(var, rel=0.35)


def test_a_row_is_drawn_under_the_class_that_its_table_says(model, table):
    asked = []

    class Listening(Rows):
        def forward(self, x_t, t, **cond):
            asked.append(cond["label"])
            return super().forward(x_t, t)

    heard = replace(model, denoiser=Listening(model.denoiser.schedule))
    restore(heard, table, draws=2, steps=2)
    classes = [heard.vocabulary.label(name) for name in ("ant", "ant", "bee", "bee", "any", "any")]
    assert asked[-1][:6].tolist() == classes


def test_a_table_without_a_hole_or_with_columns_of_another_is_refused(model, tmp_path):
    whole, other = tmp_path / "whole.csv", tmp_path / "other.csv"
    whole.write_text("width,weight,count\n1,2,3\n")
    other.write_text("width,height,count\n1,,3\n")
    with pytest.raises(UsageError, match="or leave cells empty"):
        restore(model, whole)
    with pytest.raises(DataError, match="no column 'weight'"):
        restore(model, other)


def test_noise_under_a_mask_is_as_large_in_every_column_as_was_said(model):
    """In the units of the data, whatever the deviation of a column is."""
    clean, noise = torch.tensor(MEAN).double() + torch.zeros(20_000, 3).double(), 0.7
    keep = torch.tensor([True, True, False]).expand(len(clean), 3)
    given = Read(
        clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    )
    problem = masked(model, given, keep, RestoreOptions(noise=noise))
    gap = problem.y - problem.operator(model.codec.pack(clean))
    measured = gap[:, :2].std(0) / problem.sigma_y
    torch.testing.assert_close(measured, torch.ones(2), rtol=0.02, atol=0)
    assert (gap[:, 2] == 0).all()


# --- Margins -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    return tiny_model()  # of 8 x 8, in 17 levels


def test_a_picture_grows_and_what_it_was_is_kept(pictures, tmp_path):
    small = torch.randint(0, 17, (1, 1, 5, 6), generator=torch.Generator().manual_seed(0)).byte()
    values = (small[0, 0].numpy() * (255 / 16)).round().astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "small.png", dpi=(300, 300))
    restored = restore(pictures, tmp_path / "small.png", draws=2, steps=2, outpaint="2,3,0,0")
    assert np.array_equal(restored.samples.arrays[:, 3:, 2:], small[:, 0].repeat(2, 1, 1).numpy())
    assert (restored.samples.arrays[0, :3] != restored.samples.arrays[1, :3]).any()
    path, _ = restored.save(tmp_path / "out")
    assert Image.open(path).info["dpi"] == pytest.approx((300, 300), abs=0.05)  # larger on paper
    tensor = restore(pictures, small, draws=2, steps=2, outpaint="2,3,0,0")
    assert torch.equal(tensor.samples.x, restored.samples.x)


def test_pictures_of_16_bits_grow_as_others_do():
    codec = ImageCodec(shape=(1, 8, 8), dtype="uint16", mean=(0.0,), std=(1.0,))
    small = torch.full((2, 1, 6, 6), 40_000).to(torch.uint16)
    model = SimpleNamespace(codec=codec)
    read, hole = incomplete(model, small, None, RestoreOptions(outpaint="1"))  # pyright: ignore
    assert read.values.dtype == torch.uint16 and hole.shape == (2, 1, 8, 8)
    assert ((read.values.int() == 40_000) == ~hole).all() and (~hole).sum() == 2 * 36


def test_margins_of_whole_pictures_are_hidden_first_to_try(pictures):
    whole = torch.randint(0, 17, (1, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    restored = restore(pictures, whole, draws=1, steps=2, outpaint=1, simulate=True)
    assert np.array_equal(restored.samples.arrays[:, 1:-1, 1:-1], whole[0, :, 1:-1, 1:-1].numpy())
    assert restored.keep.sum() == 36


def test_margins_that_do_not_fit_are_said_with_all_sizes(pictures, model, table):
    with pytest.raises(UsageError, match=r"of 6 x 5 pixels.* is of 8 x 7, but .* of 8 x 8"):
        restore(pictures, torch.zeros(1, 1, 5, 6), outpaint=1)
    with pytest.raises(UsageError, match="'1,2' is no number of pixels"):
        restore(pictures, torch.zeros(1, 1, 5, 6), outpaint="1,2")
    with pytest.raises(UsageError, match="--outpaint is for pictures"):
        restore(model, table, outpaint=1)
    with pytest.raises(UsageError, match="--upscale and --outpaint are two measurements"):
        restore(pictures, torch.zeros(1, 1, 5, 6), outpaint=1, upscale=2)


# --- An operator of one's own --------------------------------------------------------------------


def test_the_operator_of_ones_own_that_the_page_shows_restores(pictures, tmp_path, monkeypatch):
    """In the units of the data; the rows it reads are kept within the noise that is said."""
    page = (Path(__file__).parents[2] / "docs" / "restoring.md").read_text()
    (code,) = (part for part in page.split("```python\n")[1:] if "class EveryOther" in part)
    stored = torch.randint(0, 17, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    names = {"run": pictures, "y": stored[:, :, ::2]}
    monkeypatch.chdir(tmp_path)
    exec(code.partition("```")[0], names)
    assert len(list((tmp_path / "mended").iterdir())) == 2 * 4
    gap = (
        names["restored"].samples.arrays[:, ::2] - stored[:, 0, ::2].repeat_interleave(4, 0).numpy()
    )
    assert np.abs(gap.astype(np.int8)).mean() < 1.0
    with pytest.raises(UsageError, match="--denoise and --operator are two measurements"):
        restore(pictures, stored, operator=names["EveryOther"](), denoise=1.0)
