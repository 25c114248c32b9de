"""The Inception network whose pooled features the FID is defined on, and nothing else of it."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.names import shown
from ...errors import ModelFileError


class Inception(nn.Module):
    """Inception-v3 up to its last pooling: ``(N, 3, 299, 299)`` in [-1, 1] to ``(N, 2048)``.

    As it was when the FID was defined: the mean of neighbours leaves the border out, and the last
    block takes their maximum. The names of the weights are those of their usual port.

    Source: Szegedy et al. (2016), https://arxiv.org/abs/1512.00567; Heusel et al. (2017),
    https://arxiv.org/abs/1706.08500.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b = _A(192, 32)
        self.Mixed_5c = _A(256, 64)
        self.Mixed_5d = _A(288, 64)
        self.Mixed_6a = _B(288)
        self.Mixed_6b = _C(768, 128)
        self.Mixed_6c = _C(768, 160)
        self.Mixed_6d = _C(768, 160)
        self.Mixed_6e = _C(768, 192)
        self.Mixed_7a = _D(768)
        self.Mixed_7b = _E(1280, pool=_mean)
        self.Mixed_7c = _E(2048, pool=_maximum)

    def forward(self, x: Tensor) -> Tensor:
        for i, (_, block) in enumerate(self.named_children()):
            x = block(x)
            if i in (2, 4):
                x = F.max_pool2d(x, 3, stride=2)
        return x.mean((2, 3))

    @classmethod
    def load(cls, path: Path) -> "Inception":
        """The network with the weights of a safetensors file.

        Raises:
            ModelFileError: If they are not those of this network.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        net = cls()
        try:
            missing = net.load_state_dict(load_file(path), strict=False).missing_keys
            if missing:
                raise RuntimeError(f"there is no {missing[0]}")
        except (SafetensorError, OSError, RuntimeError) as error:
            reason = shown(" ".join(str(error).split()), 200)
            raise ModelFileError(
                f"{shown(path)} does not hold the Inception of the FID: {reason}."
            ) from None
        return net.eval().requires_grad_(False)


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class _Convolution(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _A(nn.Module):
    """Branches of width 1, 5 and 3 twice, and a pooled one."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(inputs, 64, 1)
        self.branch5x5_1 = _Convolution(inputs, 48, 1)
        self.branch5x5_2 = _Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, padding=1)
        self.branch_pool = _Convolution(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch5x5_2(self.branch5x5_1(x))
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), wide, twice, self.branch_pool(_mean(x))], 1)


class _B(nn.Module):
    """Halves the sides."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = _Convolution(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), twice, F.max_pool2d(x, 3, stride=2)], 1)


class _C(nn.Module):
    """Width 7 as 1 by 7 and 7 by 1, once and twice."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(inputs, 192, 1)
        self.branch7x7_1 = _Convolution(inputs, width, 1)
        self.branch7x7_2 = _Convolution(width, width, (1, 7), padding=(0, 3))
        self.branch7x7_3 = _Convolution(width, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = _Convolution(inputs, width, 1)
        self.branch7x7dbl_2 = _Convolution(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = _Convolution(width, width, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = _Convolution(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = _Convolution(width, 192, (1, 7), padding=(0, 3))
        self.branch_pool = _Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_mean(x))], 1)


class _D(nn.Module):
    """Halves the sides again."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Convolution(inputs, 192, 1)
        self.branch3x3_2 = _Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Convolution(inputs, 192, 1)
        self.branch7x7x3_2 = _Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch7x7x3_2(self.branch7x7x3_1(x))
        wide = self.branch7x7x3_4(self.branch7x7x3_3(wide))
        return torch.cat(
            [self.branch3x3_2(self.branch3x3_1(x)), wide, F.max_pool2d(x, 3, stride=2)], 1
        )


class _E(nn.Module):
    """Width 3 as 1 by 3 beside 3 by 1, once and twice."""

    def __init__(self, inputs: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = _Convolution(inputs, 320, 1)
        self.branch3x3_1 = _Convolution(inputs, 384, 1)
        self.branch3x3_2a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = _Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(once), self.branch3x3_2b(once)]
        parts += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([*parts, self.branch_pool(self.pool(x))], 1)
