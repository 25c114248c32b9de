"""One update: what spoils it, what splits it, and what it must not depend on."""

import pytest
import torch
from torch import Tensor

from ornstein.errors import UsageError
from ornstein.train.device import World
from ornstein.train.draws import draw
from ornstein.train.guard import Verdict
from ornstein.train.training import Training
from train.tiny import digest, labelled_points, points, tiny_config, trained, weights


def spoil(training: Training, where: str) -> None:
    """Let the update at the third batch meet a NaN in the given place."""
    denoiser, loss = training.denoiser, training.denoiser.loss
    at = 2 * training.config.train.batch

    def spoiled(x: Tensor, t: Tensor, eps: Tensor, **cond: Tensor) -> Tensor:
        if training.seen != at:
            return loss(x, t, eps, **cond)
        if where == "batch":
            x = x.clone()
            x[0, 0] = torch.nan
        losses = loss(x, t, eps, **cond)
        if where == "loss":
            losses = losses * torch.tensor([torch.inf] + [1.0] * (len(x) - 1))
        if where == "gradient":
            losses.register_hook(lambda g: g * torch.nan)
        return losses

    denoiser.loss = spoiled


@pytest.mark.parametrize("where", ["batch", "loss", "gradient"])
def test_an_update_that_is_not_finite_leaves_the_weights_as_they_are(where):
    training = Training(tiny_config(), points())
    spoil(training, where)
    verdicts, before = [], torch.empty(0)
    for n in range(5):
        if n == 2:
            before = weights(training)
        verdicts.append(training.update())
        if n == 2:
            assert torch.equal(weights(training), before)
    assert verdicts == [Verdict.TAKE] * 2 + [Verdict.SKIP] + [Verdict.TAKE] * 2
    assert training.guard.skipped == 1
    assert training.tally.updates == 4
    for tensors in training.parts().values():
        assert all(v.isfinite().all() for v in tensors.values())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_out_of_memory_halves_the_pieces_and_keeps_the_gradient(error):
    whole, split = Training(tiny_config(), points()), Training(tiny_config(), points())
    loss = split.denoiser.loss

    def full(x: Tensor, t: Tensor, eps: Tensor, **cond: Tensor) -> Tensor:
        if len(x) > 5:
            raise error("out of memory")
        return loss(x, t, eps, **cond)

    split.denoiser.loss = full
    for _ in range(2):
        whole.update()
        split.update()
        assert split.micro == 4
        for p, q in zip(whole.denoiser.parameters(), split.denoiser.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-6)
    assert whole.tally.order == split.tally.order


def test_other_errors_are_not_taken_for_lack_of_memory():
    training = Training(tiny_config(), points())

    def broken(*_: Tensor, **__: Tensor) -> Tensor:
        raise RuntimeError("shapes disagree")

    training.denoiser.loss = broken
    with pytest.raises(RuntimeError, match="shapes disagree"):
        training.update()


def test_an_example_that_does_not_fit_is_the_users_to_mend():
    training = Training(tiny_config(), points())

    def full(*_: Tensor, **__: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    training.denoiser.loss = full
    with pytest.raises(UsageError, match="choose a smaller"):
        training.update()


def test_any_split_of_the_batch_trains_the_same():
    losses = []
    for micro in (0, 8, 5):
        training, row = Training(tiny_config(micro_batch=micro, seen=50 * 32), points()), []
        for _ in range(50):
            before = training.tally.loss
            training.update()
            row.append(training.tally.loss - before)
        losses.append(torch.tensor(row))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-5, atol=0)


def test_the_same_seed_trains_the_same_weights_whatever_else_was_drawn():
    config, data = tiny_config(optimizer="muon"), labelled_points()
    first = digest(trained(config, data))
    torch.manual_seed(5)
    torch.randn(3)
    assert digest(trained(config, data)) == first
    assert digest(trained(tiny_config(optimizer="muon", seed=1), data)) != first


def test_threads_change_rounding_at_most():
    one = weights(trained(tiny_config(size=64), points(), 10))
    torch.set_num_threads(2)
    try:
        two = weights(trained(tiny_config(size=64), points(), 10))
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_more_examples_in_a_batch_than_in_the_data_are_seen_again():
    training = trained(tiny_config(batch=64), points(3), 5)
    counts = torch.bincount(training.indices, minlength=3)
    assert counts.max() - counts.min() <= 1
    assert weights(training).isfinite().all()


def test_one_example_trains():
    assert weights(trained(tiny_config(), points(1), 5)).isfinite().all()


def test_a_batch_too_small_to_share_is_refused():
    with pytest.raises(UsageError, match="cannot be shared by 3"):
        Training(tiny_config(batch=2), points(), world=World(0, 3))


def test_averages_are_those_of_the_weights_after_each_update():
    training = Training(tiny_config(ema=(0.1,)), points())
    history = []
    for _ in range(8):
        training.update()
        history.append(weights(training).double())
    from ornstein.core.ema import exponent

    g, n = exponent(0.1), torch.arange(1, 9).double()
    share = (n / 8) ** (g + 1) - ((n - 1) / 8) ** (g + 1)
    expected = (share[:, None] * torch.stack(history)).sum(0)
    average = torch.cat([p.flatten() for p in training.averages.learners[0].parameters()])
    torch.testing.assert_close(average.double(), expected, rtol=0, atol=1e-6)


def test_the_noise_of_an_update_is_the_one_its_position_names():
    training, seen = trained(tiny_config(), points(), 3), []
    loss = training.denoiser.loss

    def spy(x: Tensor, t: Tensor, eps: Tensor, **cond: Tensor) -> Tensor:
        seen.append((x, t, eps))
        return loss(x, t, eps, **cond)

    training.denoiser.loss = spy
    training.update()
    b = draw(
        training.data,
        training.data.order(0, range(96, 128)),
        training.denoiser.schedule,
        training.times,
        seed=0,
        seen=96,
    )
    for got, expected in zip(seen[0], (b.x, b.t, b.eps), strict=True):
        assert torch.equal(got, expected)
