"""Our networks under timm's names; skipped where timm is not there."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from tiny_specs import small

from modscale.errors import InputError
from modscale.models.efficientmod import EfficientMod, build_network
from modscale.specs.published import published


def import_timm() -> Any:
    """timm, also beside a torch for which torchvision's operators were not built: only their schemas are missed."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed", allow_module_level=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("timm")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
        for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        import_timm.library = torch.library.Library("torchvision", "DEF")  # type: ignore[attr-defined]
        for name in ("nms", "qnms"):
            import_timm.library.define(  # type: ignore[attr-defined]
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        return importlib.import_module("timm")


timm = import_timm()
entry = importlib.import_module("modscale.integrations.timm_entry")


def test_a_published_name_is_the_same_network() -> None:
    """The same tensors under the same names, and the same logits from them."""
    theirs = timm.create_model("modscale_xxs").eval()
    ours = build_network(published("xxs"), seed=0).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(theirs(x), ours(x))
    assert isinstance(theirs, EfficientMod)
    config = theirs.default_cfg
    assert {f"{config[key]}.weight" for key in ("classifier", "first_conv")} <= theirs.state_dict().keys()
    assert (config["input_size"], config["pool_size"]) == ((3, 224, 224), (7, 7))


def test_features_only_gives_the_maps_that_it_tells_of() -> None:
    network = timm.create_model("modscale_xxs", features_only=True).eval()
    maps = network(torch.randn(2, 3, 96, 96))
    shapes = [
        (2, c, 96 // r, 96 // r)
        for c, r in zip(network.feature_info.channels(), network.feature_info.reduction(), strict=True)
    ]
    assert [tuple(one.shape) for one in maps] == shapes
    assert network.feature_info.channels() == [32, 64, 128, 256]
    few = timm.create_model("modscale_xxs", features_only=True, out_indices=(1, 2))
    assert [one.shape[1] for one in few(torch.zeros(1, 3, 64, 64))] == [64, 128]


@pytest.mark.parametrize("feature_cls", ["fx", "hook"])
def test_timms_other_ways_to_the_maps_find_them(feature_cls: str) -> None:
    """By the graph, and by hooks: the modules that `feature_info` names, whose own maps are channels-last."""
    network = timm.create_model("modscale_xxs", features_only=True, feature_cls=feature_cls).eval()
    maps = network(torch.zeros(1, 3, 64, 64))
    assert [tuple(one.shape) for one in maps] == [(1, 16, 16, 32), (1, 8, 8, 64), (1, 4, 4, 128), (1, 2, 2, 256)]


def test_what_timm_asks_for_is_heeded() -> None:
    network = timm.create_model("modscale_xxs", num_classes=7, in_chans=1, drop_path_rate=0.3)
    assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 7)
    assert network.layers[-1].blocks[-1].drop_path.rate == pytest.approx(0.3)
    shadow = timm.create_model("modscale_xxs", device="meta", dtype=torch.float16)
    assert {(one.device.type, one.dtype) for one in shadow.parameters()} == {("meta", torch.float16)}
    assert timm.create_model("modscale_xxs", drop_rate=0.0, device="meta").num_classes == 1000  # as timm's scripts ask
    with pytest.raises(InputError, match="has no dropout"):
        timm.create_model("modscale_xxs", drop_rate=0.1)
    bare = timm.create_model("modscale_xxs", num_classes=0, global_pool="")
    assert bare(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 2, 2)


def test_layers_by_depth_are_timms() -> None:
    """timm's own grouping of the parameters: stem, 12 conv and 3 attention blocks, head."""
    network = timm.create_model("modscale_xxs")
    groups = timm.models.group_parameters(network, network.group_matcher())
    assert len(groups) == 1 + 15 + 1
    assert sorted(groups[0]) == sorted(name for name, _ in network.named_parameters() if name.startswith("patch_embed"))


def test_a_network_of_ones_own_is_registered_once() -> None:
    spec = small({"dim": 8, "depth": 1}, {"dim": 16, "depth": 1})
    assert entry.register("mine-1", spec) == "modscale_mine_1"
    features = timm.create_model("modscale_mine_1", features_only=True)
    assert features.feature_info.channels() == [8, 16]
    for name in ("mine-1", "a.b"):
        with pytest.raises(InputError, match="must be a new name without a dot"):
            entry.register(name, spec)


def test_nothing_of_it_is_imported_unasked() -> None:
    code = "import modscale.cli.main, modscale.api.session, sys; print({'timm', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
