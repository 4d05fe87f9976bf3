"""The report of a run: recomputed from its raw files, readable offline, and never fooled by what stands in them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_runs import SPACE, fake_references, fake_trials, read_json, remeasured, write_run
from PIL import Image

from modscale.analysis.proxy_records import find_record
from modscale.analysis.results import load_run
from modscale.api.finished import report_run
from modscale.errors import RunError
from modscale.report.build import build_report
from modscale.report.front_chart import plot_axes
from modscale.runs.experiment import parse_experiment
from modscale.runs.metrics import METRICS
from modscale.runs.trials import Rung, Trial
from modscale.specs.counts import count_model
from modscale.specs.spec import load_spec, parse_spec

FAKE = parse_experiment(SPACE)
HOSTILE = "<img src=x onerror=alert(1)> | `a` **b** [c](d) & \"'"


def failed(number: int, reason: str) -> Trial:
    trial = fake_trials(FAKE, 1, seed=number)[0]
    unmeasured = remeasured(trial, accuracy=None, latency_ms=None, latency_ci95_ms=None, val_images=None)
    return replace(unmeasured, number=number, state="failed", reason=reason)


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 trials, two of them failed, with its report."""
    folder = tmp_path_factory.mktemp("run")
    trials = fake_trials(FAKE, 40)
    trials[3], trials[7] = failed(3, "out of memory"), failed(7, f"export: {HOSTILE}")
    write_run(folder, trials, fake_references(FAKE))
    build_report(load_run(folder), draws=2)
    return folder


