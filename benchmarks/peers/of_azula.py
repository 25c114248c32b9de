# pyright: reportMissingImports=false
"""azula: its U-Net with a time embedding, its Karras denoiser, plain Adam.

It is a library without a script for training, so only its speed is compared, not its quality.
"""

import torch
from adapter import Adapter, Denoise, Run, Solver, Trainer, drawn, serve
from torch import Tensor, nn


class Network(nn.Module):
    """Its U-Net, told the time by its sine encoding and two layers, as in its tutorials."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        from azula.nn.layers import SineEncoding
        from azula.nn.unet import UNet

        super().__init__()
        self.time = nn.Sequential(
            SineEncoding(256), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 256)
        )
        blocks = (2,) * len(widths)
        self.unet = UNet(
            channels, channels, hid_channels=widths, hid_blocks=blocks, mod_features=256
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, self.time(t))


class Training(Trainer):
    settings = "UNet, KarrasDenoiser, VPSchedule; Adam 1e-4; float32"

    def __init__(self, x, batch, updates, flips=False, seconds=None, seed=0) -> None:
        from azula.denoise import KarrasDenoiser
        from azula.noise import VPSchedule

        torch.manual_seed(seed)
        self.x, self.batch, self.flips = x, batch or 16, flips
        widths = (32, 64) if x.shape[-1] < 16 else (64, 128, 256)
        self.net = KarrasDenoiser(Network(x.shape[1], widths), VPSchedule())
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=1e-4)

    def update(self) -> None:
        clean = drawn(self.x, self.batch, self.flips)
        self.net.loss(clean, torch.rand(self.batch)).backward()  # pyright: ignore
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        raise NotImplementedError("azula has no default settings of training to compare")


def sampler(name: str):
    def prepare(x: Tensor, steps: int) -> Run:
        import azula.sample
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import VPSchedule

        class Identity(Denoiser):
            schedule = VPSchedule()

            def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> DiracPosterior:
                return DiracPosterior(mean=x_t)

            forward = __call__

        rule = getattr(azula.sample, name)(Identity(), steps=steps, silent=True)
        return lambda: rule(x)

    return prepare


def solver(name: str) -> Solver:
    def solve(denoise: Denoise, noise: Tensor, calls: int) -> tuple[Tensor, float, float, Tensor]:
        import azula.sample
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import VPSchedule

        class Given(Denoiser):
            schedule = VPSchedule()

            def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> DiracPosterior:
                alpha, sigma = self.schedule(t)
                return DiracPosterior(mean=denoise(x_t, float(alpha), float(sigma)))

        steps = calls // 2 if name == "HeunSampler" else calls
        rule = getattr(azula.sample, name)(Given(), steps=steps, silent=True, dtype=noise.dtype)
        alpha, sigma = Given.schedule(torch.ones((), dtype=noise.dtype))
        begin = noise * torch.hypot(alpha, sigma)
        return begin, float(alpha), float(sigma), rule(begin)

    return solve


RULES = {
    "DDIM": "DDIMSampler",
    "Euler": "EulerSampler",
    "Heun": "HeunSampler",
    "Adams-Bashforth": "zABSampler",
    "DDPM": "DDPMSampler",
}

if __name__ == "__main__":
    samplers = {rule: sampler(name) for rule, name in RULES.items()}
    solvers = {rule: solver(name) for rule, name in RULES.items() if rule != "DDPM"}
    serve(Adapter("azula", Training, samplers, solvers))
