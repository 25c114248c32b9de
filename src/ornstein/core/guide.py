"""Guidance: from a denoiser to one that follows a condition harder, or a better denoiser.

Every rule is a map denoiser -> denoiser, so rules compose with each other, with posterior sampling
and with every sampler. The weight w = 1 means none for the rules that extrapolate; w = 0 means
none for those that add a gradient.

Guidance does not sample ``p(x | c)^w p(x)^(1 - w)``: what it samples depends on the whole path.
For two Gaussians the truth is known, and is what the tests hold it to.
"""

from collections.abc import Callable, Collection, Mapping
from math import inf

import torch
from torch import Tensor

from .denoise import Denoiser, align, covariance, with_signal

Interval = tuple[float, float]
"""The log-SNRs, lowest and highest, between which a rule acts."""

ALWAYS: Interval = (-inf, inf)


class ClassifierFree(Denoiser):
    """Away from what would be drawn without the condition: ``x_hat = u + w (c - u)``.

    c is the denoiser's answer with its conditions and u without. Where it does not act it is c,
    at one call; where it acts it costs two. Bind conditions to the result, not to `denoiser`:
    ``ClassifierFree(denoiser, weight=2).given(label=label)``.

    Args:
        denoiser: A denoiser trained with and without its conditions.
        weight: w, a number or one for each example ``(B,)``; 1 is none, 0 drops the conditions.
        interval: The log-SNRs between which it acts. Both ends are often better left alone.
        negative: The conditions of u that differ from those of c: a tensor to steer away from,
            of one example for all or of each, or None for one to leave out; those not named are
            kept. By default, all left out.
        parallel: Share that is kept of the part of ``c - u`` along c, which saturates; 1 is all.
        rescale: How far the spread of x_hat over an example is brought back to that of c, from 0
            to 1.
        reference: Whose answer u is; that of `denoiser` by default. Say so of one that is guided
            itself: with ``Autoguidance(d, weak, 1 + (v - 1) / w)`` and the reference d it is
            ``u + w (c - u) + (v - 1) (c - weak)``, at three calls.

    Raises:
        ValueError: If a weight is not finite, the interval is empty, or a share is none.

    Source: Ho & Salimans (2022), https://arxiv.org/abs/2207.12598; interval: Kynkaanniemi et al.
    (2024), https://arxiv.org/abs/2404.07724; parallel: Sadat et al. (2024),
    https://arxiv.org/abs/2410.02416, equation 7; rescale: Lin et al. (2023),
    https://arxiv.org/abs/2305.08891, section 3.4, of data in place of noise.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weight: float | Tensor,
        interval: Interval = ALWAYS,
        negative: Mapping[str, Tensor | None] | None = None,
        parallel: float = 1.0,
        rescale: float = 0.0,
        reference: Denoiser | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.reference = denoiser if reference is None else reference
        self.weight, self.interval = _weight(weight), _checked(interval)
        self.negative = negative
        self.parallel, self.rescale = _shares(parallel, rescale)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.moments(x_t, t, **cond)[0]

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        x_hat, v = self.denoiser.moments(x_t, t, **cond)
        weight = weight_at(self.schedule.log_snr(t), self.weight, self.interval)
        if (not cond and self.negative is None) or (weight == 1).all():
            return x_hat, v
        reference = self.reference(x_t, t, **steered(cond, self.negative, len(x_t)))
        weight = align(weight, x_t).to(x_hat)
        return away(x_hat, reference, weight, self.parallel, self.rescale), v


class Composed(Denoiser):
    """Towards several conditions at once, and away from others: a sum of denoisers.

        x_hat = u + w sum_k s_k (c_k - u)

    It is guidance towards ``c = u + sum_k s_k (c_k - u)``. For the scores this is that of
    ``p(x) prod_k (p(x | c_k) / p(x))^(w s_k)``, of x_t in place of x. It costs one call for each
    condition and one for u.

    Args:
        denoiser: A denoiser trained with and without its conditions.
        terms: The conditions that come with an axis of K terms behind the batch.
        weight: w, a number or one for each example ``(B,)``.
        interval: The log-SNRs between which w acts; elsewhere it is 1.
        negative: As for `ClassifierFree`.
        parallel: Likewise, of that c.
        rescale: Likewise.
        reference: Likewise.

    The shares s ``(B, K)`` are the condition ``shares``.

    Raises:
        ValueError: If a weight is not finite, or the interval is empty.

    Source: Liu et al. (2022), https://arxiv.org/abs/2206.01714, equations 9 and 11.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        terms: Collection[str],
        weight: float | Tensor = 1.0,
        interval: Interval = ALWAYS,
        negative: Mapping[str, Tensor | None] | None = None,
        parallel: float = 1.0,
        rescale: float = 0.0,
        reference: Denoiser | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.terms = denoiser, denoiser.schedule, tuple(terms)
        self.reference = denoiser if reference is None else reference
        self.weight, self.interval = _weight(weight), _checked(interval)
        self.negative = negative
        self.parallel, self.rescale = _shares(parallel, rescale)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        shares = cond.pop("shares")
        several = {name: cond.pop(name) for name in self.terms if name in cond}
        reference = self.reference(x_t, t, **steered(cond, self.negative, len(x_t)))
        weight = weight_at(self.schedule.log_snr(t), self.weight, self.interval)
        weight, x_hat = align(weight, x_t).to(x_t), reference
        for k, share in enumerate(shares.T):
            if share.any():
                one = {name: value[:, k] for name, value in several.items()}
                apart = self.denoiser(x_t, t, **cond, **one) - reference
                x_hat = x_hat + align(share.expand(len(x_t)), x_t).to(x_t) * apart
        return away(x_hat, reference, weight, self.parallel, self.rescale)


