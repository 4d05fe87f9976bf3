"""Experiments: the sections of a search, what is refused in its file and how, what comes back from `run.yaml`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from modscale.document import dump_yaml, parse_yaml
from modscale.errors import InputError
from modscale.runs.experiment import experiment_to_dict, load_experiment, mismatch_note, parse_experiment
from modscale.runs.metrics import METRICS
from modscale.settings import LatencySettings, ProxySettings, SearchSettings
from modscale.spaces.space import Bounds

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "spaces").glob("*.yaml"))
README = ROOT / "README.md"


def experiment(**changes: object):
    """A small good experiment with top-level `changes`."""
    return parse_experiment({"stages": [{"dim": [16, 32], "depth": {"low": 1, "high": 3}}], **changes})


def refusal(**changes: object) -> str:
    with pytest.raises(InputError) as caught:
        experiment(**changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": []}, "stages: must be a list of 1 to 16 items, got []"),
        ({"stages": {}}, "stages: must be a list of 1 to 16 items, got {}"),
        ({"stages": [{"dim": 16}]}, "stages[0].depth: is required"),
        ({"stages": [{"depth": 1}]}, "stages[0].dim: is required"),
        ({"stages": [[16, 1]]}, "stages[0]: must be a mapping (a stage), got [16, 1]"),
        ({"name": "a/b"}, "name: must be fit for a folder's name"),
        ({"name": ".."}, "name: must be fit for a folder's name"),
        ({"name": " x"}, "name: must be fit for a folder's name"),
        ({"name": "a\\b"}, "name: must be fit for a folder's name"),
        ({"name": "é" * 101}, "name: must be fit for a folder's name"),
        ({"name": "a\nb"}, "name: must be a line of text"),
        ({"base": {"name": "x"}}, "base.name: unknown key;"),
        ({"base": {"stages": []}}, "base.stages: unknown key;"),
        ({"base": {"resolution": 0}}, "base.resolution: must be 1 or more, got 0"),
        ({"base": [224]}, "base: must be a mapping (fields of a model spec), got [224]"),
        ({"constraints": 0}, "constraints: must be a mapping (limits), got 0"),
        ({"constraints": []}, "constraints: must be a mapping (limits), got []"),
        ({"constraints": {"param": {"max": 1}}}, "constraints.param: unknown key; did you mean params?"),
        ({"constraints": {"params": 5e6}}, "constraints.params: must be a mapping (min and max), got 5000000.0"),
        ({"constraints": {"params": {"max": "5M"}}}, "constraints.params.max: must be a number, got '5M'"),
        ({"constraints": {"params": {"max": [1]}}}, "constraints.params.max: must be a number, got [1]"),
        ({"constraints": {"flops": {"min": 2, "max": 1}}}, "constraints.flops.max: must be min (2) or more, got 1"),
        ({"constraints": {"flops": {"max": float("inf")}}}, "constraints.flops.max: must be a finite number, got inf"),
        ({"constraints": {"widths": "increasing"}}, "constraints.widths: must be one of nondecreasing"),
        ({"constraints": {"latency_ms": 3}}, "constraints.latency_ms: must be a mapping (min and max), got 3"),
        ({"latency": {"calibration": 3}}, "latency.calibration: must be a line of text"),
        ({"constraints": {"accuracy": {"min": 0.5}}}, "constraints.accuracy: unknown key; accuracy is measured, not"),
        ({"constraints": {"latency": 3}}, "constraints.latency: unknown key; did you mean latency_ms"),
        ({"search": {"bands": {}}}, "search.bands: unknown key; it is a key of the top level; allowed: trials,"),
        (
            {"proxy": {"num_classes": 3}},
            "proxy.num_classes: unknown key; it is a key of base",
        ),
        ({"base": {"epochs": 3}}, "base.epochs: unknown key; it is a key of proxy; allowed: resolution"),
        (
            {"base": {"stem": {"dim": 3}}},
            "base.stem.dim: unknown key; it is a key of stages; allowed: kernel_size, stri",
        ),
        (
            {"params": {"max": 3}},
            "params: unknown key; it is a key of constraints, objectives and bands.NAME; allowed: n",
        ),
        ({"trials": 3}, "trials: unknown key; it is a key of search; allowed: name"),
        ({"threads": 3}, "threads: unknown key; it is a key of proxy and latency; allowed: name, base"),
        (
            {"objectives": {"widths": 3}},
            "objectives.widths: unknown key; it is a key of constraints; allowed: accuracy",
        ),
        ({"bands": {"xs": {"seed": 3}}}, "bands.xs.seed: unknown key; it is a key of search; allowed: accuracy"),
        ({"stages": [{"stride": 3}]}, "stages[0].stride: unknown key; it is a key of base.stem; allowed: dim, depth"),
        ({"objectives": {}}, "objectives: must name at least one of accuracy, miou, latency_ms, params, flops"),
        ({"objectives": None}, "objectives: must be a mapping (metric to direction), got None"),
        ({"objectives": ["accuracy"]}, "objectives: must be a mapping (metric to direction), got ['accuracy']"),
        (
            {"objectives": {"accuracy": "minimize"}},
            "objectives.accuracy: must be maximize: more of it is better, got 'minimize'",
        ),
        (
            {"objectives": {"latency": "minimize"}},
            "objectives.latency: unknown key; did you mean latency_ms? it is a key of the top level; allowed: accuracy",
        ),
        ({"bands": []}, "bands: must be a mapping (band to limits), got []"),
        ({"bands": {"a/b": {}}}, "bands: a band's name is 1 to 60 letters, digits, - and _, got 'a/b'"),
        ({"bands": {".": {}}}, "bands: a band's name is 1 to 60 letters, digits, - and _, got '.'"),
        ({"bands": {"a\n": {}}}, "bands: a band's name is 1 to 60 letters, digits, - and _, got 'a\\n'"),
        ({"bands": {1: {}}}, "bands: a band's name is 1 to 60 letters, digits, - and _, got 1"),
        ({"bands": {"xs": None}}, "bands.xs: must be a mapping (metric to limits), got None"),
        ({"bands": {"xs": {"params": [1, 2]}}}, "bands.xs.params: must be a mapping (min and max), got [1, 2]"),
        ({"bands": {"xs": {"parms": {"max": 1}}}}, "bands.xs.parms: unknown key; did you mean params?"),
        (
            {"proxy": {"resolution": 16}, "base": {"stem": {"kernel_size": 32, "stride": 32}}},
            "proxy.resolution: must be",
        ),
        ({"search": {"trials": 0}}, "search.trials: must be 1 or more, got 0"),
        ({"constraint": {}}, "constraint: unknown key; did you mean constraints?"),
    ],
)
def test_refused_sections(changes, message):
    """Each rule of a section has its line."""
    assert refusal(**changes).startswith(message)


@pytest.mark.parametrize("document", [None, [], "mobile", 3, {}])
def test_a_document_that_is_no_space(document):
    """An empty file, a list or a word is refused for what it is."""
    with pytest.raises(InputError, match=r"must be a mapping|stages: is required"):
        parse_experiment(document)


def test_a_file_is_named_in_the_message(tmp_path):
    """File, place, rule and value stand in one line."""
    file = tmp_path / "my.yaml"
    file.write_text("stages:\n  - {dim: 16, depth: {low: 0, high: 3}}\n")
    with pytest.raises(InputError) as caught:
        load_experiment(file)
    assert str(caught.value) == f"{file}: stages[0].depth[0]: must be 1 or more, got 0"


def test_defaults():
    """Without sections: accuracy against latency, no constraint, no band, and each section's defaults."""
    plain = experiment()
    assert plain.objectives == {"accuracy": "maximize", "latency_ms": "minimize"}
    assert plain.space.constraints.params == Bounds()
    assert not plain.space.constraints.nondecreasing_widths
    assert plain.bands == {}
    assert (plain.proxy, plain.latency, plain.search) == (ProxySettings(), LatencySettings(), SearchSettings())
    assert experiment(base=None, constraints=None, bands=None, proxy=None, latency=None, search=None) == plain


