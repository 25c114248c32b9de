"""Texts as a pipeline of diffusers hears them: by its own encoder, frozen."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .pipeline import Pipeline, needed

REMEMBERED = 256  # texts


class PipelineReader:
    """The text encoder of a pipeline.

    The network attends to all pieces that there is room for, also behind the end of a text, for
    so it was trained.

    Args:
        encoder: A CLIPTextModel.
        tokenizer: That goes with it.
    """

    def __init__(self, encoder: Any, tokenizer: Any) -> None:
        self.encoder, self.tokenizer = encoder, tokenizer
        self.length: int = tokenizer.model_max_length
        self._said = lru_cache(REMEMBERED)(self._say)

    @classmethod
    def opened(cls, pipeline: Pipeline, part: str) -> "PipelineReader":
        """That of a pipeline, whose encoder is its `part`."""
        tokenizer = needed("transformers").CLIPTokenizer.from_pretrained(
            pipeline.path / part.replace("text_encoder", "tokenizer"), local_files_only=True
        )
        return cls(pipeline.load(part).eval(), tokenizer)

    @property
    def nothing(self) -> Tensor:
        """The condition ``text`` of no text ``(1, length, width)``: of an empty one."""
        return self._said("")

    def tensor(self, texts: Iterable[str]) -> Tensor:
        """The condition ``text`` ``(B, length, width)``; what is too long is cut."""
        return torch.cat([self._said(text) for text in texts])

    def emphasis(self, spans: Sequence[tuple[str, float]]) -> Tensor:
        """The condition ``emphasis`` ``(length,)`` of one text in parts: that of each piece."""
        weights, text = torch.ones(self.length), "".join(part for part, _ in spans)
        each = [weight for part, weight in spans for _ in part]
        for i, (begin, end) in enumerate(self._offsets(text)):
            if begin < end:  # the others stand for no letters
                weights[i] = each[end - 1]
        return weights

    def unread(self, text: str) -> str:
        """What is left of a text behind the pieces that are read; empty if it fits."""
        return text[max((end for _, end in self._offsets(text)), default=0) :].strip()

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        how = {"truncation": True, "max_length": self.length, "return_offsets_mapping": True}
        return self.tokenizer(text, **how).offset_mapping

    @torch.no_grad()
    def _say(self, text: str) -> Tensor:
        read = self.tokenizer(
            [text],
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        config = self.encoder.config.to_dict()
        mask = read.attention_mask if config.get("use_attention_mask") else None
        return self.encoder(read.input_ids, attention_mask=mask)[0]