def away(
    x_hat: Tensor, reference: Tensor, weight: Tensor, parallel: float, rescale: float
) -> Tensor:
    """From `reference` through `x_hat`."""
    axes = tuple(range(1, x_hat.ndim))
    if parallel == 1:
        out = torch.lerp(reference, x_hat, weight)
    else:
        apart = x_hat - reference
        size = x_hat.square().sum(axes, True).clamp_min(torch.finfo(x_hat.dtype).tiny)
        along = (apart * x_hat).sum(axes, True) / size * x_hat
        out = x_hat + (weight - 1) * (apart - (1 - parallel) * along)
    if rescale:
        wanted, found = (v.std(axes, correction=0, keepdim=True) for v in (x_hat, out))
        spread = torch.where(found > 0, wanted / found, 1)
        out = torch.lerp(out, out * spread, rescale)
    return out


def steered(
    cond: Mapping[str, Tensor], negative: Mapping[str, Tensor | None] | None, count: int
) -> dict[str, Tensor]:
    """The conditions of the reference that guidance goes away from."""
    if negative is None:
        return {name: value for name, value in cond.items() if name == "until"}
    kept = {k: v for k, v in {**cond, **negative}.items() if v is not None}
    return {k: v.expand(count, *v.shape[1:]) if v.shape[:1] == (1,) else v for k, v in kept.items()}


