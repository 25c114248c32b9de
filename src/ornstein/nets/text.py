"""What a text says, for a network to attend to."""

import torch
from torch import Tensor, nn

from .blocks import Attention, Heard, Linear, feed_forward, normalise


class TextEncoder(nn.Module):
    """A small transformer over the pieces of a text, learned with the network that hears it.

    Before the pieces stands one that is always there, so that an empty text can be attended to.

    Args:
        words: Pieces there are.
        length: Pieces of a text at most.
        width: Of the embedding of the network, and of each piece, a multiple of 8.
        depth: Blocks of self-attention and feed-forward.
    """

    def __init__(self, words: int, length: int, width: int, depth: int = 2) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width)
        self.begin = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(0.3 * torch.randn(length, width))
        self.attend = nn.ModuleList(Attention(width) for _ in range(depth))
        self.think = nn.ModuleList(feed_forward(width, 4) for _ in range(depth))
        self.pool = Linear(width, width, bias=False)

    def forward(self, text: Tensor, emphasis: Tensor) -> tuple[Tensor, Heard]:
        """What the text says as a whole ``(B, width)``, zero if nothing; and piece by piece.

        Args:
            text: Numbers of pieces ``(B, length)``, -1 behind the last.
            emphasis: By which each piece is attended to more, or less ``(B, length)``; > 0.
        """
        there = text >= 0
        h = self.word(text.clamp_min(0)) + self.place
        h = torch.cat([self.begin.expand(len(text), -1, -1), h], 1)
        first = torch.zeros_like(emphasis[:, :1])
        bias = emphasis.log().masked_fill(~there, -torch.inf)
        bias = torch.cat([first, bias], 1)[:, None, None].to(h)
        plain = torch.where(bias.isinf(), bias, 0)
        for attend, think in zip(self.attend, self.think, strict=True):
            h = h + attend(normalise(h), plain)
            h = h + think(normalise(h))
        h = normalise(h)
        count = there.sum(1, keepdim=True).clamp_min(1)
        mean = (h[:, 1:] * there[..., None]).sum(1) / count
        return self.pool(mean.to(h)), Heard(h, bias)
