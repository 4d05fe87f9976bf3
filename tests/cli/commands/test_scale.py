"""A network scaled, and options that would do nothing refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modscale.cli.main import main

RunJson = Callable[..., dict[str, Any]]
SPACE = """
name: tiny
base: {resolution: 32}
stages: [{dim: [8, 16], depth: [1, 2]}, {dim: 16, depth: 1}]
"""


def test_scale_meets_its_budget(capsys: pytest.CaptureFixture[str], run_json: RunJson, tmp_path: Path) -> None:
    """The scaled spec is written out and counts what was promised."""
    file = tmp_path / "scaled.yaml"
    document = run_json("scale", "xxs", "--params", "9e6", "--out", str(file))
    assert document["within_tolerance"] is True
    assert abs(document["params"] / 9e6 - 1) <= 0.01
    assert run_json("count", str(file))["params"] == document["params"]
    assert main(["scale", "xxs", "--flops", "1e9", "--conv-only"]) == 0
    assert "within 1.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["--params", "6"], ["--params", "1e13"], ["--flops", "1"], ["--flops", "10T", "--tolerance", "0"]],
    ids=lambda arguments: arguments[1],
)
def test_a_budget_that_is_missed_is_no_success(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    """Exit code 2, one line with the nearest miss, nothing on standard output and no file."""
    file = tmp_path / "scaled.yaml"
    assert main(["scale", "xxs", *arguments, "--resolution", "224", "--json", "--out", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert f"{arguments[0]}: no network scaled from xxs is within" in captured.err
    assert not file.exists()


def test_scale_reads_suffixes(capsys: pytest.CaptureFixture[str], run_json: RunJson) -> None:
    """`6M` is six million, and what is no number is refused by the option's name."""
    assert run_json("scale", "xxs", "--params", "6M")["target"] == 6e6
    assert run_json("scale", "xxs", "--flops", "0.6G")["target"] == 6e8
    assert main(["scale", "xxs", "--flops", "6 Mib"]) == 2
    assert "'--flops': must be a number, as in 6000000, 6e6, 6M, 1.4G or 600k, got '6 Mib'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "{space}", "--out", "x.yaml"], "--out: is for scaling a MODEL"),
        (["--space", "{space}", "--rule", "efficientnet"], "--rule: is for scaling a MODEL"),
        (["--space", "{space}", "--conv-only"], "--conv-only: is for scaling a MODEL"),
        (["--space", "{space}", "--resolution", "64"], "--resolution: is for scaling a MODEL"),
        (["--space", "{space}", "--provider", "cpu"], "--provider: is for scaling a MODEL"),
        (["--space", "{space}", "--threads", "1"], "--threads: is for scaling a MODEL"),
        (["--space", "{space}", "--runs", "10"], "--runs: is for scaling a MODEL"),
        (["xxs", "--best", "3"], "--best: goes with --space"),
        (["xxs", "--threads", "1"], "--threads: goes with --latency-ms"),
        (["xxs", "--provider", "cuda"], "--provider: goes with --latency-ms"),
    ],
)
def test_scale_refuses_options_that_would_do_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    """An option of the other half of the command is named, not dropped; the same command without it works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    given = [argument.format(space="space.yaml") for argument in arguments]
    assert main(["scale", *given, "--params", "5M"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]
