"""New words of the texts of a pipeline: learned beside it, and in files that diffusers reads.

The encoders of texts stay as they are; a word is a vector to each, in the place of a piece.

Source: Gal et al. (2022), https://arxiv.org/abs/2208.01618, section 3.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.codec import write_bytes
from ..data.names import shown
from ..errors import ModelFileError, UsageError
from ..runs.model import Model
from ..runs.weights import read_tensors
from .pipeline import SAFE
from .texts import PipelineReader, TextEncoder

# --- Learned -------------------------------------------------------------------------------------


class Spelling:
    """Texts as the numbers of their pieces, for a network that reads them itself while it learns.

    Args:
        reader: That knows the pieces.
    """

    def __init__(self, reader: PipelineReader) -> None:
        self.reader = reader

    @property
    def length(self) -> int:
        """Pieces that the network hears of."""
        return self.reader.length

    @property
    def nothing(self) -> Tensor:
        """The condition ``text`` of no text ``(1, P)``."""
        return torch.full_like(self.reader.pieces([""]), -1)

    def tensor(self, texts: Iterable[str]) -> Tensor:
        """The condition ``text`` ``(B, P)``, int64; what is too long is cut."""
        return self.reader.pieces(list(texts))

    def emphasis(self, spans: Sequence[tuple[str, float]]) -> Tensor:
        """As of the reader."""
        return self.reader.emphasis(spans)

    def unread(self, text: str) -> str:
        """As of the reader."""
        return self.reader.unread(text)


class Reading(nn.Module):
    """Texts read by frozen encoders, while the vectors of one word are learned.

    Args:
        reader: That was taught the word last.
        word: It.

    Attributes:
        new: The vectors ``(1, D)`` to each encoder, by its name.
    """

    def __init__(self, reader: PipelineReader, word: str) -> None:
        super().__init__()
        self.reader = reader
        first = reader.words[word]
        self.new = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in first.items()})

    def forward(self, pieces: Tensor) -> Tensor:
        """The condition ``text`` ``(B, rows, width)`` of `Spelling`; NaN where it is hidden."""
        hidden = (pieces < 0).all(1)
        every, which = pieces.clamp_min(0).unique(dim=0, return_inverse=True)
        said = self.reader.read(every, dict(self.new.items()))[which]
        return said.masked_fill(hidden.view(-1, 1, 1), torch.nan)


def introduced(reader: PipelineReader, word: str, like: str = "") -> PipelineReader:
    """The reader with a word that begins as the mean of the pieces of `like`, or of all."""
    return reader.taught(word, {one.name: one.mean(like) for one in reader.encoders})


# --- In files ------------------------------------------------------------------------------------

FILE = "learned_embeds"  # by which diffusers looks for it
WORD = "word"  # under which the word itself stands in the metadata
NAMELESS = ("emb_params", "*")  # in a file that says no word: that is the name of the file


def key_of(encoder: TextEncoder) -> str:
    """What files for several encoders call the vectors to one."""
    if encoder.net.__class__.__name__ == "T5EncoderModel":
        return "t5"
    return "clip_g" if encoder.name == "text_encoder_2" else "clip_l"


def write_words(reader: PipelineReader, folder: Path) -> list[Path]:
    """Write each word that a reader was taught as a file for ``load_textual_inversion``.

    To one encoder the vectors lie there by the word; to several by the encoder, as diffusers is
    told the word beside them.

    Raises:
        StorageError: If the disk refuses.
    """
    from safetensors.torch import save

    paths = []
    for i, (word, vectors) in enumerate(reader.words.items()):
        several = {key_of(one): vectors[one.name] for one in reader.encoders if one.name in vectors}
        named = several if len(reader.encoders) > 1 else {word: next(iter(several.values()))}
        plain = {key: value.detach().cpu().contiguous() for key, value in named.items()}
        path = folder / f"{FILE}{f'-{i + 1}' if i else ''}{SAFE}"
        paths.append(write_bytes(path, save(plain, metadata={"format": "pt", WORD: word})))
    return paths


def with_word(model: Model, path: Path) -> Model:
    """A model of a pipeline with the word of a file, as diffusers and others write it.

    Raises:
        UsageError: If the model hears no texts by a pipeline, or knows the word.
        ModelFileError: If the file is no safetensors, or its vectors are none of these encoders.
    """
    from safetensors import safe_open

    reader = model.reader
    if not isinstance(reader, PipelineReader):
        raise UsageError(
            f"{shown(path)} is a word for the encoders of a pipeline, and {shown(model.place)} "
            "reads texts by none: leave it out."
        )
    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        word = (file.metadata() or {}).get(WORD, path.stem)
    if tensors.keys() <= {key_of(one) for one in reader.encoders}:
        vectors = {
            one.name: tensors[key_of(one)] for one in reader.encoders if key_of(one) in tensors
        }
    elif len(tensors) == 1:
        [(key, value)] = tensors.items()
        word, widths = key if key not in NAMELESS else word, value.shape[-1:]
        vectors = {one.name: value for one in reader.encoders if one.table.shape[1:] == widths}
    else:
        vectors = {}
    if not vectors:
        found = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items())
        raise ModelFileError(
            f"{shown(path)} holds no word for the encoders of {shown(model.place)}: there is "
            f"{shown(found, 200)}."
        )
    rows = {name: value.float().view(-1, value.shape[-1]) for name, value in vectors.items()}
    return replace(model, reader=reader.taught(word, rows))
