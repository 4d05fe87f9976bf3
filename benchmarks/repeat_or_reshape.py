"""Repeat or broadcast: how the context meets the expanded value, as in the paper's Figure 2, in ONNX Runtime today.

    python benchmarks/repeat_or_reshape.py [--models xxs s_conv] [--threads 1 2] [--seconds 40] [--openvino PYTHON]

Four graphs of one network that differ in nothing else and have the same weights: the context is repeated (`Tile`, what
the authors ship), expanded by `broadcast_to` and reshaped (`Expand`), joined to itself (`Concat`), or multiplied as it
is by a value of one more axis. Timed as in `deployment_graph.py`; the ratios are to the first form.
`--openvino` is a Python of a virtual environment that has onnxruntime-openvino, which cannot live beside onnxruntime.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from deployment_graph import ratio_text, take_turns
from torch import nn
from torch.nn import functional as F

from modscale.deploy import export, onnx_graph
from modscale.deploy.export import probe_images
from modscale.files import scratch_folder
from modscale.models.blocks import ModulationMlp
from modscale.models.efficientmod import build_network
from modscale.specs.published import resolve_model


class Repeated(ModulationMlp):
    def matched(self, context):
        return context.repeat(1, 1, 1, self.ratio)

    def forward(self, x):
        value = self.fc1(x)
        if self.ratio > 1:
            value = F.gelu(value)
        context = self.context_layer(x)
        return self.fc2(value * (self.matched(context) if self.ratio > 1 else context))


class Expanded(Repeated):
    def matched(self, context):
        shape = (*context.shape[:3], self.ratio, context.shape[3])
        return torch.broadcast_to(context.unsqueeze(-2), shape).flatten(-2)


class Joined(Repeated):
    def matched(self, context):
        return torch.cat([context] * self.ratio, dim=-1)


FORMS = {
    "repeat (Tile)": Repeated,
    "broadcast_to (Expand, reshaped)": Expanded,
    "joined (Concat)": Joined,
    "multiplied by broadcasting (Mul of one more axis)": ModulationMlp,
}


def in_form(network: nn.Module, form: type[nn.Module]) -> nn.Module:
    """The network, whose modulations compute in that form from now on."""
    for module in network.modules():
        if isinstance(module, ModulationMlp):
            module.__class__ = form
    return network


def answered(network: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": network(image)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["xxs", "s_conv"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=40, help="for each line of the table's groups")
    parser.add_argument("--openvino", type=Path)
    given = parser.parse_args()
    runtimes = {"cpu": Path(sys.executable)} | ({"openvino": given.openvino} if given.openvino else {})
    print("| model | provider | threads | how | ms | repeat / this (95 % interval) | rounds |")
    print("|---|---|--:|---|--:|--:|--:|")
    with scratch_folder() as folder:
        for name in given.models:
            spec = resolve_model(name)
            loud = export.loud_copy(build_network(spec, seed=0), spec).eval()
            files = {}
            for number, (form, module) in enumerate(FORMS.items()):
                network = in_form(loud, module)
                model = onnx_graph.fold_shapes(onnx_graph.trace(network, spec, batch=1, outputs=("logits",)))
                onnx_graph.set_weights(model, network)
                content = onnx_graph.serialise(model)
                in_form(loud, ModulationMlp)
                images = dict(list(probe_images(spec).items())[:1])
                export.compare(partial(answered, loud), content, images, 1, what=form)
                files[form] = folder / f"{name}-{number}.onnx"
                files[form].write_bytes(content)
            for provider, python in runtimes.items():
                for threads in given.threads:
                    seen = take_turns(files, threads=threads, seconds=given.seconds, provider=provider, python=python)
                    for form in files:
                        told = ratio_text(seen, form)
                        print(f"| {name} | {provider} | {threads} | {form} | {told} |", flush=True)


if __name__ == "__main__":
    main()
