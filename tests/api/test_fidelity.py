"""A fidelity check as a user runs it: real trainings, killed in the middle, gone on with, and stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from killed import kill_after

from modscale.api import fidelity
from modscale.api.fidelity import check_fidelity, choose_setup
from modscale.cli.main import main
from modscale.errors import DataError, InputError, RunError
from modscale.runs.fidelity_folder import FidelitySetup, read_setup
from modscale.runs.scores import read_scored
from modscale.settings import ProxySettings
from modscale.specs.known import load_known

pytestmark = pytest.mark.slow

SPACE = """
name: tiny
base: {drop_path_rate: 0.1}
stages: [{dim: [8, 16], depth: 1}]
proxy: {resolution: 16, epochs: 1, threads: 1}
latency: {runs: 10, warmup: 1, threads: 1, until_percent: 100, patience_s: 0, reference: false}
search: {seed: 3}
"""
INTERRUPTIBLE = """
import signal, sys
from modscale.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
STAGES = {"stages": [{"dim": 8, "depth": 1}]}
PAST = [
    {"spec": {"name": f"mine-{dim}", "resolution": 32, "stages": [{"dim": dim, "depth": 1}]}, "top1": top1}
    for dim, top1 in ((8, 60.0), (16, 62.0), (24, 65.0))
]


