"""Write a run with adapters as a run of its own."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..data.names import shown
from ..errors import UsageError
from ..interop.place import load
from ..nets import Controlled
from ..runs.adapters import Adapter, parsed
from ..runs.checkpoint import WEIGHTS
from ..runs.embedding import KEPT as ENCODER
from ..runs.folder import RunFolder
from ..runs.latents import keep_autoencoder


def merge(run: str | Path, adapters: Sequence[Adapter] = (), *, out: str | Path) -> RunFolder:
    """Write a run with adapters as a run of its own, which needs neither.

    Args:
        run: The run folder; or an adapter's, to write it with its base.
        adapters: What to put on.
        out: The new run folder.

    Raises:
        UsageError: If there is nothing to merge, or a control branch, which is no weights of the
            network, or a word of a pipeline's texts, likewise; if the run adds to a mean; or if
            there is something at `out`.
    """
    model = load(run, adapters=adapters)
    assert model.run is not None
    if model.config.mean:
        raise UsageError(
            f"{shown(run)} adds to a mean, so no adapter goes on it: there is nothing to merge."
        )
    if isinstance(model.denoiser.net, Controlled):
        raise UsageError("A control branch cannot be merged: it stays beside the network.")
    if model.reader is not None and model.reader.words:
        raise UsageError(
            "A word for the encoders of a pipeline cannot be merged: keep the adapter, or export "
            "--to diffusers."
        )
    named = [parsed(adapter) for adapter in adapters]
    if not named and "base" not in model.run.identity:
        raise UsageError(f"There is nothing to merge into {shown(run)}: name an --adapter.")
    kept = ("codec", "given", "encoder", "fingerprint", "examples", "held_out", "threads")
    identity = {k: v for k, v in model.run.identity.items() if k in kept} | {
        "vocabulary": asdict(model.vocabulary),
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        "merged": [[RunFolder.open(place).identity["id"], strength] for place, strength in named],
    }
    config = replace(model.config, adapt=replace(model.config.adapt, learn="all"))
    folder = RunFolder.create(out, config_toml=config.to_toml(), identity=identity)
    with folder.lock():
        keep_autoencoder(folder, model.codec)
        if model.encoder is not None:
            folder.keep(ENCODER, model.encoder.tensors())
        folder.save(model.seen, {WEIGHTS: model.denoiser.state_dict()}, {})
    return folder
