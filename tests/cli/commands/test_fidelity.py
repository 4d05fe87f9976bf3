"""`modscale fidelity` on the command line: what it takes, and what it shows."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_scores import fake_scores, fake_timings

from modscale.analysis.fidelity import Fidelity, fidelity_to_json, find_fidelity
from modscale.api import fidelity
from modscale.cli.main import main
from modscale.cli.tables import show_fidelity
from modscale.specs.known import published_networks


@functools.cache
def fake_fidelity() -> Fidelity:
    return find_fidelity(
        published_networks(), fake_scores(lambda n, seed: n.top1 / 300), fake_timings(), seeds=[0], draws=200
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a check was called with, in place of one."""
    seen: dict[str, Any] = {}

    def check(networks: Any, setup: Any, **options: Any) -> tuple[Fidelity, dict[str, Any]]:
        seen.update(options, names=[network.name for network in networks], setup=setup)
        return fake_fidelity(), fidelity_to_json(fake_fidelity())

    monkeypatch.setattr(fidelity, "check_fidelity", check)
    return seen


@pytest.mark.parametrize(
    "arguments",
    [
        ["--models", "xxs", "xs", "s", "--seeds", "2"],
        ["--models", "xxs", "--models", "xs", "--seeds", "2", "--models", "s"],
        ["--seeds", "2", "--models", "xxs", "xs", "--no-latency", "s"],
        ["xxs", "xs", "s", "--seeds=2"],
    ],
    ids=" ".join,
)
def test_several_networks_may_follow_models(
    asked: dict[str, Any], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind the option, by several options, or without it."""
    assert main(["fidelity", *arguments, "--json"]) == 0
    assert (asked["names"], asked["seeds"]) == (["xxs", "xs", "s"], 2)
    assert asked["times"] == ("--no-latency" not in arguments)
    document = json.loads(capsys.readouterr().out)
    assert {"tau", "rho", "tau_ci95", "baselines", "groups", "models"} <= document.keys()


def test_without_options_it_is_the_default_proxy_on_all(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """27 networks on the generated data, one seed, timed, in reports/fidelity."""
    assert main(["fidelity"]) == 0
    assert len(asked["names"]) == 27
    assert (asked["source"], asked["seeds"], asked["times"]) == ("synthetic", 1, True)
    assert (asked["folder"], asked["setup"].proxy.method) == (Path("reports/fidelity"), "thin")
    assert "The proxy orders these 27 networks with tau" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "xxxs"], "did you mean xxs"),
        (["--models", "spaces/mobile.yaml"], "must be a list of 1 to 1000 networks"),
        (["--proxy", "zen"], "--proxy: must be a proxy (thin, train)"),
        (["--seeds", "0"], "--seeds"),
        (["xxs", "--models", "xxs"], "must not name two networks alike, got 'xxs'"),
        (["--out", str(Path(__file__).parent)], "must be empty or a folder of `modscale fidelity`"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """Exit code 2, and nothing on standard output."""
    assert main(["fidelity", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *_, line = captured.err.splitlines()
    assert message in line


@pytest.mark.parametrize("width", [80, 132, None])
def test_the_tables_fit_the_screen(screen: Callable[..., list[str]], width: int | None) -> None:
    """Names are whole at 80 columns, each network a line, and what is left out is told; a pipe has all of it."""
    lines = screen(show_fidelity, fake_fidelity(), Path("out"), width=width)
    assert all(len(line) <= (width or 1000) for line in lines)
    for network in published_networks():
        assert sum(line.startswith(f"{network.name} ") for line in lines) == 1
    text = "\n".join(lines)
    assert "+1.00 [+1.00, +1.00]" in text
    assert ("no room for:" in text) == (width == 80)
    if width is None:
        (row,) = (line for line in lines if line.startswith("the family of s_conv"))
        assert row.split()[4:] == ["15", "+1.00", "[+1.00,", "+1.00]", "+1.00", "+0.64", "+0.58", "+0.58", "better"]
    assert lines[-1] == "report: out/fidelity.md"


def test_what_was_not_timed_has_no_column(screen: Callable[..., list[str]]) -> None:
    """Neither of latencies, nor of their tau."""
    found = find_fidelity(published_networks(), fake_scores(lambda n, seed: n.top1), [], seeds=[0], draws=200)
    for shown, has in ((found, False), (fake_fidelity(), True)):
        lines = screen(show_fidelity, shown, Path("out"), width=None)
        assert sum("latency" in line for line in lines) == (2 if has else 0)
