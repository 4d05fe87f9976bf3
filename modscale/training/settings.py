"""How a network is trained in full: the paper's recipe, and what is made of it where data and time are smaller.

The paper's (Appendix A, Table 9): 300 epochs of AdamW at batch 2048, weight decay 0.05, a rate of 4e-3 with 5 epochs
of warm-up and a cosine, flip 0.5, jitter 0.4, RandAugment m9-mstd0.5-inc1, erasing 0.25, mixup 0.8, cutmix 1.0,
smoothing 0.1, LayerScale 1e-4, drop path 0 to 0.02, EMA 0.9998.

A setting that is None follows from the others, the number of images and the length of the training:

- the start, below 100 epochs and without weights to start from: that of the proxy (`training/recipe.py`), at its rate
  of 4e-3, for with the authors' a short training spends its steps on leaving a plateau
  (`benchmarks/training_start.md`);
- the batch, a power of two that leaves a hundred steps an epoch; the rate, from the paper's by the square root of the
  batch's share, as is usual for Adam (`rate_scaling: linear` is the other rule);
- warm-up and EMA keep the paper's shares of the whole training, but no fewer steps than they need;
- the augmentations are carried out as often as in the paper (scenes are cut as widely) times `strength`, which is 1
  from 100 epochs on and less in proportion below: a short training never sees enough of the images to need them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from modscale.deploy.facts import IMAGENET_MEAN, IMAGENET_STD
from modscale.document import Section, check_integer, check_number
from modscale.errors import InputError
from modscale.machine import available_cores
from modscale.settings import DEVICES, MAX_THREADS

PAPER_EPOCHS = 300
PAPER_BATCH = 2048
PAPER_RATE = 4e-3
PAPER_WARMUP_EPOCHS = 5
TRANSFERRED_RATE = 4e-3
"""Peak of the proxy's start at `TRANSFERRED_BATCH` images a step and more, where it was measured."""
TRANSFERRED_BATCH = 32
PAPER_EMA_DECAY = 0.9998
PAPER_STEPS = 1_281_167 // PAPER_BATCH * PAPER_EPOCHS
"""Of the paper's whole training, on ImageNet-1K."""
FULL_STRENGTH_EPOCHS = 100
"""From so many epochs on the augmentations are the paper's."""
DEFAULT_HOURS = 1.0
"""Where neither epochs nor hours are asked for."""
STEPS_AN_EPOCH = 100
LEAST_WARMUP = 0.05
"""Share of the steps that a short training needs to warm up."""

AUGMENTATIONS = {"jitter": 0.4, "randaugment_probability": 0.5, "erasing": 0.25, "mix_probability": 1.0}
"""The paper's values of what `strength` scales: how often, or for jitter how much."""
OF_WHOLE_IMAGES = ("randaugment_probability", "erasing", "mix_probability")
"""Those that would leave a mask behind, or a target that is no class: not for segmentation."""
PAPER_SMOOTHING = 0.1
PAPER_CROP = 0.08
"""Least share of an image that a training crop keeps."""

