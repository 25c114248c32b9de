"""A control branch: what draws a picture under the command of another, on a frozen network."""

import torch
from torch import Tensor, nn

from .adapters import freeze
from .blocks import convolution, zero
from .dit import DiT
from .unet import UNet


class Controlled(nn.Module):
    """A network, and a branch that adds to what it encodes.

    The branch is a copy of the half that encodes. It sees the picture beside x, and what it gives
    passes layers that are zero at first: so the whole begins as `net`, to the last bit; and it
    stays `net`, to the last bit, for examples that are given no picture.

    Args:
        net: A `UNet`, or a `DiT`, whose conditions have no context.
        branch: The same but for its conditions, which have one.

    Source: Zhang et al. (2023), https://arxiv.org/abs/2302.05543, section 3.1; of a transformer
    the first half of the blocks: Chen et al. (2024), https://arxiv.org/abs/2401.05252, section
    3.3.
    """

    def __init__(self, net: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        if isinstance(branch, UNet):
            del branch.up, branch.last
            widths = [s.block.last.out_channels for s in [*branch.down, branch.middle]]  # pyright: ignore[reportAttributeAccessIssue]
            maps = len(branch.steps[0].kernel_size)  # pyright: ignore[reportArgumentType]
            out = [convolution(width, width, (1,) * maps) for width in widths]
        elif isinstance(branch, DiT):
            branch.blocks = branch.blocks[: len(branch.blocks) // 4 * 2 or 2]
            del branch.modulation, branch.last
            width = branch.position.shape[1]
            out = [nn.Linear(width, width) for _ in branch.blocks]
        else:
            raise ValueError("a control branch is for networks of maps: expected a UNet or a DiT")
        self.net, self.branch = net, branch
        self.out = nn.ModuleList(zero(layer) for layer in out)

    def forward(
        self, x: Tensor, log_snr: Tensor, *, context: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        if context is None:
            return self.net(x, log_snr, **cond)
        given = ~context.isnan().flatten(1).any(1)
        seen, told = self.branch.inputs(x, log_snr, context=context, **cond)  # pyright: ignore[reportCallIssue]
        features = self.branch.encode(seen, told)  # pyright: ignore[reportCallIssue]
        added = [
            layer(h) * given.view(-1, *(1,) * (h.ndim - 1)).to(h)
            for layer, h in zip(self.out, features, strict=True)
        ]
        return self.net(x, log_snr, added=added, **cond)

    def begin(self) -> None:
        """Freeze the network, and make the branch a copy of it, that sees the picture besides.

        What of the first layer sees the picture is left as it is, at random. At zero, it would be
        learned only once what it leads to is heard, and that only once it has something to say.
        """
        own, ours = self.net.state_dict(), self.branch.state_dict()
        first = "steps.0.weight" if isinstance(self.branch, UNet) else "first.weight"
        for name, weight in ours.items():
            weight.copy_(self._widened(own[name], weight) if name == first else own[name])
        freeze(self.net)

    def _widened(self, weight: Tensor, wide: Tensor) -> Tensor:
        """The weights of the first layer, and `wide` where it sees the picture."""
        assert isinstance(self.branch, (UNet, DiT))
        channels, patch = self.branch.inputs.shape[0], getattr(self.branch, "patch", ())
        points = torch.Size(patch).numel()
        narrow, result = (w.unflatten(1, (-1, points)) for w in (weight, wide.clone()))
        result[:, :channels] = narrow[:, :channels]
        if narrow.shape[1] > channels:  # the ones of a U-Net come last
            result[:, -1] = narrow[:, -1]
        return result.flatten(1, 2)
