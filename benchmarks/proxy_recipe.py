"""Trains models by several recipes and base learning rates: does the ranking hold, or does it turn on one rate?

    python benchmarks/proxy_recipe.py --out results.jsonl                        # the generated data
    python benchmarks/proxy_recipe.py --out results.jsonl --data FOLDER --models toy xxs --rates 2e-3 --seeds 0 1

One JSON line a finished training; a training that is in the file already is not repeated, so the command resumes.
`--summary` prints the table of a file without training. What was found is in `proxy_recipe.md`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from modscale.analysis.rank_correlation import kendall_tau
from modscale.datasets.dataset import load_dataset
from modscale.errors import TrialFailed
from modscale.settings import ProxySettings
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec, StageSpec
from modscale.training import proxy
from modscale.training import recipe as recipe_parts
from modscale.training.proxy_data import prepare

TOY = ModelSpec(
    name="toy",
    stages=tuple(StageSpec(dim=dim, depth=depth) for dim, depth in ((16, 1), (32, 1), (64, 2), (128, 1))),
)
PUBLISHED_TOP1 = {"xxs": 76.0, "xs": 78.3, "s": 81.0, "s_conv": 80.5}
"""ImageNet-1K top-1 in %, Table 2 of the paper."""


def one_group(network: nn.Module, settings: ProxySettings) -> list[dict[str, Any]]:
    """The naive recipe: one learning rate and weight decay for all."""
    return [{"params": list(network.parameters()), "scale": 1.0, "weight_decay": settings.weight_decay}]


def leave(network: nn.Module) -> None:
    """In place of a step of the recipe: nothing."""


def no_ends(network: nn.Module) -> list[nn.Module]:
    """In place of `branch_ends`: branches without LayerScale are as loud, and learn as fast, as any layer."""
    return []


def full_rate(network: nn.Module, settings: ProxySettings) -> list[dict[str, Any]]:
    """In place of `parameter_groups`: branches without LayerScale start at its share, but learn at the full rate."""
    with patch.object(recipe_parts, "branch_ends", no_ends):
        return OWN_PARTS["parameter_groups"](network, settings)


OWN_PARTS = {name: getattr(recipe_parts, name) for name in ("parameter_groups", "rescale_weights", "branch_ends")}
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "naive": (
        {"layer_scale": 1e-4},
        {"parameter_groups": one_group, "rescale_weights": leave, "branch_ends": no_ends},
    ),
    "fan_in": ({}, {"rescale_weights": leave, "branch_ends": no_ends}),
    "undamped": ({}, {"branch_ends": no_ends}),
    "full_rate": ({}, {"parameter_groups": full_rate}),
    "ours": ({}, {}),
}
"""Of each recipe: the settings it changes, and the parts of `modscale.training.recipe` it puts others in place of."""


def main() -> None:
    default = ProxySettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--models", nargs="+", default=["toy", "xxs", "xs", "s", "s_conv"])
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-3, 4e-3, 8e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--resolution", type=int, default=default.resolution)
    parser.add_argument("--epochs", type=int, default=default.epochs)
    parser.add_argument("--train-images", type=int, default=default.train_images)
    parser.add_argument("--val-images", type=int, default=default.val_images)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    if not options.summary:
        train_all(options)
    print(summary(read_rows(options.out)))


def train_all(options: argparse.Namespace) -> None:
    """Every training that the options ask for and the file has not."""
    base = ProxySettings(
        resolution=options.resolution,
        epochs=options.epochs,
        train_images=options.train_images,
        val_images=options.val_images,
        threads=options.threads,
    )
    dataset = load_dataset(
        options.data,
        resolution=base.resolution,
        train_images=base.train_images,
        val_images=base.val_images,
        seed=0,
    )
    data = prepare(dataset, base)
    done = {identity(row) for row in read_rows(options.out)}
    for seed, rate, model, recipe in itertools.product(options.seeds, options.rates, options.models, options.recipes):
        changes, parts = RECIPES[recipe]
        settings = replace(base, learning_rate=rate, **changes)
        row = {"data": dataset.name, "model": model, "recipe": recipe, "seed": seed, "settings": asdict(settings)}
        if identity(row) in done:
            continue
        spec = TOY if model == "toy" else published(model)
        start = process_time()
        try:
            with patch.multiple(recipe_parts, **(OWN_PARTS | parts)):
                result = asdict(proxy.train_proxy(spec, data, settings, seed=seed))
        except TrialFailed as error:
            result = {"accuracy": 0.0, "val_images": len(data.y_val), "reason": str(error)}
        row |= result | {"cpu_seconds": process_time() - start, "torch": torch.__version__}
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{dataset.name} {recipe} {model} rate {rate:g} seed {seed}: {row['accuracy']:.3f}", flush=True)


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def identity(row: dict[str, Any]) -> str:
    """Equal for two rows of the same training."""
    return json.dumps([row[key] for key in ("data", "model", "recipe", "seed", "settings")])


def summary(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean accuracy in % by task, recipe and rate (rows) and model (columns), and the order they give."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in rows:
        settings = row["settings"]
        task = f"{row['data']} {settings['resolution']} px, {settings['train_images']} x {settings['epochs']}"
        cells.setdefault((task, row["recipe"], settings["learning_rate"]), {}).setdefault(row["model"], []).append(
            100 * row["accuracy"]
        )
    lines = [
        f"| task | recipe | rate | {' | '.join(models)} | Kendall's tau with published top-1 |",
        "|---" * (len(models) + 4) + "|",
    ]
    for (task, recipe, rate), found in sorted(cells.items()):
        means = {model: sum(values) / len(values) for model, values in found.items()}
        shown = [
            f"{means[m]:.1f}" + (f" ({len(found[m])})" if len(found[m]) > 1 else "") if m in means else ""
            for m in models
        ]
        known = [(means[m], PUBLISHED_TOP1[m]) for m in means if m in PUBLISHED_TOP1]
        lines.append(f"| {task} | {recipe} | {rate:g} | {' | '.join(shown)} | {kendall(known)} |")
    lines += ["", "Between seeds, pooled over a task's cells (standard deviation, degrees of freedom):"]
    for task in sorted({task for task, recipe, _ in cells if recipe == "ours"}):
        groups = [v for key, found in cells.items() if key[:2] == (task, "ours") for v in found.values() if len(v) > 1]
        freedom = sum(len(values) - 1 for values in groups)
        if freedom:
            squares = sum(statistics.variance(values) * (len(values) - 1) for values in groups)
            lines.append(f"{task}: {math.sqrt(squares / freedom):.2f} points ({freedom})")
    return "\n".join(lines)


def kendall(pairs: list[tuple[float, float]]) -> str:
    """Tau-b, for three networks and more."""
    if len(pairs) < 3:
        return ""
    accuracies, published_accuracies = np.array(pairs).T
    return f"{kendall_tau(accuracies[None], published_accuracies[None])[0]:+.2f} (n={len(pairs)})"


if __name__ == "__main__":
    main()