class LearnedGuidance(Denoiser):
    """Guidance that a student has learned to do by itself, at one call: it is told the weight.

    Args:
        denoiser: One that hears the condition ``guidance``.
        weight: w, a number or one for each example ``(B,)``; 1 is none.
        interval: The log-SNRs between which it acts.

    Raises:
        ValueError: If a weight is not finite, or the interval is empty.

    Source: Meng et al. (2022), https://arxiv.org/abs/2210.03142, section 3.1.
    """

    def __init__(
        self, denoiser: Denoiser, weight: float | Tensor, interval: Interval = ALWAYS
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.weight, self.interval = _weight(weight), _checked(interval)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.moments(x_t, t, **cond)[0]

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = weight_at(self.schedule.log_snr(t), self.weight, self.interval)
        return self.denoiser.moments(x_t, t, **cond, guidance=weight.expand(len(x_t)))


class Autoguidance(Denoiser):
    """Away from the mistakes of a weaker model: ``x_hat = weak + w (strong - weak)``.

    The weak one is smaller, trained for less long, or an earlier EMA of the same run. It needs no
    conditions, and does not thin out the variety of what is drawn as `ClassifierFree` does.

    Args:
        denoiser: The strong one.
        weak: The weak one, on any noise schedule.
        weight: w, a number or one for each example ``(B,)``; 1 is none.
        interval: The log-SNRs between which it acts.

    Raises:
        ValueError: If a weight is not finite, or the interval is empty.

    Source: Karras et al. (2024), https://arxiv.org/abs/2406.02507.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weak: Denoiser,
        weight: float | Tensor,
        interval: Interval = ALWAYS,
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.weak = weak.along(denoiser.schedule)
        self.weight, self.interval = _weight(weight), _checked(interval)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.moments(x_t, t, **cond)[0]

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        x_hat, v = self.denoiser.moments(x_t, t, **cond)
        weight = weight_at(self.schedule.log_snr(t), self.weight, self.interval)
        if (weight == 1).all():
            return x_hat, v
        reference = self.weak(x_t, t, **cond)
        return torch.lerp(reference, x_hat, align(weight, x_t).to(x_hat)), v


class ClassifierGuidance(Denoiser):
    """Up the gradient of a classifier of noisy data.

        x_hat = E[x | x_t] + w (sigma^2 / alpha) grad log p(c | x_t)

    At w = 1 and with the exact classifier, this is the denoiser of ``p(x | c)``: Bayes' rule for
    the score, seen through Tweedie's formula.

    Args:
        denoiser: The denoiser to guide; its conditions pass through.
        log_prob: ``log p(c | x_t)``, ``(B,)``, of x_t ``(B, C, *S)`` and its log-SNR ``(B,)``.
        weight: w, a number or one for each example ``(B,)``; 0 is none.

    Raises:
        ValueError: If a weight is not finite.

    Source: Dhariwal & Nichol (2021), https://arxiv.org/abs/2105.05233, section 4.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        log_prob: Callable[[Tensor, Tensor], Tensor],
        weight: float | Tensor = 1.0,
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.log_prob, self.weight = log_prob, _weight(weight)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.moments(x_t, t, **cond)[0]

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        x_hat, v = self.denoiser.moments(x_t, t, **cond)
        near_x, near_t = with_signal(self.schedule, x_t, t)
        log_snr = self.schedule.log_snr(near_t).expand(len(x_t)).to(x_t)
        gradient = torch.func.grad(lambda x: self.log_prob(x, log_snr).sum())(near_x)
        alpha, sigma = self.schedule(near_t)
        gain = self.weight.to(sigma) * sigma**2 / alpha
        return x_hat + align(gain, x_t).to(x_t) * gradient, v


class GradientGuidance(Denoiser):
    """Up the gradient of anything known of clean data, taken through the denoiser.

        x_hat = E[x | x_t] + w C grad log p(c | E[x | x_t]),  C = Cov[x | x_t]

    A classifier of clean data serves, as does any measure of fit. It treats ``log E[p(c | x)]``
    as ``log p(c | E[x])``, so even the exact classifier at w = 1 leaves a bias; for a linear
    measurement, `core.posterior.PosteriorDenoiser` has no such bias.

    Args:
        denoiser: The denoiser to guide; its conditions pass through.
        log_prob: ``log p(c | x)``, ``(B,)``, of x ``(B, C, *S)``.
        weight: w, a number or one for each example ``(B,)``; 0 is none.

    Raises:
        ValueError: If a weight is not finite.

    Source: Chung et al. (2023), https://arxiv.org/abs/2209.14687; Bansal et al. (2023),
    https://arxiv.org/abs/2302.07121.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        log_prob: Callable[[Tensor], Tensor],
        weight: float | Tensor = 1.0,
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.log_prob, self.weight = log_prob, _weight(weight)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        x_hat, spread = covariance(self.denoiser, x_t, t, **cond)
        gradient = torch.func.grad(lambda x: self.log_prob(x).sum())(x_hat)
        return x_hat + align(self.weight, x_t).to(x_t) * spread(gradient)


class Thresholded(Denoiser):
    """Estimates brought back into the range of the data, out of which guidance drives them.

    With c the middle and h half the width of the range, and s the `quantile` of
    ``|x_hat - c| / h`` over an example, but at least 1,

        x_hat <- c + clip(x_hat - c, -s h, s h) / s.

    Estimates within the range are left as they are.

    Args:
        denoiser: The denoiser, guidance included; its conditions pass through.
        low: The least the data can be, ``(C,)``.
        high: The most, ``(C,)``.
        quantile: In (0, 1]. At 1 nothing is clipped and all is scaled.

    Raises:
        ValueError: If `quantile` is none, or a range is empty.

    Source: dynamic thresholding: Saharia et al. (2022), https://arxiv.org/abs/2205.11487, 2.3.
    """

    def __init__(
        self, denoiser: Denoiser, low: Tensor, high: Tensor, quantile: float = 0.995
    ) -> None:
        super().__init__()
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
        if not (low < high).all():
            raise ValueError(f"each range must go from low to high, got {low} and {high}")
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.low, self.high, self.quantile = low, high, quantile

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.moments(x_t, t, **cond)[0]

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        x_hat, v = self.denoiser.moments(x_t, t, **cond)
        return limited(x_hat, self.low, self.high, self.quantile), v


def limited(x_hat: Tensor, low: Tensor, high: Tensor, quantile: float) -> Tensor:
    """`x_hat` brought back into a range ``(C,)``; see `Thresholded`."""
    shape = (-1, *(1 for _ in x_hat.shape[2:]))
    middle, half = (w.to(x_hat).view(shape) for w in ((low + high) / 2, (high - low) / 2))
    out = (x_hat - middle) / half
    most = align(_quantile(out.abs().flatten(1), quantile).clamp_min(1), out)
    return middle + half * out.clamp(-most, most) / most


def _quantile(rows: Tensor, share: float) -> Tensor:
    """`torch.quantile` of each row ``(B, N)``, of any N and dtype, and without sorting."""
    place = share * (rows.shape[1] - 1)
    around = (int(place), min(int(place) + 1, rows.shape[1] - 1))
    low, high = (rows.kthvalue(i + 1, 1).values for i in around)
    return torch.lerp(low, high, place % 1)


def _weight(weight: float | Tensor) -> Tensor:
    tensor = torch.as_tensor(weight, dtype=torch.float64)
    if not tensor.isfinite().all():
        raise ValueError(f"the guidance weight must be finite, got {weight}")
    return tensor


def _shares(parallel: float, rescale: float) -> tuple[float, float]:
    if not (0 <= parallel <= 1 and 0 <= rescale <= 1):
        raise ValueError(f"expected shares in [0, 1], got {parallel} and {rescale}")
    return parallel, rescale


def _checked(interval: Interval) -> Interval:
    if not interval[0] < interval[1]:
        raise ValueError(f"the interval must go from a lower to a higher log-SNR, got {interval}")
    return interval


def weight_at(log_snr: Tensor, weight: Tensor, interval: Interval) -> Tensor:
    """The weight where the rule acts, 1 where it does not; ``()`` or ``(B,)``, float64."""
    inside = (interval[0] <= log_snr) & (log_snr <= interval[1])
    return torch.where(inside, weight.to(log_snr), 1.0)