def raw_trials(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def test_an_estimate_is_told_as_one(tmp_path: Path) -> None:
    """With its error, what is known of its proxy, and that these networks lie beyond those of known accuracy."""
    trials = [
        remeasured(trial, accuracy_standard_error=0.02, trained_accuracy=0.4, val_loss=1.0, anchor_loss=1.1)
        for trial in fake_trials(FAKE, 12)
    ]
    space = SPACE | {"proxy": {"epochs": 5}}
    build_report(load_run(write_run(tmp_path / "run", trials, [], space=space)), draws=2)
    counts = [count_model(trial.spec) for trial in trials]
    sizes, ratios = sorted(count.params for count in counts), sorted(count.flops / count.params for count in counts)
    for file in ("report.html", "report.md"):
        text = " ".join((tmp_path / "run" / file).read_text().replace("\\", "").split())
        assert "an estimate of the ImageNet-1K top-1 that full training" in text
        assert "± 2.0 %" in text
        assert "HAS NOT BEEN MEASURED" in text
        assert "It is not ImageNet accuracy" not in text
        assert (
            f"have {sizes[0] / 1e6:.4g} M to {sizes[-1] / 1e6:.4g} M params, those of known accuracy 4.102 M to 13.06 M"
            f", and spend {ratios[0]:.0f} to {ratios[-1]:.0f} FLOPs a param, those of known accuracy 109 to 251" in text
        )


def test_the_record_of_the_default_proxy_stands_in_its_report(tmp_path: Path) -> None:
    """Of the space's own settings, on such data, with its interval and what params would do."""
    space = SPACE | {"proxy": {}}
    trials = [remeasured(trial, accuracy_standard_error=0.02) for trial in fake_trials(parse_experiment(space), 4)]
    build_report(load_run(write_run(tmp_path / "run", trials, [], space=space)), draws=2)
    record = find_record(parse_experiment(space).proxy, "synthetic")
    assert record is not None
    text = " ".join((tmp_path / "run" / "report.md").read_text().replace("\\", "").split())
    assert (
        f"measured on synthetic: it ranks 27 networks of known ImageNet top-1 with Kendall's tau {record.tau:+.2f}"
        in text
    )


def test_front_is_brute_force_over_the_raw_file(run: Path) -> None:
    """front.json names exactly the complete trials that no other dominates, and each band's most accurate one."""
    complete = [t for t in raw_trials(run) if t["state"] == "complete"]
    front = [
        t for t in complete
        if not any(
            o["accuracy"] >= t["accuracy"] and o["latency_ms"] <= t["latency_ms"]
            and (o["accuracy"], o["latency_ms"]) != (t["accuracy"], t["latency_ms"])
            for o in complete
        )
    ]  # fmt: skip
    written = read_json(run / "front.json")
    assert sorted(written["front"]) == sorted(t["number"] for t in front)
    assert len(front) >= 4
    for band, limits in SPACE["bands"].items():
        fitting = [t for t in front if t["params"] <= limits["params"]["max"]]
        best = max(fitting, key=lambda t: (t["accuracy"], -t["latency_ms"]))["number"] if fitting else None
        assert written["bands"][band] == best
    assert None not in [written["bands"]["xs"], written["bands"]["s"]]


def test_hypervolume_is_the_area_of_the_staircase(run: Path) -> None:
    """The stored volume is the area between the front and the stored reference point."""
    written = read_json(run / "front.json")
    by_number = {t["number"]: t for t in raw_trials(run)}
    points = sorted((by_number[n]["latency_ms"], by_number[n]["accuracy"]) for n in written["front"])
    floor, wall = written["reference_point"]["accuracy"], written["reference_point"]["latency_ms"]
    ends = [latency for latency, _ in points[1:]] + [wall]
    area = sum((end - latency) * (accuracy - floor) for (latency, accuracy), end in zip(points, ends, strict=True))
    assert written["hypervolume"] == pytest.approx(area)


def test_growth_is_the_area_of_the_first_trials(run: Path) -> None:
    """Of the first complete trials of the raw file, as a share of the stored volume; told in both reports."""
    written = read_json(run / "front.json")
    growth, reference = written["growth"], written["reference_point"]
    complete = [(t["latency_ms"], t["accuracy"]) for t in raw_trials(run) if t["state"] == "complete"]
    assert growth["trials"] == list(range(1, 39))
    for count, share in zip(growth["trials"], growth["run"], strict=True):
        stops = [*sorted(latency for latency, _ in complete[:count]), reference["latency_ms"]]
        area = sum(
            (end - start) * (max(a for latency, a in complete[:count] if latency <= start) - reference["accuracy"])
            for start, end in pairwise(stops)
        )
        assert share == pytest.approx(area / written["hypervolume"], abs=2e-6)
    said = f"After 19 of 38 complete trials the search had {100 * growth['run'][18]:.0f} % of its final hypervolume"
    assert said in Page((run / "report.html").read_text()).text
    assert said in (run / "report.md").read_text()
    assert "](hypervolume.png)" in (run / "report.md").read_text()


def test_every_file_of_the_contract_is_there(run: Path) -> None:
    """A run's folder holds what the contract lists, and each pick's spec counts as its trial does."""
    for name in ("run.yaml", "trials.jsonl", "front.json", "report.md", "report.html", "pareto.png", "hypervolume.png"):
        assert (run / name).stat().st_size > 0
    by_number = {t["number"]: t for t in raw_trials(run)}
    for band, number in read_json(run / "front.json")["bands"].items():
        file = run / "models" / f"{band}.yaml"
        assert file.exists() == (number is not None)
        if number is not None:
            count = count_model(load_spec(file))
            assert (count.params, count.flops) == (by_number[number]["params"], by_number[number]["flops"])


def test_html_opens_offline(run: Path) -> None:
    """One file: what it points to is inside it, and nothing in it runs but the one script that it has the digest of."""
    html = (run / "report.html").read_text()
    page = Page(html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for _, attrs in page.tags if "href" in attrs]
    assert len(links) > 80
    assert {link.removeprefix("#") for link in links if link is not None} <= set(ids)
    sources = [
        value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "srcset", "xlink:href")
    ]
    assert all(source is not None and source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert len(html) < 400_000
    assert "@import" not in html
    assert "url(" not in html
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def test_every_network_has_a_point_and_a_row(run: Path) -> None:
    """The front, what it is compared with and the dominated, each of them once, with the values of the raw files."""
    page = Page((run / "report.html").read_text())
    raw = {f"t{t['number']}": t for t in raw_trials(run) if t["state"] == "complete"}
    lines = (run / "references.jsonl").read_text().splitlines()
    raw |= {f"r{i}": json.loads(line) for i, line in enumerate(lines)}
    rows = {attrs["id"]: attrs["data-kind"] for tag, attrs in page.tags if tag == "tr" and "id" in attrs}
    assert rows.keys() == raw.keys()
    front = {f"t{number}" for number in read_json(run / "front.json")["front"]}
    assert {key for key, kind in rows.items() if kind == "front"} == front
    assert {key for key, kind in rows.items() if kind == "compared"} == {"r0", "r1", "r2", "r3"}
    points = [attrs for tag, attrs in page.tags if tag == "a" and str(attrs.get("class")).startswith("point")]
    assert sorted(attrs["href"] for attrs in points) == sorted([f"#{key}" for key in raw] * 2)  # wide and narrow
    assert {attrs["id"] for attrs in points if "id" in attrs} == {f"p-{key}" for key in raw}
    values = [
        attrs.get("data-value") for tag, attrs in page.tags if tag == "td" and attrs.get("data-label") == "latency"
    ]
    assert sorted(map(float, filter(None, values))) == pytest.approx(sorted(t["latency_ms"] for t in raw.values()))


def test_a_card_has_its_network_as_a_picture_and_a_command(run: Path) -> None:
    """One bar a block of the pick's spec, those that attend apart, and the line that exports it."""
    html = (run / "report.html").read_text()
    cards = {card.split("</h3>")[0].split("<h3>")[1]: card for card in html.split('<div class="card">')[1:]}
    assert list(cards) == list(SPACE["bands"])
    for band, number in read_json(run / "front.json")["bands"].items():
        card = cards[band].split("<h2>")[0]
        assert ("<svg" in card) == (number is not None)
        if number is not None:
            stages = load_spec(run / "models" / f"{band}.yaml").stages
            assert card.count('<rect class="block"') == sum(stage.depth for stage in stages)
            assert card.count('<rect class="attends"') == sum(stage.attention_depth for stage in stages)
            assert f"modscale export {run.name} --pick {band} --out {band}" in " ".join(Page(card).text.split())
            assert f'href="#t{number}"' in card


def test_both_reports_say_what_matters(run: Path) -> None:
    """Headline, picks, ties, failures, references, convention and the sentence on proxy accuracy."""
    page = " ".join(Page((run / "report.html").read_text()).text.split())
    markdown = " ".join((run / "report.md").read_text().replace("\\", "").split())
    best = max((t for t in raw_trials(run) if t["accuracy"]), key=lambda t: (t["accuracy"], -t["latency_ms"]))
    for text in (page, markdown):
        assert f"The most accurate network on the front is trial {best['number']}: accuracy" in text
        assert "the share of 1000 held-out images of 10 classes" in text
        assert "It is not ImageNet accuracy" in text
        assert "FLOPs count a multiply-add as 1" in text
        assert "38 of 40 trials are complete, 2 failed" in text
        assert "out of memory" in text
        assert "s_conv" in text
        assert "modscale search spaces/fake.yaml --data synthetic" in text
        assert "Imaginary 9000" in text
        assert "not told apart by this run" in text
        assert re.search(
            r"Of the \d+ pairs of these networks, the proxy puts \d+ in the order of their published", text
        )


def test_trials_stopped_at_a_rung_are_told_and_never_on_the_front(tmp_path: Path) -> None:
    """However good they were there: with their reason, out of the front and the reading, and what that spared."""
    rungs = [Rung(share=0.5, value=0.2, seconds=60.0), Rung(share=1.0, value=0.4, seconds=180.0)]
    trials = [replace(trial, rungs=tuple(rungs)) for trial in fake_trials(FAKE, 8)]
    ended = [
        remeasured(
            replace(trial, state="stopped", reason="beaten by others", rungs=(replace(rungs[0], value=0.99),)),
            accuracy=None, val_images=None, latency_ms=1e-3,
        )
        for trial in trials[:3]
    ]  # fmt: skip
    run, summary = report_run(write_run(tmp_path / "run", [*ended, *trials[3:]], []))
    assert (summary["stopped"], summary["complete"], summary["spared_seconds"]) == (3, 5, 3 * 120.0)
    assert not {trial.number for trial in ended} & {*summary["front"], *summary["bands"].values()}
    assert json.loads((run.folder / "design_reading.json").read_text())["trials"] == 5
    page = " ".join(Page((run.folder / "report.html").read_text()).text.split())
    markdown = (run.folder / "report.md").read_text().replace("\\", "")
    for text in (page, markdown):
        assert "5 of 8 trials are complete, 3 were stopped early" in text
        assert "Early stopping spared about 6.0 minutes of training: an estimate" in text
        assert "beaten by others" in text


def test_ties_and_standard_errors_are_printed(tmp_path: Path) -> None:
    """Two trials a point apart on 1,000 images are shown as tied, with an error near 1.5 points."""
    first, second, third = fake_trials(FAKE, 3)
    trials = [
        remeasured(first, accuracy=0.35, latency_ms=10.0, latency_ci95_ms=0.1),
        remeasured(second, accuracy=0.34, latency_ms=10.05, latency_ci95_ms=0.1),
        remeasured(third, accuracy=0.20, latency_ms=11.0, latency_ci95_ms=0.1),
    ]
    build_report(load_run(write_run(tmp_path / "run", trials, [])), draws=2)
    row = next(line for line in (tmp_path / "run" / "report.md").read_text().splitlines() if line.startswith("| 0 |"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2:4] == ["35.0 ± 1.5 %", "10.00 ± 0.10 ms"]
    assert cells[7] == "1"
    assert read_json(tmp_path / "run" / "front.json")["ties"]["front"] == {"0": [1]}


def test_latencies_in_doubt_are_marked(tmp_path: Path) -> None:
    """A wide one on the front, a busy one behind it and a reference: each is marked, counted and crossed out."""
    first, second, third = fake_trials(FAKE, 3)
    trials = [
        remeasured(first, accuracy=0.9, latency_ms=1.0, latency_ci95_ms=0.4),
        remeasured(second, accuracy=0.2, latency_ms=9.0, latency_ci95_ms=0.1),
        remeasured(third, accuracy=0.3, latency_ms=8.0, latency_ci95_ms=0.1),
    ]
    references = fake_references(FAKE)
    sure = write_run(tmp_path / "sure", trials, references)
    doubted = [remeasured(trials[0], latency_wide=True), remeasured(trials[1], latency_busy=True), trials[2]]
    both = remeasured(references[0], latency_wide=True, latency_busy=True)
    doubtful = write_run(tmp_path / "doubtful", doubted, [both, *references[1:]])
    for folder in (doubtful, sure):
        build_report(load_run(folder), draws=2)
    for name in ("report.md", "report.html"):
        text = (doubtful / name).read_text()
        assert "1.00 ± 0.40 ms (wide)" in text
        assert "9.00 ± 0.10 ms (busy)" in text
        assert "8.00 ± 0.10 ms" in text
        assert "8.00 ± 0.10 ms (" not in text
        assert "The latency of 3 of 7 networks is in doubt: 2 with an interval" in text
        assert "2 taken while the machine was busy" in text
        assert "in doubt" not in (sure / name).read_text()
    assert (doubtful / "pareto.png").read_bytes() != (sure / "pareto.png").read_bytes()
    for folder, crosses in ((doubtful, 3), (sure, 0)):
        wide = (folder / "report.html").read_text().split('<svg class="chart narrow"')[0]
        assert wide.split('<svg class="chart wide"')[1].count('class="cross"') == crosses


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """Names and reasons with markup neither make tags in the page nor cells in the tables."""
    name = "a `b` _c_ [d](e) & 'f' \u6a21\u578b $\u00fcber$ ; &lt;"
    trials = [*fake_trials(FAKE, 4), failed(4, HOSTILE)]
    reference = fake_references(FAKE)[0]
    reference = replace(reference, spec=replace(reference.spec, name=f"$\\frac{{$ {HOSTILE}"))
    space = {**SPACE, "name": name}
    folder = write_run(tmp_path / "run", trials, [reference], space=space, machine={"cpu": HOSTILE}, started=HOSTILE)
    build_report(load_run(folder), draws=2)
    page = Page((folder / "report.html").read_text())
    assert [tag for tag, _ in page.tags if tag in ("img", "script")] == ["script"]
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert page.text.count(HOSTILE) == 5
    assert name in page.text
    tables = (folder / "report.md").read_text().replace("\\|", "").split("\n\n")
    for table in (text for text in tables if text.startswith("|")):
        assert len({line.count("|") for line in table.strip().splitlines() if line.startswith("|")}) == 1
    assert "<img" not in (folder / "report.md").read_text().split("    modscale search")[0]


TERMINAL = (
    "\x1b]0;pwned\x07\u202e\u2028<script>alert(1)</script>|`x`$\\frac$ https://evil.example www.evil.example # [a](b)"
)
"""A class name, a reason or a path that attacks the terminal, the page and whoever renders the Markdown."""
PRINTED = f"pwned {TERMINAL[TERMINAL.index('<') :]}"
"""The same for the name of a network, which must be printable."""


def test_no_report_holds_a_sign_that_steers_or_hides(tmp_path: Path) -> None:
    """Escape sequences and turned directions are visible escapes everywhere; Markdown makes nothing of the rest."""
    trials = [*fake_trials(FAKE, 4), failed(4, TERMINAL)]
    reference = fake_references(FAKE)[0]
    reference = replace(reference, spec=replace(reference.spec, name=PRINTED))
    data = {"source": TERMINAL, "name": TERMINAL, TERMINAL: TERMINAL}
    space = {**SPACE, "name": "pwned `x`$frac$ # [a](b)"}
    folder = write_run(
        tmp_path / "\x1b]0;pwned\x07", trials, [reference], space=space, data=data,
        space_file=TERMINAL, machine={"cpu": TERMINAL}, started=TERMINAL,
    )  # fmt: skip
    build_report(load_run(folder), draws=2)
    for name in ("report.md", "report.html", "front.json", "design_reading.json"):
        text = (folder / name).read_text()
        assert {c for c in text if not c.isprintable()} <= {"\n"}, name
    page = Page((folder / "report.html").read_text())
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"]
    assert {str(attrs["href"])[:1] for tag, attrs in page.tags if tag == "a"} == {"#"}
    assert page.text.count(r"\x1b]0;pwned\x07\u202e <script>") + page.text.count(r"\u2028<script>") >= 8
    for svg in re.findall("<svg.*?</svg>", (folder / "report.html").read_text(), re.DOTALL):
        ElementTree.fromstring(svg)  # noqa: S314  # our own
    outside_code = [line for line in (folder / "report.md").read_text().splitlines() if not line.startswith("    ")]
    for sign in ("<script", "|`", "`x`", "$\\frac", "https://", "www.evil", "[a](b)", " # "):
        assert not any(sign in line.replace("\\|", "") for line in outside_code if "pwned" in line), sign


def test_a_report_names_no_place_of_this_machine(tmp_path: Path) -> None:
    """A run made with absolute paths, and moved since, is reported by the names of its folders."""
    data = {"source": str(tmp_path / "photos"), "name": "photos"}
    before = write_run(
        tmp_path / "before", fake_trials(FAKE, 4), [], data=data, space_file=str(tmp_path / "spaces" / "my space.yaml")
    )
    folder = before.rename(tmp_path / "after")
    build_report(load_run(folder), draws=2)
    for file in folder.iterdir():
        if file.is_file() and file.name != "run.yaml":
            assert str(tmp_path).encode() not in file.read_bytes(), file
    search = f"--trials {FAKE.search.trials} --seed {FAKE.search.seed} --out after\n"
    assert f"    modscale search 'my space.yaml' --data photos {search}" in (folder / "report.md").read_text()


def test_a_link_for_a_folder_writes_nothing_elsewhere(tmp_path: Path) -> None:
    """`models` as a link is refused, and a link in the place of a file is replaced, not followed."""
    folder = write_run(tmp_path / "run", fake_trials(FAKE, 4), [])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "models").symlink_to(elsewhere)
    with pytest.raises(RunError, match=r"models: must be a folder of the run's own"):
        build_report(load_run(folder), draws=2)
    (folder / "models").unlink()
    (elsewhere / "file").write_text("mine")
    (folder / "report.md").symlink_to(elsewhere / "file")
    build_report(load_run(folder), draws=2)
    assert [(file.name, file.read_text()) for file in elsewhere.iterdir()] == [("file", "mine")]
    assert not (folder / "report.md").is_symlink()


def test_png_shows_the_front(run: Path) -> None:
    """The plot is a picture of fit size in which the front's and the references' colours appear."""
    image = Image.open(io.BytesIO((run / "pareto.png").read_bytes())).convert("RGB")
    assert image.width >= 1000
    assert image.height >= 600
    colours = {pixel for _, pixel in image.getcolors(image.width * image.height) or []}
    assert {(0x0B, 0x5F, 0xA5), (0xC2, 0x41, 0x0C)} <= {c for c in colours if isinstance(c, tuple)}


def test_the_same_files_give_the_same_report(run: Path) -> None:
    """A report rebuilt from the files is equal to the last byte."""
    names = ("front.json", "report.md", "report.html", "pareto.png", "design_reading.json", "hypervolume.png")
    before = [(run / name).read_bytes() for name in names]
    build_report(load_run(run), draws=2)
    assert [(run / name).read_bytes() for name in names] == before


OBJECTIVES = [
    {"accuracy": "maximize"},
    {"params": "minimize"},
    {"latency_ms": "minimize", "flops": "minimize"},
    {"params": "minimize", "accuracy": "maximize", "latency_ms": "minimize"},
    {"accuracy": "maximize", "latency_ms": "minimize", "params": "minimize", "flops": "minimize"},
]


@pytest.mark.parametrize("objectives", OBJECTIVES, ids=lambda objectives: "+".join(objectives))
def test_any_set_of_objectives(tmp_path: Path, objectives: dict[str, str]) -> None:
    """One to four objectives: a front, a plot and a reference point in each of them."""
    folder = write_run(tmp_path / "run", fake_trials(FAKE, 7), [], space={**SPACE, "objectives": objectives})
    build_report(load_run(folder), draws=2)
    front = read_json(folder / "front.json")
    assert list(front["reference_point"]) == list(objectives)
    assert front["front"]
    assert front["hypervolume"] > 0
    assert ("alone" in (folder / "report.md").read_text()) == (len(objectives) != 2)


def test_axes_of_the_plot() -> None:
    """Accuracy points upwards wherever it stands; a single objective is drawn against size."""
    assert plot_axes(["accuracy", "latency_ms"]) == ("latency_ms", "accuracy")
    assert plot_axes(["params", "accuracy", "flops"]) == ("params", "accuracy")
    assert plot_axes(["latency_ms", "flops"]) == ("flops", "latency_ms")
    assert plot_axes(["accuracy"]) == ("params", "accuracy")
    assert plot_axes(["params"]) == ("flops", "params")


@pytest.mark.parametrize("count", [0, 2])
def test_nothing_complete(tmp_path: Path, count: int) -> None:
    """Without a complete trial the report says so, the front is empty and every band is null."""
    folder = write_run(tmp_path / "run", [failed(i, "no room") for i in range(count)], [])
    build_report(load_run(folder))
    front = read_json(folder / "front.json")
    assert (front["front"], front["hypervolume"], front["reference_point"]) == ([], 0, {})
    assert front["bands"] == {"xxs": None, "xs": None, "s": None}
    for name in ("report.md", "report.html"):
        assert "No trial is complete" in (folder / name).read_text()


def test_a_run_in_progress_says_so(tmp_path: Path) -> None:
    """How many trials were asked for, and that the search goes on; nothing of it when all are finished."""
    trials = fake_trials(FAKE, 5)
    for wanted, says in ((12, True), (5, False)):
        folder = write_run(tmp_path / str(wanted), trials, [], space={**SPACE, "search": {"trials": wanted}})
        files = build_report(load_run(folder), draws=2)
        for kind in ("html", "markdown"):
            text = " ".join(files[kind].read_text(encoding="utf-8").split())
            assert ("This run is not over: 5 of 12 trials are finished." in text) is says
            assert ("not over" in text) is says


def test_the_next_of_a_band_is_told_by_what_is_sought(tmp_path: Path) -> None:
    """Not by the latency here, where that on a device is the objective."""
    space = {
        **SPACE, "latency": {"targets": {"pi": {"command": ["ssh", "pi", "python3", "-"]}}}, "bands": {"all": {}},
        "objectives": {"latency_pi_ms": "minimize", "accuracy": "maximize"},
    }  # fmt: skip
    trials = [remeasured(t, latency_pi_ms=3 * t.results["latency_ms"]) for t in fake_trials(FAKE, 20)]
    text = build_report(load_run(write_run(tmp_path / "run", trials, [], space=space)), draws=2)["html"].read_text()
    said = re.search(r"Next is trial (\d+): (.*?)\.\s*</p>", text)
    assert said is not None
    trial = trials[int(said[1])]
    on_pi = METRICS["latency_pi_ms"].full(trial.results)
    assert said[2] == f"accuracy {METRICS['accuracy'].full(trial.results)}, latency on pi {on_pi}"


def test_one_trial(tmp_path: Path) -> None:
    """A single trial is the whole front, surely."""
    folder = write_run(tmp_path / "run", fake_trials(FAKE, 1), [])
    build_report(load_run(folder))
    front = read_json(folder / "front.json")
    assert front["front"] == [0]
    assert front["front_probability"] == {"0": 1.0}
    assert front["hypervolume_share"] == pytest.approx(1.0)


def test_a_pick_that_is_gone_takes_its_file_along(tmp_path: Path) -> None:
    """A band whose pick a later trial pushed off the front keeps no stale spec."""
    slow, *_, quick = sorted(fake_trials(FAKE, 60), key=lambda trial: trial["params"])
    assert slow["params"] < 2e6 < quick["params"]
    slow = remeasured(slow, accuracy=0.3, latency_ms=20.0)
    folder = write_run(tmp_path / "run", [slow], [])
    build_report(load_run(folder))
    assert (folder / "models" / "xxs.yaml").exists()
    write_run(folder, [remeasured(quick, accuracy=0.5, latency_ms=2.0)], [])
    build_report(load_run(folder))
    assert not (folder / "models" / "xxs.yaml").exists()


def test_a_band_that_is_gone_takes_its_file_along(tmp_path: Path) -> None:
    """Bands may change between two reports; a file that no report made stays, whatever front.json says."""
    trials = fake_trials(FAKE, 3)
    folder = write_run(tmp_path / "run", trials, [])
    build_report(load_run(folder))
    assert (folder / "models" / "s.yaml").exists()
    (folder / "models" / "mine.yaml").write_text("mine")
    (folder / "mine.yaml").write_text("mine")
    front = read_json(folder / "front.json")
    front["bands"]["../mine"] = 0
    (folder / "front.json").write_text(json.dumps(front))
    write_run(folder, [], [], space=SPACE | {"bands": {"small": {"params": {"max": 9e6}}}})
    build_report(load_run(folder))
    assert sorted(file.name for file in (folder / "models").iterdir()) == ["mine.yaml", "small.yaml"]
    assert (folder / "mine.yaml").exists()


def test_what_was_trained_and_what_was_counted_is_told(tmp_path: Path) -> None:
    """A run whose space states other classes than its data have says so, also one that an earlier version made."""
    trials, references = fake_trials(FAKE, 2), fake_references(FAKE)
    data = {"source": "d.npz", "classes": 3, "channels": 3, "notes": ["a note on `data`"], "fingerprint": "0"}
    folder = write_run(tmp_path / "other", trials, references, data=data)
    build_report(load_run(folder))
    said = "the space states num_classes 10, and the data have 3 classes: networks for the data are trained"
    html, markdown = ((folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert said in html
    assert "a note on `data`" in html
    assert said.replace("_", "\\_") in markdown
    assert "a note on \\`data\\`" in markdown
    for text in (html, markdown):
        assert "num_classes 10, where the published ones have num_classes 1000" in text.replace("\\_", "_")
    folder = write_run(tmp_path / "same", trials, [], data=data | {"classes": 10, "notes": []})
    build_report(load_run(folder))
    assert "the space states" not in (folder / "report.html").read_text()
    assert "published ones have" not in (folder / "report.html").read_text()


def test_long_tables_are_cut_with_a_note(tmp_path: Path) -> None:
    """Of 2,000 trials the page lists 80 dominated ones, draws all, says where the rest stand and stays small."""
    folder = write_run(tmp_path / "run", [], [])
    lines = [json.dumps(_bare(number) | {"accuracy": 0.9 - number / 10000}) for number in range(2000)]
    (folder / "trials.jsonl").write_text("\n".join(lines) + "\n")
    build_report(load_run(folder), draws=2)
    html = (folder / "report.html").read_text()
    assert len(re.findall("<tr[ >]", html)) < 200
    assert "1919 more are left out here" in html
    assert len(html) < 400_000
    assert "1959 more are left out here" in (folder / "report.md").read_text()


def test_the_page_of_a_large_run_stays_small(tmp_path: Path) -> None:
    """With more on its front than the table lists, and all that a reading has; a pick has its row whatever is cut."""
    trials = [
        remeasured(trial, accuracy=0.3 + 0.003 * i, latency_ms=1 + 0.05 * i) if i < 130 else trial
        for i, trial in enumerate(fake_trials(FAKE, 260, seed=3))
    ]
    folder = write_run(tmp_path / "run", trials, fake_references(FAKE))
    build_report(load_run(folder), draws=2)
    html = (folder / "report.html").read_text()
    front = read_json(folder / "front.json")
    assert len(front["front"]) > 100
    rows = set(re.findall(r'<tr id="([^"]+)"', html))
    assert {f"t{number}" for number in front["bands"].values() if number is not None} <= rows
    assert 160 <= len(rows) <= 80 + 80 + 4 + 3
    assert f"{264 - len(rows)} more are left out here" in html
    assert "Importance is Optuna" in html
    assert len(html.encode()) < 400_000


def test_what_mattered_is_one_line_where_nothing_did(tmp_path: Path) -> None:
    """Trials whose accuracy and latency are noise: no table, no figure; and where size rules, both are there."""
    rng = np.random.default_rng(1)
    noise = [remeasured(t, accuracy=rng.uniform(0.3, 0.5), latency_ms=rng.uniform(3, 9)) for t in fake_trials(FAKE, 16)]
    folder = write_run(tmp_path / "noise", noise, [])
    build_report(load_run(folder), draws=8)
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text().replace("\\", "")
        said = text.split("What mattered in this space")[1].split("<h2>")[0].split("\n## ")[0].strip()
        assert "Nothing stands out from chance for accuracy or latency in 16 trials" in said
        assert len(said.splitlines()) <= 4
    plain = write_run(tmp_path / "size", fake_trials(FAKE, 150), [])
    build_report(load_run(plain), draws=8)
    assert "Importance is Optuna" in (plain / "report.html").read_text()


def _bare(number: int) -> dict[str, Any]:
    """A trial of the contract's keys alone; number 0 dominates all others."""
    count = count_model(parse_spec({"stages": [{"dim": 8, "depth": 1}]}))
    return {
        "number": number, "state": "complete", "spec": {"stages": [{"dim": 8, "depth": 1}]}, "params": count.params,
        "flops": count.flops, "latency_ms": 1.0 + number, "accuracy": 0.9 - number / 1000, "seconds": 1,
    }  # fmt: skip


def break_folder(folder: Path, damage: str) -> None:
    if damage == "gone":
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    elif damage == "foreign":
        (folder / "run.yaml").unlink()
    elif damage == "half a run.yaml":
        (folder / "run.yaml").write_text("space: {name: [")
    elif damage == "no space":
        (folder / "run.yaml").write_text("seed: 3")
    elif damage == "another space":
        (folder / "run.yaml").write_text("space: {stages: [{dim: 8, depth: 0}]}")
    elif damage == "broken trial":
        (folder / "trials.jsonl").write_text("{}\n")
    elif damage == "no latency":
        (folder / "trials.jsonl").write_text(json.dumps(_bare(5) | {"latency_ms": None}) + "\n")
    elif damage == "broken reference":
        (folder / "references.jsonl").write_text("[]\n")
    elif damage == "no room for models":
        (folder / "models").write_text("a file")


DAMAGE = {
    "gone": "no such run folder",
    "foreign": "has no run.yaml",
    "half a run.yaml": "run.yaml: line 2, column 1: not valid YAML",
    "no space": "has no space",
    "another space": r"run.yaml: space.stages\[0\].depth: must be 1 or more, got 0",
    "broken trial": "trials.jsonl: line 1, spec: is required",
    "no latency": "trials.jsonl: trial 5: is complete and must have latency_ms",
    "broken reference": "references.jsonl: line 1: must be a mapping",
    "no room for models": "models: cannot be written",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    """What is wrong is named in one line, as the user's to mend, and no half report is left."""
    folder = write_run(tmp_path / "run", fake_trials(FAKE, 2), [])
    break_folder(folder, damage)
    with pytest.raises(RunError, match=DAMAGE[damage]) as caught:
        build_report(load_run(folder))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


def test_sparse_run_file_still_reports(tmp_path: Path) -> None:
    """A run.yaml with nothing but the space gives a report that says what was not recorded."""
    folder = write_run(tmp_path / "run", fake_trials(FAKE, 3), [])
    (folder / "run.yaml").write_text(json.dumps({"space": SPACE, "data": [1], "machine": None}))
    build_report(load_run(folder))
    assert "not recorded" in (folder / "report.html").read_text()


def test_the_report_needs_no_torch() -> None:
    """A report is rebuilt without loading torch."""
    code = "import sys, modscale.report.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_notes_on_the_data_stand_in_the_report(tmp_path: Path) -> None:
    """Each is told in both reports, whatever is in it; a run of an older version has none."""
    old = write_run(tmp_path / "old", fake_trials(FAKE, 4), [])
    assert "Note:" not in build_report(load_run(old))["markdown"].read_text()
    data = {"source": "x", "classes": 2, "train_images": 60, "val_images": 30, "notes": ["30 of 30 leak", HOSTILE]}
    files = build_report(load_run(write_run(tmp_path / "new", fake_trials(FAKE, 4), [], data=data)))
    assert "> Note: 30 of 30 leak." in files["markdown"].read_text()
    page = Page(files["html"].read_text())
    assert f"Note: {HOSTILE}." in page.text
    assert not any("onerror" in attributes for _, attributes in page.tags)
