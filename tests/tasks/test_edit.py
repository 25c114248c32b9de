"""Changing pictures: what stays, what may change, and where the way back leads."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ornstein.core.exact import GaussianDenoiser
from ornstein.core.noise import FlowSchedule
from ornstein.errors import UsageError
from ornstein.tasks.edit import between, edit, painted, sphere
from untrained import tiny_model


def gaussian(mean, covariance):
    """A run whose data are pictures ``N(mean + age, covariance)`` of 64 pixels, in closed form.

    A covariance that is a number is the variance of independent pixels.
    """
    model = tiny_model()
    if isinstance(covariance, float):
        covariance = covariance * torch.eye(64)
    flat = GaussianDenoiser(torch.full((64,), mean).double(), covariance.double(), FlowSchedule())

    class Pictures(type(model.denoiser)):  # a network by type, a formula by nature
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.schedule, self.flat = flat.schedule, flat
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x_t, t, attributes=None, **cond):
            age = 0.0 if attributes is None else attributes[:, :1].double()
            alpha, _ = self.schedule(t)
            away = x_t.flatten(1).double() - alpha * age
            return (age + flat(away, t)).view_as(x_t).to(x_t)

    words = replace(model.vocabulary, attributes=("age",), means=(0.0,), stds=(1.0,))
    return replace(model, denoiser=Pictures(), vocabulary=words)


WIDE, NARROW = gaussian(0.5, 1.0), gaussian(-1.0, 0.25)
X = WIDE.codec.stored(0.5 + torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
GIVEN = torch.from_numpy(X)


def test_encoding_and_decoding_returns_the_picture():
    x = edit(WIDE, GIVEN, 1.0, how="encode", steps=64).samples.x
    assert_close(x, WIDE.codec.pack(GIVEN), rtol=0, atol=2e-3)
    x = edit(WIDE, GIVEN, 0.5, how="encode", steps=64).samples.x
    assert_close(x, WIDE.codec.pack(GIVEN), rtol=0, atol=2e-3)


def test_a_bridge_maps_one_kind_of_data_onto_the_other():
    """Between Gaussians the flows compose to ``m' + (x - m) sqrt(S' / S)``."""
    x = edit(WIDE, GIVEN, 1.0, to=NARROW, steps=128).samples.x
    expected = -1.0 + (WIDE.codec.pack(GIVEN) - 0.5) * math.sqrt(0.25)
    assert_close(x, expected, rtol=0, atol=5e-3)


def test_another_attribute_is_encoded_under_the_old_and_decoded_under_the_new():
    ages = {"source_attributes": {"age": -0.5}, "attributes": {"age": 1.0}}
    x = edit(WIDE, GIVEN, 1.0, how="encode", steps=64, **ages).samples.x
    assert_close(x, WIDE.codec.pack(GIVEN) + 1.5, rtol=0, atol=4e-3)


def test_partial_noising_draws_from_the_posterior_of_what_the_noise_left():
    """At flow time u, ``x' | x ~ N(m + a (x - m), b)``: the closed form of a Gaussian."""
    u = 0.5
    drawn = edit(WIDE, GIVEN[:1], u, draws=400, steps=64).samples.x
    x = WIDE.codec.pack(GIVEN[:1])
    gain = math.sqrt(1.0 / ((1 - u) ** 2 + u**2))  # of the flow from u to the data
    mean = 0.5 + gain * (1 - u) * (x - 0.5)
    std = gain * u
    assert ((drawn.mean(0) - mean[0]).abs().mean() * math.sqrt(400) / std).item() < 1.2
    assert abs((drawn - mean).std().item() / std - 1) < 0.02


def test_the_weaker_the_edit_the_nearer_it_stays():
    x = WIDE.codec.pack(GIVEN)
    gaps = [(edit(WIDE, GIVEN, u, draws=1).samples.x - x).square().mean() for u in (0.1, 0.4, 0.9)]
    assert gaps[0] < gaps[1] < gaps[2]


def test_outside_the_mask_nothing_changes_and_inside_it_does():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 3:7] = True
    done = edit(WIDE, GIVEN, 0.7, mask=mask, draws=3)
    drawn = done.samples.x.unflatten(0, (2, 3))
    assert torch.equal(drawn[..., ~mask], done.given[:, None][..., ~mask].expand(-1, 3, -1, -1))
    assert (drawn[..., mask] != done.given[:, None][..., mask]).all()