def write_data(file: Path, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in (("train", 96), ("val", 40)):
        labels = np.arange(count) % 4
        noise = rng.integers(0, 120, (count, 16, 16, 3))
        arrays[f"x_{split}"] = (noise + labels[:, None, None, None] * 40).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(file, **arrays)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a space, data, and networks of known accuracy."""
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "past.yaml").write_text(yaml.safe_dump(PAST))
    write_data(tmp_path / "data.npz")
    return tmp_path


def command(place: Path, *more: str) -> list[str]:
    return [
        "fidelity", "--data", str(place / "data.npz"), "--proxy", str(place / "space.yaml"),
        "--models", str(place / "past.yaml"), "--out", str(place / "out"), *more,
    ]  # fmt: skip


class Told:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def scoring(self, *, done: int, total: int) -> AbstractContextManager[Any]:
        self.lines.append(f"{done} of {total}")
        return self._watching()

    @contextmanager
    def _watching(self) -> Any:
        yield self

    def started(self, label: str, spec: object) -> None: ...

    def stage(self, name: str) -> None: ...

    def finished(self, label: str, row: object) -> None: ...


def run(place: Path, setup: FidelitySetup | None = None, **options: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """A check of `PAST`, without the command line."""
    told = Told()
    found, content = check_fidelity(
        load_known(place / "past.yaml"),
        setup or choose_setup(str(place / "space.yaml")),
        **{
            "source": str(place / "data.npz"), "seeds": 1, "times": False, "folder": place / "out", "watcher": told,
        } | options,
    )  # fmt: skip
    return found, content, told.lines


def test_a_killed_check_goes_on_where_it_was(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed with SIGKILL after its first scores, it keeps them and takes only the others."""
    scores = place / "out" / "fidelity.jsonl"
    arguments = command(place, "--seeds", "2", "--no-latency", "--json")
    before = kill_after([sys.executable, "-m", "modscale", *arguments], scores, lines=2, within_s=120)
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert scores.read_bytes().startswith(before)
    rows = read_scored(scores)
    assert [(row.name, row.seed) for row in rows] == [(f"mine-{dim}", seed) for seed in (3, 4) for dim in (8, 16, 24)]
    assert all(row.spec.drop_path_rate == 0.1 for row in rows)  # as a candidate of the space has it
    models = {model["name"]: model for model in document["models"]}
    for name in models:
        assert models[name]["score"] == pytest.approx(np.mean([row.score for row in rows if row.name == name]))


def test_the_same_command_measures_nothing_again_and_more_seeds_only_what_is_missing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is complete loads no data; another name or accuracy of a network costs nothing either."""
    (place / "past.yaml").write_text(yaml.safe_dump(PAST[:1]))
    found, content, told = run(place, times=True)
    assert told[1:] == ["0 of 2"]
    assert content["models"][0]["latency_ms"] > 0
    lines = (place / "out" / "fidelity.jsonl").read_bytes()
    _, _, told = run(place, seeds=2, times=True)
    assert told[0] == f"resuming {place / 'out'}: 2 of 3 measurements done"
    assert (place / "out" / "fidelity.jsonl").read_bytes().startswith(lines)
    monkeypatch.setattr(fidelity, "Bench", None)  # it is not asked for
    (place / "past.yaml").write_text(yaml.safe_dump([{**PAST[0], "top1": 99.0, "name": "new"}]))
    found, content, told = run(place, seeds=2, times=True)
    assert told == [f"resuming {place / 'out'}: 3 of 3 measurements done"]
    assert content["models"][0]["name"] == "new"
    assert found.complete


def test_scores_of_other_data_or_settings_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, exit code 2, and the scores stay as they are."""
    run(place)
    lines = (place / "out" / "fidelity.jsonl").read_bytes()
    setup = choose_setup(str(place / "space.yaml"))
    other = FidelitySetup(proxy=ProxySettings(), latency=setup.latency, drop_path_rate=0.1, seed=3)
    with pytest.raises(RunError, match=r"its proxy.resolution is 16, and 64 here; give another --out"):
        run(place, other)
    write_data(place / "data.npz", seed=1)
    with pytest.raises(RunError, match=r"fidelity.yaml: data.fingerprint: belongs to other data"):
        run(place, seeds=2)
    assert main(command(place, "--seeds", "2", "--no-latency")) == 2
    assert "belongs to other data" in capsys.readouterr().err.splitlines()[-1]
    assert (place / "out" / "fidelity.jsonl").read_bytes() == lines


def test_a_stop_is_reported_and_told_how_to_go_on(place: Path) -> None:
    """Ctrl-C after some scores: exit code 130, the report of what stands, and the command to type."""
    arguments = command(place, "--seeds", "200", "--no-latency")
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "seed 4" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().splitlines()
        assert process.wait(timeout=60) == 130
    assert any("of 600 measurements done, reported in" in line for line in rest)
    assert rest[-1].startswith("modscale: to go on: modscale fidelity --data")
    document = json.loads((place / "out" / "fidelity.json").read_text())
    assert not document["complete"]
    assert len(document["models"]) == 3


def test_a_network_that_cannot_be_scored_is_told(place: Path) -> None:
    """A stem too large for the proxy's images: the reason stands in the report, the others are compared."""
    huge = {"spec": {"name": "huge", "resolution": 64, "stem": {"kernel_size": 40, "stride": 40}, **STAGES}, "top1": 70}
    (place / "past.yaml").write_text(yaml.safe_dump([*PAST, huge]))
    found, _, _ = run(place)
    assert [(m.network.name, m.failure) for m in found.unscored] == [
        ("huge", "the stem's 40 px kernel does not fit the proxy's 16 px images")
    ]
    assert found.complete
    assert "huge has no score: the stem's 40 px kernel" in (place / "out" / "fidelity.md").read_text()


def test_data_that_cannot_be_used_leaves_an_empty_folder(place: Path) -> None:
    """Nothing is recorded before the data were read, and the next command may begin."""
    with pytest.raises(DataError, match="no such file or folder"):
        run(place, source=str(place / "none.npz"))
    assert not (place / "out" / "fidelity.yaml").exists()
    assert read_setup(place / "out") is None


def test_what_a_proxy_stands_for(place: Path) -> None:
    """A name has its own settings; a space gives its proxy, latency, seed and drop path; the rest is a line."""
    by_name = choose_setup("thin")
    assert (by_name.proxy, by_name.drop_path_rate, by_name.seed) == (ProxySettings(), 0.0, 0)
    of_space = choose_setup(str(place / "space.yaml"))
    assert (of_space.proxy.resolution, of_space.latency.runs, of_space.drop_path_rate, of_space.seed) == (
        16,
        10,
        0.1,
        3,
    )
    with pytest.raises(
        InputError, match=r"--proxy: must be a proxy \(thin, train\) or the file of a search space; did you"
    ):
        choose_setup("trian")
    with pytest.raises(InputError, match=r"nowhere.yaml: no such file, nor a space of modscale's"):
        choose_setup("nowhere.yaml")
    (place / "spec.yaml").write_text(yaml.safe_dump({"resolution": 32, **STAGES}))
    with pytest.raises(InputError, match=r"\(it looks like a model spec"):
        choose_setup(str(place / "spec.yaml"))
