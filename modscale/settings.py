"""How a run measures: the proxy task, the latency protocol and the search, each with its defaults.

Each is a section of the search-space file; `run.yaml` records it resolved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from typing import Any

from modscale.document import NOWHERE, Section, check_choice, check_flag, check_integer, check_number
from modscale.errors import InputError
from modscale.machine import available_cores
from modscale.providers import PROVIDERS
from modscale.rivals import Rival, parse_references

DEVICES = ("auto", "cpu", "cuda")
GRAPH_LEVELS = ("all", "basic", "disabled")
PRECISIONS = ("fp32", "fp16", "int8")
KERNELS = ("torch", "numba")
SAMPLERS = ("surrogate", "tpe", "random")
MAX_THREADS = 1024
CACHE_MIB = 2048
MAX_WINDOW = 10_000
RESERVED = ("ci95", "standard_error", "reference", "measured")
"""What no device's name ends in: a latency's details have these words in that place of their keys."""
UNSTEADY = 1.15
"""Times what the reference takes on the machine at its best, above which the machine was slower, whoever had the cores:
for a round of one measurement, and for a measurement of a run; see benchmarks/latency.md."""
UNLIKE = 0.3
"""Standard deviation, over networks, of how much one slows down with the machine, by the logarithm of the factor, in
that of the reference: ten networks with two threads in both states of one machine, see benchmarks/latency.md."""
TARGET_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")
PUBLISHED = ("xxs", "xs", "s", "s_conv")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxySettings:
    """What stands in for the real training: by default, a short one."""

    task: str = "classification"
    """What is learnt: `classification`, or `segmentation`, a class for every pixel under Semantic FPN."""
    method: str = "thin"
    """How a network is scored: a key of its task's `TASK_PROXIES`, see `training/proxies.py`."""
    width_factor: float = 0.125
    """Share of its channels with which each stage, and Semantic FPN, is trained, 8 at the least."""
    replace_batch_norm: bool = True
    """Whether GroupNorm of one group stands in for BatchNorm, which learns faster and would put its blocks first."""
    replace_attention: bool = True
    """Whether convolutional blocks stand in for attention blocks, which learn late and have few places to attend to."""
    resolution: int = 64
    """Side of the training and validation images, pixels."""
    epochs: int = 2
    """Passes over the training images."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 4e-3
    """Peak learning rate of vectors and of matrices of fan-in 64 or less; see `training/proxy.py`."""
    weight_decay: float = 0.05
    """AdamW's decay of matrices; vectors have none."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises; a cosine to 0 follows."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes."""
    layer_scale: float = 0.1
    """Share at which every residual branch starts: initial LayerScale, or else a factor on its last layer."""
    flip: bool = True
    """Mirror training images left to right at random; false for data in which left and right differ, such as text."""
    train_images: int | None = 4000
    """At most this many training images, the same number a class; None takes all."""
    val_images: int | None = 3000
    """At most this many validation images, training images that are left over among them; None takes all of the set."""
    val_split: float | None = None
    """Share of each class's training images set aside where the data have no validation set; None takes 0.1."""
    reduce_zero_label: bool = True
    """Segmentation: 0 in a mask is a pixel without a label, 1 to K are classes; else 0 to K - 1 are."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is one."""
    threads: int | None = None
    """CPU threads; None takes every core this process may use."""
    kernels: str = "torch"
    """What computes a training step: `torch`, or `numba`, kernels of our own, faster on a CPU, to other last digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A device that is timed on through a command."""

    command: tuple[str, ...]
    """What runs a Python there that reads its program from standard input, as in `ssh pi python3 -`."""
    name: str = ""
    """What it is called; part of its metric's name where there are several."""
    provider: str | None = None
    """What computes there; None is what the latency section says."""
    threads: int | None = None
    """Intra-op threads there; None is what the latency section says."""
    cache_mib: int = CACHE_MIB
    """Mebibytes of models that are kept there; 0 keeps none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencySettings:
    """How ONNX Runtime is timed; the paper used 4 threads and the mean of 4000 runs."""

    provider: str = "cpu"
    """What computes: a key of `PROVIDERS`."""
    threads: int | None = None
    """Intra-op threads; None takes 4, or every core where there are fewer."""
    precision: str = "fp32"
    """What the weights of what is timed are kept in: `fp32`, `fp16` or `int8`."""
    graph_level: str = "all"
    """How far ONNX Runtime optimises the graph: `all`, `basic` or `disabled`."""
    warmup: int = 5
    """Runs before the first timed one; two at the least. More moved no figure: `benchmarks/warm_up.md`."""
    runs: int = 100
    """Timed runs, at the least; of short ones more, a tenth of a second in each process, unless `patience_s` is 0."""
    until_percent: float = 10.0
    """Half-width of the 95 % interval, as a percentage of the median, above which a model is measured again."""
    patience_s: float = 5.0
    """Seconds for which one model is measured again at most, its share of the reference's in them; 0 never does."""
    reference: bool = True
    """Whether a small network of ours is timed before and after, which tells when the machine itself was slower."""
    calibration: str | None = None
    """File of `modscale calibrate` by which candidates are screened before they are measured; None: none are."""
    target: Target | None = None
    """The device that is timed; None is this machine."""
    targets: tuple[Target, ...] = ()
    """Further devices, each with a name, whose latency is a metric of its own."""

    def resolved_threads(self) -> int:
        return self.threads or min(4, available_cores())

    def at(self, target: Target) -> LatencySettings:
        """The same on another device, with what that says otherwise."""
        return replace(
            self,
            provider=target.provider or self.provider,
            threads=target.threads or self.threads,
            target=target,
            targets=(),
        )

    def devices(self) -> tuple[LatencySettings, ...]:
        """How each device is timed, the first one first."""
        return (replace(self, targets=()), *(self.at(target) for target in self.targets))


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How candidates are chosen."""

    trials: int = 16
    """Finished trials, failed ones included."""
    startup_trials: int = 4
    """Trials drawn at random before the sampler learns from them."""
    sampler: str = "surrogate"
    """`surrogate` (expected gain in hypervolume, by a model of the trials), `tpe` (Optuna's) or `random`."""
    references: tuple[str | Rival, ...] = ("xxs", "xs", "s", "s_conv")
    """Networks measured the same way, for comparison: published ones by name, and others, see `rivals.py`."""
    rungs: tuple[float, ...] = ()
    """Shares of the proxy training, rising, after which a candidate may be stopped early; empty: none is."""
    finals: bool = True
    """Whether the front and the picks are timed again at the end, all of them in turns."""
    window: int | None = None
    """W, by which trial n is drawn knowing trials 0 to n - W; None follows from the number of workers."""
    keep: float = 0.5
    """Share of the candidates that a rung lets go on, at the least; see `searching/rungs.py`."""
    seed: int = 0
    """Seed of the sampler, the initial weights and the order of the batches."""


PROXIES = {
    "thin": ProxySettings(),
    "train": ProxySettings(
        method="train",
        width_factor=1.0,
        replace_batch_norm=False,
        replace_attention=False,
        resolution=32,
        epochs=2,
        train_images=3000,
        val_images=2000,
    ),
}
"""Each proxy by its name, with its settings where nothing else is said; `training/proxies.py` has what it does."""
TASK_PROXIES = {
    "classification": PROXIES,
    "segmentation": {
        "thin": ProxySettings(
            task="segmentation", epochs=4, batch_size=16, label_smoothing=0.0, train_images=1000, val_images=200
        ),
    },
}
"""The same of each task; networks of known top-1 are scored by those of classification."""

SETTINGS = {"proxy": ProxySettings, "latency": LatencySettings, "search": SearchSettings}
"""Section to what it holds."""


def parse_proxy(document: object, place: str, elsewhere: Mapping[str, str] = NOWHERE) -> ProxySettings:
    """The `proxy` section; `elsewhere` as in `Section`. Raises InputError."""
    section, default = _open(document, place, ProxySettings, elsewhere)
    known = TASK_PROXIES[section.choice("task", default.task, tuple(TASK_PROXIES))]
    default = known[section.choice("method", default.method, tuple(known))]
    if default.task == "segmentation" and section.raw("val_split") is not None:
        raise InputError(
            "is not for task: segmentation, whose data have images of their own to be scored on",
            place=section.at("val_split"),
            value=section.raw("val_split"),
        )
    return ProxySettings(
        task=default.task,
        method=default.method,
        width_factor=section.number("width_factor", default.width_factor, above=0, high=1),
        replace_batch_norm=_boolean(section, "replace_batch_norm", default.replace_batch_norm),
        replace_attention=_boolean(section, "replace_attention", default.replace_attention),
        resolution=section.integer("resolution", default.resolution, low=8, high=1024),
        epochs=section.integer("epochs", default.epochs, high=10_000),
        batch_size=section.integer("batch_size", default.batch_size, low=2, high=65_536),
        learning_rate=section.number("learning_rate", default.learning_rate, above=0, high=10),
        weight_decay=section.number("weight_decay", default.weight_decay, low=0, high=10),
        warmup=section.number("warmup", default.warmup, low=0, below=1),
        label_smoothing=section.number("label_smoothing", default.label_smoothing, low=0, below=1),
        layer_scale=section.number("layer_scale", default.layer_scale, above=0, high=10),
        flip=_boolean(section, "flip", default.flip),
        train_images=_optional_integer(section, "train_images", default.train_images),
        val_images=_optional_integer(section, "val_images", default.val_images),
        val_split=None
        if section.raw("val_split") is None
        else section.number("val_split", default.val_split, above=0, below=1),
        reduce_zero_label=_boolean(section, "reduce_zero_label", default.reduce_zero_label),
        device=section.choice("device", default.device, DEVICES),
        threads=_optional_integer(section, "threads", default.threads, high=MAX_THREADS),
        kernels=section.choice("kernels", default.kernels, KERNELS),
    )


def check_kernels(proxy: ProxySettings) -> None:
    """Raises InputError where kernels are asked for and Numba is absent."""
    if proxy.kernels == "numba" and find_spec("numba") is None:
        rule = "needs Numba, which is not installed: pip install 'modscale[numba]'"
        raise InputError(rule, place="proxy.kernels", value=proxy.kernels)


def parse_latency(document: object, place: str, elsewhere: Mapping[str, str] = NOWHERE) -> LatencySettings:
    """The `latency` section; `elsewhere` as in `Section`. Raises InputError."""
    section, default = _open(document, place, LatencySettings, elsewhere)
    return LatencySettings(
        provider=section.choice("provider", default.provider, tuple(PROVIDERS)),
        threads=_optional_integer(section, "threads", default.threads, high=MAX_THREADS),
        precision=section.choice("precision", default.precision, PRECISIONS),
        graph_level=section.choice("graph_level", default.graph_level, GRAPH_LEVELS),
        warmup=section.integer("warmup", default.warmup, low=1, high=100_000),
        runs=section.integer("runs", default.runs, low=10, high=1_000_000),
        until_percent=section.number("until_percent", default.until_percent, above=0, high=100),
        patience_s=section.number("patience_s", default.patience_s, low=0, high=86_400),
        reference=_boolean(section, "reference", default.reference),
        calibration=None if section.raw("calibration") is None else section.text("calibration", ""),
        target=None if section.raw("target") is None else parse_target(section.raw("target"), section.at("target")),
        targets=_targets(section),
    )


def latency_to_dict(latency: LatencySettings) -> dict[str, Any]:
    """As plain values, which `parse_latency` reads unchanged."""
    return {
        **asdict(latency),
        "target": None if latency.target is None else _target_to_dict(latency.target),
        "targets": {target.name: _target_to_dict(target) for target in latency.targets},
    }


def _target_to_dict(target: Target) -> dict[str, Any]:
    return {**asdict(target), "command": list(target.command)}


def _targets(section: Section) -> tuple[Target, ...]:
    """Devices by name."""
    document, place = section.raw("targets") or {}, section.at("targets")
    if not isinstance(document, Mapping):
        raise InputError("must be a mapping (name to a device)", place=place, value=document)
    found = []
    for name, values in document.items():
        check_target_name(name, place)
        target = parse_target(values, f"{place}.{name}")
        if target.name not in ("", name):
            raise InputError(f"must be left out, or be {name}", place=f"{place}.{name}.name", value=target.name)
        found.append(replace(target, name=name))
    return tuple(found)


def check_target_name(name: object, place: str) -> str:
    """A name that can stand in a metric's. Raises InputError."""
    if not isinstance(name, str) or not TARGET_NAME.fullmatch(name) or name.endswith(RESERVED):
        rule = f"a device's name is 1 to 30 small letters, digits and _, and does not end in {', '.join(RESERVED)}"
        raise InputError(rule, place=place, value=name)
    return name


def parse_target(document: object, place: str, elsewhere: Mapping[str, str] = NOWHERE) -> Target:
    """A device that is timed on through a command. Raises InputError."""
    keys = [f.name for f in fields(Target)]
    section = Section(document, keys, place=place, what="a device", elsewhere=elsewhere)
    command, at = section.raw("command"), section.at("command")
    if not isinstance(command, (list, tuple)) or not command:
        raise InputError("must be a list of words, as in [ssh, pi, python3, -]", place=at, value=command)
    for i, word in enumerate(command):
        if not isinstance(word, str) or not word or "\0" in word:
            raise InputError("must be a word", place=f"{at}[{i}]", value=word)
    name = section.raw("name", "")
    provider = section.raw("provider")
    return Target(
        command=tuple(command),
        name="" if name == "" else check_target_name(name, section.at("name")),
        provider=None if provider is None else check_choice(provider, section.at("provider"), tuple(PROVIDERS)),
        threads=_optional_integer(section, "threads", None, high=MAX_THREADS),
        cache_mib=section.integer("cache_mib", CACHE_MIB, low=0, high=1 << 20),
    )


def parse_search(document: object, place: str, elsewhere: Mapping[str, str] = NOWHERE) -> SearchSettings:
    """The `search` section; `elsewhere` as in `Section`. Raises InputError."""
    section, default = _open(document, place, SearchSettings, elsewhere)
    return SearchSettings(
        trials=section.integer("trials", default.trials, high=1_000_000),
        startup_trials=section.integer("startup_trials", default.startup_trials, high=1_000_000),
        sampler=section.choice("sampler", default.sampler, SAMPLERS),
        references=parse_references(section.raw("references", default.references), section.at("references"), PUBLISHED),
        rungs=_rungs(section, default.rungs),
        finals=_boolean(section, "finals", default.finals),
        window=_optional_integer(section, "window", default.window, high=MAX_WINDOW),
        keep=section.number("keep", default.keep, above=0, high=1),
        seed=section.integer("seed", default.seed, low=0, high=2**32 - 1),
    )


def _open(document: object, place: str, kind: type[Any], elsewhere: Mapping[str, str]) -> tuple[Section, Any]:
    keys = [f.name for f in fields(kind)]
    values = {} if document is None else document
    return Section(values, keys, place=place, what="settings", elsewhere=elsewhere), kind()


def _rungs(section: Section, default: tuple[float, ...]) -> tuple[float, ...]:
    shares, place = section.raw("rungs", list(default)), section.at("rungs")
    if not isinstance(shares, (list, tuple)):
        raise InputError("must be a list of shares of the training", place=place, value=shares)
    for i, share in enumerate(shares):
        check_number(share, f"{place}[{i}]", above=0, below=1)
        if i and share <= shares[i - 1]:
            raise InputError("must be more than the rung before it", place=f"{place}[{i}]", value=share)
    return tuple(map(float, shares))


def _boolean(section: Section, key: str, default: bool) -> bool:
    return check_flag(section.raw(key, default), section.at(key))


def _optional_integer(section: Section, key: str, default: int | None, *, high: int = 2**31) -> int | None:
    value = section.raw(key, default)
    return None if value is None else check_integer(value, section.at(key), high=high)
