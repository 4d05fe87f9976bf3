"""The proxies by name."""

from __future__ import annotations

import subprocess
import sys
from math import sqrt

import numpy as np
import pytest

from modscale.datasets.dataset import Dataset
from modscale.errors import InputError, TrialFailed
from modscale.settings import PROXIES, ProxySettings, parse_proxy
from modscale.specs.spec import ModelSpec, StageSpec
from modscale.training import proxy
from modscale.training.proxies import SCORES, ProxyScore, score_network, score_to_rungs
from modscale.training.proxy import ProxyResult, prepare, train_proxy


def two_colours(count: int) -> Dataset:
    """Dark and bright noise."""
    y = np.arange(count, dtype=np.int64) % 2
    x = (np.random.default_rng(0).integers(0, 128, (count, 16, 16, 3)) + 127 * y[:, None, None, None]).astype(np.uint8)
    return Dataset(name="two", class_names=("a", "b"), x_train=x, y_train=y, x_val=x, y_val=y, fingerprint="", leaked=0)


def test_every_proxy_has_its_settings_and_what_it_does() -> None:
    """A name in one table is a name in the other, and its settings are those of a space that names it."""
    assert list(SCORES) == list(PROXIES)
    for name, settings in PROXIES.items():
        assert settings == parse_proxy({"method": name}, "proxy")
    assert PROXIES["train"] == ProxySettings()
    with pytest.raises(InputError, match=r"proxy.method: must be one of train.*, got 'guess'"):
        parse_proxy({"method": "guess"}, "proxy")


def test_the_short_training_is_scored_by_its_accuracy() -> None:
    """The same accuracy as the training alone gives, and what a search writes down of it."""
    settings = ProxySettings(resolution=16, epochs=1, batch_size=8, device="cpu", threads=1)
    spec = ModelSpec(stages=(StageSpec(dim=8, depth=1),))
    data = prepare(two_colours(40), settings)
    found = score_network(spec, data, settings, seed=3)
    result = train_proxy(spec, data, settings, seed=3)
    assert found.score == result.accuracy
    assert found.results == {"accuracy": result.accuracy, "val_images": 40, "val_loss": result.val_loss}


def test_a_score_is_given_at_each_rung_and_no_further_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last is the score that the network has without rungs."""
    settings = ProxySettings(resolution=16, epochs=2, batch_size=8, device="cpu", threads=1)
    spec = ModelSpec(stages=(StageSpec(dim=8, depth=1),))
    data = prepare(two_colours(40), settings)
    scores = list(score_to_rungs(spec, data, settings, seed=3, rungs=(0.2, 0.5, 1.0)))
    assert scores[-1] == score_network(spec, data, settings, seed=3)
    assert len({score.results["val_loss"] for score in scores}) == 3
    steps = []
    monkeypatch.setattr(proxy.recipe, "learning_rate_factor", lambda step, *_: steps.append(step) or 0.1)
    next(score_to_rungs(spec, data, settings, seed=3, rungs=(0.2, 0.5, 1.0)))
    assert steps == [0, 1]


@pytest.mark.parametrize(("correct", "counted"), [(0, 0.5), (40, 39.5), (10, 10)])
def test_no_score_claims_certainty(monkeypatch: pytest.MonkeyPatch, correct: int, counted: float) -> None:
    """None or all of 40 right counts as half an image off in the error, and as what it is in the score."""
    result = ProxyResult(
        accuracy=correct / 40, correct=correct, val_images=40, val_loss=1.0, train_loss=1.0, steps=1, seconds=1.0,
        epoch_losses=(1.0,),
    )  # fmt: skip
    monkeypatch.setattr(proxy, "train_to_rungs", lambda *arguments, **more: iter([result]))
    found = score_network(ModelSpec(stages=(StageSpec(dim=8, depth=1),)), None, ProxySettings(), seed=0)  # type: ignore[arg-type]
    assert found.score == correct / 40
    assert found.standard_error == pytest.approx(sqrt(counted / 40 * (1 - counted / 40) / 40))


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_failure(monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    """Of whatever proxy: there is no place for it in an order."""
    monkeypatch.setitem(SCORES, "train", lambda *arguments: iter([ProxyScore(score=score, standard_error=None)]))
    with pytest.raises(TrialFailed, match=r"the proxy train gave no finite score: (nan|inf)"):
        score_network(ModelSpec(stages=(StageSpec(dim=8, depth=1),)), None, ProxySettings(), seed=0)  # type: ignore[arg-type]


def test_a_score_can_be_read_without_torch() -> None:
    """It crosses from the process that trains into one that must stay light."""
    code = "import modscale.training.proxies, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
