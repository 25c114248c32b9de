"""A run of patches as a model of whole pictures, of any size."""

from dataclasses import replace

from ..core.tiled import Tiled
from ..errors import UsageError
from .model import Model


def sized(model: Model, space: tuple[int, ...]) -> Model:
    """The same model for examples of the size `space` ``(*S)``: its own size in windows.

    Raises:
        UsageError: If an axis is shorter than the examples of the run, or the network is given
            pictures beside the noise, or draws latents.
    """
    window = model.shape[1:]
    if space == window:
        return model
    if model.codec.data is not model.codec:
        raise UsageError("A run on latents draws pictures of the size it was trained on alone.")
    if model.given is not None:
        raise UsageError("A run of pairs draws pictures of the size it was trained on: cut them.")
    if len(space) != len(window) or any(n < w for n, w in zip(space, window, strict=True)):
        small, large = (" x ".join(map(str, s)) for s in (space, window))
        raise UsageError(f"{small} is smaller than what the run was trained on, {large}.")
    tiled = Tiled(model.denoiser, window, min(window) // 4)
    codec = replace(model.codec, shape=(model.shape[0], *space))
    # what draws from a model asks of its denoiser no more than any has
    return replace(model, denoiser=tiled.eval(), codec=codec)  # pyright: ignore[reportArgumentType]
