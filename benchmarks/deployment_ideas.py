"""Ways to write a network of modulation and attention blocks as ONNX, each against the others: what `latency.md` lists.

    python benchmarks/deployment_ideas.py [--model xxs] [--threads 1] [--seconds 90] [--ideas fold tokens,fold ...]

An idea is `straightforward`, `exported` or `exported for the CPU`, see `deployment_graph.py`, or a list of words:
`tokens` (Gemms on [T, C]), `rows` (MatMuls on [1, T, C]), `fold` (LayerScale folded), `tile` and `join` (the context
repeated by Tile or Concat), `parts` (the wide product of stage 1 by groups of channels, `chunks` by four groups of
tokens), `scale` (attention's scale in q's weight), `three` (q, k, v by three products), `turn` (by one transpose and a
split), `gelu20` (opset 20's Gelu), `flat,bias` (the bias apart from its product), `mean` (pooling as a mean), `convs`
(linear layers as 1x1 convs), `convs,join` (and the context joined in that layout), `carry` (biases behind a LayerNorm
in the weights, with `turn`), `instance` (InstanceNormalization over tokens in place of LayerNorm), `last` (the
context's GELU behind the turn), `joined` (attention as ONNX's own operator of opset 23, q, k and v by three Gemms),
`mha` (the same by com.microsoft's MultiHeadAttention), `packed` (by its Attention, which has the weights), `skip` (its
SkipLayerNormalization, which takes the sum as well, and the bias before it), `bare` (products and convs alone: what is
left if all else were free). Each graph but `bare` is held against PyTorch first. Prints a Markdown table; what the
first idea takes is divided by what the others do.

All are loaded by each process, and take turns in it in bursts of 7 runs, of which the first is left out; of each burst
the lower quartile counts, of a process the median. So no process starts for a single graph, and an interval of half a
percent takes a minute. `--apart` gives each graph processes of its own, as `deployment_graph.py` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from deployment_graph import ratio_text, take_together, take_turns, write_straightforward
from onnx import numpy_helper

from modscale.deploy import export, runtime
from modscale.deploy.carried_bias import LEVEL
from modscale.files import scratch_folder
from modscale.specs.published import resolve_model
from modscale.specs.spec import ATTENTION_HEADS, attention_width

IDEAS = (
    "straightforward", "exported", "exported for the CPU", "plain", "fold", "rows,fold", "tokens,fold",
    "tokens,fold,tile", "tokens,fold,join", "tokens,fold,parts",
    "tokens,fold,chunks", "tokens,fold,three,scale", "tokens,fold,turn,scale", "tokens,fold,gelu20", "tokens,fold,mean",
    "flat,fold,bias", "fold,convs", "fold,convs,join", "tokens,fold,turn,carry", "tokens,fold,turn,carry,instance",
    "tokens,fold,turn,carry,last", "tokens,fold,turn,carry,last,parts", "tokens,fold,turn,carry,last,tile",
    "tokens,fold,turn,carry,last,parts,joined", "tokens,fold,turn,carry,last,parts,mha",
    "tokens,fold,turn,carry,last,parts,packed", "tokens,fold,turn,carry,last,parts,skip", "tokens,fold,turn,bare",
)  # fmt: skip
MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
CHUNKS = 4
"""Groups of tokens."""
LONG = 3000
"""Tokens from which a stage's wide products are taken in parts."""


