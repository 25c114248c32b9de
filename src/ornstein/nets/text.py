"""What a text says, for a network to attend to.

Before the pieces of a text stands one that is always there, so that an empty text can be attended
to. Behind its last piece, a text is cut off: more room changes nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import READING, Attention, Heard, Linear, feed_forward, normalise


class TextEncoder(nn.Module):
    """A small transformer over the pieces of a text, learned with the network that hears it.

    In each block, pieces hear their neighbours by a convolution, then all others by attention:
    that "red" and "7" are one thing is learned far sooner so.

    Args:
        words: Pieces there are.
        length: Pieces of a text at most.
        width: Of each piece, a multiple of 8.
        told: Width of the whole.
        depth: Blocks of self-attention and feed-forward.
    """

    def __init__(self, words: int, length: int, width: int, told: int, depth: int = 2) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width)
        self.begin = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(0.3 * torch.randn(length, width))
        self.join = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(depth))
        self.attend = nn.ModuleList(Attention(width, READING) for _ in range(depth))
        self.think = nn.ModuleList(feed_forward(width, 4) for _ in range(depth))
        self.pool = Linear(width, told, bias=False)

    def forward(self, text: Tensor, emphasis: Tensor) -> tuple[Tensor, Heard]:
        """What the text says as a whole ``(B, told)``, zero if nothing; and piece by piece.

        Args:
            text: Numbers of pieces ``(B, L)``, -1 behind the last; L is at most `length`.
            emphasis: By which each piece is attended to more, or less ``(B, L)``; > 0.
        """
        there = text >= 0
        h = self.word(text.clamp_min(0)) + self.place[: text.shape[1]]
        h = torch.cat([self.begin.expand(text.shape[0], -1, -1), h], 1)
        bias = _bias(there, emphasis).to(h)
        plain = torch.where(bias.isinf(), bias, 0)
        heard = F.pad(there, (1, 0), value=True)[..., None]  # the piece before the text as well
        for join, attend, think in zip(self.join, self.attend, self.think, strict=True):
            h = h + join((normalise(h) * heard).mT).mT
            h = h + attend(normalise(h), plain)
            h = h + think(normalise(h))
        h = normalise(h)
        return self.pool(_mean(h[:, 1:], there)), Heard(h, bias)


class TextFeatures(nn.Module):
    """What an encoder of another library says of the pieces of a text, in the width of a network.

    Args:
        features: Numbers it says of each piece.
        width: Of each piece, here.
        told: Width of the whole.
    """

    def __init__(self, features: int, width: int, told: int) -> None:
        super().__init__()
        self.begin = nn.Parameter(torch.randn(1, 1, width))
        self.linear = Linear(features, width)
        self.pool = Linear(width, told, bias=False)

    def forward(self, text: Tensor, emphasis: Tensor) -> tuple[Tensor, Heard]:
        """As `TextEncoder`, of ``(B, L, features)``, NaN behind the last piece."""
        there = ~text.isnan().any(2)
        h = normalise(self.linear(normalise(torch.where(there[..., None], text, 0))))
        h = torch.cat([normalise(self.begin).expand(text.shape[0], -1, -1), h], 1)
        return self.pool(_mean(h[:, 1:], there)), Heard(h, _bias(there, emphasis).to(h))


def _bias(there: Tensor, emphasis: Tensor) -> Tensor:
    """Of the attention to the pieces, the one that is always there before them."""
    bias = emphasis.log().masked_fill(~there, -torch.inf)
    return torch.cat([torch.zeros_like(bias[:, :1]), bias], 1)[:, None, None]


def _mean(h: Tensor, there: Tensor) -> Tensor:
    """Of the pieces that are there; zero if none is."""
    count = there.sum(1, keepdim=True).clamp_min(1)
    return ((h * there[..., None]).sum(1) / count).to(h)
