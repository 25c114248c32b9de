"""The rivals of a diffusion model, held to closed forms: losses, densities, Jacobians, budgets."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from ornstein.data import DataOptions, open_data
from ornstein.errors import DivergedError
from ornstein.evaluate.contest.rivals import RIVALS, Budget, Diffusion, plan
from ornstein.evaluate.contest.rivals.floors import GaussianModel, KernelDensity
from ornstein.evaluate.contest.rivals.flow import Coupling, Flow
from ornstein.evaluate.contest.rivals.gan import discriminator_loss, penalty, relativistic
from ornstein.evaluate.contest.rivals.nets import decoder, encoder, levels
from ornstein.evaluate.contest.rivals.rival import (
    Average,
    Clock,
    batches,
    finite,
    learning_rate,
    measured,
    size_of,
    unit,
    width_for,
)
from ornstein.evaluate.contest.rivals.vae import Autoencoder

F64 = torch.float64
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def points(count: int = 400):
    data = open_data("8-gaussians", DataOptions(limit=count))
    return replace(data, label=None, classes=[])


def digits(count: int = 100):
    data = open_data("digits", DataOptions(limit=count))
    return replace(data, label=None, classes=[])


def jolted(net: nn.Module) -> nn.Module:
    """`net`, its zeros replaced: a map that starts as a rotation is no test of its Jacobian."""
    for p in net.parameters():
        nn.init.normal_(p, std=0.3) if not p.any() else None
    return net


# --- GAN -----------------------------------------------------------------------------------------


def test_the_penalty_of_a_linear_score_is_the_square_of_its_slope():
    slope = torch.tensor([3.0, -4.0])
    x = torch.randn(7, 2, requires_grad=True)
    assert penalty((x @ slope)[:, None], x).item() == pytest.approx(25)


def test_the_penalty_of_a_quadratic_score_is_that_of_its_gradient():
    a = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    score = 0.5 * torch.einsum("bi,ij,bj->b", x, a, x)[:, None]
    # the gradients are A x: (2, 1) and (2, 6)
    assert penalty(score, x).item() == pytest.approx((5 + 40) / 2)


def test_the_penalty_can_be_trained_against():
    critic, x = nn.Linear(2, 1), torch.randn(5, 2, requires_grad=True)
    penalty(critic(x), x).backward()
    assert critic.weight.grad is not None
    torch.testing.assert_close(critic.weight.grad, 2 * critic.weight.detach())


def test_the_loss_of_equal_scores_is_log_2_and_falls_as_one_gets_ahead():
    even = torch.zeros(4, 1)
    assert relativistic(even, even).item() == pytest.approx(math.log(2))
    assert relativistic(even + 1, even).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert relativistic(even, even + 1) > relativistic(even, even) > relativistic(even + 1, even)


def test_the_discriminator_gains_by_scoring_real_examples_above_drawn_ones():
    real, fake = torch.ones(6, 2), -torch.ones(6, 2)
    critic = nn.Linear(2, 1)
    discriminator_loss(critic, real, fake, 0.0).backward()
    assert critic.weight.grad is not None
    assert (critic.weight.grad < 0).all()  # a step against it raises the score of real examples


def test_both_penalties_are_in_the_loss_with_half_of_gamma():
    critic = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[3.0, 4.0]]))
    x = torch.randn(5, 2)
    # equal examples on both sides: log 2, and gamma / 2 times 25 twice
    found = discriminator_loss(critic, x, x, 0.2).item()
    assert found == pytest.approx(math.log(2) + 0.2 / 2 * 50)


# --- Flow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (5,), (1, 4, 4), (3, 4, 2), (1, 3, 3)])
def test_a_flow_undoes_itself_and_knows_its_jacobian(shape):
    net = jolted(Flow(shape, 8)).double()
    x = torch.randn(3, *shape, dtype=F64)
    z, log_det = net.encode(x)
    torch.testing.assert_close(net(z), x, rtol=0, atol=1e-5)
    size = math.prod(shape)
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda v: net.encode(v)[0][0], x[i : i + 1])
        exact = torch.linalg.slogdet(jacobian.reshape(size, size))[1]  # pyright: ignore
        torch.testing.assert_close(log_det[i], exact, rtol=0, atol=1e-8)


def test_the_density_of_a_flow_integrates_to_one():
    net = jolted(Flow((2,), 8)).double()
    z = torch.randn(4000, 2, dtype=F64)
    reach = 1.3 * net(z).abs().max().item()
    side = torch.linspace(-reach, reach, 301, dtype=F64)
    grid = torch.cartesian_prod(side, side)
    total = net.log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    assert total.item() == pytest.approx(1, abs=0.01)


def test_a_coupling_that_was_not_trained_turns_and_does_not_stretch():
    x = torch.randn(6, 4)
    y, log_det = Coupling(4, 8, pictures=False)(x)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(log_det, torch.zeros(6), rtol=0, atol=1e-5)


# --- VAE -----------------------------------------------------------------------------------------


def linear_autoencoder(exact: bool) -> tuple[Autoencoder, np.ndarray]:
    """``x = W z + noise``, whose evidence is Gaussian; with its true posterior, or a wrong one."""
    w = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.2, 0.4]])
    variance = torch.full((3,), 0.25)
    decode = nn.Linear(2, 3, bias=False)
    encode = nn.Linear(3, 4)
    with torch.no_grad():
        decode.weight.copy_(w)
        encode.weight.zero_()
        encode.bias.zero_()
        if exact:
            # the posterior has precision I + W^T W / v; its diagonal is exact where it is diagonal
            axes, scale, turn = torch.linalg.svd(w, full_matrices=False)
            decode.weight.copy_(axes * scale)
            precision = 1 + scale**2 / 0.25
            encode.weight[:2] = (axes * scale / 0.25 / precision).T
            encode.bias[2:] = -precision.log()
            del turn
    matrix = decode.weight.detach().double().numpy()
    return Autoencoder(encode, decode, variance), matrix @ matrix.T + 0.25 * np.eye(3)


def test_the_elbo_of_the_true_posterior_is_the_evidence():
    net, covariance = linear_autoencoder(exact=True)
    x, eps = torch.randn(5, 3), torch.randn(5, 2)
    exact = multivariate_normal(np.zeros(3), covariance).logpdf(x.numpy())
    many = torch.stack([net.elbo(x, torch.randn(5, 2)) for _ in range(1000)]).mean(0)
    np.testing.assert_allclose(many.detach(), exact, atol=0.15)
    # each importance weight is then the evidence itself
    np.testing.assert_allclose(net.importance(x, eps[None]).detach(), exact, rtol=1e-4)


def test_the_elbo_of_a_wrong_posterior_lies_below_the_evidence_and_draws_close_the_gap():
    net, covariance = linear_autoencoder(exact=False)
    x = torch.randn(200, 3)
    exact = multivariate_normal(np.zeros(3), covariance).logpdf(x.numpy()).mean()
    elbo = torch.stack([net.elbo(x, torch.randn(200, 2)).mean() for _ in range(50)]).mean().item()
    few = net.importance(x, torch.randn(4, 200, 2)).mean().item()
    many = net.importance(x, torch.randn(2000, 200, 2)).mean().item()
    assert elbo < few < many
    assert elbo < exact - 0.1
    assert many == pytest.approx(exact, abs=0.05)


def test_the_variance_of_the_decoder_is_the_mean_squared_error():
    net, _ = linear_autoencoder(exact=True)
    x, eps = torch.randn(1000, 3), torch.randn(1000, 2)
    errors, _ = net.parts(x, eps)

    def density(variance: torch.Tensor) -> float:
        net.variance.copy_(variance)
        return net.log_density(errors).mean().item()

    net.settle(errors)
    best = net.variance.clone()
    torch.testing.assert_close(best, errors.detach().mean(0))
    assert density(best) > max(density(best * 1.05), density(best * 0.95))


# --- Floors --------------------------------------------------------------------------------------


def test_the_gaussian_has_the_density_that_scipy_gives_it():
    data, model = points(), GaussianModel(0)
    model.fit(data, Budget(seen=1), 0, CPU)
    x = data.codec.pack(data.stored)
    covariance = (model._root @ model._root.T).numpy()
    exact = multivariate_normal(model._mean.numpy(), covariance).logpdf(x.double().numpy())
    np.testing.assert_allclose(model.log_prob(x), exact, rtol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(x.double().T.numpy()), atol=0.05)
    drawn = model.sample(20_000, 0).double()
    np.testing.assert_allclose(np.cov(drawn.T.numpy()), covariance, atol=0.05)


def test_the_kernel_density_is_the_mean_of_gaussians_around_the_data():
    data, model = points(60), KernelDensity(0)
    model.fit(data, Budget(seen=1), 0, CPU)
    x, h = torch.randn(9, 2), model.bandwidth
    each = [
        multivariate_normal(centre, h**2 * np.eye(2)).pdf(x.numpy())
        for centre in data.codec.pack(data.stored).double().numpy()
    ]
    exact = np.log(np.mean(each, 0))
    np.testing.assert_allclose(model.log_prob(x), exact, rtol=1e-6)


def test_the_bandwidth_makes_examples_likely_by_the_others():
    data, model = points(200), KernelDensity(0)
    model.fit(data, Budget(seen=1), 0, CPU)
    x = data.codec.pack(data.stored).double().numpy()

    def left_out(h: float) -> float:
        apart = ((x[:, None] - x) ** 2).sum(2)
        np.fill_diagonal(apart, np.inf)
        return float(np.log(np.exp(-apart / (2 * h**2)).sum(1) / h**2 + 1e-300).mean())

    best = left_out(model.bandwidth)
    assert best >= max(left_out(0.7 * model.bandwidth), left_out(1.4 * model.bandwidth))


# --- Likelihoods in bits -------------------------------------------------------------------------


def test_a_uniform_density_over_the_levels_costs_their_number_in_bits():
    data = digits()
    codec = data.codec
    wide = 17 / codec.std[0]  # of all levels, in x

    def uniform(x: torch.Tensor) -> torch.Tensor:
        low, high = (v.item() for v in codec.range)  # pyright: ignore
        half = 0.5 / codec.std[0]
        assert (x >= low - half - 1e-4).all() and (x <= high + half + 1e-4).all()
        return torch.full((len(x),), -64 * math.log(wide))

    found = measured(uniform, codec, data, how="exact", device=CPU)
    assert found is not None
    assert found.bits == pytest.approx(math.log2(17))
    assert found.n == 100


def test_a_density_of_points_is_stated_in_their_own_units():
    data = points()
    found = measured(lambda x: torch.zeros(len(x)), data.codec, data, how="exact", device=CPU)
    assert found is not None
    # a density of 1 in x is one of 1 / std in the units of the data
    assert found.bits == pytest.approx(np.log2(data.codec.std).mean())
    assert not unit(data.codec).any()


# --- Fitting -------------------------------------------------------------------------------------


def test_a_budget_is_seconds_or_examples():
    for wrong in ({}, {"seconds": 1.0, "seen": 1}):
        with pytest.raises(ValueError, match="one of the two"):
            Budget(**wrong)


def test_batches_end_with_the_budget_and_pass_over_the_data_evenly():
    data = points(50)
    clock = Clock(Budget(seen=100), CPU)
    x = torch.cat(list(batches(data, clock, 10, 0)))
    assert len(x) == clock.seen == 100
    values, counts = x.unique(dim=0, return_counts=True)
    assert len(values) == 50 and (counts == 2).all()


def test_the_learning_rate_rises_and_falls_to_zero():
    rates = [learning_rate(i / 100) for i in range(101)]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0)
    assert max(rates) > 0.99 and rates.index(max(rates)) <= 3


def test_a_loss_that_is_no_number_is_told():
    with pytest.raises(DivergedError, match="GAN diverged"):
        finite(torch.tensor(torch.nan), "GAN")


@pytest.mark.parametrize("name", ["gan", "vae", "flow"])
@pytest.mark.parametrize("data", [points(), digits()], ids=["points", "digits"])
def test_networks_have_as_many_weights_as_asked_and_draw_the_same_twice(name, data):
    weights = 60_000
    first, again = (RIVALS[name](weights) for _ in range(2))
    for model in (first, again):
        model.fit(data, Budget(seen=128), 3, CPU)
    assert first.parameters[0] == pytest.approx(weights, rel=0.2)
    assert first.seen >= 128
    x = first.sample(20, 1)
    assert x.shape == (20, *data.codec.shape) and x.isfinite().all()
    assert torch.equal(x, again.sample(20, 1))
    assert not torch.equal(x, first.sample(20, 2))


def test_training_leaves_the_randomness_of_others_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    RIVALS["vae"](2000).fit(points(), Budget(seen=64), 0, CPU)
    assert torch.equal(torch.rand(3), expected)


def test_the_average_is_of_all_weights_so_far():
    net = nn.Linear(1, 1)
    average = Average(net)
    with torch.no_grad():
        net.weight.fill_(5.0)
    average.update(0, 10)
    assert average.net.weight.item() == pytest.approx(5)  # the first update forgets the start
    with torch.no_grad():
        net.weight.fill_(6.0)
    average.update(10, 11)
    assert 5 < average.net.weight.item() < 6


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5), (2,), (2, 9)])
def test_networks_go_from_examples_to_numbers_and_back(shape):
    x = torch.randn(2, *shape)
    assert encoder(shape, 8, 5)(x).shape == (2, 5)
    assert decoder(shape, 8, 5)(torch.randn(2, 5)).shape == x.shape


def test_levels_halve_until_no_side_is_above_four():
    assert levels((28, 28)) == [(28, 28), (14, 14), (7, 7), (4, 4)]
    assert levels((9, 3)) == [(9, 3), (5, 3), (3, 3)]


def test_a_width_is_found_for_a_number_of_weights():
    width = width_for(lambda w: nn.Linear(w, w, bias=False), 10_000)
    assert width == 100
    assert size_of(nn.Linear(width, width, bias=False)) == 10_000


@pytest.mark.slow
def test_each_network_learns_that_points_are_no_gaussian():
    data = points(4000)
    train, held_out = data.split(0.1, 0)
    gaussian = GaussianModel(0)
    gaussian.fit(train, Budget(seen=1), 0, CPU)
    floor = gaussian.likelihood(train, held_out)
    for name in ("vae", "flow"):
        model = RIVALS[name](20_000)
        model.fit(train, Budget(seen=60_000), 0, CPU)
        found = model.likelihood(train, held_out)
        assert found is not None and floor is not None
        assert found.bits < floor.bits - 0.1, name


def test_diffusion_is_judged_on_all_examples_that_its_rivals_are(monkeypatch):
    data, asked = points(80), list[int]()

    def measured(model: object, train: object, held_out: object, count: int) -> None:
        asked.append(count)

    monkeypatch.setattr("ornstein.evaluate.contest.rivals.diffusion.measure_bits", measured)
    model = Diffusion(plan(data, Budget(seen=64), size=16), data)
    model.fit(data, Budget(seen=64), 0, CPU)
    model.likelihood(data, data)
    assert asked == [80]


def test_the_diffusion_model_takes_the_recipe_and_sees_what_it_may():
    data = points()
    model = Diffusion(plan(data, Budget(seen=512), size=16), data)
    model.fit(data, Budget(seen=512), 0, CPU)
    assert model.seen == 512 and model.calls == 20
    assert model.parameters[0] == model.weights == model.parameters[1]
    assert model.sample(5, 0).shape == (5, 2)
