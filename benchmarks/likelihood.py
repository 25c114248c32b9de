"""Bits per dimension of one run, measured as one used to and as `ornstein evaluate` does.

    ornstein train digits --seen 40000 --out RUN
    python benchmarks/likelihood.py RUN

Writes results/likelihood.json: both figures with integers spread evenly between their levels and
followed to a log-SNR of 14; both stopped where the bound of training examples is lowest; and the
log-SNR from which on the network is more wrong about the noise than if it knew nothing.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ornstein.core.likelihood import (
    bits_per_dimension,
    dequantise,
    log_likelihood,
    rademacher,
    variational_bound,
)
from ornstein.data import Dataset, open_data
from ornstein.evaluate.measures.bits import CALLS, PIECE, PROBES, measure_bits, told
from ornstein.rng import Streams, generator
from ornstein.runs.model import Model, load

COUNT = 32
RESULTS = Path(__file__).parent / "results" / "likelihood.json"


def spread_evenly(model: Model, held_out: Dataset) -> dict[str, float]:
    """Flow and bound of evenly dequantised integers, to the end of the schedule."""
    shape = torch.Size(model.codec.shape)
    unit = 1 / torch.tensor(model.codec.std, dtype=torch.float64).view(-1, *(1,) * (len(shape) - 1))
    order = torch.from_numpy(generator("bits", 0).permutation(len(held_out))[:COUNT].copy())
    found: dict[str, list[Tensor]] = {"flow": [], "bound": []}
    for part in order.split(PIECE):
        noise = Streams(0, part.tolist())
        x, cond = told(model, held_out, part)
        x = dequantise(x.double(), unit, torch.special.ndtr(noise(x.double())))
        denoiser, probes = model.denoiser.given(**cond), rademacher(noise, x, PROBES)
        nats = {
            "flow": log_likelihood(denoiser, x, probes=probes).nats,
            "bound": -variational_bound(denoiser, x, noise, calls=CALLS).total,
        }
        for name, value in nats.items():
            found[name].append(bits_per_dimension(value, shape, unit))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def main(run: str) -> None:
    model = load(Path(run))
    config = model.config
    train, held_out = open_data(config.source, config.data).split(
        config.data.validation, config.seed
    )
    bits = measure_bits(model, train, held_out, COUNT)
    assert bits is not None
    profile = bits.profile
    useless = [at for at, e in zip(profile.log_snr, profile.error, strict=True) if e > 1]
    stopped = {k: v for k, v in asdict(bits).items() if k != "profile"} | {"end": profile.end}
    result = {
        "source": config.source,
        "seen": model.seen,
        "to the end, spread evenly": spread_evenly(model, held_out),
        "stopped": stopped,
        "knows nothing from": min(useless, default=None),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
