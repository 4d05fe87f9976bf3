"""A stand-in for timm, as a package in a folder: child processes import it too, where that folder is on PYTHONPATH."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

CODE = '''
import torch
from torch import nn
from torch.nn import functional as F

__version__ = "0.0"


class Mixed(nn.Module):
    """Convs with BatchNorm, attention, LayerNorm and a head: 3 x 32 x 32 by default."""

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 32, 32)}
        self.stem, self.norm = nn.Conv2d(3, 8, 4, 4, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.branch = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 8, 1)
        self.layer_norm, self.qkv, self.head = nn.LayerNorm(8), nn.Linear(8, 24, bias=False), nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = self.depthwise(x) + (self.branch(x) if self.branch is not None else 0)
        x = self.layer_norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.head((x + F.scaled_dot_product_attention(q, k, v)).mean(1))


class Pair(Mixed):
    def forward(self, x):
        return super().forward(x), x


class Fixed(Mixed):
    """Takes no other size than it was built for."""

    def __init__(self, img_size=32):
        super().__init__()
        self.pretrained_cfg["fixed_input_size"] = True
        self.img_size = img_size

    def forward(self, x):
        if x.shape[-1] != self.img_size:
            raise AssertionError(f"wants {self.img_size}")
        return super().forward(x)


KNOWN = {"mixed": Mixed, "pair": Pair, "fixed": Fixed}


def is_model(name):
    return name.partition(".")[0] in KNOWN


def list_models():
    return sorted(KNOWN)


def create_model(name, pretrained=False, exportable=False, **options):
    assert not pretrained
    return KNOWN[name.partition(".")[0]](**options)
'''

FUSE = '''
def reparameterize_model(network):
    """Drops a branch, as if it had been fused: the deployed form has fewer params."""
    network.branch = None
    return network
'''


def load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this process import it."""
    for name, code in (("timm", CODE), ("timm.utils.model", FUSE)):
        module = ModuleType(name)
        exec(code, module.__dict__)  # noqa: S102  # the text above
        monkeypatch.setitem(sys.modules, name, module)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str = CODE) -> None:
    """Puts it in front of any other timm for the processes that are started from now on."""
    package = folder / "timm"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    (package / "utils" / "__init__.py").touch()
    (package / "utils" / "model.py").write_text(FUSE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
