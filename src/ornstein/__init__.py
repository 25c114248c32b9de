"""Ornstein: a diffusion model of your own data, and everything you can do with it.

    import ornstein as ou

    run = ou.train("digits", minutes=2)
    ou.sample(run, 64, label=3)

The names below are loaded when first used: `import ornstein` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import DataOptions as DataOptions
    from .data import open_data as open_data
    from .data import profile_data as profile_data
    from .errors import OrnsteinError as OrnsteinError
    from .evaluate.comparison import compare as compare
    from .evaluate.distillation import distill as distill
    from .evaluate.evaluation import evaluate as evaluate
    from .evaluate.measures.calibration import calibrate as calibrate
    from .interop.diffusers import load_diffusers as load_diffusers
    from .interop.hub import pull as pull
    from .interop.hub import push as push
    from .interop.place import load as load
    from .rng import Streams as Streams
    from .runs.config import RunConfig as RunConfig
    from .runs.folder import RunFolder as RunFolder
    from .runs.model import Model as Model
    from .runs.quick import quick as quick
    from .tasks.augment import Augmented as Augmented
    from .tasks.augment import augment as augment
    from .tasks.classify import Classified as Classified
    from .tasks.classify import classify as classify
    from .tasks.detect import Detected as Detected
    from .tasks.detect import detect as detect
    from .tasks.edit import Edited as Edited
    from .tasks.edit import between as between
    from .tasks.edit import edit as edit
    from .tasks.export import Exported as Exported
    from .tasks.export import export as export
    from .tasks.merge import merge as merge
    from .tasks.restore import restore as restore
    from .tasks.restored import Restored as Restored
    from .tasks.sample import Samples as Samples
    from .tasks.sample import sample as sample
    from .tasks.segment import Segmented as Segmented
    from .tasks.segment import segment as segment
    from .tasks.tune import tune as tune
    from .train import train as train
    from .train.adapt import adaptation as adaptation

__version__ = "0.1.0.dev0"

_HOME = {
    "calibrate": "evaluate.measures.calibration",
    "Augmented": "tasks.augment",
    "Classified": "tasks.classify",
    "DataOptions": "data.options",
    "Detected": "tasks.detect",
    "Edited": "tasks.edit",
    "Exported": "tasks.export",
    "Model": "runs.model",
    "OrnsteinError": "errors",
    "Restored": "tasks.restored",
    "RunConfig": "runs.config",
    "RunFolder": "runs.folder",
    "Samples": "tasks.sample",
    "Segmented": "tasks.segment",
    "Streams": "rng",
    "adaptation": "train.adapt",
    "between": "tasks.edit",
    "compare": "evaluate.comparison",
    "distill": "evaluate.distillation",
    "edit": "tasks.edit",
    "export": "tasks.export",
    "augment": "tasks.augment",
    "classify": "tasks.classify",
    "detect": "tasks.detect",
    "load": "interop.place",
    "merge": "tasks.merge",
    "load_diffusers": "interop.diffusers",
    "open_data": "data.open",
    "profile_data": "data.profile",
    "pull": "interop.hub",
    "push": "interop.hub",
    "quick": "runs.quick",
    "restore": "tasks.restore",
    "sample": "tasks.sample",
    "tune": "tasks.tune",
    "segment": "tasks.segment",
}

_ROOMS = ("core", "data", "errors", "evaluate", "interop", "nets", "rng", "runs", "tasks", "train")

__all__ = sorted([*_HOME, "evaluate", "train"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:  # `train` and `evaluate` can be called: packages and verbs
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_ROOMS])
