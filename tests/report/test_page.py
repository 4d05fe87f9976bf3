"""The page of a report in a browser: what points, rows, headings and buttons do, and that all can be read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, needs_browser, open_browser
from fake_runs import SPACE, fake_references, fake_trials, read_json, write_run

from modscale.analysis.results import load_run
from modscale.report.build import build_report
from modscale.runs.experiment import parse_experiment

pytestmark = needs_browser
HOSTILE = "<img src=x onerror=\"document.title='pwned'\"></script><script>document.title='pwned'</script>'\"`${1}"
FAKE = parse_experiment(SPACE)
ROWS = "Array.from(document.querySelectorAll('#networks tbody tr'))"
NAMES = f"{ROWS}.filter((row) => !row.hidden).map((row) => row.cells[0].innerText)"
MARKED = "Array.from(document.querySelectorAll('.marked')).map((one) => `${one.localName} ${one.dataset.key}`)"
SHOWN = """(selector) => Array.from(document.querySelectorAll(selector)).filter((one) => one.getClientRects().length)"""
TOO_SMALL = f"""({SHOWN})('svg text')
  .filter((t) => parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b) < 9)
  .map((t) => t.textContent)"""
TOO_PALE = f"""(() => {{  // WCAG 2.1: 4.5 between a text and what lies behind it
  const linear = (c) => c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (node) => {{
    for (; node; node = node.parentElement) {{
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }}
    return [255, 255, 255];
  }};
  const texts = 'h1, h2, h3, p, td, th, th a, button, label, output, dt, dd, li, code, svg text, .tag';
  return ({SHOWN})(texts).filter((node) => node.textContent.trim()).filter((node) => {{
    const style = getComputedStyle(node);
    const pair = [light(numbers(node.closest('svg') ? style.fill : style.color)), light(behind(node))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05) < 4.5;
  }}).map((node) => node.tagName + ' ' + node.textContent.slice(0, 40)); }})()"""


GLARING = f"""({SHOWN})('body, main, main *').filter((node) => {{  // what is opaque and bright
    const [r, g, b, a = 1] = getComputedStyle(node).backgroundColor.match(/[\\d.]+/g).map(Number);
    return a === 1 && 0.2126 * r + 0.7152 * g + 0.0722 * b > 110; }}).map((node) => node.outerHTML.slice(0, 80))"""
PARTED = """Array.from(document.querySelectorAll('#networks td.n')).filter((cell) => {
    const range = document.createRange(); if (cell.firstChild) range.selectNodeContents(cell.firstChild);
    return range.getClientRects().length > 1; }).map((cell) => cell.textContent)"""
PAPER = 739
"""Pixels of CSS between the edges of what is printed on a sheet 8.5 inches wide."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run whose folder, data and machine have names that attack it."""
    folder = tmp_path_factory.mktemp("runs") / HOSTILE.replace("/", "")
    write_run(
        folder, fake_trials(FAKE, 30), fake_references(FAKE), machine={"cpu": HOSTILE}, started=HOSTILE,
        space_file=HOSTILE, data={"source": HOSTILE, "name": HOSTILE, "notes": [HOSTILE]},
    )  # fmt: skip
    return build_report(load_run(folder), draws=2)["html"]


def headings(browser: Browser) -> list[str]:
    return browser.ask("Array.from(document.querySelectorAll('#networks thead th')).map((h) => h.innerText.trim())")


def column(browser: Browser, name: str) -> list[str | None]:
    at = headings(browser).index(name)
    return browser.ask(f"{ROWS}.map((row) => row.cells[{at}].dataset.value ?? null)")


