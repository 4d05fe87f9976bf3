"""Semantic FPN: the maps of all stages become one, from which every pixel's class is told.

Source: the semantic segmentation branch of "Panoptic Feature Pyramid Networks" (arXiv 1901.02446, section 3 and figure
3) on a feature pyramid (arXiv 1612.03144), as the paper's Table 7 uses it. Where we differ from the former: batch norm
in place of group norm, as in the code that Table 7 was made with. The maps are taken as the blocks give them, without
a norm of their own, which is what the authors' backbone hands on too.

Shapes: B batch, C_i and H_i channels and side of stage i's map, D channels of the pyramid, E of the branch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from modscale.specs.spec import FPN_DIM, SEMANTIC_DIM

DROPOUT = 0.1
"""Share of the branch's channels that a step leaves out, before the classes are told."""


class SemanticFPN(nn.Module):
    """Maps [B, C_i, H_i, H_i], each half as wide as the one before, to [B, E, H_1, H_1].

    `pyramid_dim` and `branch_dim` are D and E, where they are not the published ones.
    """

    def __init__(self, dims: Sequence[int], pyramid_dim: int = FPN_DIM, branch_dim: int = SEMANTIC_DIM) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(dim, pyramid_dim, 1) for dim in dims)
        self.smooth = nn.ModuleList(nn.Conv2d(pyramid_dim, pyramid_dim, 3, padding=1) for _ in dims)
        self.branches = nn.ModuleList(_branch(level, pyramid_dim, branch_dim) for level in range(len(dims)))
        self.drop = nn.Dropout2d(DROPOUT)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _start(module)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        pyramid = [lateral(one) for lateral, one in zip(self.laterals, maps, strict=True)]
        for i in range(len(pyramid) - 1, 0, -1):
            pyramid[i - 1] = pyramid[i - 1] + F.interpolate(pyramid[i], scale_factor=2, mode="nearest")
        parts = [
            branch(smooth(one)) for branch, smooth, one in zip(self.branches, self.smooth, pyramid, strict=True)
        ]  # fmt: skip
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return self.drop(total)


def upsample(x: Tensor, factor: int) -> Tensor:
    """[B, C, H, W] as [B, C, factor * H, factor * W], bilinear."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _branch(level: int, pyramid_dim: int, branch_dim: int) -> nn.Sequential:
    """From a pyramid's map of this level, 0 the finest, to the finest map's side: one conv for each doubling."""
    layers: list[nn.Module] = []
    for step in range(max(level, 1)):
        layers += [
            nn.Conv2d(branch_dim if step else pyramid_dim, branch_dim, 3, padding=1, bias=False),
            nn.BatchNorm2d(branch_dim),
            nn.ReLU(),
        ]
        if level:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


def _start(conv: nn.Conv2d) -> None:
    """Convs before a ReLU start at twice the variance that keeps their input's; the others at that one."""
    if conv.bias is None:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