def test_the_order_of_objectives_and_bands_is_kept():
    """Reports list them as the file does."""
    document = parse_yaml(
        "{stages: [{dim: 8, depth: 1}], objectives: {flops: minimize, accuracy: maximize}, bands: {b: {}, a: {}}}"
    )
    assert list(parse_experiment(document).objectives) == ["flops", "accuracy"]
    assert list(parse_experiment(document).bands) == ["b", "a"]


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_shipped_spaces_load_and_come_back(file):
    """Every space under spaces/ loads, is named like its file, and is itself after run.yaml."""
    shipped = load_experiment(file)
    assert shipped.space.name == file.stem
    assert parse_experiment(parse_yaml(dump_yaml(experiment_to_dict(shipped)))) == shipped


def test_spaces_in_the_readme_load(tmp_path):
    """What a newcomer copies out of the README is a space."""
    examples = re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert examples
    for example in examples:
        (tmp_path / "mine.yaml").write_text(example)
        assert load_experiment(tmp_path / "mine.yaml").space.size() > 1


def test_every_field_comes_back():
    """A space that uses every kind of option is itself after run.yaml, awkward names included."""
    full = parse_experiment(
        {
            "name": "1e4",
            "base": {"stem": {"kernel_size": 4, "stride": 4}, "drop_path_rate": 0.1},
            "stages": [
                {"dim": [8, 9], "depth": 1, "mlp_ratios": [[1, 6]], "kernel_size": [[3, 5]], "context": [["f"], ["g"]]},
                {
                    "dim": 8,
                    "depth": {"low": 1, "high": 5, "step": 2},
                    "attention_mlp_ratio": {"low": 1, "high": 2, "step": 0.1},
                },
                {"dim": 8, "depth": 1, "kernel_size": 5, "block": ["van", "focal"], "fusion": "sum", "expansion": 3},
            ],
            "constraints": {"params": {"min": 1, "max": 2.5e6}, "widths": "nondecreasing"},
            "objectives": {"params": "minimize", "accuracy": "maximize"},
            "bands": {"yes": {"latency_ms": {"max": 3.5}}, "1e4": {}},
            "proxy": {"train_images": None, "flip": False},
            "latency": {
                "provider": "cuda",
                "target": {"command": ["ssh", "pi", "python3", "-"], "cache_mib": 5},
                "targets": {"phone": {"command": ["adb", "shell", "python3", "-"], "provider": "qnn", "threads": 1}},
            },
            "search": {"references": []},
        }
    )
    assert parse_experiment(parse_yaml(dump_yaml(experiment_to_dict(full)))) == full


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ({"classes": 10, "channels": 3}, None),
        ({"classes": 10}, None),
        ({"classes": 2, "channels": 3}, "the space states num_classes 10, and the data have 2 classes: networks for"),
        ({"classes": 10, "channels": 1}, "the space states in_chans 3, and the data have 1 channel: networks for the"),
        (
            {"classes": 2, "channels": 1},
            "the space states num_classes 10 and in_chans 3, and the data have 2 classes and 1 channel: networks for",
        ),
    ],
)
def test_what_is_said_where_space_and_data_differ(data, note):
    """Only what differs is named; what is not known of the data is no difference."""
    base = parse_experiment({"stages": [{"dim": 8, "depth": 1}], "base": {"num_classes": 10, "in_chans": 3}}).space.base
    assert mismatch_note(base, data) is None if note is None else str(mismatch_note(base, data)).startswith(note)


