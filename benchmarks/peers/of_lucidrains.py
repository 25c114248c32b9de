# pyright: reportMissingImports=false
"""denoising-diffusion-pytorch by lucidrains: its U-Net and the settings of its `Trainer`.

The loop of its `Trainer` is written out here, because that one reads pictures from a folder
through torchvision, which is stood in for by a hollow module.
"""

from pathlib import Path

import torch
from adapter import Adapter, Run, Trainer, drawn, serve, time_of, without
from torch import Tensor, nn

without("torchvision", "torchvision.transforms")


def diffusion(shape: tuple[int, ...], **options: object):
    """The model of its README, with as many levels and channels as suit the pictures."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    small = shape[-1] < 16
    net = Unet(dim=32 if small else 64, dim_mults=(1, 2) if small else (1, 2, 4), channels=shape[0])
    return GaussianDiffusion(net, image_size=shape[-1], timesteps=1000, **options)


class Training(Trainer):
    settings = (
        "Unet; velocity prediction, sigmoid schedule; Adam 1e-4; averages of 0.995 every ten "
        "steps; float32"
    )

    def __init__(self, x, batch, updates, flips=False, seconds=None, seed=0) -> None:
        from ema_pytorch import EMA

        torch.manual_seed(seed)
        self.x, self.batch, self.flips = (x + 1) / 2, batch or 16, flips
        self.net = diffusion(tuple(x.shape[1:]))
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.average = EMA(self.net, beta=0.995, update_every=10)

    def update(self) -> None:
        self.net(drawn(self.x, self.batch, self.flips)).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update()

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        model, alpha = self.average.ema_model.eval(), (1 + sigma**2) ** -0.5
        t = time_of(sigma, model.alphas_cumprod).expand(len(x))
        output = model.model(alpha * x, t)
        return (alpha**2 * x - alpha * sigma * output).clamp(-1, 1)


# --- Samplers ------------------------------------------------------------------------------------


def ddim(x: Tensor, steps: int) -> Run:
    model = diffusion(tuple(x.shape[1:]), sampling_timesteps=steps)

    class Silent(nn.Module):
        def forward(self, x: Tensor, t: Tensor, self_cond: Tensor | None = None) -> Tensor:
            return x

    model.model = Silent()
    model.channels = x.shape[1]
    return lambda: model.ddim_sample(tuple(x.shape))


# --- First picture -------------------------------------------------------------------------------

SHAPE = (3, 32, 32)


def save(shape: tuple[int, ...], folder: Path) -> None:
    torch.save(diffusion(shape).state_dict(), folder / "model.pt")


def first_picture(folder: Path, out: Path) -> None:
    from PIL import Image

    model = diffusion(SHAPE, sampling_timesteps=10)
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True, mmap=True))
    picture = model.sample(batch_size=1)[0].clamp(0, 1).mul(255).byte().permute(1, 2, 0)
    Image.fromarray(picture.numpy()).save(out)


if __name__ == "__main__":
    serve(Adapter("denoising-diffusion-pytorch", Training, {"DDIM": ddim}, {}, save, first_picture))
