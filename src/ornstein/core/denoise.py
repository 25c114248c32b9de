"""Denoisers: what every sampler, guidance rule and task calls; and their loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .noise import Schedule, scales
from .predict import (
    EVERY_LOG_SNR,
    LOG_SNR_LIMIT,
    Hearing,
    Prediction,
    Weighting,
    flow_time,
    predict_balanced,
    weigh_balanced,
)


def align(t: Tensor, x: Tensor) -> Tensor:
    """View `t`, ``()`` or ``(B,)``, so that it broadcasts against `x` ``(B, ...)``."""
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def aligned(coefficients: Sequence[Tensor], x: Tensor) -> Sequence[Tensor]:
    """`align` for several ``(B,)``, in the dtype of `x` and beside it: all of them at once."""
    return align(torch.stack([*coefficients]).to(x), x[None]).unbind()


def noisy(schedule: Schedule, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """``x_t = alpha x + sigma eps`` at the time `t`, ``()`` or ``(B,)``; it keeps its dtype."""
    alpha, sigma = aligned(schedule(t), x)
    return alpha * x + sigma * eps


# --- Denoisers -----------------------------------------------------------------------------------


class Denoiser(nn.Module, ABC):
    """An estimate of the posterior mean ``E[x | x_t]``.

    Attributes:
        schedule: How x_t was made from x. `along` gives the same denoiser on another path.
    """

    schedule: Schedule

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """Posterior mean ``(B, C, *S)`` of `x_t` ``(B, C, *S)`` at times `t` ``()`` or ``(B,)``.

        A condition that is left out, and one that is missing (label -1, attribute NaN), is
        averaged over: ``denoiser(x_t, t)`` is the unconditional denoiser. The condition `until`
        is a time s, ``()`` or ``(B,)``: one that has learned to look ahead then gives the x_hat
        that leads there in one step (see `core.distill`); the others do not hear it.
        """

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        """The posterior mean, and the learned place of the reverse variance, if there is one.

        Returns:
            ``x_hat``, and v ``(B, C, *S)`` in [0, 1] that interpolates between the logarithms of
            the small (0) and the large (1) reverse variance of `core.sample.Ancestral`; or None.
        """
        return self(x_t, t, **cond), None

    def along(self, schedule: Schedule) -> Denoiser:
        """The same denoiser for examples noised along another `schedule`.

        Only (x_hat, log-SNR) matter: ``x_t / sqrt(alpha_t^2 + sigma_t^2)`` is the same random
        variable on any path, at equal log-SNR. Exact, whatever was trained.

        Source: Karras et al. (2022), https://arxiv.org/abs/2206.00364, appendix B.
        """
        return self if schedule == self.schedule else Rescheduled(self, schedule)

    def given(self, **cond: Tensor) -> Denoiser:
        """The denoiser of ``p(x | cond)``: the same, with its conditions bound."""
        return Conditioned(self, cond) if cond else self


class Rescheduled(Denoiser):
    """A denoiser seen along another noise schedule; see `Denoiser.along`."""

    def __init__(self, denoiser: Denoiser, schedule: Schedule) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, schedule

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.moments(x_t, t, **cond)[0]

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        there = self._moved(t)
        size = torch.hypot(*self.denoiser.schedule(there)) / torch.hypot(*self.schedule(t))
        if "until" in cond:
            cond["until"] = self._moved(cond["until"])
        return self.denoiser.moments(align(size, x_t).to(x_t) * x_t, there, **cond)

    def _moved(self, t: Tensor) -> Tensor:
        return self.denoiser.schedule.time(self.schedule.log_snr(t))


class Conditioned(Denoiser):
    """A denoiser with conditions bound; those given at the call win. See `Denoiser.given`."""

    def __init__(self, denoiser: Denoiser, cond: dict[str, Tensor]) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.cond = denoiser, denoiser.schedule, cond

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.denoiser(x_t, t, **{**self.cond, **cond})

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.denoiser.moments(x_t, t, **{**self.cond, **cond})


class NetDenoiser(Denoiser):
    """A network with its preconditioning and its loss.

    Every prediction type is one affine map of the network's output (see `Coefficients`), so no
    sampler, guidance or task ever asks what the network predicts.

    Args:
        net: ``net(x, log_snr, **cond)``: x ``(B, C, *S)``, log_snr ``(B,)`` -> ``(B, C, *S)``,
            or ``(B, 2C, *S)`` with a variance head.
        schedule: The noise schedule.
        prediction: The coefficients, as a function of ``(alpha, sigma)``.
        weighting: The weight of the velocity's squared error, as a function of the log-SNR.
        uncertainty: Learned ``u(log_snr)``, ``(B,)`` -> ``(B,)``: the loss L becomes
            ``e^-u L + u``, whose minimum over u weighs every noise level alike.
        variance_steps: T >= 2, if the second half of the network's output is a variance head,
            trained with the hybrid loss ``L + 0.001 T L_vlb``.
        ahead: Whether the network can be told ``span``, how far to look in flow time.
        hearing: What the network hears of a log-SNR.

    Raises:
        ValueError: If the prediction is blind where the schedule has no signal left, or there are
            less than 2 `variance_steps`.

    Source: Karras et al. (2022), https://arxiv.org/abs/2206.00364, section 5; uncertainty:
    Karras et al. (2023), https://arxiv.org/abs/2312.02696, appendix B.2; variance head: Nichol &
    Dhariwal (2021), https://arxiv.org/abs/2102.09672, section 3.1; learned schedule: Kingma et
    al. (2021), https://arxiv.org/abs/2107.00630, appendix I.2.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        prediction: Prediction = predict_balanced,
        weighting: Weighting = weigh_balanced,
        uncertainty: nn.Module | None = None,
        variance_steps: int | None = None,
        ahead: bool = False,
        hearing: Hearing = EVERY_LOG_SNR,
    ) -> None:
        super().__init__()
        if variance_steps is not None and variance_steps < 2:
            raise ValueError(f"variance_steps must be at least 2, got {variance_steps}")
        with torch.no_grad():
            alpha_1, sigma_1 = schedule(torch.ones((), dtype=torch.float64))
        if not all(c.isfinite() for c in prediction(alpha_1, sigma_1)):
            raise ValueError(
                "this prediction is blind at t = 1, where the schedule leaves no signal: give "
                "the schedule a finite log_snr_min, or predict data, velocity, flow or balanced"
            )
        self.net, self.schedule, self.uncertainty = net, schedule, uncertainty
        self.prediction, self.weighting, self.variance_steps = prediction, weighting, variance_steps
        self.ahead, self.hearing = ahead, hearing
        curve = getattr(schedule, "net", None)
        self.curve = curve if isinstance(curve, nn.Module) else None  # its weights are ours

    def around(self, net: nn.Module) -> NetDenoiser:
        """The same denoiser around another network."""
        return NetDenoiser(
            net,
            self.schedule,
            self.prediction,
            self.weighting,
            self.uncertainty,
            self.variance_steps,
            self.ahead,
            self.hearing,
        )

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.moments(x_t, t, **cond)[0]

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        t = t.expand(len(x_t))
        log_snr = self.schedule.log_snr(t)
        inp, skip, out = aligned(self.prediction(*scales(log_snr, self.schedule.scaling)), x_t)
        F, v = self._net(inp * x_t, log_snr, cond)
        return skip * x_t + out * F, v

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, **cond: Tensor) -> Tensor:
        """Weighted squared error of the raw network, one loss for each example.

        The target of F is ``(x - skip x_t) / out``, computed as ``a x + b eps`` with a and b in
        float64, so that nothing cancels where the noise is small. With `predict_balanced`,
        `weigh_balanced` and a network that starts at zero, it starts at 1 at every noise level.

        A learned schedule does not follow this loss, which it could lower by looking away, but
        its square: the bound does not depend on the curve, so that lowers its variance.

        Args:
            x: Clean data ``(B, C, *S)``, of mean 0 and variance 1.
            t: Times ``(B,)`` in (0, 1).
            eps: Standard Gaussian noise ``(B, C, *S)``; an argument, to keep the loss a function.
            **cond: Conditions, each ``(B, ...)``, for the network.

        Returns:
            Losses ``(B,)``.
        """
        if eps.shape != x.shape or t.shape != x.shape[:1]:
            raise ValueError(
                f"expected eps {tuple(x.shape)} and t {tuple(x.shape[:1])} like x, "
                f"got {tuple(eps.shape)} and {tuple(t.shape)}"
            )
        if self.curve is None:
            return self._loss(x, t, eps, cond)
        with _frozen(self.curve):
            loss = self._loss(x, t, eps, cond)
        with _frozen(self.net):
            square = self._loss(x, t, eps, cond).square()
        return loss + (square - square.detach())

    def _loss(self, x: Tensor, t: Tensor, eps: Tensor, cond: dict[str, Tensor]) -> Tensor:
        log_snr = self.schedule.log_snr(t)
        alpha, sigma = scales(log_snr, self.schedule.scaling)
        inp, skip, out = self.prediction(alpha, sigma)
        scale_x, scale_eps = (1 - skip * alpha) / out, -skip * sigma / out
        weight = self.weighting(log_snr) * out**2 * (1 + torch.exp(log_snr))  # of F's error

        alpha, sigma, inp, skip, out, scale_x, scale_eps = aligned(
            (alpha, sigma, inp, skip, out, scale_x, scale_eps), x
        )
        x_t = alpha * x + sigma * eps
        F, v = self._net(inp * x_t, log_snr, cond)
        error = F - (scale_x * x + scale_eps * eps)
        loss = weight.to(x) * error.square().flatten(1).mean(1)
        if self.uncertainty is not None:
            u = self.uncertainty(log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT).to(x))
            loss = torch.exp(-u) * loss + u
        if v is not None and self.variance_steps is not None:
            x_hat = skip * x_t + out * F.detach()
            bound = self._variance_bound(x, x_hat, v, t)
            loss = loss + 0.001 * self.variance_steps * bound
        return loss

    def _net(
        self, x: Tensor, log_snr: Tensor, cond: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """F, and the place v in [0, 1] of the learned variance."""
        told = dict(cond)
        if (until := told.pop("until", None)) is not None and self.ahead:
            told["span"] = flow_time(log_snr) - flow_time(self.schedule.log_snr(until))
        dtype = next((p.dtype for p in self.net.parameters()), x.dtype)
        output = self.net(x.to(dtype), self.hearing(log_snr).to(dtype), **told).to(x.dtype)
        if self.variance_steps is None:
            return output, None
        F, head = output.chunk(2, dim=1)
        return F, torch.sigmoid(2 * head)

    def _variance_bound(self, x: Tensor, x_hat: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Mean over dimensions of ``KL(q(x_s | x_t, x) || p(x_s | x_t))``, s = t - 1 / T, nats."""
        assert self.variance_steps is not None
        s = (t - 1 / self.variance_steps).clamp_min(1 / self.variance_steps)  # as iDDPM clips
        t = torch.maximum(t, s + 1 / self.variance_steps).clamp_max(1.0)
        small, large, of_x = reverse_variances(self.schedule, t, s)
        log_small, log_large = (align(c.log(), x).to(x) for c in (small, large))
        log_var = torch.lerp(log_small, log_large, v)
        gap = (align(of_x, x).to(x) * (x - x_hat)).square()
        kl = 0.5 * (log_var - log_small + torch.exp(log_small - log_var) - 1)
        return (kl + 0.5 * gap * torch.exp(-log_var)).flatten(1).mean(1)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Build graphs that end before the weights of `module`."""
    learned = [p for p in module.parameters() if p.requires_grad]
    for p in learned:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)


def reverse_variances(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What DDPM's reverse step t -> s knows, in the units of x_s; float64, of the shape of `t`.

    Returns:
        small: ``beta_tilde``, the variance of ``q(x_s | x_t, x)``.
        large: ``beta``, that of ``q(x_t | x_s)``, brought from the scale of x_t to that of x_s in
            the ``vp`` sense, so that it is the same sampler on any scaling.
        of_x: The coefficient of x in the mean of ``q(x_s | x_t, x)``.

    Source: Ho et al. (2020), https://arxiv.org/abs/2006.11239, equations 6-7.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    lost = -torch.expm1(schedule.log_snr(t) - schedule.log_snr(s))  # 1 - SNR_t / SNR_s
    small = sigma_s**2 * lost
    vp_t, vp_s = torch.hypot(alpha_t, sigma_t), torch.hypot(alpha_s, sigma_s)
    large = (sigma_t / vp_t) ** 2 * lost * vp_s**2
    return small, large, alpha_s * lost


# --- Derivatives ---------------------------------------------------------------------------------


def with_signal(schedule: Schedule, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """`x_t` and `t`, brought to the nearest time that has a signal to differentiate by.

    The derivatives of a denoiser carry the factor alpha / sigma^2, which whoever uses them
    divides by. Below an SNR of the square root of the machine epsilon, the rounding that this
    magnifies exceeds what changes between there and the noise; at alpha = 0 it is 0 / 0.
    """
    floor = torch.tensor(torch.finfo(x_t.dtype).eps, dtype=torch.float64, device=t.device).log() / 2
    near = torch.minimum(t.double(), schedule.time(floor))
    size = torch.hypot(*schedule(near)) / torch.hypot(*schedule(t))
    return align(size, x_t).to(x_t) * x_t, near


def covariance(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, **cond: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The first two moments of ``p(x | x_t)``: the mean, and the product u -> C u.

    ``C = Cov[x | x_t] = (sigma^2 / alpha) d x_hat / d x_t``, Tweedie's formula of second order.
    One call of the denoiser, two where there is no signal to differentiate by, and one
    vector-Jacobian product for each C u. Works under ``torch.no_grad``.

    Source: Efron (2011), https://doi.org/10.1198/jasa.2011.tm11181.
    """
    near_x, near_t = with_signal(denoiser.schedule, x_t, t)
    x_hat, vjp = torch.func.vjp(lambda x: denoiser(x, near_t, **cond), near_x)[:2]
    if (near_t < t).any():
        x_hat = denoiser(x_t, t, **cond)
    alpha, sigma = (align(c, x_t).to(x_t) for c in denoiser.schedule(near_t))
    return x_hat, lambda u: sigma**2 / alpha * vjp(u)[0]
