"""The user's files <-> tensors; knows no network. `open_data` in, `Codec.save` out.

The names below are loaded when first used, so that the options can be read without torch.
"""

from typing import TYPE_CHECKING

from ..lazy import loader

if TYPE_CHECKING:
    from .codec import Codec as Codec
    from .dataset import Dataset as Dataset
    from .dataset import draws_at as draws_at
    from .dataset import order as order
    from .image import ImageCodec as ImageCodec
    from .names import Unusable as Unusable
    from .open import open_data as open_data
    from .options import DataOptions as DataOptions
    from .points import PointsCodec as PointsCodec
    from .profile import Profile as Profile
    from .profile import profile_data as profile_data

_HOME = {
    "Codec": "codec",
    "DataOptions": "options",
    "Dataset": "dataset",
    "ImageCodec": "image",
    "PointsCodec": "points",
    "Profile": "profile",
    "Unusable": "names",
    "draws_at": "dataset",
    "open_data": "open",
    "order": "dataset",
    "profile_data": "profile",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__ = loader(__name__, _HOME)
