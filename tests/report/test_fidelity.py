"""What is written of a fidelity: figures that are those of the analysis, and a page that holds any name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_scores import DOCUMENT, fake_scores, fake_timings

from modscale.analysis.fidelity import find_fidelity
from modscale.report.fidelity import headline, lead_text, score_text, write_fidelity
from modscale.specs.known import KnownNetwork, published_networks


def test_the_files_say_what_was_found(tmp_path: Path) -> None:
    """JSON, page and picture from the same fidelity."""
    found = find_fidelity(
        published_networks(), fake_scores(lambda n, seed: n.top1), fake_timings(), seeds=[0], draws=200
    )
    content = write_fidelity(tmp_path, found, DOCUMENT)
    assert json.loads((tmp_path / "fidelity.json").read_text()) == content
    assert (tmp_path / "fidelity.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "fidelity.md").read_text()
    assert (
        "**The proxy orders these 27 networks with tau +1.00 \\[+1.00, +1.00\\], better than the number of params"
        in page
    )
    assert "(+0.64).**" in page
    assert (
        "2 epochs of 3000 images of 20 classes (fake), scored on 1000; 1 seed a network, on cpu with 1 thread." in page
    )
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 7 + 1 + 27
    assert sum(row.startswith("| s\\_conv/context-g | 72.3 % | 27 |") for row in rows) == 1
    assert "all | 27 | +1.00 \\[+1.00, +1.00\\] | +1.00 | 0.0001 | +0.64 | +0.28 | +0.28 | better |" in page


def test_the_headline_owns_up(tmp_path: Path) -> None:
    """A worse proxy is called worse, few networks say nothing, none have no order."""
    for sign, said in ((-1, "worse than the number of params does"), (1, "better than")):
        rows = fake_scores(lambda n, seed, sign=sign: sign * n.top1)
        assert said in headline(find_fidelity(published_networks(), rows, [], seeds=[0], draws=200))
    few = published_networks()[:4]
    found = find_fidelity(few, fake_scores(lambda n, seed: n.top1, networks=few), [], seeds=[0], draws=200)
    assert "so few networks cannot say" in headline(found)
    nothing = find_fidelity(few, [], [], seeds=[0], draws=200)
    assert headline(nothing) == "0 networks have a score: there is no order to compare yet."
    assert write_fidelity(tmp_path, nothing, DOCUMENT)["tau"] is None
    assert "Not finished: 4 networks are still to be scored." in (tmp_path / "fidelity.md").read_text()


def test_s_against_s_conv_is_a_sentence() -> None:
    """With the noise of the difference: 0.01 twice, so 0.014."""
    rows = fake_scores(lambda n, seed: 0.3 if n.name == "s_conv" else 0.25)
    found = find_fidelity(published_networks(), rows, [], seeds=[0], draws=200)
    assert lead_text(found) == (
        "The hybrid s scores 0.05 behind s_conv (standard error of the difference 0.014); top-1 differs by +0.5 points."
    )
    assert lead_text(find_fidelity(published_networks()[:2], rows, [], seeds=[0], draws=200)) == ""


@pytest.mark.parametrize(
    ("score", "error", "text"),
    [
        (0.3123, 0.0146, "0.312 ± 0.015"),
        (-1.9, 0.002, "-1.9000 ± 0.0020"),
        (1234.0, 55.0, "1234 ± 55"),
        (0.5, 0, "0.5"),
    ],
)
def test_a_score_has_the_digits_that_count(score: float, error: float, text: str) -> None:
    """Two of the error's; the score to the same place."""
    networks = published_networks()[:1]
    rows = [replace(row, standard_error=error) for row in fake_scores(lambda n, seed: score, networks=networks)]
    assert score_text(find_fidelity(networks, rows, [], seeds=[0], draws=200).measured[0]) == text


def test_a_page_holds_any_name(tmp_path: Path) -> None:
    """A name that is markup, a column, or steers a terminal is text; a failure's reason too."""
    names = ["a|b", "<img src=x>", "\x1b[31mred", "名前", "$x$"]
    networks = [
        KnownNetwork(name=name, spec=n.spec, top1=n.top1) for name, n in zip(names, published_networks(), strict=False)
    ]
    rows = fake_scores(lambda n, seed: n.top1, networks=networks)
    rows[0] = replace(rows[0], state="failed", score=None, reason="a | b\n# c")
    write_fidelity(tmp_path, find_fidelity(networks, rows, [], seeds=[0], draws=200), DOCUMENT)
    page = (tmp_path / "fidelity.md").read_text()
    assert "a\\|b has no score: a \\| b \\# c." in page
    assert "<img" not in page
    assert page.replace("\n", "").isprintable()
