"""The proxies by name."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import log

import numpy as np
import pytest

from modscale.datasets.dataset import Dataset
from modscale.errors import InputError, TrialFailed
from modscale.settings import PROXIES, TASK_PROXIES, ProxySettings, parse_proxy
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec, StageSpec
from modscale.training import proxy
from modscale.training.estimate import ANCHOR, WEIGHTS, estimate_accuracy
from modscale.training.proxies import SCORES, ProxyScore, score_network, score_to_rungs
from modscale.training.proxy import train_proxy
from modscale.training.proxy_data import prepare

SETTINGS = ProxySettings(resolution=16, epochs=1, batch_size=8, device="cpu", threads=1)
SMALL = ModelSpec(name="small", stages=(StageSpec(dim=8, depth=1),))


def two_colours(count: int) -> Dataset:
    """Dark and bright noise."""
    y = np.arange(count, dtype=np.int64) % 2
    x = (np.random.default_rng(0).integers(0, 128, (count, 16, 16, 3)) + 127 * y[:, None, None, None]).astype(np.uint8)
    return Dataset(name="two", class_names=("a", "b"), x_train=x, y_train=y, x_val=x, y_val=y, fingerprint="", leaked=0)


def test_every_proxy_has_its_settings_and_what_it_does() -> None:
    """A name in one table is a name in the other, and its settings are those of a space that names it."""
    assert {task: list(scores) for task, scores in SCORES.items()} == {t: list(p) for t, p in TASK_PROXIES.items()}
    for task, proxies in TASK_PROXIES.items():
        for name, settings in proxies.items():
            assert settings == parse_proxy({"task": task, "method": name}, "proxy")
    assert set(PROXIES) == set(WEIGHTS.evidence)
    assert PROXIES["thin"] == ProxySettings()
    with pytest.raises(InputError, match=r"proxy.method: must be one of thin, train, got 'guess'"):
        parse_proxy({"method": "guess"}, "proxy")


def test_the_short_training_is_scored_by_what_it_says_beside_the_anchors() -> None:
    """The training's own figures are written down; the score is the estimate from them, and from the network's size."""
    data = prepare(two_colours(40), SETTINGS)
    found = score_network(SMALL, data, SETTINGS, seed=3)
    result, anchor = (train_proxy(spec, data, SETTINGS, seed=3) for spec in (SMALL, published(ANCHOR)))
    estimate = estimate_accuracy(
        SMALL,
        method="thin",
        evidence=log(anchor.val_loss / result.val_loss),
        evidence_error=result.val_loss_error / result.val_loss,
    )
    assert found.score == estimate.accuracy
    assert found.standard_error == estimate.noise
    assert found.results == {
        "accuracy": estimate.accuracy,
        "accuracy_standard_error": estimate.standard_error,
        "trained_accuracy": result.accuracy,
        "val_images": 40,
        "val_loss": result.val_loss,
        "anchor_loss": anchor.val_loss,
    }


def test_the_anchor_is_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all networks of one seed, itself among them, whose evidence is then none."""
    data = prepare(two_colours(40), SETTINGS)
    trained = []
    train = proxy.train_to_rungs
    monkeypatch.setattr(
        proxy, "train_to_rungs", lambda spec, *a, **k: trained.append(spec.name) or train(spec, *a, **k)
    )
    small, itself = (score_network(spec, data, SETTINGS, seed=3) for spec in (SMALL, published(ANCHOR)))
    assert trained == [ANCHOR, SMALL.name]
    assert itself.results["val_loss"] == itself.results["anchor_loss"] == small.results["anchor_loss"]
    assert itself.score == estimate_accuracy(published(ANCHOR), method="thin", evidence=0.0).accuracy


def test_an_anchor_that_cannot_be_trained_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(spec: ModelSpec, *arguments: object, **more: object) -> None:
        raise TrialFailed("diverged")

    monkeypatch.setattr(proxy, "train_to_rungs", fail)
    with pytest.raises(TrialFailed, match="the anchor xxs, to which it would be compared: diverged"):
        score_network(SMALL, prepare(two_colours(40), SETTINGS), SETTINGS, seed=3)


def test_a_score_is_given_at_each_rung_and_no_further_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last is the score that the network has without rungs."""
    settings = replace(SETTINGS, epochs=2)
    data = prepare(two_colours(40), settings)
    scores = list(score_to_rungs(SMALL, data, settings, seed=3, rungs=(0.2, 0.5, 1.0)))
    last, whole = scores[-1], score_network(SMALL, data, settings, seed=3)
    assert last == whole
    assert len({score.results["val_loss"] for score in scores}) == 3
    steps = []
    monkeypatch.setattr(proxy.recipe, "learning_rate_factor", lambda step, *_: steps.append(step) or 0.1)
    next(score_to_rungs(SMALL, data, settings, seed=3, rungs=(0.2, 0.5, 1.0)))
    assert steps == [0, 1]


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_failure(monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    """Of whatever proxy: there is no place for it in an order."""
    monkeypatch.setitem(
        SCORES["classification"], "thin", lambda *arguments: iter([ProxyScore(score=score, standard_error=None)])
    )
    with pytest.raises(TrialFailed, match=r"the proxy thin gave no finite score: (nan|inf)"):
        score_network(SMALL, None, SETTINGS, seed=0)  # type: ignore[arg-type]


def test_a_score_can_be_read_without_torch() -> None:
    """It crosses from the process that trains into one that must stay light."""
    code = "import modscale.training.proxies, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
