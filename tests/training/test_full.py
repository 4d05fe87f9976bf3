"""The loop of a full training: its schedule and average by hand, goes on to the bit, and stops with what it has."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import SPEC, make_job

from modscale.errors import InputError, RunError, TrialFailed
from modscale.training import full
from modscale.training.full import FullTraining
from modscale.training.job import BEST_FILE, LAST_FILE, STATE_FILE, TrainJob, best_score


def train(job: TrainJob, seconds: float = 1000.0) -> list[dict[str, Any]]:
    """The rows of a whole training, asked for in pieces of so many seconds."""
    training = FullTraining(job)
    rows = [dict(row) for row in training.prepare().rows]
    while not (progress := training.advance(seconds)).is_over or progress.row:
        if progress.row:
            rows.append(dict(progress.row))
    return rows


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def weights(job: TrainJob) -> tuple[bytes, bytes]:
    return (job.folder / BEST_FILE).read_bytes(), (job.folder / LAST_FILE).read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainJob, list[dict[str, Any]]]:
    """A training that nothing disturbs."""
    job = make_job(tmp_path_factory.mktemp("straight"))
    return job, train(job)


def test_a_row_an_epoch_with_what_was_learnt(straight: tuple[TrainJob, list[dict[str, Any]]]) -> None:
    """Brightness tells the four classes apart, so that it learns; the keys are those of the contract and more."""
    job, rows = straight
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"train_loss", "accuracy", "learning_rate", "seconds", "val_loss", "ema_accuracy"} <= rows[0].keys()
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert {path.name for path in job.folder.iterdir()} == {BEST_FILE, LAST_FILE, STATE_FILE}


def test_the_rate_rises_and_falls_as_a_cosine_to_zero(tmp_path: Path) -> None:
    """One epoch of warm-up of three, 4 steps each: then half a cosine over 8 steps, worked out by hand."""
    rows = train(make_job(tmp_path, warmup_epochs=1.0))
    expected = [3e-3 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in (0, 4, 8)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected, abs=1e-9)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    tmp_path: Path, straight: tuple[TrainJob, list[dict[str, Any]]]
) -> None:
    """Bit for bit, and however often one asks how far it is."""
    same, other = make_job(tmp_path, "same"), make_job(tmp_path, "other", seed=4)
    assert timeless(train(same, seconds=0.0)) == timeless(straight[1])
    assert weights(same) == weights(straight[0])
    assert timeless(train(other)) != timeless(straight[1])


@pytest.mark.parametrize("steps", [1, 4, 6, 11])
def test_a_training_goes_on_from_any_step_to_the_same_weights(
    tmp_path: Path, straight: tuple[TrainJob, list[dict[str, Any]]], steps: int
) -> None:
    """A process that is gone after so many steps has left a state; another one ends where one alone would have."""
    job = make_job(tmp_path, checkpoint_minutes=1e-9)
    training = FullTraining(job)
    training.prepare()
    for _ in range(steps):
        training.advance(0.0)
    del training
    torch.rand(5)
    rows = train(replace(job, goes_on=True))
    assert timeless(rows) == timeless(straight[1])
    assert weights(job) == weights(straight[0])


def test_the_average_is_that_of_all_steps(tmp_path: Path) -> None:
    """The first step's weights, then half of the average and half of the new weights, step by step, by hand."""
    job = make_job(tmp_path, epochs=1)
    training = FullTraining(job)
    training.prepare()
    average: dict[str, torch.Tensor] = {}
    for _ in range(4):
        training._step()
        for name, tensor in training.network.state_dict().items():
            if tensor.is_floating_point():
                average[name] = 0.5 * average[name] + 0.5 * tensor if name in average else tensor.clone()
    assert training.average is not None
    found = training.average.module.state_dict()
    for name, tensor in average.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)


def test_the_best_file_has_the_accuracy_of_the_best_row(tmp_path: Path) -> None:
    """Scored anew from the file alone, whichever of the network and its average it was."""
    job = make_job(tmp_path, epochs=4, learning_rate=1e-2)
    rows = train(job)
    training = FullTraining(job)
    training.prepare()
    training.network.load_state_dict(load_file(job.folder / BEST_FILE))
    assert training.task.evaluate(training.network)["accuracy"] == max(best_score(row) for row in rows)