def test_a_new_metric_is_known_where_it_is_no_constraint(monkeypatch):
    """What is said of a measured metric among the constraints follows the table of metrics as it is today."""
    energy = replace(METRICS["latency_ms"], name="energy_mj", is_count=False)
    monkeypatch.setitem(METRICS, "energy_mj", energy)
    with pytest.raises(InputError) as caught:
        parse_experiment({"stages": [{"dim": 8, "depth": 1}], "constraints": {"energy_mj": {"max": 3}}})
    assert "energy_mj is measured, not counted" in str(caught.value)
    assert "objectives and bands.NAME" in str(caught.value)


PHONE = {"targets": {"phone": {"command": ["adb", "shell", "python3", "-"]}}}


def test_each_device_is_a_metric_of_its_own():
    """An objective, a band's limit and a constraint, like the latency here, with the settings it does not state."""
    wanted = {"accuracy": "maximize", "latency_phone_ms": "minimize"}
    found = experiment(
        latency={"threads": 3, "runs": 50, **PHONE},
        objectives=wanted,
        bands={"quick": {"latency_phone_ms": {"max": 9}}},
        constraints={"latency_phone_ms": {"max": 20}, "params": {"max": 1e9}},
    )
    assert (found.objectives, found.bands["quick"]["latency_phone_ms"]) == (wanted, Bounds(max=9.0))
    assert found.limits == {"latency_phone_ms": Bounds(max=20.0)}
    here, phone = found.latency.devices()
    assert (here.target, here.threads, here.runs) == (None, 3, 50)
    assert (phone.target.name, phone.target.command[0], phone.threads, phone.runs) == ("phone", "adb", 3, 50)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": {"latency_phone_ms": "minimize"}}, "objectives.latency_phone_ms: unknown key"),
        ({"latency": PHONE, "bands": {"a": {"latency_fone_ms": {}}}}, "bands.a.latency_fone_ms: unknown key; did you"),
        ({"latency": PHONE, "constraints": {"latency_pi_ms": {}}}, "constraints.latency_pi_ms: unknown key"),
        ({"latency": {"targets": {"ci95": {"command": ["a"]}}}}, "latency.targets: a device's name is 1 to 30 small"),
        ({"latency": {"targets": {"Pi 4": {"command": ["a"]}}}}, "latency.targets: a device's name is 1 to 30 small"),
        ({"latency": {"targets": {"pi": {}}}}, "latency.targets.pi.command: must be a list of words"),
        (
            {"latency": {"targets": {"pi": {"command": ["a"], "name": "b"}}}},
            "pi.name: must be left out, or be pi",
        ),
        ({"latency": {"targets": ["pi"]}}, "latency.targets: must be a mapping (name to a device)"),
        ({"targets": {}}, "targets: unknown key;"),
    ],
)
def test_devices_that_are_refused(changes, message):
    assert message in refusal(**changes)


