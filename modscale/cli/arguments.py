"""What several commands take, and what it stands for: a MODEL, a SPACE.yaml, the options of timing.

Whatever takes its time to import is imported where it is needed: `--help`, `count`, `space`, `models` and `scale` by
params or FLOPs never import torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from modscale.cli.app import argument, option
from modscale.cli.completion import complete_model
from modscale.files import user_text

if TYPE_CHECKING:
    from modscale.runs.experiment import Experiment
    from modscale.settings import LatencySettings, Target
    from modscale.specs.spec import ModelSpec

MODEL_HELP = "A published name (see `modscale models`), a spec file, or a folder of `export` or `train`."
ModelArgument = Annotated[str, argument("MODEL", MODEL_HELP, parser=user_text, completion=complete_model)]
SPACE_HELP = "A search space's file, or one that comes with modscale: mobile, smoke, segmentation or gpu."
SpaceArgument = Annotated[str, argument("SPACE.yaml", SPACE_HELP, parser=user_text)]
JsonOption = Annotated[bool, option("Print one JSON document and nothing else.", "--json")]
DebugOption = Annotated[bool, option("Show the traceback of an error.", "--debug")]
ResolutionOption = Annotated[int | None, option("Side of the square input, pixels.", low=1)]


def resolve_spec(model: str, resolution: int | None) -> ModelSpec:
    """The spec of a MODEL, at another resolution where one is given."""
    from modscale.specs.published import resolve_model

    return at_resolution(resolve_model(model), resolution)


def at_resolution(spec: ModelSpec, resolution: int | None) -> ModelSpec:
    """The spec at another resolution, checked as if it stood in a file."""
    if resolution is None:
        return spec
    from modscale.errors import naming_file
    from modscale.specs.spec import parse_spec, spec_to_dict

    with naming_file("--resolution"):
        return parse_spec({**spec_to_dict(spec), "resolution": resolution})


def read_experiment(file: str) -> Experiment:
    """The experiment of a SPACE.yaml."""
    from modscale.kinds import naming_kind
    from modscale.runs.experiment import load_experiment

    with naming_kind(file, "space"):
        return load_experiment(file)


def latency_settings(
    provider: str | None,
    threads: int | None,
    runs: int | None,
    until: float | None = None,
    patience: float | None = None,
    *,
    paper: bool = False,
    target: str | None = None,
    precision: str = "fp32",
) -> LatencySettings:
    """How to time, by the options of the command line; what is not given is the paper's protocol, or our own.

    `target` is a file that says on which device; what it says of provider and threads holds where no option does.
    """
    from modscale.document import check_choice, check_number
    from modscale.providers import PROVIDERS
    from modscale.settings import PRECISIONS, LatencySettings

    check_choice(precision, "--precision", PRECISIONS)
    device = None if target is None else read_target(target)
    provider = provider or (device and device.provider) or "cpu"
    threads = threads or (device and device.threads) or None
    check_choice(provider, "--provider", tuple(PROVIDERS))
    default = LatencySettings(until_percent=1.0, patience_s=30.0)
    default = replace(default, threads=4, runs=4000, patience_s=60.0) if paper else default
    if runs is not None and until is None:
        default = replace(default, patience_s=0.0)  # so many runs were asked for, and no more
    return replace(
        default,
        provider=provider,
        threads=threads or default.threads,
        runs=runs or default.runs,
        until_percent=default.until_percent if until is None else check_number(until, "--until", above=0, high=100),
        patience_s=default.patience_s if patience is None else check_number(patience, "--patience", low=0, high=86_400),
        target=device,
        precision=precision,
    )


def read_target(file: str) -> Target:
    """The device of a target's file: a mapping with `command`, and what else a target of a space may have."""
    from modscale.document import read_yaml
    from modscale.errors import naming_file
    from modscale.settings import parse_target

    with naming_file(file):
        return parse_target(read_yaml(file), "")