def test_a_loss_that_is_no_number_stops_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epoch and step are told; the files of the epoch before stand, and nothing of it is written."""
    job = make_job(tmp_path)
    training = FullTraining(job)
    training.prepare()
    training.advance(1000.0)
    before = {path.name: path.read_bytes() for path in job.folder.iterdir()}
    loss = training.task.loss
    calls = iter(range(100))

    def broken(*arguments: Any) -> torch.Tensor:
        return loss(*arguments) * (math.nan if next(calls) == 2 else 1.0)

    monkeypatch.setattr(training.task, "loss", broken)
    with pytest.raises(TrialFailed, match=r"not finite in epoch 2, step 3 of 4; best\.safetensors and .* of epoch 1"):
        training.advance(1000.0)
    assert {path.name: path.read_bytes() for path in job.folder.iterdir()} == before


def test_a_full_disk_in_mid_epoch_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: tuple[TrainJob, list[dict[str, Any]]]
) -> None:
    """The state of the epoch before stands, and from it the training ends as if there had been room."""
    job = make_job(tmp_path, checkpoint_minutes=1e-9)
    training = FullTraining(job)
    training.prepare()
    training.advance(1000.0)
    training.advance(0.0)
    write_whole = full.write_whole

    def no_room(file: Path, content: bytes) -> None:
        raise InputError("cannot be written: No space left on device", file=file)

    monkeypatch.setattr(full, "write_whole", no_room)
    with pytest.raises(InputError, match="No space left"):
        training.advance(0.0)
    monkeypatch.setattr(full, "write_whole", write_whole)
    assert timeless(train(replace(job, goes_on=True))) == timeless(straight[1])
    assert weights(job) == weights(straight[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"PK no more", "is broken"), (None, "does not belong to this training")],
)
def test_a_state_that_is_not_ours_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    """Cut off, or that of another network; in a line that names the file."""
    job = make_job(tmp_path)
    if content is None:
        stream = io.BytesIO()
        torch.save({"epoch": 1, "step": 0, "seconds": 0.0, "rows": "[]", "network": {"a": torch.ones(1)}}, stream)
        content = stream.getvalue()
    (job.folder / STATE_FILE).write_bytes(content)
    with pytest.raises(RunError, match=words) as caught:
        FullTraining(replace(job, goes_on=True)).prepare()
    assert str(job.folder / STATE_FILE) in str(caught.value)


def test_hours_become_epochs_by_timed_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which a step takes a second and scoring nothing: 4 steps an epoch and 5 % more."""
    job = make_job(tmp_path, epochs=None, hours=42.1 / 3600)
    training = FullTraining(job)
    now = [0.0]
    learn = training._learn

    def slow(*arguments: Any) -> torch.Tensor:
        now[0] += 1.0
        return learn(*arguments)

    monkeypatch.setattr(training, "_learn", slow)
    monkeypatch.setattr(full.time, "monotonic", lambda: now[0])
    prepared = training.prepare()
    assert prepared.settings.epochs == 10
    assert "10 epochs" in prepared.notes[0]


def test_head_and_input_follow_the_data_and_drop_path_the_settings(tmp_path: Path) -> None:
    job = make_job(tmp_path, drop_path=0.1, layer_scale=0.5)
    spec = FullTraining(job).prepare().spec
    assert (spec.num_classes, spec.in_chans, spec.drop_path_rate, spec.layer_scale) == (4, 3, 0.1, 0.5)
    assert (spec.stages, spec.stem, spec.name) == (SPEC.stages, SPEC.stem, SPEC.name)


def test_vectors_have_no_weight_decay(tmp_path: Path) -> None:
    """Without a gradient, AdamW's decay alone moves a parameter: matrices shrink, biases and norms stay."""
    training = FullTraining(make_job(tmp_path, weight_decay=0.5))
    training.prepare()
    before = {name: p.detach().clone() for name, p in training.network.named_parameters()}
    for parameter in training.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    training.optimiser.step()
    for name, parameter in training.network.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (parameter.ndim >= 2 and bool(before[name].any())), name


def test_the_proxys_start_is_an_option(tmp_path: Path) -> None:
    """Unit gain and rates by fan-in, as `training/recipe.py` has them, in place of the authors' weights."""
    training = FullTraining(make_job(tmp_path, start="transferred"))
    training.prepare()
    assert len(training.optimiser.param_groups) > 2
    fc1 = training.network.get_submodule("layers.0.blocks.0.mlp.fc1")
    assert float(fc1.weight.detach().std()) == pytest.approx(1 / math.sqrt(8), rel=0.2)  # type: ignore[union-attr]
    assert rows_are_finite(train(make_job(tmp_path, "other", start="transferred", epochs=1)))


def rows_are_finite(rows: list[dict[str, Any]]) -> bool:
    return all(math.isfinite(value) for row in rows for value in row.values())


def test_half_precision_trains(tmp_path: Path) -> None:
    """Autocast to bfloat16 gives other losses, near those of float32."""
    whole, half = (
        train(make_job(tmp_path, precision, epochs=1, precision=precision))[0]["train_loss"]
        for precision in ("float32", "bfloat16")
    )
    assert half != whole
    assert half == pytest.approx(whole, rel=0.05)
