"""What the errors of a denoiser say of an example: how unlike its data, and of which class.

Noise is added to an example, and the denoiser takes it off again. What it does not bring back is
what it has not learned to expect; and a denoiser that is told the right class errs least.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .denoise import Denoiser, noisy

Noise = Callable[[Tensor], Tensor]
"""Standard Gaussian noise like its argument, such as `ornstein.rng.Streams`."""


@torch.no_grad()
def reconstructions(
    denoiser: Denoiser, x: Tensor, log_snrs: Tensor, noise: Noise, pairs: int = 1, **cond: Tensor
) -> Tensor:
    """What the denoiser makes of `x` at each noise level, in the mean over noises ``(L, B, *S)``.

    ``E_eps[x_hat(alpha x + sigma eps)]``, a mean over `pairs` of noises, eps and -eps: what is
    linear in the noise cancels. One noise serves all levels and, from a generator that starts
    anew, all conditions. The error of this mean says how far `x` lies from the data, without the
    scatter of a single noise, which says nothing. For Gaussian data of variance S_i along the i-th
    principal axis, and M_i = alpha^2 S_i + sigma^2, it is exact with one pair:

        (x - mean reconstruction)_i = (sigma^2 / M_i) (x - mu)_i.

    Args:
        denoiser: Of the normal data.
        x: Examples ``(B, *S)``.
        log_snrs: The L noise levels, in nats.
        noise: Where eps comes from.
        pairs: How many; two denoiser calls each, at each level.
        **cond: Conditions.

    Source: Graham et al. (2023), https://arxiv.org/abs/2211.07740 (several noise levels).
    """
    total = x.new_zeros(len(log_snrs), *x.shape)
    times = denoiser.schedule.time(log_snrs.double().to(x.device))
    for _ in range(pairs):
        eps = noise(x)
        for level, t in enumerate(times):
            for either in (eps, -eps):
                total[level] += denoiser(noisy(denoiser.schedule, x, t, either), t, **cond)
    return total / (2 * pairs)


@torch.no_grad()
def code_lengths(
    denoiser: Denoiser, x: Tensor, log_snrs: Tensor, eps: Tensor, **cond: Tensor
) -> Tensor:
    """What each noise level adds to ``-log p(x | cond)``, in nats, ``(L, B)``.

    Up to a constant, the same for all conditions,

        -log p(x | cond) = 1/2 integral of E_eps [SNR |x - x_hat|^2] dlambda

    over all log-SNRs lambda, exactly so if the denoiser is exact; here by the rule of trapezoids
    on `log_snrs`. The sum over levels of a denoiser that is not exact is the variational bound.
    Levels beyond the reach of the schedule, of which the denoiser knows nothing, add nothing.

    Args:
        denoiser: The model.
        x: Examples ``(B, *S)``.
        log_snrs: The L >= 2 noise levels, in nats, increasing.
        eps: One noise for each example, ``(B, *S)``.
        **cond: Conditions: to be compared under the same `eps`.

    Source: Kong et al. (2023), https://arxiv.org/abs/2302.03792, equation 9; as a classifier, Li
    et al. (2023), https://arxiv.org/abs/2303.16203.
    """
    at = log_snrs.double().to(x.device).clamp(*denoiser.schedule.reach)
    gaps = at.diff()
    width = torch.cat([gaps[:1], gaps[1:] + gaps[:-1], gaps[-1:]]) / 2
    found = []
    for log_snr, share in zip(at, width, strict=True):
        t = denoiser.schedule.time(log_snr)
        x_hat = denoiser(noisy(denoiser.schedule, x, t, eps), t, **cond)
        error = (x - x_hat).square().flatten(1).sum(1)
        found.append(0.5 * share * log_snr.exp() * error.double())
    return torch.stack(found)
