"""What a regression leaves: the denoiser of a sum of a known mean and a residual."""

from math import log

import torch
from torch import Tensor

from ..errors import UsageError
from .denoise import Denoiser, align


class Residual(Denoiser):
    """The denoiser of ``p(x | c)``, from a regression and the denoiser of what it leaves.

    With m(c) an estimate of E[x | c], s a scale and r the residual,

        x = m(c) + s r,  so  (x_t - alpha m) / s = alpha r + (sigma / s) eps

    is r at the log-SNR ``lambda + 2 log s``, and ``x_hat = m + s r_hat``. Exact whatever m is: a
    good one leaves less to draw.

    Args:
        mean: Whose estimate at the noisiest time is m: it then hears nothing but the conditions.
        residual: The denoiser of r; the noise schedule is its own.
        scale: s > 0, one for all: noise that is white beside x is white beside r.

    Raises:
        ValueError: If the scale is not positive.
        UsageError: When called without conditions: what is left of x is not known then.

    Source: Mardani et al. (2023), https://arxiv.org/abs/2309.15214, section 3.
    """

    def __init__(self, mean: Denoiser, residual: Denoiser, scale: float) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"the scale must be positive, got {scale}")
        self.mean, self.residual, self.scale = mean, residual, scale
        self.schedule = residual.schedule

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.moments(x_t, t, **cond)[0]

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        if not cond:
            raise UsageError(
                "This run draws what a mean leaves: say what is given, and use no guidance."
            )
        told = {name: value for name, value in cond.items() if name != "until"}
        m, (alpha, sigma) = regression(self.mean, x_t, told), self.schedule(t)
        there = self._moved(t)
        if "until" in cond:
            cond["until"] = self._moved(cond["until"])
        size = torch.hypot(*self.schedule(there)) / torch.hypot(alpha, sigma / self.scale)
        alpha, size = align(alpha, x_t).to(x_t), align(size, x_t).to(x_t)
        r_hat, v = self.residual.moments(size * (x_t - alpha * m) / self.scale, there, **cond)
        return m + self.scale * r_hat, v

    def _moved(self, t: Tensor) -> Tensor:
        """The time at which r is as x is at `t`."""
        return self.schedule.time(self.schedule.log_snr(t) + 2 * log(self.scale))


def regression(mean: Denoiser, like: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """``E[x | c]`` of examples `like` ``(B, C, *S)``: the estimate where no signal is left."""
    noisiest = torch.ones((), dtype=torch.float64, device=like.device)
    return mean(torch.zeros_like(like), noisiest, **cond)
