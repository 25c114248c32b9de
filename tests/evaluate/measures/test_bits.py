"""Bits per dimension of a model whose law is known, and the losses of its examples."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ornstein.core.exact import GaussianDenoiser, MixtureDenoiser
from ornstein.core.noise import FlowSchedule
from ornstein.data.dataset import Attributes, Dataset
from ornstein.data.points import PointsCodec
from ornstein.evaluate.measures.bits import losses, measure_bits, told
from ornstein.rng import generator
from untrained import tiny_model


class OnTheCPU(GaussianDenoiser):
    """It has no parameters to ask for their device."""

    def parameters(self, recurse: bool = True):
        return iter([torch.zeros(1)])


@pytest.fixture
def gaussian():
    """A model of points (x, y) with deviations 2 and 1/2 about (1, -1), exact."""
    codec = PointsCodec(shape=(2,), dtype="float32", mean=(1.0, -1.0), std=(2.0, 0.5))
    denoiser = OnTheCPU(
        torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64), FlowSchedule()
    )
    return replace(tiny_model("mlp"), denoiser=denoiser, codec=codec)


def points(count: int) -> Dataset:
    x = generator("points").standard_normal((count, 2)) * [2.0, 0.5] + [1.0, -1.0]
    stored = torch.from_numpy(x.astype(np.float32))
    codec = PointsCodec(shape=(2,), dtype="float32", mean=(0.0, 0.0), std=(1.0, 1.0))
    return Dataset(codec=codec, stored=stored, ids=[str(i) for i in range(count)])


def test_the_bits_of_gaussian_data_are_their_closed_form(gaussian):
    data = points(100)
    found = measure_bits(gaussian, data, data, 100)
    assert found is not None
    z = (data.stored.double() - torch.tensor([1.0, -1.0])) / torch.tensor([2.0, 0.5])
    # log p of each point in its own units; the two deviations multiply to 1
    nats = -0.5 * z.square().sum(1) - math.log(2 * math.pi)
    expected = -(nats / 2).mean().item() / math.log(2)
    assert found.flow == pytest.approx(expected, abs=2e-3)
    assert found.bound == pytest.approx(expected, abs=4 * found.gap_error + 5e-3)
    assert found.ordered
    assert found.n == 100
    assert not found.discrete
    scatter = (-nats / 2 / math.log(2)).std().item() / 100**0.5
    assert found.flow_error == pytest.approx(scatter, rel=0.05)


def test_a_model_that_is_wrong_needs_more_bits(gaussian):
    far = points(40)
    far = replace(far, stored=far.stored + 3)
    right, wrong = (measure_bits(gaussian, points(40), data, 40) for data in (points(40), far))
    assert right is not None and wrong is not None
    assert wrong.flow > right.flow + 1
    assert wrong.ordered


def test_a_constant_channel_and_a_single_example_have_no_bits(gaussian):
    assert measure_bits(gaussian, points(9), points(1), 5) is None
    flat = replace(gaussian, codec=replace(gaussian.codec, std=(2.0, 0.0)))
    assert measure_bits(flat, points(9), points(10), 5) is None


def test_the_bits_of_integers_are_those_of_their_probability(gaussian):
    # integers about 8 with deviation 3: -log2 p is the mean over u of -log2 N(x + u; 8, 9)
    codec = PointsCodec(shape=(2,), dtype="uint8", mean=(8.0, 8.0), std=(3.0, 3.0), levels=17)
    model = replace(gaussian, codec=codec)
    values = np.rint(8 + 3 * generator("integers").standard_normal((80, 2))).clip(0, 16)
    stored = torch.from_numpy(values.astype(np.uint8))
    data = Dataset(codec=codec, stored=stored, ids=["x"] * 80)
    found = measure_bits(model, data, data, 80)
    square = ((values - 8) ** 2 + 1 / 12) / 9
    expected = (square / 2 + math.log(3 * math.sqrt(2 * math.pi))).mean() / math.log(2)
    assert found is not None
    assert found.discrete
    assert found.flow == pytest.approx(expected, abs=0.06)  # u is drawn once for each number
    assert found.ordered


class OfALattice(MixtureDenoiser):
    """Exact of whole numbers from 0 to 4, each as likely, beside a normal one; x of variance 1."""

    def __init__(self) -> None:
        levels = (torch.arange(5, dtype=torch.float64) - 2) / 2**0.5
        means = torch.stack([levels, torch.zeros(5)], 1)
        covs = torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)).expand(5, 2, 2)
        super().__init__(torch.full((5,), 0.2).double(), means, covs, FlowSchedule())

    def parameters(self, recurse: bool = True):
        return iter([torch.zeros(1)])


def test_a_column_of_whole_numbers_costs_bits_of_a_probability_whatever_was_learned(gaussian):
    codec = PointsCodec(shape=(2,), dtype="float32", mean=(2.0, 0.0), std=(2**0.5, 1.0), whole=(0,))
    draw = generator("lattice")
    values = np.stack([draw.integers(0, 5, 32), draw.standard_normal(32)], 1)
    stored = torch.from_numpy(values.astype(np.float32))
    data = Dataset(codec=codec, stored=stored, ids=["x"] * 32)
    found = measure_bits(replace(gaussian, denoiser=OfALattice(), codec=codec), data, data, 32)
    normal = (values[:, 1] ** 2 / 2).mean() / math.log(2) + math.log2(2 * math.pi) / 2
    entropy = (math.log2(5) + normal) / 2
    assert found is not None
    assert entropy - 0.05 < found.flow < entropy + 0.2
    assert not found.discrete  # the other column is not


def test_columns_that_are_all_whole_numbers_are_discrete(gaussian):
    codec = replace(gaussian.codec, whole=(0, 1))
    found = measure_bits(replace(gaussian, codec=codec), points(9), points(9), 9)
    assert found is not None and found.discrete


def test_the_losses_of_an_exact_denoiser_have_their_mean(gaussian):
    # SNR |x - x_hat|^2 / D has the mean SNR / (1 + SNR), for data of variance 1
    found = losses(gaussian, points(2000), 2000)
    expected = np.mean([1 / (1 + math.exp(-level)) for level in (-4, -2, 0, 2, 4)])
    assert found.shape == (2000,)
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 2000**0.5)


def test_conditions_go_by_their_names():
    model = tiny_model()
    stored = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    ages = np.array([[1.0, 50.0], [2.0, np.nan], [3.0, 30.0]])
    data = Dataset(
        codec=model.codec,
        stored=stored,
        ids=list("abc"),
        label=torch.tensor([1, 0, -1]),
        classes=["bee", "cat"],
        attributes=Attributes.measured(["height", "age"], ages),
    )
    x, cond = told(model, data, torch.tensor([0, 1, 2]))
    assert torch.equal(x, model.codec.pack(stored))
    assert cond["label"].tolist() == [2, 1, -1]  # of ant, bee, cat
    assert torch.allclose(
        cond["attributes"], torch.tensor([[1.0], [math.nan], [-1.0]]), equal_nan=True
    )
    unknown = replace(data, classes=["dog", "cat"], attributes=None)
    assert told(model, unknown, torch.tensor([0, 1]))[1]["label"].tolist() == [2, -1]


class Careless(OnTheCPU):
    """Exact, but for the last traces of noise: what it sees there, it takes for noise."""

    def forward(self, x_t, t, **cond):
        x_hat = super().forward(x_t, t, **cond)
        alpha, sigma = (c.expand(len(x_t))[:, None] for c in self.schedule(t))
        late = self.schedule.log_snr(t).expand(len(x_t))[:, None] > 4
        return torch.where(late, (1 - sigma) * x_t / alpha, x_hat)


def test_what_a_network_never_learned_of_the_last_noise_is_left_out(gaussian):
    data = points(100)
    exact = measure_bits(gaussian, data, data, 100)
    careless = Careless(
        torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64), FlowSchedule()
    )
    found = measure_bits(replace(gaussian, denoiser=careless), data, data, 100)
    assert exact is not None and found is not None
    assert exact.profile.end > 6  # an exact one loses nothing by going on
    assert 3 <= found.profile.end <= 5
    worst = dict(zip(found.profile.log_snr, found.profile.error, strict=True))
    assert worst[8.0] > 1 > worst[2.0]
    assert found.profile.bits[-1] > found.bound + 1  # what it would have cost
    assert found.ordered
    assert exact.bound - 4 * exact.gap_error < found.bound < exact.bound + 0.2