def test_no_border_shows_around_what_was_changed():
    """Across the border, neighbours differ by as much as the data have it, and no more."""
    place = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    covariance = 0.16 * torch.exp(-torch.cdist(place, place) / 4)
    run, usual = gaussian(0.5, covariance), 2 * 0.16 * (1 - math.exp(-1 / 4))
    z = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    real = 0.5 + z @ torch.linalg.cholesky(covariance).T
    given = torch.from_numpy(run.codec.stored(real.view(8, 1, 8, 8)))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, 4:] = True

    def across(**how):
        x = edit(run, given, 1.0, draws=8, steps=32, **how).samples.x
        pasted = torch.where(mask, x, run.codec.pack(given).repeat_interleave(8, 0))
        return (pasted[..., 4] - pasted[..., 3]).square().mean() / usual

    assert across(mask=mask) < 1.4
    assert across() > 3  # pictures that know nothing of what they are put beside


def test_colours_of_blocks_are_held():
    done = edit(WIDE, GIVEN, 1.0, hold=4, draws=2, steps=64)

    def means(x):
        return torch.nn.functional.avg_pool2d(x, 4)

    gap = means(done.samples.x) - means(done.given).repeat_interleave(2, 0)
    free = means(edit(WIDE, GIVEN, 1.0, draws=2).samples.x) - means(done.given).repeat_interleave(
        2, 0
    )
    assert gap.square().mean() < 0.1 * free.square().mean()


def test_strokes_lie_over_the_pictures_where_they_are_opaque(tmp_path):
    layer = np.zeros((8, 8, 4), np.uint8)
    layer[1:3, :, :] = (255, 255, 255, 255)
    layer[5, :, :] = (255, 255, 255, 60)
    Image.fromarray(layer).save(tmp_path / "strokes.png")
    over = painted(WIDE, GIVEN, tmp_path / "strokes.png")
    assert (over[:, :, 1:3] == 16).all()
    assert torch.equal(over[:, :, 3:], GIVEN[:, :, 3:])
    given = edit(WIDE, GIVEN, 0.2, strokes=tmp_path / "strokes.png").given
    assert torch.equal(given, WIDE.codec.pack(over))


@pytest.mark.parametrize(
    ("value", "words"), [((255, 255, 255, 0), "nothing was painted"), ((9, 9, 9), "transparency")]
)
def test_strokes_that_are_none_are_refused(tmp_path, value, words):
    picture = np.broadcast_to(np.array(value, np.uint8), (8, 8, len(value)))
    Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / "s.png")
    with pytest.raises(UsageError, match=words):
        edit(WIDE, GIVEN, strokes=tmp_path / "s.png")


def test_between_two_pictures_both_ends_return_and_the_middle_is_on_the_sphere():
    way = between(WIDE, GIVEN[:1], GIVEN[1:], 5, steps=64).x
    ends = WIDE.codec.pack(GIVEN)
    assert_close(way[[0, -1]], ends, rtol=0, atol=2e-3)
    a, b = (ends - 0.5).flatten(1)
    middle = sphere(a, b, torch.tensor([0.5]))[0]
    assert_close((way[2] - 0.5).flatten(), middle, rtol=0, atol=2e-2)


def test_points_on_the_sphere_keep_their_distance_from_its_centre():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    points = sphere(a, b, torch.linspace(0, 1, 7))
    assert_close(points.norm(dim=1), torch.full((7,), 3.0))
    assert_close(points[3], torch.full((2,), 3 / math.sqrt(2)))
    assert_close(sphere(a, a, torch.tensor([0.3]))[0], a)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": 3}, "add --how encode"),
        ({"source_attributes": {"age": 3}}, "add --how encode"),
        ({"how": "encode", "mask": torch.ones(8, 8, dtype=torch.bool)}, "needs noise"),
        ({"how": "encode", "sampler": "ddpm"}, "draws no noise"),
        ({"hold": 3}, "hold = 3"),
        ({"given": "x.png"}, "leave --given out"),
        ({"strength": 0}, "strength"),
        ({"to": tiny_model(shape=(1, 4, 4))}, "one shape"),
    ],
)
def test_what_does_not_go_together_is_said(options, words):
    with pytest.raises(UsageError, match=words):
        edit(tiny_model(), GIVEN, **options)


def test_edits_are_a_function_of_the_seed_and_the_number():
    model = tiny_model()
    whole = edit(model, GIVEN, draws=2, label="bee").samples.x
    assert torch.equal(whole, edit(model, GIVEN, draws=2, label="bee").samples.x)
    assert torch.equal(whole[:2], edit(model, GIVEN[:1], draws=2, label="bee").samples.x)
    assert not torch.equal(whole, edit(model, GIVEN, draws=2, label="bee", seed=1).samples.x)