MASKS = {
    "base": {"resolution": 64},
    "stages": [{"dim": [16, 32], "depth": 1}, {"dim": 32, "depth": 1}],
    "proxy": {"task": "segmentation"},
    "search": {"references": []},
}


def test_a_search_for_masks_has_their_head_and_their_metric() -> None:
    """Semantic FPN where the space states no head, mIoU where it states no objectives; and so it comes back."""
    found = parse_experiment(MASKS)
    assert found.space.base.head == "semantic_fpn"
    assert found.objectives == {"miou": "maximize", "latency_ms": "minimize"}
    plain = parse_experiment(MASKS | {"base": {"head": "classifier", "resolution": 50}})
    assert plain.space.base.head == "classifier"
    for one in (found, plain):
        assert parse_experiment(parse_yaml(dump_yaml(experiment_to_dict(one)))) == one
    assert experiment().space.base.head == "classifier"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objectives": {"accuracy": "maximize"}},
            "objectives: is told by proxy: {task: classification}; with task: segmentation it is miou, got 'accuracy'",
        ),
        ({"bands": {"a": {"accuracy": {"min": 0.5}}}}, "bands.a: is told by proxy: {task: classification}; with"),
        (
            {"proxy": {}, "objectives": {"miou": "maximize"}},
            "objectives: is told by proxy: {task: segmentation}; with task: classification it is accuracy, got 'miou'",
        ),
        (
            {"proxy": {}, "base": {"head": "semantic_fpn"}},
            "base.head: goes with proxy: {task: segmentation}, got 'semantic_fpn'",
        ),
        ({"base": {"resolution": 60}}, "base.resolution: must be a multiple of 8 for head: semantic_fpn, got 60"),
        (
            {"proxy": {"task": "segmentation", "resolution": 36}},
            "proxy.resolution: must be a multiple of 8 for head: semantic_fpn, got 36",
        ),
        (
            {"base": {"resolution": 48}, "search": {"references": ["xs"]}},
            "search.references[0]: for xs base.resolution must be a multiple of 32 for head: semantic_fpn, got 48",
        ),
        ({"proxy": {"task": "masks"}}, "proxy.task: must be one of classification, segmentation, got 'masks'"),
        ({"proxy": {"task": "segmentation", "method": "train"}}, "proxy.method: must be one of thin, got 'train'"),
        ({"proxy": {"task": "segmentation", "val_split": 0.1}}, "proxy.val_split: is not for task: segmentation"),
        ({"base": {"head": "masks"}}, "base.head: must be one of classifier, semantic_fpn, got 'masks'"),
        ({"base": [1]}, "base: must be a mapping (fields of a model spec), got [1]"),
    ],
)
def test_what_does_not_go_with_masks_is_refused_in_a_line(changes: dict[str, object], message: str) -> None:
    """With what would go in its place."""
    with pytest.raises(InputError) as caught:
        parse_experiment(MASKS | changes)
    assert str(caught.value).startswith(message)
