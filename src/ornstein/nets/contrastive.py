"""Two towers that place pictures and texts on one sphere, where what belongs together is near.

To tell the caption of a picture from those of others it is enough to know what is there; what
stands where is hardly ever asked. So embeddings learn a second thing: to let a coarse picture be
drawn from them.
"""

from collections.abc import Sequence
from math import log, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Block
from .blocks import MEMORY_FORMATS, READING, Attention, Linear, convolution, feed_forward, normalise
from .conditions import COARSE, check_range, check_shape, check_size, coarsened
from .text import TextEncoder, TextFeatures

FEW = 64  # points at which convolutions end and attention begins
DEEP = 2  # blocks of attention
SHARPNESS = 1 / 0.07  # at first
SHARPEST = 100.0
DRAWING = 512  # width of what draws it
POOLS = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}


def info_nce(a: Tensor, b: Tensor, sharpness: Tensor | float) -> Tensor:
    """How hard it is to tell which b belongs to which a, in nats, of each pair ``(B,)``.

        loss_i = -(log softmax_j(s a_i . b_j)_i + log softmax_j(s a_j . b_i)_i) / 2

    The logarithm of B where nothing is known; symmetric in a and b.

    Args:
        a: ``(B, E)`` of length 1.
        b: Likewise; row i belongs to row i.
        sharpness: s > 0, the inverse of a temperature.

    Source: van den Oord et al. (2018), https://arxiv.org/abs/1807.03748; both ways: Radford et al.
    (2021), https://arxiv.org/abs/2103.00020, figure 3.
    """
    logits, own = sharpness * a @ b.T, torch.arange(len(a), device=a.device)
    told = F.cross_entropy(logits, own, reduction="none")
    return (told + F.cross_entropy(logits.T, own, reduction="none")) / 2


