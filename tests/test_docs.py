"""The documents: what they show is what commands print, every page is in the site, and every link leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """`docs/make.py`."""
    found = importlib.util.spec_from_file_location("make", DOCS / "make.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_pages_of_commands_are_what_they_print(make: ModuleType) -> None:
    """`python docs/make.py` writes them anew."""
    written = {page.name: page.read_text(encoding="utf-8") for page in make.PAGES.iterdir()}
    assert make.render() == written


def test_what_was_recorded_can_be_typed_today(make: ModuleType) -> None:
    """Of the slow commands all were run, each page has a run of its own, and their options are in the help."""
    texts, recorded = make.read("commands.yaml"), make.read("recorded.yaml")
    assert [{key: one[key] for key in ("of", "run")} for one in recorded["session"]] == [
        {key: one[key] for key in ("of", "run")} for one in texts["session"]
    ]
    shown = {one["of"] for one in recorded["session"]} | {n for n, one in texts["commands"].items() if "quick" in one}
    assert shown == set(texts["commands"])
    for one in recorded["session"]:
        for name, rest in re.findall(r"modscale (\w+)([^;&|]*)", one["run"]):
            for option in re.findall(r"--[a-z0-9-]+", rest):
                assert option in make.output([name, "--help"]), (name, option)


def test_every_page_is_in_the_site() -> None:
    """A page that nobody finds is none."""
    document = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    entries = [value for entry in document["nav"] for value in entry.values()]
    pages = [page for value in entries for page in ([value] if isinstance(value, str) else _pages(value))]
    assert sorted(pages) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def _pages(entries: list[dict[str, str]]) -> list[str]:
    return [page for entry in entries for page in entry.values()]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_lead_somewhere(page: Path) -> None:
    """Files of the repository that are linked are there."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith(("http://", "https://")) or (page.parent / target).exists(), target


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Where mkdocs is installed, as `.ci/run` does it."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for page in PAGES:
        text = (tmp_path / "site" / page.relative_to(DOCS).with_suffix(".html")).read_text(encoding="utf-8")
        assert "<h1" in text
        assert "](../" not in text
    assert (tmp_path / "site" / "schema" / "space.json").is_file()
