"""The documents: what they show is what commands print, every page is in the site, and every link leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def test_the_page_of_commands_is_what_they_print() -> None:
    """`python docs/make.py` writes it anew."""
    found = importlib.util.spec_from_file_location("make", DOCS / "make.py")
    assert found is not None
    assert found.loader is not None
    make = importlib.util.module_from_spec(found)
    found.loader.exec_module(make)
    assert make.render() == make.PAGE.read_text(encoding="utf-8")


def test_every_page_is_in_the_site() -> None:
    """A page that nobody finds is none."""
    document = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(page for entry in document["nav"] for page in entry.values()) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name)
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
        text = (tmp_path / "site" / page.with_suffix(".html").name).read_text(encoding="utf-8")
        assert "<h1" in text
        assert "](../" not in text
    assert (tmp_path / "site" / "schema" / "space.json").is_file()
