"""A run as a model of larger examples than it was trained on."""

from dataclasses import replace

from ..core.tiled import Tiled
from ..errors import UsageError
from .latents import LatentCodec
from .model import Model


def sized(model: Model, space: tuple[int, ...]) -> Model:
    """The same model for examples of the size `space` ``(*S)``: its own size in windows.

    Of a run on latents the windows lie in the latents, and the autoencoder works in tiles.

    Raises:
        UsageError: If an axis is shorter than the examples of the run, or the network is given
            pictures beside the noise.
    """
    codec = model.codec
    own = codec.data.shape[1:]
    if space == own:
        return model
    if model.given is not None:
        raise UsageError("A run of pairs draws pictures of the size it was trained on: cut them.")
    if not own:
        raise UsageError("This run draws rows of numbers, which have no size: leave --size out.")
    small, large = (" x ".join(map(str, s)) for s in (space, own))
    if len(space) != len(own):
        raise UsageError(f"{small} is no size for this run: it was trained on {large}.")
    if any(n < w for n, w in zip(space, own, strict=True)):
        raise UsageError(f"{small} is smaller than what the run was trained on, {large}.")
    if isinstance(codec, LatentCodec):
        larger = codec.of_size(space)
    else:
        larger = replace(codec, shape=(codec.shape[0], *space))
    window = codec.shape[1:]
    tiled = Tiled(model.denoiser, window, min(window) // 4)
    # what draws from a model asks of its denoiser no more than any has
    return replace(model, denoiser=tiled.eval(), codec=larger)  # pyright: ignore[reportArgumentType]
