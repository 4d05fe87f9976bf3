"""The help: its form, and examples that are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from modscale import __version__
from modscale.cli.main import app, main
from modscale.errors import InputError


def test_help_and_version_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command of the contract stands in the help."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("search", "space", "count", "latency", "report", "export"))
    assert main([]) == 0
    assert main(["--version"]) == 0


def test_short_options_and_the_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`-V` and `-h`; each command's help fits 80 columns, has an example that is one line, and no jargon of types."""
    assert main(["-V"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert main(["-h"]) == 0
    text = capsys.readouterr().out
    commands = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.strip()]
    assert len(commands) >= 8
    assert "..." not in text.split("Commands:")[1]
    for command in commands:
        assert main([command, "-h"]) == 0
        help_text = capsys.readouterr().out
        assert max(map(len, help_text.splitlines())) <= 80
        assert f"  Example: modscale {command} " in help_text.splitlines()[-1] + " "
        assert "<" not in help_text
        in_every_command = help_text.split("In every command:")[1]
        assert all(option in in_every_command for option in ("--json", "--debug", "--help"))


def test_every_example_is_a_command() -> None:
    """The examples of the help parse; what they name is there or comes from a search."""
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        words = shlex.split(command.epilog.removeprefix("Example: "))
        assert words[:2] == ["modscale", name]
        command.make_context(name, words[2:])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("search smoke --trials x", "'x' is not a whole number."),
        ("search smoke --trials 0", "0 is not in the range 1 or more."),
        ("watch there --every 9999", "9999 is not in the range 1 to 3600."),
        ("scale xxs --tolerance y", "'y' is not a number."),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_without_jargon(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, which names the option."""
    assert main(typed.split()) == 2
    line = capsys.readouterr().err
    assert line.endswith(f"{said}\n")
    assert typed.split()[2] in line
    assert line.count("\n") == 1


def test_every_path_that_is_typed_is_looked_at_first(tmp_path: Path) -> None:
    """Each option that takes one refuses a loop of links in one line, before anything is done."""
    (tmp_path / "loop").symlink_to("loop")
    group = typer.main.get_command(app)
    taken, shown = set(), {"PATH", "FILE", "DATA", "RUN", "SPACE.yaml", "MODEL", "IMAGES", "FILE.jsonl"}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            if not shown & set(re.findall(r"[A-Z]+(?:\.[a-z]+)?", parameter.metavar or "")):
                continue
            with pytest.raises(InputError, match="loop: cannot be used: Too many levels"):
                parameter.type.convert(str(tmp_path / "loop"), parameter, None)
            taken.add((name, parameter.name))
    assert len(taken) > 30


@pytest.mark.parametrize(
    "line", ["search smoke --out {path}", "search smoke --out {path} --dry-run", "search smoke --from {path}",
             "report {path}", "watch {path}", "train xxs --out {path}", "calibrate smoke --out {path}"],
)  # fmt: skip
def test_a_name_that_is_too_long_for_the_system_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str
) -> None:
    """Exit code 2 and nothing written, of an option and of what is joined to it."""
    for path in (tmp_path / ("x" * 300), Path(str(tmp_path) + "/x" * 2040)):
        assert main(line.format(path=path).split()) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "cannot be used: File name too long" in error
    assert list(tmp_path.iterdir()) == []


def test_what_the_system_refuses_later_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder that can be looked at, whose files cannot: the longest path that there may be, with a name behind it."""
    path = str(tmp_path)
    path += "/" + "x" * 200 + "/x" * ((4095 - 201 - len(path)) // 2)
    assert main(["search", "smoke", "--out", path[:4094]]) == 2
    assert "File name too long" in capsys.readouterr().err
