"""A training's folder: what it is held to when it goes on, and its lines after a kill at any moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_training import SPEC, make_job

from modscale.document import read_yaml
from modscale.errors import InputError
from modscale.runs.train_folder import (
    METRICS_FILE,
    best_row,
    check_asked,
    check_prepared,
    read_rows,
    read_training,
    set_rows,
    write_training,
)
from modscale.specs.spec import load_spec
from modscale.training.job import Prepared, TrainJob
from modscale.training.settings import resolved

ROWS = [{"epoch": i, "accuracy": a, "ema_accuracy": b} for i, a, b in ((1, 0.2, 0.1), (2, 0.3, 0.6), (3, 0.6, 0.5))]


def prepared(job: TrainJob, **changes: Any) -> Prepared:
    settings = resolved(job.settings, epochs=3, batch=12, train_images=48, channels=3, resolution=16)
    values = {
        "rank": 0, "processes": 1, "spec": replace(SPEC, num_classes=4), "settings": settings,
        "data": {"fingerprint": "f", "notes": []}, "class_names": ("a", "b", "c", "1e3"),
        "preprocessing": {"mean": [0.5], "std": [0.25]}, "device": "cpu", "steps": 4, "rows": (), "notes": (),
        "taken_over": None, "teacher": None,
    }  # fmt: skip
    return Prepared(**(values | changes))


@pytest.fixture
def begun(tmp_path: Path) -> TrainJob:
    """A training that has been written down."""
    job = make_job(tmp_path)
    write_training(job, prepared(job))
    return job


def test_the_same_training_goes_on_with_the_settings_that_were_found(begun: TrainJob) -> None:
    """Whatever the machine would make of them now; class names stay text."""
    document = read_training(begun.folder)
    assert document is not None
    assert check_asked(document, begun, begun.folder) == prepared(begun).settings
    assert check_prepared(document, prepared(begun), begun.folder) == []
    assert document["classes"] == ["a", "b", "c", "1e3"]
    assert load_spec(begun.folder / "spec.yaml") == replace(SPEC, num_classes=4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "its seed is 3, and 4 here"),
        ({"teacher": "t"}, "its teacher is not set, and 't' here"),
        ({"spec": replace(SPEC, resolution=32)}, "its spec.resolution is 16, and 32 here"),
    ],
)
def test_another_training_is_refused(begun: TrainJob, change: dict[str, Any], words: str) -> None:
    document = read_training(begun.folder)
    assert document is not None
    with pytest.raises(InputError) as caught:
        check_asked(document, replace(begun, **change), begun.folder)
    assert words in str(caught.value)
    assert "give another --out" in str(caught.value)


def test_other_settings_are_refused_but_those_that_move_no_weight(begun: TrainJob) -> None:
    document = read_training(begun.folder)
    assert document is not None
    check_asked(
        document, replace(begun, settings=replace(begun.settings, log="mlflow", checkpoint_minutes=1.0)), begun.folder
    )
    with pytest.raises(InputError, match=r"its settings\.label_smoothing is not set, and 0\.2 here"):
        check_asked(document, replace(begun, settings=replace(begun.settings, label_smoothing=0.2)), begun.folder)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"data": {"fingerprint": "g"}}, "data.fingerprint"),
        ({"device": "cuda (NVIDIA H100)"}, "device"),
        ({"processes": 2}, "processes"),
    ],
)
def test_other_data_or_another_kind_of_device_are_refused(begun: TrainJob, change: dict[str, Any], place: str) -> None:
    document = read_training(begun.folder)
    assert document is not None
    with pytest.raises(InputError) as caught:
        check_prepared(document, prepared(begun, **change), begun.folder)
    assert f"train.yaml: {place}: belongs to another training" in str(caught.value)


def test_another_version_of_torch_is_told(begun: TrainJob) -> None:
    document = read_training(begun.folder)
    assert document is not None
    document["versions"]["torch"] = "1.0"
    (note,) = check_prepared(document, prepared(begun), begun.folder)
    assert note.startswith("torch was '1.0' and is ")


@pytest.mark.parametrize("there", [0, 1, 2, 3])
def test_lines_that_a_kill_left_out_are_added(tmp_path: Path, there: int) -> None:
    """The state is what counts, whatever the file has of it, or beyond it."""
    set_rows(tmp_path, ROWS[:there])
    set_rows(tmp_path, ROWS[:2])
    assert read_rows(tmp_path) == ROWS[:2]


def test_lines_of_another_training_are_replaced(tmp_path: Path) -> None:
    set_rows(tmp_path, [{"epoch": 1, "accuracy": 0.9}])
    set_rows(tmp_path, ROWS)
    assert read_rows(tmp_path) == ROWS


def test_a_line_out_of_order_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"epoch": 1}\n{"epoch": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2: must be an object with `epoch: 2`"):
        read_rows(tmp_path)


def test_the_best_epoch_is_the_first_with_the_best_of_both_weights() -> None:
    """The average of the second, 0.6, is as good as the network of the third."""
    assert best_row(ROWS)["epoch"] == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("other.txt", "x", "must be empty or a folder of `modscale train`: it has other.txt"),
     ("train.yaml", "a: 1", "is not what `modscale train` writes"),
     ("train.yaml", "a: [", "not valid YAML")],
)  # fmt: skip
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_training(tmp_path)
    assert words in str(caught.value)
    assert (tmp_path / name).read_text() == content


def test_what_is_written_is_yaml_with_the_settings_the_data_and_the_machine(begun: TrainJob) -> None:
    document = read_yaml(begun.folder / "train.yaml")
    assert isinstance(document, dict)
    assert {"asked", "settings", "data", "classes", "preprocessing", "machine", "versions"} <= document.keys()
