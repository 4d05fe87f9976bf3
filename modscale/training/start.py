"""How a full training starts a network, whatever the task: its spec, its weights, how fast each parameter learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from modscale.models.efficientmod import build_network
from modscale.settings import ProxySettings
from modscale.specs.spec import ModelSpec
from modscale.training import recipe
from modscale.training.settings import TrainSettings


def fitted(spec: ModelSpec, settings: TrainSettings, *, in_chans: int, num_classes: int, head: str) -> ModelSpec:
    """The network with the input and the head that the data ask for."""
    layer_scale = spec.layer_scale
    if layer_scale is not None:
        layer_scale = settings.layer_scale or (
            ProxySettings().layer_scale if settings.start == "transferred" else layer_scale
        )
    return replace(
        spec,
        in_chans=in_chans,
        num_classes=num_classes,
        head=head,
        drop_path_rate=spec.drop_path_rate if settings.drop_path is None else settings.drop_path,
        layer_scale=layer_scale,
    )


def started(spec: ModelSpec, settings: TrainSettings, seed: int) -> nn.Module:
    """The network as it starts, on the CPU; Semantic FPN starts by its own rules whatever the stages do."""
    network = build_network(spec, seed=seed)
    if settings.start == "transferred":
        recipe.rescale_weights(network)
        recipe.damp_branches(network, _transferred(settings).layer_scale)
    return network


def parameter_groups(network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """AdamW's groups, each with its rate; vectors (biases, norms, LayerScale) have no weight decay."""
    groups: list[dict[str, Any]] = []
    rest = list(network.parameters())
    if settings.start == "transferred":
        stages = recipe.stages_of(network)
        groups = recipe.parameter_groups(stages, _transferred(settings))
        taken = {id(parameter) for parameter in stages.parameters()}
        rest = [parameter for parameter in rest if id(parameter) not in taken]
    for is_vector, decay in ((False, settings.weight_decay), (True, 0.0)):
        parameters = [parameter for parameter in rest if (parameter.ndim < 2) is is_vector]
        if parameters:
            groups.append({"params": parameters, "lr": settings.learning_rate, "weight_decay": decay})
    return groups


def _transferred(settings: TrainSettings) -> ProxySettings:
    default = ProxySettings()
    return replace(
        default,
        learning_rate=settings.learning_rate or default.learning_rate,
        weight_decay=settings.weight_decay,
        layer_scale=settings.layer_scale or default.layer_scale,
    )
