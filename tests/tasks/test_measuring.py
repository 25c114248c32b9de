"""Measurements in the data's units are the same measurements of x."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ornstein.data.image import ImageCodec
from ornstein.errors import DataError
from ornstein.tasks.measuring import problem_of
from ornstein.tasks.options import RestoreOptions
from ornstein.tasks.ways import named_operator

COLOUR = ImageCodec(
    shape=(3, 8, 8), dtype="uint8", mean=(90.0, 120.0, 60.0), std=(40.0, 55.0, 70.0)
)
GREY = ImageCodec(shape=(1, 8, 8), dtype="uint8", mean=(90.0,), std=(40.0,))


def stored(codec):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, *codec.shape), generator=generator).byte()


@pytest.mark.parametrize("codec", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(
    "options",
    [
        {"upscale": 4},
        {"deblur": "1.5"},
        {"denoise": 7.0},
        {"mri": "radial"},
        {"ct": "5"},
        {"colourise": True},
        {"operator": "motion-blur"},
        {"operator": "low-pass"},
        {"operator": "random-matrix", "parameters": {"rows": 9}},
        {"operator": "declip", "parameters": {"low": 60, "high": 140}},
        {"operator": "phase-retrieval"},
    ],
    ids=str,
)
def test_what_was_measured_of_the_data_is_what_is_measured_of_x(codec, options):
    if "colourise" in options and codec is GREY:
        pytest.skip("is grey already")
    chosen, model = RestoreOptions(**options), SimpleNamespace(codec=codec, shape=codec.shape)
    data = stored(codec)
    y = named_operator(codec, chosen)(data.double())
    problem = problem_of(model, y, chosen)  # pyright: ignore[reportArgumentType]
    assert_close(problem.operator(codec.pack(data)), problem.y, rtol=1e-4, atol=1e-3)
    assert problem.sigma_y > 0


def test_the_noise_of_a_measurement_is_counted_in_its_own_units():
    model = SimpleNamespace(codec=GREY, shape=GREY.shape)
    pictures = stored(GREY)
    noisy = problem_of(model, pictures, RestoreOptions(denoise=8.0))  # pyright: ignore
    assert noisy.sigma_y == pytest.approx(8 / 40)
    rounded = problem_of(model, pictures[..., ::2, ::2], RestoreOptions(upscale=2))  # pyright: ignore
    assert rounded.sigma_y == pytest.approx(12**-0.5 / 40)


def test_k_space_and_sinograms_come_from_arrays(tmp_path):
    model = SimpleNamespace(codec=GREY, shape=GREY.shape)
    for options in (RestoreOptions(ct="5"), RestoreOptions(mri="cartesian")):
        y = named_operator(GREY, options)(stored(GREY)[:1].double())
        np.save(tmp_path / "y.npy", y[0].numpy())
        read = problem_of(model, tmp_path / "y.npy", options)  # pyright: ignore
        assert_close(read.y, problem_of(model, y, options).y)  # pyright: ignore
        np.save(tmp_path / "y.npy", y[0, :, :3].numpy())
        with pytest.raises(DataError, match="give a file of that size"):
            problem_of(model, tmp_path / "y.npy", options)  # pyright: ignore
