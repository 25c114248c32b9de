"""How data are read: the table ``[data]`` of a run's configuration."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_type_hints

from annotated_types import Ge, Interval, Len

from ..errors import UnknownLabel, UsageError
from .names import shown


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How data are read, cleaned, varied and split. Plain values, stored in `config.toml`.

    Args:
        size: Pictures are scaled until their short side has so many pixels, then cut to the
            central square. None keeps them as they are; then they must all be of one size.
        patch: Examples are squares of so many pixels, cut from the pictures at random places, and
            the pictures may differ in size. What is held out are other parts of them.
        channels: 1 grey, 3 colour, 4 colour with transparency. None keeps what is there; where
            grey and colour mix, grey becomes colour. Transparency lies on white unless 4.
        on_bad: What to do about a file that cannot be read, or a row with a missing number: stop
            and name it, or leave it out and list it.
        duplicates: Drop leaves out exact copies of an example of the same class, after the first:
            copies are what a model learns by heart.
        balance: Show all classes equally often in training.
        flip: Mirror half of the pictures, left to right.
        shift: Move pictures by up to so many pixels each way; the edge pixels are repeated. None
            leaves it to the recipe, which moves few pictures; 0 leaves them where they are.
        validation: Share held out from training, of each class.
        label: Name of the column (of metadata or a CSV) or of the array (of an npz) with classes.
        word: What all examples are, whatever their files say: one class of this name.
        given: What the network is given beside the noise: the folder or, as `mask` for
            `mask_file_name`, the column of metadata with a picture for each example; or small-N,
            the example itself scaled to N pixels; grey, edges or sketch: what it is without colour,
            as thin lines, as bold strokes.
        make: The folder or the column with the pictures to make, where there are two of them.
        given_noise: Noise up to this share of what is given is mixed into it, and the network
            told how much: so that a cascade forgives the flaws of the run before.
        text_encoder: Read captions by an encoder of the library transformers, a folder or a name
            in the cache of this machine, in place of words learned from them.
        limit: Read at most so many examples, picked evenly by name. For built-in data that are
            drawn from a seed, how many to draw.
        seed: Of built-in data that are drawn.
    """

    size: Annotated[int | None, Interval(ge=1, le=4096)] = None
    patch: Annotated[int | None, Interval(ge=1, le=4096)] = None
    channels: Literal[1, 3, 4] | None = None
    on_bad: Literal["error", "skip"] = "error"
    duplicates: Literal["keep", "drop"] = "keep"
    balance: bool = False
    flip: bool = False
    shift: Annotated[int | None, Interval(ge=0, le=64)] = None
    validation: Annotated[float, Interval(ge=0, le=0.5)] = 0.1
    label: Annotated[str, Len(1, 200)] = "label"
    word: Annotated[str | None, Len(1, 200)] = None
    given: Annotated[str | None, Len(1, 200)] = None
    make: Annotated[str | None, Len(1, 200)] = None
    given_noise: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    text_encoder: Annotated[str | None, Len(1, 1000)] = None
    limit: Annotated[int | None, Ge(1)] = None
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0

    def check_label(self, names: Iterable[str], place: str) -> None:
        """Refuse a `label` that was chosen and is none of the `names` of columns or arrays."""
        if self.label != DataOptions.label and self.label not in (known := sorted(names)):
            there = ", ".join(shown(n, 30) for n in known[:10])
            there = f"there are: {there}" if known else "there are none"
            raise UnknownLabel(
                f"{shown(place)} has no column of classes {shown(repr(self.label))}; {there}."
            )

    def __post_init__(self) -> None:
        hints = get_type_hints(DataOptions, include_extras=True)
        for field in fields(self):
            value = getattr(self, field.name)
            for bound in getattr(hints[field.name], "__metadata__", ()):
                low, high, above = (getattr(bound, end, None) for end in ("ge", "le", "lt"))
                if value is None or isinstance(value, str):
                    continue
                inside = low is None or value >= low
                inside &= (high is None or value <= high) and (above is None or value < above)
                if not inside:
                    ends = f"at least {low}" if high is None else f"from {low} to {high}"
                    ends += "" if above is None else f" and less than {above}"
                    raise UsageError(f"The data option {field.name} = {value} must be {ends}.")
        if self.channels not in (None, 1, 3, 4):
            raise UsageError(f"The data option channels = {self.channels} must be 1, 3 or 4.")
        if self.patch is not None and self.shift:
            raise UsageError("The data option shift is not for patches, which move by themselves.")
        if self.patch is not None and self.given is not None:
            raise UsageError("The data option patch is not for pairs: leave it or given out.")
        if self.on_bad not in ("error", "skip"):
            raise UsageError(f"The data option on_bad = {self.on_bad!r} must be error or skip.")
        if self.duplicates not in ("keep", "drop"):
            raise UsageError(
                f"The data option duplicates = {self.duplicates!r} must be keep or drop."
            )

    @property
    def augmentations(self) -> int:
        """Entries of the condition ``augment``; 0 when nothing is varied.

        The mirror, the moves down and right, the noise in what is given, as far as asked for.
        """
        return int(self.flip) + 2 * bool(self.shift) + bool(self.given_noise)
