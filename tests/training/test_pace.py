"""How long a training takes, from a few steps of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tiny_training import SPEC, write_data

from modscale.datasets.dataset import load_dataset
from modscale.settings import ProxySettings
from modscale.training import pace, proxy
from modscale.training.proxy import ProxyResult
from modscale.training.proxy_data import ProxyData, prepare

SETTINGS = ProxySettings(resolution=16, epochs=8, batch_size=4, threads=1, val_images=20)
START_S, STEP_S, IMAGE_S = 0.7, 0.03, 0.002


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ProxyData:
    file = write_data(tmp_path_factory.mktemp("pace") / "data.npz")
    return prepare(load_dataset(str(file), resolution=16, train_images=48, val_images=20, seed=0), SETTINGS)


def test_the_pace_is_that_of_a_training_whose_pace_is_known(data: ProxyData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that says it took so long to start, for a step and for an image has just that pace."""
    asked: list[float] = []

    def known(spec: Any, some: ProxyData, settings: Any, *, seed: int, rungs: Sequence[float]) -> Iterator[ProxyResult]:
        asked.extend(rungs)
        seconds, before = START_S, 0
        for share in rungs:
            step = round(share * 12 * 8)
            seconds += (step - before) * STEP_S + len(some.y_val) * IMAGE_S
            before = step
            yield ProxyResult(accuracy=0, correct=0, val_images=0, val_loss=1, val_loss_error=0, seconds=seconds)

    monkeypatch.setattr(proxy, "train_to_rungs", known)
    monkeypatch.setattr(pace, "SCORED_IMAGES", 8)
    found = pace.take_pace(SPEC, data, SETTINGS, seed=0)
    assert found.start_s == pytest.approx(START_S)
    assert found.step_s == pytest.approx(STEP_S)
    assert found.score_image_s == pytest.approx(IMAGE_S)
    assert (found.steps_an_epoch, found.val_images) == (12, 20)
    assert found.seconds(8) == pytest.approx(START_S + 96 * STEP_S + 20 * IMAGE_S)
    assert found.seconds(2, 100) == pytest.approx(START_S + 24 * STEP_S + 100 * IMAGE_S)
    assert found.seconds(8, share=0.25, scorings=3) == pytest.approx(START_S + 24 * STEP_S + 60 * IMAGE_S)
    assert found.times(2).seconds(8) == pytest.approx(2 * found.seconds(8))
    assert [round(share * 96) for share in asked] == [4, 28, 29]


@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_the_shortest_training_has_a_pace(data: ProxyData, steps: int) -> None:
    """A training of a step, too, of which nothing is thrown away."""
    batch = {1: 48, 2: 24, 3: 16, 12: 4}[steps]
    found = pace.take_pace(SPEC, data, replace(SETTINGS, epochs=1, batch_size=batch), seed=0)
    assert found.steps_an_epoch == steps
    assert min(found.start_s, found.step_s, found.score_image_s) >= 0
    assert found.seconds(1) > 0