STARTS = ("authors", "transferred")
PRECISIONS = ("auto", "float32", "bfloat16")
RATE_SCALINGS = ("sqrt", "linear")
KINDS = ("hard", "soft")
LOGS = ("none", "tensorboard", "mlflow")
TASKS = ("classification", "segmentation")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationSettings:
    """How much of a teacher's answer is learnt, and in what form."""

    kind: str = "hard"
    """`hard`: the teacher's first choice is the target, as in the paper; `soft`: its probabilities are."""
    alpha: float = 0.5
    """Share of the teacher's part in the loss; the rest is the labels'."""
    temperature: float = 1.0
    """Divides both networks' logits where targets are soft."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """A full training; None where a value follows from the others, see the module."""

    task: str = "classification"
    """What is learnt."""
    epochs: int | None = None
    """Passes over the training images; None takes what `hours` allow, at most the paper's 300."""
    hours: float | None = None
    """Time for the whole training where `epochs` is None, by timed steps; None takes 1."""
    batch_size: int | None = None
    """Images a step, over all processes."""
    learning_rate: float | None = None
    """Peak rate at this batch."""
    rate_scaling: str = "sqrt"
    """How the paper's rate follows the batch where `learning_rate` is None: `sqrt` or `linear`."""
    weight_decay: float = 0.05
    """AdamW's decay of matrices; vectors have none."""
    warmup_epochs: float | None = None
    """Epochs in which the rate rises; a cosine to 0 follows."""
    label_smoothing: float | None = None
    """Share of the target spread over all classes; None takes 0.1, for segmentation 0."""
    clip_norm: float | None = None
    """Largest norm of the gradient; None clips nothing, as the paper."""
    start: str | None = None
    """`authors`: their initial weights and one rate; `transferred`: those of the proxy, see `training/recipe.py`."""
    layer_scale: float | None = None
    """Initial LayerScale of modulation blocks; None takes the spec's, or for `transferred` the proxy's 0.1."""
    drop_path: float | None = None
    """Drop path of the last block; None takes the spec's."""
    ema_decay: float | None = None
    """Share of the averaged weights that a step keeps; 0 averages nothing."""
    strength: float | None = None
    """Share of the paper's augmentation, 0 to 1."""
    crop: float | None = None
    """Least share of an image's area that a training crop keeps; 1 crops nothing."""
    flip: float = 0.5
    """Probability of a mirror image; 0 for data in which left and right differ, such as text."""
    jitter: float | None = None
    """Range of brightness, contrast and saturation around 1."""
    randaugment: float = 9.0
    """Magnitude of RandAugment's operations, of 10."""
    randaugment_deviation: float = 0.5
    """Standard deviation of that magnitude."""
    randaugment_layers: int = 2
    """Operations an image."""
    randaugment_probability: float | None = None
    """Of each of them to be carried out; 0 has none."""
    erasing: float | None = None
    """Probability that a rectangle of an image becomes noise."""
    mixup: float = 0.8
    """Alpha of mixup's beta distribution; 0 has none of it."""
    cutmix: float = 1.0
    """Alpha of cutmix's; where there are both, a batch has one of them, at even odds."""
    mix_probability: float | None = None
    """Share of the batches that are mixed."""
    scales: tuple[float, float] | None = None
    """Segmentation: least and largest size of a scene before a square of the network's side is cut out of it.

    None takes a half and twice raised to `strength`, so that a short training cuts less.
    """
    reduce_zero_label: bool = True
    """Segmentation: 0 in a mask is a pixel without a label, 1 to K are classes; else 0 to K - 1 are."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    """Used with a teacher."""
    read_side: int | None = None
    """Side at which training images are held before they are cropped, pixels."""
    val_split: float | None = None
    """Share of each class's training images set aside where the data have no validation set; None takes 0.1."""
    mean: tuple[float, ...] | None = None
    """A number a channel, of pixels from 0 to 1, taken off them; None takes ImageNet's."""
    std: tuple[float, ...] | None = None
    """A number a channel by which they are divided then; None takes ImageNet's."""
    precision: str = "auto"
    """`float32`, `bfloat16` (autocast), or `auto`: bfloat16 on CUDA."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is one."""
    threads: int | None = None
    """CPU threads; None takes every core this process may use."""
    checkpoint_minutes: float = 10.0
    """At least so often what is needed to go on is written in mid-epoch."""
    log: str = "none"
    """Where metrics go besides metrics.jsonl: `tensorboard` or `mlflow`, where installed."""

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation a channel, once they are resolved."""
        assert self.mean is not None and self.std is not None  # noqa: S101, PT018  # `resolved` filled them in
        return self.mean, self.std


IMAGENET = {3: (IMAGENET_MEAN, IMAGENET_STD), 1: ((0.449,), (0.226,))}
"""Channels to the mean and deviation of ImageNet's pixels from 0 to 1; of grey ones, those of the channels together."""


