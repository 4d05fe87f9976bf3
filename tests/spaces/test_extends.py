"""A space that extends another: what the two come to, and where an error is said to stand."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from modscale.document import dump_yaml, parse_yaml
from modscale.errors import InputError
from modscale.runs.experiment import experiment_to_dict, load_experiment, parse_experiment
from modscale.spaces.extends import LIBRARY, MOST_FILES, library_names, read_layers
from modscale.spaces.space import Bounds

ROOT = Path(__file__).parents[2]
BELOW = """
name: below
base: {resolution: 64, layer_scale: 0.5, stem: {kernel_size: 4, stride: 4}}
stages: [{dim: [16, 32], depth: {low: 1, high: 3}}, {dim: 32, depth: 1}]
constraints: {params: {min: 5, max: 1e6}, flops: {max: 1e9}, widths: nondecreasing}
objectives: {accuracy: maximize, latency_ms: minimize}
bands: {small: {params: {max: 3e5}}, large: {}}
proxy: {epochs: 3}
search: {references: [xxs], trials: 5}
"""
COARSE = BELOW.replace("kernel_size: 4, stride: 4", "kernel_size: 16, stride: 16")


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def load(folder: Path, text: str, below: str = BELOW):
    write(folder, "below.yaml", below)
    return load_experiment(write(folder, "mine.yaml", f"extends: below.yaml\n{text}"))


def refusal(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_experiment(file)
    return str(caught.value)


def test_mappings_merge_lists_and_scalars_replace_and_null_takes_away(tmp_path):
    """The table of the module, worked out by hand: the same as a file that says it all."""
    found = load(
        tmp_path,
        "name: mine\nbase: {resolution: 96, layer_scale: null, stem: null}\nstages: [{dim: 8, depth: [1, 2]}]\n"
        "constraints: {params: {max: 2e6}, flops: null, widths: null}\n"
        "objectives: {latency_ms: null, flops: minimize}\n"
        "bands: {large: null, fast: {latency_ms: {max: 3}}}\nsearch: {references: []}\nproxy: null\n",
    )
    by_hand = parse_experiment(
        {
            "name": "mine",
            "base": {"resolution": 96, "layer_scale": None},
            "stages": [{"dim": 8, "depth": [1, 2]}],
            "constraints": {"params": {"min": 5, "max": 2e6}},
            "objectives": {"accuracy": "maximize", "flops": "minimize"},
            "bands": {"small": {"params": {"max": 3e5}}, "fast": {"latency_ms": {"max": 3}}},
            "search": {"references": [], "trials": 5},
        }
    )
    assert found == by_hand
    assert list(found.bands) == ["small", "fast"]


def test_what_is_said_of_the_base_holds_where_the_file_says_nothing(tmp_path):
    assert load(tmp_path, "") == parse_experiment(parse_yaml(BELOW))


def test_a_chain_is_merged_from_its_far_end(tmp_path):
    """What the middle takes away the top may say anew, and folders are those of the files that name each other."""
    write(tmp_path, "deep/er/far.yaml", BELOW)
    write(tmp_path, "deep/middle.yaml", "extends: er/far.yaml\nbands: {small: null}\nname: middle\n")
    found = load_experiment(
        write(tmp_path, "top.yaml", "extends: deep/middle.yaml\nbands: {small: {flops: {max: 9}}}\n")
    )
    assert found.space.name == "middle"
    assert found.bands == {"large": {}, "small": {"flops": Bounds(max=9.0)}}


def test_a_space_of_modscale_is_known_by_its_name_wherever_one_is(tmp_path, monkeypatch):
    """With its ending or without; but a file that is there counts first, and only beside the one that extends."""
    monkeypatch.chdir(tmp_path)
    assert library_names() == sorted(file.stem for file in (ROOT / "spaces").glob("*.yaml"))
    assert load_experiment("mobile") == load_experiment(ROOT / "spaces" / "mobile.yaml")
    for name in ("mobile", "mobile.yaml"):
        found = load_experiment(write(tmp_path, "a/mine.yaml", f"extends: {name}\nname: mine\n"))
        assert found.space.size() == 378_470_400
    write(tmp_path, "mobile.yaml", "{}")  # in the folder where the command runs, which is none of the file's
    assert load_experiment(tmp_path / "a" / "mine.yaml").space.size() == 378_470_400
    write(tmp_path, "a/mobile.yaml", BELOW)
    assert load_experiment(tmp_path / "a" / "mine.yaml").space.size() == 6
    (tmp_path / "smoke").mkdir()
    assert load_experiment("smoke").space.name == "smoke"


def test_files_of_references_stay_those_of_the_file_that_names_them(tmp_path):
    """As paths from the folder of the file that was asked for; names and absolute paths are no such thing."""
    below = BELOW.replace(
        "[xxs]", "[xxs, net.onnx, {spec: ../own.yaml}, 'timm:a.onnx', {onnx: /abs/c.onnx}, {timm: b}]"
    )
    write(tmp_path, "lib/below.yaml", below)
    found = load_experiment(write(tmp_path, "mine.yaml", "extends: lib/below.yaml\n")).search.references
    assert found[0] == "xxs"
    files = [one.file(tmp_path) for one in found[1:3]]
    assert [file.resolve() for file in files] == [tmp_path / "lib" / "net.onnx", tmp_path / "own.yaml"]
    assert [one.source for one in found[3:]] == ["a.onnx", "/abs/c.onnx", "b"]


@pytest.mark.parametrize(
    ("mine", "below", "message"),
    [
        ("bands: {small: {params: {max: x}}}", BELOW, "mine.yaml: bands.small.params.max: must be a number, got 'x'"),
        ("bands: {new: {}}", BELOW.replace("3e5", "x"), "below.yaml: bands.small.params.max: must be a number"),
        ("proxy: {epoch: 3}", BELOW, "mine.yaml: proxy.epoch: unknown key; did you mean epochs?"),
        ("proxy: {flip: 3}", BELOW.replace("epochs: 3", "a.b: 3"), "below.yaml: proxy.a.b: unknown key"),
        ("name: 3", BELOW, "mine.yaml: name: must be a line of text"),
        ("stages: null", BELOW, "mine.yaml: stages: is required"),
        ("", BELOW.replace("depth: 1", "depth: 0"), "below.yaml: stages[1].depth: must be 1 or more, got 0"),
        ("", "name: a", "mine.yaml: stages: is required"),
        ("objectives: {flops: minimize}", BELOW.replace("accuracy: m", "miou: m"), "below.yaml: objectives: is told"),
        ("objectives: {miou: maximize}", BELOW, "mine.yaml: objectives: is told by proxy"),
        ("bands: 3", BELOW, "mine.yaml: bands: must be a mapping (band to limits), got 3"),
        ("proxy: {resolution: 10}", COARSE, "mine.yaml: proxy.resolution: must be"),
        ("extend: {}", BELOW, "mine.yaml: extend: unknown key; did you mean extends?"),
        ("base: {extends: a}", BELOW, "mine.yaml: base.extends: unknown key; it is a key of the top level"),
        ("", "- 1", "below.yaml: must be a mapping (a search space), got [1]"),
        ("", "a: [", "below.yaml: line 2, column 1: not valid YAML"),
        ("", "a: !!python/object/apply:os.system [id]", "below.yaml: line 1, column 4: not valid YAML: could not"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_in_which_the_value_stands(tmp_path, mine, below, message):
    with pytest.raises(InputError) as caught:
        load(tmp_path, mine, below)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nosuch.yaml",
            "no such file at {0}/nosuch.yaml, nor a space of modscale's (gpu, mobile, segmentation, smoke)",
        ),
        ("mine.yaml", "must not go round in a circle ({0}/mine.yaml -> {0}/mine.yaml), got 'mine.yaml'"),
        ("3", "must be a line of text of 1 to 200 characters, got 3"),
        ("", "must be a line of text of 1 to 200 characters, got None"),
        ("[a, b]", "must be a line of text of 1 to 200 characters, got ['a', 'b']"),
        ('"a\\0b"', "must be a line of text of 1 to 200 characters, got 'a\\x00b'"),
    ],
)
def test_a_name_that_leads_nowhere(tmp_path, name, message):
    assert refusal(write(tmp_path, "mine.yaml", f"extends: {name}\n")).startswith(
        f"{tmp_path}/mine.yaml: extends: {message.format(tmp_path)}"
    )


def test_what_is_no_plain_file_is_not_opened(tmp_path):
    assert refusal(write(tmp_path, "mine.yaml", "extends: /dev/zero\n")) == "/dev/zero: must be a plain file"


def test_a_circle_of_two_names_the_file_that_closes_it(tmp_path):
    write(tmp_path, "b.yaml", "extends: a.yaml\n")
    text = refusal(write(tmp_path, "a.yaml", "extends: b.yaml\n"))
    assert text.startswith(f"{tmp_path}/b.yaml: extends: must not go round in a circle ({tmp_path}/a.yaml -> ")


def test_a_chain_has_an_end(tmp_path):
    """So many files are read, and one more is refused where it is named."""
    for i in range(1, MOST_FILES + 1):
        write(tmp_path, f"{i}.yaml", f"extends: {i - 1}.yaml\n")
    write(tmp_path, "0.yaml", BELOW)
    assert len(read_layers(tmp_path / f"{MOST_FILES - 1}.yaml").files) == MOST_FILES
    text = refusal(tmp_path / f"{MOST_FILES}.yaml")
    assert text.startswith(f"{tmp_path}/1.yaml: extends: must be a chain of at most {MOST_FILES} files")


def test_a_page_of_aliases_is_not_unfolded(tmp_path):
    """Thirty levels of two aliases are a thousand million mappings, in each of both files."""
    bomb = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}\n" for i in range(1, 30))
    with pytest.raises(InputError, match="must come to at most 10000 mappings"):
        load(tmp_path, bomb, bomb)


def test_a_run_records_the_whole(tmp_path):
    """What run.yaml says of the space needs no other file, and says nothing of one."""
    recorded = experiment_to_dict(load(tmp_path, "name: mine\n"))
    assert "extends" not in recorded
    assert parse_experiment(parse_yaml(dump_yaml(recorded))) == parse_experiment(parse_yaml(BELOW) | {"name": "mine"})
    with pytest.raises(InputError, match=r"^extends: is for a space's own file"):
        parse_experiment({"extends": "below.yaml"})


def test_the_library_lies_in_the_package():
    """A wheel takes what the packaging names, and in a clone that is a link to its spaces."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data["modscale.spaces"] == ["library/*.yaml"]
    assert LIBRARY.resolve() == ROOT / "spaces"
