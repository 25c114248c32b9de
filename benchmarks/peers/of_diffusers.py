# pyright: reportMissingImports=false, reportPrivateImportUsage=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
"""diffusers: its U-Net, and the settings of its script ``train_unconditional.py``."""

from pathlib import Path

import torch
import torch.nn.functional as F
from adapter import Adapter, Denoise, Run, Solver, Trainer, drawn, serve, time_of
from torch import Tensor, nn


def network(shape: tuple[int, ...]) -> nn.Module:
    """The script's U-Net, with as many levels, layers and channels as suit the pictures.

    Attention at the last level but one and in the middle, as there.
    """
    from diffusers import UNet2DModel

    small = shape[-1] < 16
    kinds = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D")
    ups = ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    return UNet2DModel(
        sample_size=shape[-1],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=2 if small else 1,
        block_out_channels=(32, 64) if small else (64, 128, 256),
        down_block_types=kinds[1:] if small else kinds,
        up_block_types=ups[:2] if small else ups,
    )


class Training(Trainer):
    settings = (
        "UNet2DModel; noise prediction, 1000 linear betas; AdamW 1e-4, 500 steps of warm-up, "
        "cosine; float32"
    )

    def __init__(self, x, batch, updates, flips=False, seconds=None, seed=0) -> None:
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler

        torch.manual_seed(seed)
        self.x, self.batch, self.flips = x, batch or 16, flips
        self.net = network(tuple(x.shape[1:]))
        self.noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        self.rate = get_scheduler(
            "cosine", self.optimiser, num_warmup_steps=500, num_training_steps=updates
        )

    def update(self) -> None:
        clean = drawn(self.x, self.batch, self.flips)
        noise = torch.randn_like(clean)
        t = torch.randint(1000, (self.batch,))
        output = self.net(self.noising.add_noise(clean, noise, t), t).sample
        F.mse_loss(output.float(), noise.float()).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.rate.step()
        self.optimiser.zero_grad()

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        t = time_of(sigma, self.noising.alphas_cumprod)
        output = self.net.eval()(x / (1 + sigma**2) ** 0.5, t).sample
        return (x - sigma * output).clamp(-1, 1)  # as its samplers do by default


# --- Samplers ------------------------------------------------------------------------------------


def sampler(name: str):
    """All steps of a scheduler of this name."""

    def prepare(x: Tensor, steps: int) -> Run:
        import diffusers

        scheduler = getattr(diffusers, name)()

        def run() -> Tensor:
            scheduler.set_timesteps(steps)  # which also forgets the last samples
            y = x * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                scaled = scheduler.scale_model_input(y, t)
                y = scheduler.step(scaled, t, y).prev_sample
            return y

        return run

    return prepare


def solver(name: str) -> Solver:
    """A scheduler of this name with its defaults, but for clipping, which is for pictures."""

    def solve(denoise: Denoise, noise: Tensor, calls: int) -> tuple[Tensor, float, float, Tensor]:
        import diffusers

        clips = {"clip_sample": False} if name == "DDIMScheduler" else {}
        scheduler = getattr(diffusers, name)(**clips)
        scheduler.set_timesteps(calls)
        signal = scheduler.alphas_cumprod.double()
        x, starts = noise * scheduler.init_noise_sigma, list[tuple[Tensor, float, float]]()
        for t in scheduler.timesteps:
            given = scheduler.scale_model_input(x, t)
            alpha, sigma = float(signal[int(t)].sqrt()), float((1 - signal[int(t)]).sqrt())
            starts.append((given, alpha, sigma))
            x_hat = denoise(*starts[-1])
            x = scheduler.step((given - alpha * x_hat) / sigma, t, x).prev_sample
        return *starts[0], x

    return solve


# --- First picture -------------------------------------------------------------------------------


def save(shape: tuple[int, ...], folder: Path) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler

    DDIMPipeline(network(shape), DDIMScheduler()).save_pretrained(folder)


def first_picture(folder: Path, out: Path) -> None:
    from diffusers import DDIMPipeline

    pipeline = DDIMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(num_inference_steps=10).images[0].save(out)


RULES = {
    "DDIM": "DDIMScheduler",
    "Euler": "EulerDiscreteScheduler",
    "DPM-Solver++ 2M": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "DDPM": "DDPMScheduler",
}

if __name__ == "__main__":
    samplers = {rule: sampler(name) for rule, name in RULES.items()}
    solvers = {rule: solver(name) for rule, name in RULES.items() if rule != "DDPM"}
    serve(Adapter("diffusers", Training, samplers, solvers, save, first_picture))