def shown(browser: Browser, selector: str) -> int:
    """How many elements of this kind are to be seen."""
    return browser.ask(f"({SHOWN})({json.dumps(selector)}).length")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_asks_for_nothing(browser, page, width, theme):
    """At the width of a phone and of a desk nothing is wider than the window, no text small or pale."""
    browser.open(page, width=width, theme=theme)
    assert [one for one in browser.requests() if not one.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.complaints() == []
    assert browser.ask("document.title").endswith("modscale report")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert shown(browser, "svg.chart") == 2
    assert browser.ask("document.querySelectorAll('tr[role=row] td[role=cell]').length") > 300
    assert browser.ask(TOO_SMALL) == []
    assert browser.ask(TOO_PALE) == []
    assert shown(browser, "figure.plot img") == 1
    if theme == "dark":
        assert [one for one in browser.ask(GLARING) if "swatch" not in one] == []


def test_a_point_marks_its_row_and_a_row_its_point(browser, page):
    """By mouse and by keys; the same again, or Esc, takes the mark away."""
    browser.open(page)
    front = [f"t{n}" for n in read_json(page.parent / "front.json")["front"]]
    browser.click(f"a.point[data-key={front[1]}] .aim")
    both = {f"a {front[1]}", f"tr {front[1]}"}
    assert set(browser.ask(MARKED)) == both
    browser.click("#r2 td")
    assert set(browser.ask(MARKED)) == {"a r2", "tr r2"}
    browser.click("#r2 td")
    assert browser.ask(MARKED) == []
    browser.ask(f"document.querySelector('svg.wide a.point[data-key={front[1]}]').focus()")
    browser.press("Enter")
    assert set(browser.ask(MARKED)) == both
    browser.press("Escape")
    assert browser.ask(MARKED) == []
    browser.ask(f"document.querySelector('#{front[0]} a').focus()")
    browser.press("Enter")
    assert set(browser.ask(MARKED)) == {f"a {front[0]}", f"tr {front[0]}"}
    assert browser.ask("location.hash") == ""


def test_a_point_tells_its_network_and_its_errors(browser, page):
    """While the mouse is over it, or it has the focus: what stands in its row, as text."""
    browser.open(page)
    number = read_json(page.parent / "front.json")["front"][0]
    trial = next(t for t in load_run(page.parent).trials if t.number == number)
    browser.hover(f"a.point[data-key=t{number}] .aim")
    told = browser.ask("document.querySelector('.tip').innerText")
    for part in (f"trial {number}", f"{trial['latency_ms']:.2f} ± {trial['latency_ci95_ms']:.2f} ms", "± 1."):
        assert part in told
    assert f"{trial.spec.stages[0].dim}×{trial.spec.stages[0].depth}" in told
    browser.hover("h1")
    assert browser.ask("document.querySelector('.tip').hidden")
    assert browser.ask("document.querySelectorAll('a.point title').length") == 0  # which would stand over it


def test_the_table_sorts_by_any_heading(browser, page):
    """The better end first, then the other; what has no value stays last, and the heading says its order."""
    browser.open(page)
    for name, key, descending in (("latency", "latency_ms", False), ("accuracy", "accuracy", True)):
        values = sorted(
            [t[key] for t in load_run(page.parent).trials] + [t[key] for t in fake_references(FAKE)], reverse=descending
        )
        at = headings(browser).index(name) + 1
        for expected, order in ((values, descending), (values[::-1], not descending)):
            browser.click(f"#networks thead th:nth-child({at}) button")
            assert [float(v) for v in column(browser, name)] == pytest.approx(expected)
            said = browser.ask(
                "Array.from(document.querySelectorAll('#networks th[aria-sort]')).map((h) => h.ariaSort)"
            )
            assert said[at - 1] == ("descending" if order else "ascending")
            assert set(said[: at - 1] + said[at:]) == {"none"}
    browser.click(f"#networks thead th:nth-child({headings(browser).index('top-1') + 1}) button")
    assert column(browser, "top-1")[:5] == ["81.0000", "80.5000", "78.3000", "76.0000", None]
    browser.click("#networks thead th:nth-child(1) button")
    names = browser.ask(NAMES)
    assert [name for name in names if "trial" in name] == [f"trial {i}" for i in range(30)]


def test_the_table_filters_by_words_and_kinds(browser, page):
    """Points of hidden rows fade, and how many are left is said."""
    browser.open(page)
    assert browser.ask("document.querySelector('.tools output').innerText") == "34 networks"
    browser.click("input.kind[value=dominated]")
    front = read_json(page.parent / "front.json")["front"]
    assert len(browser.ask(NAMES)) == len(front) + 4
    faded = browser.ask("document.querySelectorAll('svg.wide a.point.faded').length")
    assert faded == 30 - len(front)
    browser.click("input.find")
    browser.type("PUBLISHED s_")
    assert browser.ask(NAMES) == ["s_conv"]
    assert browser.ask("document.querySelector('.tools output').innerText") == "1 of 34 networks"


def test_a_long_table_scrolls_to_the_row_of_a_point(browser, page):
    """In its own box, and the page stays where it is; printed it is whole."""
    browser.open(page)
    box = "document.querySelector('.tall')"
    assert browser.ask(f"{box}.scrollHeight > {box}.clientHeight + 100")
    last = browser.ask(f"{ROWS}.at(-1).dataset.key")
    point = f"document.querySelector('svg.wide a.point[data-key={last}]')"
    browser.ask(f"{point}.scrollIntoView()")
    before = browser.ask("window.scrollY")
    browser.ask(f"{point}.dispatchEvent(new MouseEvent('click', {{cancelable: true}}))")
    assert browser.ask("window.scrollY") == before
    assert browser.ask(
        f"""(() => {{ const row = document.getElementById('{last}').getBoundingClientRect();
        const frame = {box}.getBoundingClientRect(); return row.top >= frame.top && row.bottom <= frame.bottom; }})()"""
    )
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.ask(f"{box}.scrollHeight === {box}.clientHeight")


def test_a_command_is_copied(browser, page):
    """To the clipboard; where that is closed it is chosen instead, and the button says which keys copy it."""
    browser.open(page)
    seen = "navigator.clipboard.writeText = async (text) => { window.seen = text; }"
    browser.ask(seen)
    browser.click(".card button.copy")
    expected, export = browser.ask(
        "Array.from(document.querySelectorAll('.card .command code'), (code) => code.textContent).slice(0, 2)"
    )
    assert expected.startswith("modscale train ")
    assert export.startswith("modscale export ")
    assert " --pick " in expected
    assert browser.ask("window.seen") == expected
    assert browser.ask("document.querySelector('.card button.copy').innerText") == "copied"
    browser.open(page)
    browser.ask(
        "navigator.clipboard.writeText = async () => { throw new Error('closed'); }; document.execCommand = () => false"
    )
    browser.click(".card button.copy")
    assert browser.ask("document.querySelector('.card button.copy').innerText") == "press Ctrl+C"
    assert browser.ask("String(window.getSelection())").split() == expected.split()


def test_without_scripts_all_is_there(browser, page):
    """No control that does nothing; points lead to rows, rows to points, and the target stands out."""
    browser.open(page, scripts=False)
    assert shown(browser, ".tools, button, .tip, .needs-js") == 0
    assert len(browser.ask(NAMES)) == 34
    assert browser.ask("document.querySelectorAll('svg.wide a.point title').length") == 34
    plain = browser.ask("getComputedStyle(document.querySelector('#r1 td')).backgroundColor")
    browser.click("a.point[data-key=r1] .aim")
    assert browser.ask("location.hash") == "#r1"
    assert browser.ask("getComputedStyle(document.querySelector('#r1 td')).backgroundColor") != plain
    assert browser.ask("document.title").endswith("modscale report")


def test_printed_it_is_light_and_has_no_controls(browser, page, tmp_path):
    """Also from a dark screen; sections that were closed are open."""
    browser.open(page, theme="dark")
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.send("Emulation.setEmulatedMedia", media="print", features=[dark])
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.ask("getComputedStyle(document.querySelector('.headline')).color") == "rgb(31, 41, 51)"
    assert shown(browser, ".tools, button.copy") == 0
    browser.print(tmp_path / "page.pdf")
    assert browser.ask("Array.from(document.querySelectorAll('details')).every((one) => one.open)")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_a_printed_table_has_whole_figures_and_its_headings_on_every_page(browser, page, tmp_path):
    """Within the sheet; the headings where a program is there that reads the pages."""
    browser.open(page, width=PAPER)
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.ask(PARTED) == []
    assert browser.ask("document.documentElement.scrollWidth") <= PAPER
    program = shutil.which("pdftotext")
    if program is None:
        return
    browser.print(tmp_path / "page.pdf")
    done = subprocess.run([program, tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True)
    pages = [each.splitlines() for each in done.stdout.split("\f")]
    with_rows = [lines for lines in pages if sum(bool(re.fullmatch(r"trial \d+", line)) for line in lines) > 4]
    assert len(with_rows) > 1
    assert all("standing" in lines and "accuracy" in lines for lines in with_rows)
