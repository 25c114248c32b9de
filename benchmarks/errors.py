"""Error against denoiser calls: each sampler on its own default grid, on data known exactly.

The data are the mixture of three Gaussians of `samplers.py`. The error is the root mean square
distance between what a sampler makes of 256 starting points and where the probability flow leads
from the same points, solved to 1e-10. Nothing is timed.

    python benchmarks/errors.py [--quick] [--peers ornstein diffusers ...]
"""

import torch
from measure import Claim, Options, Result, grid, main
from peers.pipe import NAMES, peers
from samplers import mixture
from torch import Tensor

from ornstein.core.sample import RK45

CALLS = (6, 10, 20)


class Exact:
    """The mixture's denoiser, told alpha and sigma; counts how often it is asked."""

    def __init__(self) -> None:
        self.denoiser, self.calls = mixture(), 0
        draw = torch.Generator().manual_seed(0)
        self.noise = torch.randn(256, 2, dtype=torch.float64, generator=draw)

    def denoise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        self.calls += 1
        return self.denoiser(*on_flow(x, alpha, sigma))

    def error(self, begin: Tensor, alpha: float, sigma: float, end: Tensor) -> float:
        """Of `end`, reached from `begin`."""
        x, t = on_flow(begin, alpha, sigma)
        solver = RK45(rtol=1e-10, atol=1e-10, tau_min=1e-5)
        true = solver(self.denoiser, x, torch.stack([t, torch.zeros_like(t)]))
        return (end - true).square().mean().sqrt().item()


def on_flow(x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
    """The same example along ``(1 - t) data + t noise``, and its time there."""
    return x / (alpha + sigma), torch.tensor(sigma / (alpha + sigma), dtype=torch.float64)


def measure(options: Options) -> Result:
    rows = Result()
    with peers(options.peers, "solvers", options.threads) as found:
        for name, peer in found.items():
            for rule in peer.ask("hello")["solvers"]:
                row = {"peer": name, "rule": rule}
                for calls in CALLS[: options.rounds(3)]:
                    row[str(calls)] = peer.ask("solve", name=rule, calls=calls)
                rows[f"{name}, {rule}"] = row
    return rows


def table(result: Result) -> str:
    rows = result["rows"].values()
    names = [name for name in NAMES if any(row["peer"] == name for row in rows)]
    shown = list[list[str]]()
    for rule in dict.fromkeys(row["rule"] for row in rows):
        for calls in map(str, CALLS):
            of = {
                r["peer"]: f"{r[calls]['distance']:.2g}"
                for r in rows
                if r["rule"] == rule and calls in r
            }
            shown.append([rule, calls, *(of.get(name, "") for name in names)])
    return grid(("rule", "calls", *names), shown)


ERRORS = Claim("errors", measure, table)

if __name__ == "__main__":
    main(ERRORS, __doc__)
