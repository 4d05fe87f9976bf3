"""A folded network computes what the network with LayerScale does."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_specs import SPECS

from modscale.deploy.export import loud_copy, probe_images
from modscale.models.efficientmod import build_network
from modscale.models.folding import fold_layer_scale


@pytest.mark.parametrize("name", ["modulation", "separate_mlp", "sum", "mbconv", "no LayerScale"])
def test_folding_layer_scale_changes_nothing_but_rounding(name):
    """On loud weights, on which LayerScale lies around 1; no parameter of it is left."""
    network = loud_copy(build_network(SPECS[name], seed=0), SPECS[name]).eval()
    folded = fold_layer_scale(copy.deepcopy(network))
    image = torch.from_numpy(probe_images(SPECS[name])["normal"])
    with torch.inference_mode():
        before, after = network(image), folded(image)
    assert (before - after).abs().max() < 1e-5
    scales = [key for key, _ in network.named_parameters() if "gamma" in key]
    assert bool(scales) == (name in ("modulation", "separate_mlp", "sum"))
    assert sorted(key for key, _ in folded.named_parameters()) == sorted(
        key for key, _ in network.named_parameters() if key not in scales
    )
