"""What a report says of a search for masks: mIoU throughout, what is counted, and what is not known of its proxy."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_runs import SPACE, fake_references, fake_trials, read_json, write_run
from PIL import Image

from modscale.api.finished import report_run
from modscale.report.front_chart import plot_axes
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Trial

MASKS = SPACE | {"proxy": {"task": "segmentation"}}


def as_masks(trials: list[Trial]) -> list[Trial]:
    """What was an accuracy is a mIoU."""
    for trial in trials:
        results = dict(trial.results)
        results["miou"], results["miou_standard_error"] = results.pop("accuracy"), 0.01
        object.__setattr__(trial, "results", results)
    return trials


def write(folder: Path, **base: object) -> Path:
    space = MASKS | {"base": SPACE["base"] | base}
    experiment = parse_experiment(space)
    trials, references = as_masks(fake_trials(experiment, 20)), as_masks(fake_references(experiment))
    return write_run(folder / "run", trials, references, space=space)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("masks"))
    report_run(folder)
    return folder


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_a_search_for_masks_speaks_of_masks(run: Path, name: str) -> None:
    """mIoU where a classifier's report has accuracy, the doubt in the first sentence, the paper's mIoU beside ours."""
    text = " ".join((run / name).read_text().split())
    for words in (
        "The best segmenting network on the front is trial",
        "How this proxy ranks backbones for segmentation was not measured against published results.",
        "HAS NOT BEEN MEASURED against published results",
        "which is what modscale export writes",
        "Semantic FPN and its masks included",
        "Of the one pair of these networks, the proxy puts 1 in the order of their published mIoU on ADE20K",
        "± after a mIoU is its standard error over the validation images",
    ):
        assert words in text, words
    assert "most accurate" not in text
    assert "better half by mIoU" in text


def test_the_files_are_those_of_any_search(run: Path) -> None:
    """The front is mIoU's; each pick's spec has its head; the plot has mIoU upwards."""
    front = read_json(run / "front.json")
    assert set(front["reference_point"]) == {"miou", "latency_ms"}
    assert "head: semantic_fpn" in (run / "models/s.yaml").read_text()
    assert front["reasons"]["s"].startswith("the best segmenting of")
    assert plot_axes(["miou", "latency_ms"]) == plot_axes(["latency_ms", "miou"]) == ("latency_ms", "miou")
    with Image.open(run / "pareto.png") as image:
        assert image.size[0] > 600
    assert "miou" in read_json(run / "design_reading.json")["parameters"][0]["better"]


def test_a_backbone_alone_is_said_to_be_one(tmp_path: Path) -> None:
    """Where the space states a classifier's head, it is that which is counted, timed and exported."""
    folder = write(tmp_path, head="classifier")
    report_run(folder)
    text = " ".join((folder / "report.md").read_text().split())
    assert "those of the backbone with a classifier at 64 px" in text
    assert "Semantic FPN is not in them" in text
    assert "head:" not in (folder / "models/s.yaml").read_text()
