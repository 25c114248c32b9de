"""Models to compare a diffusion model with, each by a recipe that is known to work.

They hold their own networks and their own training, and nothing else of the package knows them.
"""

from .diffusion import Diffusion, plan
from .floors import GaussianModel, KernelDensity
from .flow import NormalisingFlow
from .gan import GAN
from .rival import Budget, Likelihood, Rival, now
from .vae import VAE

RIVALS: dict[str, type[Rival]] = {
    "gan": GAN,
    "vae": VAE,
    "flow": NormalisingFlow,
    "gaussian": GaussianModel,
    "kernel-density": KernelDensity,
}
"""All but the diffusion model, whose number of weights they take for their own."""

FLOORS = (GaussianModel.title, KernelDensity.title)

__all__ = [
    "FLOORS",
    "GAN",
    "RIVALS",
    "VAE",
    "Budget",
    "Diffusion",
    "GaussianModel",
    "KernelDensity",
    "Likelihood",
    "NormalisingFlow",
    "Rival",
    "now",
    "plan",
]