class Contrastive(nn.Module):
    """A picture tower and a text tower.

    Args:
        shape: Of a picture ``(C, *S)``, of one to three axes S.
        size: Width of the finest level of the picture tower, a multiple of 8.
        depth: Residual blocks at each of its levels.
        numbers: E, of an embedding.
        words: Pieces in which texts are read; 0 if another encoder reads them.
        read: Numbers that the other encoder says of each piece.
        length: Pieces of a text at most.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Radford et al. (2021), https://arxiv.org/abs/2103.00020, sections 2.3 to 2.5.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        size: int = 32,
        depth: int = 1,
        numbers: int = 64,
        words: int = 0,
        read: int = 0,
        length: int,
    ) -> None:
        super().__init__()
        check_range("numbers", numbers, 2, 4096)
        check_range("length", length, 1, 4096)
        if (words > 0) == (read > 0):
            raise ValueError(f"expected words or read, got {words} and {read}")
        width = 4 * check_size(size)
        self.size, self.depth, self.numbers, self.read = size, depth, numbers, read
        self.shape = tuple(shape)
        self.sees = PictureTower(shape, size, check_range("depth", depth, 1, 16), width)
        self.reads = (
            TextFeatures(read, width, width) if read else TextEncoder(words, length, width, width)
        )
        self.picture, self.text = (Linear(width, numbers, bias=False) for _ in range(2))
        self.log_sharpness = nn.Parameter(torch.tensor(log(SHARPNESS)))

    def of_pictures(self, x: Tensor) -> Tensor:
        """Embeddings of length 1 ``(B, E)`` of pictures ``(B, C, *S)``."""
        return F.normalize(self.picture(self.sees(x)).float(), dim=1)

    def of_texts(self, text: Tensor) -> Tensor:
        """Likewise of texts, as the condition ``text`` holds them."""
        emphasis = torch.ones(text.shape[:2], device=text.device)
        text = text.float() if self.read else text
        return F.normalize(self.text(self.reads(text, emphasis)[0]).float(), dim=1)

    @property
    def sharpness(self) -> Tensor:
        """s of `info_nce`, learned, at most 100."""
        return self.log_sharpness.exp().clamp_max(SHARPEST)


class Contrast(nn.Module):
    """Towers, with the losses by which they learn: of each other, and of what stands where.

    Args:
        towers: Theirs.
        coarse: Weight of the squared error of a coarse picture, drawn from the embedding by two
            layers, as a share of the variance of such pictures; 0 for none.
    """

    def __init__(self, towers: Contrastive, coarse: float = 2.0) -> None:
        super().__init__()
        self.towers, self.weight = towers, coarse
        channels, *space = towers.shape
        self.space = coarsened(space, COARSE)
        numbers = channels * prod(self.space)
        self.draw = nn.Sequential(
            Linear(towers.numbers, DRAWING), nn.SiLU(), Linear(DRAWING, numbers)
        )

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, *, text: Tensor, **cond: Any) -> Tensor:
        """The loss of each pair ``(B,)``, told from all others of the batch.

        Args:
            x: Pictures ``(B, C, *S)``.
            t: Of no meaning: nothing is noisy.
            eps: Likewise.
            text: Of each.
            **cond: Of no meaning either.
        """
        pictures, texts = self.towers.of_pictures(x), self.towers.of_texts(text)
        coarse = POOLS[x.ndim](x, self.space).flatten(1).float()
        drawn = self.draw(pictures * self.towers.numbers**0.5).float()
        missed = (drawn - coarse).square().mean(1) / coarse.var().clamp_min(1e-6)
        with torch.autocast(x.device.type, enabled=False):  # a hundredth of a nat is much here
            return info_nce(pictures, texts, self.towers.sharpness) + self.weight * missed


class PictureTower(nn.Module):
    """What a picture is as a whole ``(B, width)``.

    Convolutions that halve the axes until at most `FEW` points are left; these attend to each
    other, each knowing its place, and their mean is taken. Places begin as waves: which of two
    things stands left is learned far sooner than from places that begin as noise.

    Args:
        shape: ``(C, *S)``.
        size: Width of the finest level; that of others doubles, up to `width`.
        depth: Residual blocks at each level.
        width: Of the result.
    """

    def __init__(self, shape: tuple[int, ...], size: int, depth: int, width: int) -> None:
        super().__init__()
        shape = check_shape(shape, [1, 2, 3])
        self.lifted, space, channels = len(shape) == 2, shape[1:], shape[0]
        kernel, halves = ((1, 3), (1, 2)) if self.lifted else ((3,) * len(space), (2,) * len(space))
        layers, level = list[nn.Module](), size
        while not layers or prod(space) > FEW:
            layers += [convolution(channels, level, kernel, halves)]
            layers += [Block(level, kernel) for _ in range(depth)]
            channels, level, space = level, min(2 * level, width), [-(-n // 2) for n in space]
        self.levels = nn.Sequential(*layers)
        self.first = Linear(channels, width)
        self.place = nn.Parameter(places(space, width))
        self.attend = nn.ModuleList(Attention(width, READING) for _ in range(DEEP))
        self.think = nn.ModuleList(feed_forward(width, 4) for _ in range(DEEP))

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(2) if self.lifted else x  # an image one pixel high
        x = self.levels(x.contiguous(memory_format=MEMORY_FORMATS[x.ndim - 2]))
        h = self.first(normalise(x.flatten(2).transpose(1, 2))) + self.place
        for attend, think in zip(self.attend, self.think, strict=True):
            h = h + attend(normalise(h))
            h = h + think(normalise(h))
        return normalise(h).mean(1)


def places(space: Sequence[int], width: int) -> Tensor:
    """Sines and cosines of each place on a grid of N points ``(N, width)``, slow ones loudest."""
    count = width // (2 * len(space))
    rate = torch.arange(1, count + 1)
    axes = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in space]
    phases = torch.pi / 2 * torch.cartesian_prod(*axes).view(prod(space), -1, 1) * rate
    waves = torch.cat([phases.sin(), phases.cos()], 1) / rate.sqrt()
    return F.pad(waves.flatten(1), (0, width - 2 * count * len(space)))
