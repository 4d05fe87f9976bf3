"""Settings of a full training: the paper's at the paper's size, and what follows from less data and time."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modscale.errors import InputError
from modscale.training.settings import (
    DistillationSettings,
    TrainSettings,
    choose_batch,
    parse_train,
    read_side,
    resolved,
    set_length,
    train_to_dict,
)

IMAGENET_IMAGES = 1_281_167


def made(**asked: Any) -> TrainSettings:
    values = {"epochs": 300, "batch": 2048, "train_images": IMAGENET_IMAGES, "channels": 3, "resolution": 224} | {
        key: asked.pop(key) for key in ("epochs", "batch", "train_images", "channels", "resolution") if key in asked
    }
    return resolved(TrainSettings(**asked), **values)


def test_at_the_papers_size_all_is_as_in_the_paper() -> None:
    """Batch 2048 and 300 epochs of ImageNet give every number of the paper's list of hyperparameters."""
    found = made()
    expected = {
        "epochs": 300, "batch_size": 2048, "learning_rate": 4e-3, "weight_decay": 0.05, "warmup_epochs": 5, "flip": 0.5,
        "jitter": 0.4, "randaugment": 9, "randaugment_deviation": 0.5, "randaugment_layers": 2,
        "randaugment_probability": 0.5, "erasing": 0.25, "mixup": 0.8, "cutmix": 1.0, "mix_probability": 1.0,
        "label_smoothing": 0.1, "ema_decay": 0.9998, "strength": 1.0,
    }  # fmt: skip
    assert {key: getattr(found, key) for key in expected} == pytest.approx(expected)
    assert found.crop == pytest.approx(0.08)


def test_a_smaller_batch_has_the_rate_of_its_square_root_or_of_its_share() -> None:
    """128 images are a sixteenth of 2048: a quarter of the rate, or by the linear rule a sixteenth."""
    assert made(batch=128).learning_rate == pytest.approx(1e-3)
    assert made(batch=128, rate_scaling="linear").learning_rate == pytest.approx(4e-3 / 16)
    assert made(batch=128, learning_rate=0.5).learning_rate == 0.5


def test_a_short_training_starts_as_the_proxy_does() -> None:
    """At its measured rate, smaller for smaller batches; not from 100 epochs on, nor from another network's weights."""
    short = made(epochs=6, batch=128)
    assert (short.start, short.learning_rate) == ("transferred", 4e-3)
    assert made(epochs=6, batch=8).learning_rate == pytest.approx(2e-3)
    assert made(epochs=100).start == "authors"
    asked = TrainSettings(start="authors")
    tuned = [
        resolved(one, epochs=6, batch=128, train_images=6400, channels=3, resolution=32, is_fresh=fresh)
        for one, fresh in ((TrainSettings(), False), (asked, True))
    ]
    assert [(one.start, one.learning_rate) for one in tuned] == [("authors", pytest.approx(1e-3))] * 2


def test_a_short_training_augments_as_much_less_as_it_is_shorter() -> None:
    """25 epochs are a quarter of those at which all is carried out; what is asked for stays."""
    found = made(epochs=25, erasing=0.2)
    assert found.randaugment_probability == pytest.approx(0.125)
    assert found.mix_probability == pytest.approx(0.25)
    assert found.crop == pytest.approx(1 - 0.92 / 4)
    assert (found.randaugment, found.mixup, found.erasing) == (9, 0.8, 0.2)
    assert made(epochs=25, strength=0.0).crop == 1


def test_the_average_looks_back_over_the_papers_share_of_the_training() -> None:
    """5,000 of 187,500 steps: of a training of 1,500 steps, 40."""
    decay = made(epochs=1, batch=64, train_images=96_000).ema_decay
    assert decay is not None
    assert 1 / (1 - decay) == pytest.approx(5000 * 1500 / 187_500)


@pytest.mark.parametrize(
    ("images", "processes", "batch"), [(10_000, 1, 128), (1_281_167, 1, 256), (200, 1, 16), (10, 1, 10), (11, 2, 10)]
)
def test_the_batch_leaves_about_a_hundred_steps(images: int, processes: int, batch: int) -> None:
    """The nearest power of two, between 16 and 256, of no more images than there are, in equal parts."""
    assert choose_batch(TrainSettings(), images, processes) == batch


def test_a_batch_that_cannot_be_dealt_out_is_refused() -> None:
    with pytest.raises(InputError, match="multiple of the 3 processes"):
        choose_batch(TrainSettings(batch_size=32), 1000, 3)
    with pytest.raises(InputError, match="no batch of two images"):
        choose_batch(TrainSettings(), 3, 2)


def test_small_images_are_held_at_their_own_size_and_large_ones_larger() -> None:
    """256 px for 224, as is usual."""
    assert read_side(TrainSettings(), 64) == 64
    assert read_side(TrainSettings(), 224) == 256
    with pytest.raises(InputError, match="at least the network's resolution, 64"):
        read_side(TrainSettings(read_side=32), 64)


def test_settings_come_back_from_their_plain_values() -> None:
    """Resolved or not."""
    for settings in (
        TrainSettings(hours=2.5, distillation=DistillationSettings(kind="soft", temperature=3.0), log="mlflow"),
        made(epochs=7, batch=32),
    ):
        assert parse_train(train_to_dict(settings)) == settings


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"epochs": 2, "hours": 1}, "epochs: and hours both say"),
        ({"learning_rat": 1}, "learning_rat: unknown key; did you mean learning_rate?"),
        ({"label_smoothing": 1}, "label_smoothing: must be less than 1, got 1"),
        ({"distillation": {"kind": "warm"}}, "distillation.kind: must be one of hard, soft, got 'warm'"),
        ({"mean": [0.5, "x"]}, "mean[1]: must be a number"),
        ({"epochs": 0}, "epochs: must be 1 or more, got 0"),
        ([1], "must be a mapping (settings of a training)"),
    ],
)
def test_a_broken_setting_is_one_line(document: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_train(document)
    assert words in str(caught.value)


def test_as_many_means_as_channels() -> None:
    with pytest.raises(InputError, match="mean: must have a number for each of the 3 channels"):
        made(mean=(0.5,))
    assert len(made(channels=1).mean or ()) == 1


def test_what_is_typed_goes_before_a_file() -> None:
    """--hours in place of a file's epochs; both typed are refused."""
    settings = set_length(TrainSettings(epochs=5), None, 2.0)
    assert (settings.epochs, settings.hours) == (None, 2.0)
    with pytest.raises(InputError, match="--epochs: and --hours both"):
        set_length(TrainSettings(), 1, 2.0)


@given(st.integers(1, 1000), st.integers(16, 4096), st.integers(5000, 2_000_000))
def test_whatever_the_size_every_setting_is_in_its_range(epochs: int, batch: int, images: int) -> None:
    """What is resolved can be read back, so it breaks no rule."""
    found = made(epochs=epochs, batch=batch, train_images=images)
    assert parse_train(train_to_dict(found)) == found
    assert math.isfinite(found.learning_rate or math.nan)
    assert (found.warmup_epochs or 0) <= epochs
