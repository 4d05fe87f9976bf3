"""The report of several runs: one page and one table, whatever the runs are called, and only where it belongs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import needs_browser, open_browser
from fake_runs import SPACE, fake_references, fake_trials, read_json, write_run

from modscale.analysis.overlay import lay_over
from modscale.analysis.results import load_run
from modscale.api.finished import report_runs
from modscale.cli.main import main
from modscale.errors import RunError
from modscale.runs.experiment import parse_experiment

FAKE = parse_experiment(SPACE)
HOSTILE = "<script>alert(1)<script> | `x` [a](b)"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of 30 trials, one in a folder that attacks the page."""
    home = tmp_path_factory.mktemp("runs")
    return [
        write_run(home / name, fake_trials(FAKE, 30, seed=i), fake_references(FAKE)[:2])
        for i, name in enumerate(("plain", HOSTILE))
    ]


def test_one_page_has_both_fronts(runs, tmp_path):
    """Each network of either front once, with its run named; names stay text, in Markdown too."""
    summary = report_runs(runs, tmp_path / "both")
    html = (tmp_path / "both" / "report.html").read_text()
    joined = lay_over([load_run(folder) for folder in runs], ["plain", HOSTILE])
    rows = re.findall(r'<tr id="([^"]+)" data-key="[^"]+" data-kind="([^"]+)"', html)
    expected = {f"t{i}-{t.number}": f"run{i}" for i, front in enumerate(joined.fronts) for t in front}
    assert dict(rows) == expected | {f"r{i}-{k}": "compared" for i in range(2) for k in range(2)}
    assert sorted(re.findall(r'class="point run\d[^>]*data-key="([^"]+)"', html)) == sorted([*expected] * 2)
    assert {(f["run"], f["trial"]) for f in summary["front"]} == {(["plain", HOSTILE][i], n) for i, n in joined.joint}
    assert html.count("<script") == 1
    assert len(html) < 400_000
    parser = HTMLParser()
    tags: list[str] = []
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(html)
    assert tags.count("script") == 1
    lines = [line for line in (tmp_path / "both" / "report.md").read_text().replace("\\|", "").splitlines() if line]
    tables = [line.count("|") for line in lines if line.startswith("|")]
    assert len(set(tables)) == 2
    assert (tmp_path / "both" / "fronts.png").read_bytes().startswith(b"\x89PNG")
    assert report_runs(runs, tmp_path / "both") == summary


def test_what_is_not_comparable_stands_first(runs, tmp_path):
    """And nothing is said of a front of all."""
    other = write_run(tmp_path / "other", fake_trials(FAKE, 9), [], space=SPACE | {"proxy": {"epochs": 7}})
    summary = report_runs([runs[0], other], tmp_path / "out")
    assert summary["headline"].startswith("The accuracy of these runs is not comparable, so there is no front of all")
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert "plain and other differ in proxy.epochs (2, 7)" in text
        assert "P(on front)" not in text
        assert "on its own front" in text
    assert read_json(tmp_path / "out" / "comparison.json")["front"] == []


def test_it_writes_into_no_folder_of_something_else(runs, tmp_path):
    """A run's, or one whose report is another's; its own it writes anew."""
    with pytest.raises(RunError, match="is a run's folder; give another --out"):
        report_runs(runs, runs[0])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.md").write_text("mine")
    with pytest.raises(RunError, match="holds a report of something else"):
        report_runs(runs, tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["report.md"]


def test_the_command_tells_and_answers(runs, tmp_path, capsys, monkeypatch):
    """By default in reports/A+B; one run takes no --out."""
    monkeypatch.chdir(tmp_path)
    assert main(["report", *map(str, runs), "--json"]) == 0
    answered = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in answered["runs"]] == ["plain", HOSTILE]
    assert (tmp_path / "reports" / f"plain+{HOSTILE}" / "comparison.json").is_file()
    assert main(["report", *map(str, runs), "--out", "x"]) == 0
    assert "Of the " in capsys.readouterr().out
    assert main(["report", str(runs[0]), "--out", "x"]) == 2
    assert "--out: is for several runs" in capsys.readouterr().err


@needs_browser
def test_its_table_and_points_work_as_a_run_s_do(runs, tmp_path):
    report_runs(runs, tmp_path / "both")
    with open_browser(tmp_path / "profile") as browser:
        for width in (1280, 390):
            browser.open(tmp_path / "both" / "report.html", width=width, theme="dark")
            assert browser.complaints() == []
            assert browser.ask("document.documentElement.scrollWidth") <= width
        browser.click("input.kind[value=run0]")
        hidden = browser.ask("Array.from(document.querySelectorAll('#networks tr[hidden]'), (row) => row.dataset.kind)")
        assert set(hidden) == {"run0"}
        point = browser.ask("document.querySelector('a.point.run1').dataset.key")
        browser.click(f"a.point[data-key='{point}'] .aim")
        assert browser.ask("document.querySelector('tr.marked').id") == point
