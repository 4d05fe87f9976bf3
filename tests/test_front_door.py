"""The front door: what `import modscale` offers, and that the examples in its docstrings and its page are true."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_runs import SPACE, fake_references, fake_trials, write_run

import modscale
from modscale.latency import summary
from modscale.runs.experiment import parse_experiment
from modscale.runs.metrics import METRICS
from modscale.specs.spec import parse_spec

ROOT = Path(__file__).parents[1]
TINY_SPACE: dict[str, Any] = {
    "name": "tiny",
    "base": {"resolution": 32},
    "stages": [{"dim": [8, 16], "depth": 1}],
    "proxy": {"resolution": 16, "epochs": 1, "train_images": 100, "val_images": 50, "threads": 1},
    "latency": {"runs": 10, "warmup": 1, "threads": 1, "patience_s": 0, "reference": False},
    "search": {"references": [], "finals": False},
}
TINY_SPEC = parse_spec({"name": "tiny", "resolution": 32, "num_classes": 3, "stages": [{"dim": 8, "depth": 1}]})


def test_the_doors_are_what_the_page_says() -> None:
    """`modscale.__all__` is the list in docs/python.md, and every name of it opens."""
    page = (ROOT / "docs" / "python.md").read_text()
    assert re.findall(r"^\| `(\w+)\(", page, flags=re.MULTILINE) == sorted(modscale.__all__)
    for name in modscale.__all__:
        assert callable(getattr(modscale, name))
        assert name in dir(modscale)
    with pytest.raises(AttributeError, match="has no attribute 'sarch'"):
        modscale.sarch  # noqa: B018


@pytest.mark.parametrize("name", ["", *modscale.__all__])
def test_every_example_in_a_docstring_is_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the doors has an example, and it gives what it says; how a latency is taken is no matter of theirs."""
    monkeypatch.setattr(summary, "PROCESSES", 2)
    monkeypatch.chdir(ROOT)
    known = {"tiny_space": parse_experiment(TINY_SPACE), "tiny_spec": TINY_SPEC, "folder": tmp_path / "out"}
    door = getattr(modscale, name) if name else modscale
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(door) or "", known, name or "modscale", None, None)
    assert example.examples
    result = doctest.DocTestRunner().run(example)
    assert (result.failed, result.attempted) == (0, len(example.examples))


def test_every_example_of_the_page_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/python.md shows is what Python prints."""
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "python.md").read_text()
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", page, flags=re.DOTALL))
    known = {"folder": tmp_path / "out"}
    example = doctest.DocTestParser().get_doctest(blocks, known, "docs/python.md", None, None)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert (result.failed, result.attempted > 4) == (0, True)


class Table(HTMLParser):
    """The cells of a table, row by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1][-1] += data


def test_a_run_shows_its_front_in_a_notebook(tmp_path: Path) -> None:
    """One row a trial of the front, with what was measured and the bands that pick it; no name is markup."""
    document = SPACE | {"name": "a & b space"}
    experiment = parse_experiment(document)
    trials = fake_trials(experiment, 12)
    folder = write_run(tmp_path / "run", trials, fake_references(experiment), space=document)
    run = modscale.load_run(folder)
    html = run._repr_html_()
    assert "a &amp; b space: 12 of 12 trials complete" in html
    heading, *rows = Table(html).rows
    measured = [METRICS[name].noun for name in ("accuracy", "latency_ms", "params", "flops")]
    assert heading == ["trial", *measured, "on the front", "pick of"]
    assert [int(row[0]) for row in rows] == [trial.number for trial in run.front.members]
    best = max(run.front.members, key=lambda trial: trial["accuracy"])
    row = next(row for row in rows if row[0] == str(best.number))
    assert row[1].startswith(f"{100 * best['accuracy']:.1f} ± ")
    for band, limits in SPACE["bands"].items():  # the most accurate front trial that is small enough, if any
        small = [trial for trial in run.front.members if trial["params"] <= limits["params"]["max"]]
        expected = [str(max(small, key=lambda trial: trial["accuracy"]).number)] if small else []
        assert [row[0] for row in rows if band in row[-1].split(", ")] == expected
        if small:
            assert [str(run.pick(band).number)] == expected


def test_a_run_names_what_it_does_not_have(tmp_path: Path) -> None:
    """An unknown band or number is the user's to mend."""
    run = modscale.load_run(write_run(tmp_path / "run", fake_trials(parse_experiment(SPACE), 3), []))
    with pytest.raises(Exception, match="must be one of the run's bands: xxs, xs, s, got 'xl'"):
        run.pick("xl")
    with pytest.raises(Exception, match="has no finished trial of this number; it has 3, got 99"):
        run.trial(99)


def test_importing_modscale_loads_nothing_heavy() -> None:
    """A notebook that counts a network waits for neither torch nor Optuna."""
    code = "import modscale, sys; modscale.count_model(modscale.published('xxs')); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