class Builder:
    """A graph, node by node."""

    def __init__(self, spec, state, words):
        self.spec, self.state, self.words = spec, dict(state), words
        self.opset = 23 if "joined" in words else 20 if "gelu20" in words else 17
        self.rank = 2 if {"tokens", "flat"} & words else 3 if "rows" in words else 4
        self.nodes, self.stored = [], {}
        self.carried = set()
        if "carry" in words:
            self.carry()

    def carry(self):
        """As `modscale/deploy/carried_bias.py` does, by the names of the layers."""
        for norm in [name.removesuffix(".weight") for name in self.state if ".norm" in name and ".blocks." in name]:
            if norm.endswith(".bias"):
                continue
            block, gain, shift = norm.rpartition(".")[0], *(self.state[f"{norm}.{part}"] for part in ("weight", "bias"))
            is_attention = f"{block}.attn.qkv.weight" in self.state
            behind = ("attn.qkv",) if norm.endswith("1") else ("mlp.fc1",)
            for layer in behind if is_attention else ("mlp.fc1", "mlp.context_layer.f"):
                name = f"{block}.{layer}"
                weight = self.state[f"{name}.weight"].astype(np.float64)
                bias = (weight @ shift + self.state.get(f"{name}.bias", 0)) / (LEVEL * gain.size)
                weight = weight * gain
                self.state[f"{name}.weight"] = (weight + (bias - weight.mean(1))[:, None]).astype(np.float32)
                self.carried.add(name)
            self.state[f"{norm}.weight"] = np.ones_like(gain)
            self.state[f"{norm}.bias"] = np.full_like(shift, LEVEL)

    def const(self, value):
        name = f"c{len(self.stored)}"
        self.stored[name] = np.ascontiguousarray(value)
        return name

    def op(self, kind, inputs, outputs=1, **attributes):
        names = [f"{kind}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def shaped(self, x, *shape):
        return self.op("Reshape", [x, self.const(np.array(shape, np.int64))])

    def turned(self, x, *order):
        return self.op("Transpose", [x], perm=order)

    def split(self, x, count, axis):
        more = {"num_outputs": count} if self.opset >= 18 else {}
        return self.op("Split", [x], count, axis=axis, **more)

    def gelu(self, x):
        if "bare" in self.words:
            return x
        if "gelu20" in self.words:
            return self.op("Gelu", [x])
        ratio = self.op("Div", [x, self.const(np.float32(2**0.5))])
        twice = self.op("Add", [self.op("Erf", [ratio]), self.const(np.float32(1))])
        return self.op("Mul", [self.op("Mul", [x, twice]), self.const(np.float32(0.5))])

    def norm(self, x, name):
        if "bare" in self.words:
            return x
        gain, bias = (self.const(self.state[f"{name}.{part}"]) for part in ("weight", "bias"))
        if "instance" in self.words and ".blocks." in name:
            level = [self.const(np.full(self.tokens, value, np.float32)) for value in (1, LEVEL)]
            dim = self.state[f"{name}.weight"].size
            y = self.op("InstanceNormalization", [self.shaped(x, 1, self.tokens, dim), *level], epsilon=1e-5)
            return self.shaped(y, self.tokens, dim)
        return self.op("LayerNormalization", [x, gain, bias], axis=-1, epsilon=1e-5)

    def linear(self, x, name, scale=1.0, apart=()):
        weight = self.state[f"{name}.weight"].T * scale
        if name in self.carried:
            return self.op("Gemm", [x, self.const(weight)])
        bias = self.state[f"{name}.bias"] * scale
        if "tokens" in self.words:
            return self.op("Gemm", [x, self.const(weight), self.const(bias)])
        x = self.op("MatMul", [x, self.const(weight)])
        return self.op("Add", [self.shaped(x, *apart) if apart else x, self.const(bias)])

    def conv(self, x, name, **attributes):
        return self.op(
            "Conv", [x, *(self.const(self.state[f"{name}.{part}"]) for part in ("weight", "bias"))], **attributes
        )

    def point(self, x, name, scale=1.0):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"] * scale
        weight = weight * (scale[:, None] if isinstance(scale, np.ndarray) else scale)
        return self.op("Conv", [x, self.const(weight[:, :, None, None]), self.const(bias)])

    def trunk(self, side, dim):
        return {2: (side * side, dim), 3: (1, side * side, dim), 4: (1, side, side, dim)}[self.rank]

    def as_trunk(self, x, side, dim):
        return x if self.rank == 4 else self.shaped(x, *self.trunk(side, dim))

    def as_map(self, x, side, dim):
        return self.turned(x if self.rank == 4 else self.shaped(x, 1, side, side, dim), 0, 3, 1, 2)

    def modulation(self, x, at, stage, ratio, side):
        self.tokens = side * side
        dim, tokens, mlp = stage.dim, side * side, f"{at}.mlp"
        gamma = self.state.get(f"{at}.gamma_1")
        scale = gamma if "fold" in self.words else 1.0
        kernel = stage.kernel_size[0]
        depthwise = {"group": dim, "pads": [kernel // 2] * 4}
        h = self.norm(x, f"{at}.norm")
        if "convs" in self.words:
            image = self.as_map(h, side, dim)
            context = self.conv(
                self.point(image, f"{mlp}.context_layer.f"), f"{mlp}.context_layer.context_list.0", **depthwise
            )
            context = self.point(self.gelu(context), f"{mlp}.context_layer.g")
            value = self.point(image, f"{mlp}.fc1")
            if ratio == 1:
                value = self.op("Mul", [value, context])
            elif "join" in self.words:
                value = self.op("Mul", [self.gelu(value), self.op("Concat", [context] * ratio, axis=1)])
            else:
                parts = self.shaped(self.gelu(value), 1, ratio, dim, side, side)
                value = self.op("Mul", [parts, self.shaped(context, 1, 1, dim, side, side)])
                value = self.shaped(value, 1, ratio * dim, side, side)
            out = self.as_trunk(self.turned(self.point(value, f"{mlp}.fc2", scale), 0, 2, 3, 1), side, dim)
        else:
            context = self.as_map(self.linear(h, f"{mlp}.context_layer.f"), side, dim)
            context = self.conv(context, f"{mlp}.context_layer.context_list.0", **depthwise)
            context = context if "last" in self.words else self.gelu(context)
            context = self.as_trunk(self.turned(context, 0, 2, 3, 1), side, dim)
            context = self.gelu(context) if "last" in self.words else context
            context = self.linear(context, f"{mlp}.context_layer.g")
            if "bare" in self.words:
                second = self.const(self.state[f"{mlp}.fc2.weight"].T * scale)
                return self.op("Gemm", [self.linear(h, f"{mlp}.fc1"), second, context])
            if ratio > 1 and tokens >= LONG and "parts" in self.words:
                out = self.in_parts(h, context, mlp, scale, dim, ratio)
            elif ratio > 1 and tokens >= LONG and "chunks" in self.words:
                pieces = zip(self.split(h, CHUNKS, 0), self.split(context, CHUNKS, 0), strict=True)
                out = [self.wide(one, other, mlp, scale, dim, ratio, tokens // CHUNKS) for one, other in pieces]
                out = self.op("Concat", out, axis=0)
            elif ratio > 1:
                out = self.wide(h, context, mlp, scale, dim, ratio, tokens)
            else:
                value = self.op("Mul", [self.linear(h, f"{mlp}.fc1"), context])
                out = self.linear(value, f"{mlp}.fc2", scale)
        if gamma is not None and "fold" not in self.words:
            out = self.op("Mul", [self.const(gamma), out])
        return self.op("Add", [x, out])

    def wide(self, h, context, mlp, scale, dim, ratio, tokens):
        apart = (1, tokens, ratio * dim) if "bias" in self.words else ()
        value = self.gelu(self.linear(h, f"{mlp}.fc1", apart=apart))
        if "tile" in self.words:
            repeats = [1] * (self.rank - 1) + [ratio]
            value = self.op("Mul", [value, self.op("Tile", [context, self.const(np.array(repeats, np.int64))])])
        elif "join" in self.words:
            value = self.op("Mul", [value, self.op("Concat", [context] * ratio, axis=-1)])
        else:
            value = self.op("Mul", [self.shaped(value, tokens, ratio, dim), self.shaped(context, tokens, 1, dim)])
            side = round(tokens**0.5)
            value = self.shaped(value, *((tokens, ratio * dim) if self.rank == 2 else self.trunk(side, ratio * dim)))
        return self.linear(value, f"{mlp}.fc2", scale)

    def in_parts(self, h, context, mlp, scale, dim, ratio):
        first, bias = self.state[f"{mlp}.fc1.weight"].T, self.state[f"{mlp}.fc1.bias"]
        second, total = self.state[f"{mlp}.fc2.weight"].T * scale, self.const(self.state[f"{mlp}.fc2.bias"] * scale)
        for i in range(ratio):
            part = slice(i * dim, (i + 1) * dim)
            biases = [] if f"{mlp}.fc1" in self.carried else [self.const(bias[part])]
            value = self.gelu(self.op("Gemm", [h, self.const(first[:, part]), *biases]))
            total = self.op("Gemm", [self.op("Mul", [value, context]), self.const(second[part]), total])
        return total

    def attention(self, x, at, stage, side):
        self.tokens = side * side
        tokens, width = side * side, attention_width(stage.dim)
        head = width // ATTENTION_HEADS
        h = self.norm(x, f"{at}.norm1")
        weight = self.state[f"{at}.attn.qkv.weight"].T.copy()
        if "scale" in self.words:
            weight[:, :width] *= np.float32(head**-0.5)
        if {"joined", "mha", "packed"} & self.words:
            y = self.shaped(self.by_one_operator(h, weight, tokens, width), tokens, width)
            return self.behind_attention(x, y, at, stage, side)
        if "three" in self.words:
            parts = [self.op("MatMul", [h, self.const(weight[:, i * width : (i + 1) * width])]) for i in range(3)]
            q, k, v = (self.turned(self.shaped(one, 1, tokens, ATTENTION_HEADS, head), 0, 2, 1, 3) for one in parts)
        elif "turn" in self.words:
            every = self.shaped(self.op("MatMul", [h, self.const(weight)]), 1, tokens, 3 * ATTENTION_HEADS, head)
            q, k, v = self.split(self.turned(every, 0, 2, 1, 3), 3, 1)
        else:
            every = self.shaped(self.op("MatMul", [h, self.const(weight)]), 1, tokens, 3, ATTENTION_HEADS, head)
            parts = self.split(self.turned(every, 2, 0, 3, 1, 4), 3, 0)
            q, k, v = (self.op("Squeeze", [one, self.const(np.array([0], np.int64))]) for one in parts)
        scores = self.op("MatMul", [q, self.turned(k, 0, 1, 3, 2)])
        if "scale" not in self.words:
            scores = self.op("Mul", [scores, self.const(np.float32(head**-0.5))])
        shares = scores if "bare" in self.words else self.op("Softmax", [scores], axis=-1)
        y = self.turned(self.op("MatMul", [shares, v]), 0, 2, 1, 3)
        return self.behind_attention(x, self.shaped(y, *self.trunk(side, width)), at, stage, side)

    def by_one_operator(self, h, weight, tokens, width):
        if "packed" in self.words:
            dim, none = weight.shape[0], self.const(np.zeros(3 * width, np.float32))
            inputs = [self.shaped(h, 1, tokens, dim), self.const(weight), none]
            return self.op("Attention", inputs, domain=MICROSOFT, num_heads=ATTENTION_HEADS)
        parts = [self.op("Gemm", [h, self.const(weight[:, i * width : (i + 1) * width])]) for i in range(3)]
        parts = [self.shaped(part, 1, tokens, width) for part in parts]
        if "mha" in self.words:
            return self.op("MultiHeadAttention", parts, domain=MICROSOFT, num_heads=ATTENTION_HEADS)
        return self.op("Attention", parts, q_num_heads=ATTENTION_HEADS, kv_num_heads=ATTENTION_HEADS)

    def behind_attention(self, x, y, at, stage, side):
        tokens = side * side
        x = self.added(x, self.linear(y, f"{at}.attn.proj"))
        hidden = stage.attention_hidden()
        apart = (1, tokens, hidden) if "bias" in self.words else ()
        value = self.gelu(self.linear(self.norm(x, f"{at}.norm2"), f"{at}.mlp.fc1", apart=apart))
        value = self.shaped(value, *self.trunk(side, hidden)) if apart else value
        return self.added(x, self.linear(value, f"{at}.mlp.fc2"))

    def added(self, x, y):
        return y if "bare" in self.words else self.op("Add", [x, y])

    def join_sums(self):
        """Each sum that a LayerNorm reads, and the bias before it, go into the norm; the sum is its fourth output."""
        makers = {name: node for node in self.nodes for name in node.output}
        norms = [node for node in self.nodes if node.op_type == "LayerNormalization"]
        for norm in norms:
            total = makers[norm.input[0]]
            if total.op_type != "Add":
                continue
            trunk, branch = total.input
            last = makers[branch]
            bias = [last.input.pop()] if last.op_type == "Gemm" and len(last.input) == 3 else []
            if bias and bias[0] not in self.stored:  # what was added up so far
                last.input.append(bias.pop())
            joined = onnx.helper.make_node(
                "SkipLayerNormalization",
                [branch, trunk, *norm.input[1:], *bias],
                [norm.output[0], "", "", total.output[0]],
                domain=MICROSOFT,
                epsilon=1e-5,
            )
            self.nodes[self.nodes.index(total)] = joined
            self.nodes.remove(norm)

    def build(self):
        spec, stem, last = self.spec, self.spec.stem, self.spec.stages[-1].dim
        side = (spec.resolution + 2 * stem.padding - stem.kernel_size) // stem.stride + 1
        x = self.conv("image", "patch_embed.proj", strides=[stem.stride] * 2, pads=[stem.padding] * 4)
        x = self.norm(self.as_trunk(self.turned(x, 0, 2, 3, 1), side, spec.stages[0].dim), "patch_embed.norm")
        for i, stage in enumerate(spec.stages):
            for j, ratio in enumerate(stage.block_ratios()):
                x = self.modulation(x, f"layers.{i}.blocks.{j}", stage, ratio, side)
            for j in range(stage.depth, stage.depth + stage.attention_depth):
                x = self.attention(x, f"layers.{i}.blocks.{j}", stage, side)
            if i + 1 < len(spec.stages):
                at, image = f"layers.{i}.downsample", self.as_map(x, side, stage.dim)
                image = self.conv(image, f"{at}.proj", strides=[2, 2], pads=[1, 1, 1, 1])
                side = (side - 1) // 2 + 1
                x = self.as_trunk(self.turned(image, 0, 2, 3, 1), side, spec.stages[i + 1].dim)
                x = self.norm(x, f"{at}.norm")
        x = self.norm(x, "norm")
        if "mean" in self.words:
            x = self.op("ReduceMean", [self.shaped(x, 1, side * side, last)], axes=[1], keepdims=0)
        else:
            x = self.op("Flatten", [self.op("GlobalAveragePool", [self.as_map(x, side, last)])], axis=1)
        if "skip" in self.words:
            self.join_sums()
        weight, bias = (self.const(self.state[f"head.{part}"]) for part in ("weight", "bias"))
        self.nodes.append(onnx.helper.make_node("Gemm", [x, weight, bias], ["logits"], transB=1))
        shapes = {"image": [1, spec.in_chans, spec.resolution, spec.resolution], "logits": [1, spec.num_classes]}
        ends = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]
        kept = [
            numpy_helper.from_array(one if one.dtype == np.int64 else one.astype(np.float32), name)
            for name, one in self.stored.items()
        ]
        graph = onnx.helper.make_graph(self.nodes, "network", ends[:1], ends[1:], kept)
        opsets = [onnx.helper.make_opsetid("", self.opset), onnx.helper.make_opsetid(MICROSOFT, 1)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=11 if "joined" in self.words else 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="xxs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--ideas", nargs="+", default=IDEAS)
    parser.add_argument("--apart", action="store_true")
    given = parser.parse_args()
    spec = resolve_model(given.model)
    network = export.loud_copy(export.fresh_network(spec, seed=0), spec).eval()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    images = export.probe_images(spec)
    with torch.inference_mode():
        expected = {key: network(torch.from_numpy(image)).numpy() for key, image in images.items()}
    with scratch_folder() as folder:
        files: dict[str, Path] = {}
        for number, idea in enumerate(given.ideas):
            files[idea] = folder / f"{number}.onnx"
            if idea == "straightforward":
                write_straightforward(network, spec, files[idea])
                continue
            if idea in ("exported", "exported for the CPU"):
                export.export_onnx(network, spec, files[idea], form=export.Form(for_cpu=idea != "exported"))
                continue
            files[idea].write_bytes(Builder(spec, state, set(idea.split(","))).build().SerializeToString())
            if "bare" in idea:
                continue
            found = runtime.run_images(str(files[idea]), images)
            error = max(abs(found[key] - expected[key]).max() / abs(expected[key]).max() for key in images)
            assert error < 1e-5, (idea, error)
        take = take_turns if given.apart else take_together
        seen = take(files, threads=given.threads, seconds=given.seconds)
    print(f"| idea | ms | {given.ideas[0]} / this (95 % interval) | rounds |\n|---|--:|--:|--:|")
    for idea in files:
        print(f"| {idea} | {ratio_text(seen, idea)} |")


if __name__ == "__main__":
    main()