def usual_normalisation(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation a channel where nothing else is known: ImageNet's, or else a half and a quarter."""
    return IMAGENET.get(channels, ((0.5,) * channels, (0.25,) * channels))


def parse_train(document: object, place: str = "") -> TrainSettings:
    """Settings from the plain values of a YAML document. Raises InputError."""
    names = tuple(f.name for f in fields(TrainSettings))
    s = Section({} if document is None else document, names, place=place, what="settings of a training")
    default = TrainSettings()

    def maybe(key: str, **bounds: Any) -> float | None:
        value = s.raw(key)
        return None if value is None else check_number(value, s.at(key), **bounds)

    def maybe_whole(key: str, **bounds: Any) -> int | None:
        value = s.raw(key)
        return None if value is None else check_integer(value, s.at(key), **bounds)

    found = TrainSettings(
        task=s.choice("task", default.task, TASKS),
        epochs=maybe_whole("epochs", high=100_000),
        hours=maybe("hours", above=0, high=100_000),
        batch_size=maybe_whole("batch_size", low=2, high=1_000_000),
        learning_rate=maybe("learning_rate", above=0, high=10),
        rate_scaling=s.choice("rate_scaling", default.rate_scaling, RATE_SCALINGS),
        weight_decay=s.number("weight_decay", default.weight_decay, low=0, high=10),
        warmup_epochs=maybe("warmup_epochs", low=0, high=100_000),
        label_smoothing=maybe("label_smoothing", low=0, below=1),
        clip_norm=maybe("clip_norm", above=0, high=1e6),
        start=None if s.raw("start") is None else s.choice("start", None, STARTS),
        layer_scale=maybe("layer_scale", above=0, high=1000),
        drop_path=maybe("drop_path", low=0, below=1),
        ema_decay=maybe("ema_decay", low=0, below=1),
        strength=maybe("strength", low=0, high=1),
        crop=maybe("crop", above=0, high=1),
        flip=s.number("flip", default.flip, low=0, high=1),
        jitter=maybe("jitter", low=0, below=1),
        randaugment=s.number("randaugment", default.randaugment, low=0, high=10),
        randaugment_deviation=s.number("randaugment_deviation", default.randaugment_deviation, low=0, high=10),
        randaugment_layers=s.integer("randaugment_layers", default.randaugment_layers, high=15),
        randaugment_probability=maybe("randaugment_probability", low=0, high=1),
        erasing=maybe("erasing", low=0, high=1),
        mixup=s.number("mixup", default.mixup, low=0, high=100),
        cutmix=s.number("cutmix", default.cutmix, low=0, high=100),
        mix_probability=maybe("mix_probability", low=0, high=1),
        scales=_scales(s.raw("scales"), s.at("scales")),
        reduce_zero_label=_switch(s.raw("reduce_zero_label"), s.at("reduce_zero_label"), default.reduce_zero_label),
        distillation=_parse_distillation(s.raw("distillation"), s.at("distillation")),
        read_side=maybe_whole("read_side", low=8, high=8192),
        val_split=maybe("val_split", above=0, below=1),
        mean=_channels(s, "mean", low=0, high=1),
        std=_channels(s, "std", above=0, high=10),
        precision=s.choice("precision", default.precision, PRECISIONS),
        device=s.choice("device", default.device, DEVICES),
        threads=maybe_whole("threads", high=MAX_THREADS),
        checkpoint_minutes=s.number("checkpoint_minutes", default.checkpoint_minutes, above=0, high=100_000),
        log=s.choice("log", default.log, LOGS),
    )
    _check_task(found, s)
    if found.epochs is not None and found.hours is not None:
        raise InputError("and hours both say how long to train; leave one of them", place=s.at("epochs"))
    return found


def train_to_dict(settings: TrainSettings) -> dict[str, Any]:
    """The settings as plain values; `parse_train` reads them back unchanged."""
    values = asdict(settings)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def set_length(settings: TrainSettings, epochs: int | None, hours: float | None) -> TrainSettings:
    """The settings with the length that was typed, if one was, in place of a file's. Raises InputError for both."""
    if epochs is not None and hours is not None:
        raise InputError("and --hours both say how long to train; leave one of them", place="--epochs")
    if epochs is None and hours is None:
        return settings
    return replace(settings, epochs=epochs, hours=hours)


def choose_batch(settings: TrainSettings, train_images: int, processes: int) -> int:
    """Images a step over all processes, where none are asked for a power of two that leaves about a hundred steps.

    Raises:
        InputError: a process would have fewer than two images a step, or unequal numbers of them.
    """
    batch = settings.batch_size
    if batch is None:
        most = 5 if settings.task == "segmentation" else 8  # logits of all pixels take memory
        batch = 2 ** max(4, min(most, round(math.log2(max(1, train_images / STEPS_AN_EPOCH)))))
        batch = max(batch, 2 * processes)
    batch = min(batch, train_images) // processes * processes
    if batch < 2 * processes:
        rule = f"{train_images} training images make no batch of two images for each of {processes} process(es)"
        raise InputError(rule, place="batch_size", value=settings.batch_size)
    if settings.batch_size is not None and settings.batch_size % processes:
        raise InputError(f"must be a multiple of the {processes} processes", place="batch_size", value=batch)
    return batch


def read_side(settings: TrainSettings, resolution: int) -> int:
    """Side at which training images are held before they are cropped. Raises InputError for less than `resolution`."""
    if settings.read_side is None:
        return resolution if resolution < 128 else round(resolution * 8 / 7)  # a small image has no more pixels to give
    if settings.read_side < resolution:
        rule = f"must be at least the network's resolution, {resolution}"
        raise InputError(rule, place="read_side", value=settings.read_side)
    return settings.read_side


def resolved(
    settings: TrainSettings,
    *,
    epochs: int,
    batch: int,
    train_images: int,
    channels: int,
    resolution: int,
    is_fresh: bool = True,
) -> TrainSettings:
    """The settings with every None filled in but those that the spec or the data have (drop path, LayerScale, split).

    `is_fresh`: no weights of another network are taken over.

    Raises:
        InputError: `mean` or `std` has another number of channels than the images.
    """
    strength = settings.strength
    if strength is None:
        strength = min(1.0, epochs / FULL_STRENGTH_EPOCHS)
    is_dense = settings.task == "segmentation"
    steps = train_images // batch * epochs
    scale = batch / PAPER_BATCH
    start = settings.start or ("transferred" if is_fresh and epochs < FULL_STRENGTH_EPOCHS else "authors")
    if start == "transferred":
        rate = TRANSFERRED_RATE * math.sqrt(min(1.0, batch / TRANSFERRED_BATCH))
    else:
        rate = PAPER_RATE * (math.sqrt(scale) if settings.rate_scaling == "sqrt" else scale)
    horizon = max(1.0, steps / PAPER_STEPS / (1 - PAPER_EMA_DECAY))  # steps that the average looks back
    mean, std = usual_normalisation(channels)
    found = replace(
        settings,
        epochs=epochs,
        hours=None,
        batch_size=batch,
        start=start,
        learning_rate=_or(settings.learning_rate, rate),
        warmup_epochs=_or(settings.warmup_epochs, min(float(PAPER_WARMUP_EPOCHS), epochs * LEAST_WARMUP)),
        ema_decay=_or(settings.ema_decay, min(PAPER_EMA_DECAY, 1 - 1 / horizon)),
        strength=strength,
        label_smoothing=_or(settings.label_smoothing, 0.0 if is_dense else PAPER_SMOOTHING),
        scales=_or(settings.scales, (2.0**-strength, 2.0**strength)),
        crop=_or(settings.crop, 1.0 if is_dense else 1 - (1 - PAPER_CROP) * strength),
        **{
            key: _or(getattr(settings, key), 0.0 if is_dense and key in OF_WHOLE_IMAGES else value * strength)
            for key, value in AUGMENTATIONS.items()
        },
        read_side=read_side(settings, resolution),
        mean=_or(settings.mean, mean),
        std=_or(settings.std, std),
        threads=_or(settings.threads, available_cores()),
    )
    for key, values in (("mean", found.mean), ("std", found.std)):
        if values is not None and len(values) != channels:
            raise InputError(f"must have a number for each of the {channels} channels", place=key, value=list(values))
    return found


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _parse_distillation(document: object, place: str) -> DistillationSettings:
    names = tuple(f.name for f in fields(DistillationSettings))
    values: Mapping[str, object] | object = {} if document is None else document
    s = Section(values, names, place=place, what="how to learn from a teacher")
    default = DistillationSettings()
    return DistillationSettings(
        kind=s.choice("kind", default.kind, KINDS),
        alpha=s.number("alpha", default.alpha, low=0, high=1),
        temperature=s.number("temperature", default.temperature, above=0, high=1000),
    )


def _check_task(settings: TrainSettings, section: Section) -> None:
    """Raises InputError for what was asked for and has no meaning for the task."""
    if settings.task != "segmentation":
        return
    for key in (*OF_WHOLE_IMAGES, "val_split"):
        if getattr(settings, key):
            raise InputError("is not for task: segmentation", place=section.at(key), value=getattr(settings, key))
    if settings.crop not in (None, 1.0):
        raise InputError("is not for task: segmentation; scales is", place=section.at("crop"), value=settings.crop)


def _scales(value: object, place: str) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InputError("must be a list of the least and the largest size", place=place, value=value)
    low, high = (check_number(one, f"{place}[{i}]", low=0.1, high=10) for i, one in enumerate(value))
    if low > high:
        raise InputError("must have the least size first", place=place, value=value)
    return low, high


def _switch(value: object, place: str, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError("must be true or false", place=place, value=value)
    return value


def _channels(section: Section, key: str, **bounds: float) -> tuple[float, ...] | None:
    value = section.raw(key)
    if value is None:
        return None
    place = section.at(key)
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError("must be a list of a number a channel", place=place, value=value)
    return tuple(check_number(item, f"{place}[{i}]", **bounds) for i, item in enumerate(value))
