"""The command line as a whole: exit codes, and one line for every mistake, wherever its streams go."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modscale.cli.main import main

ROOT = Path(__file__).parents[2]
SPACE = """
name: tiny
base: {resolution: 32}
stages: [{dim: [8, 16], depth: [1, 2]}, {dim: 16, depth: 1}]
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "xxl"], "must be a spec file or a published name"),
        (["count", "no/such.yaml"], "no/such.yaml: "),
        (["count", "{spec}"], "{spec}: stages[0].depth: must be 1 or more, got 0"),
        (["count", "xxs", "--resolution", "0"], "--resolution"),
        (["count", "isotropic-6m", "--resolution", "4"], "resolution: must be at least the stem's kernel (14), got 4"),
        (["count"], "Missing argument 'MODEL'. `modscale count -h` has an example."),
        (["space", "mobil"], "mobil: no such file, nor a space of modscale's (gpu, mobile, segmentation, smoke)"),
        (["count", "xxs", "--resolutoin", "64"], "No such option"),
        (["cuont", "xxs"], "No such command 'cuont'"),
        (["space", "{spec}"], "{spec}: num_classes: unknown key"),
        (["space", "{folder}"], "{folder}: must be a plain file"),
        (["search", "{bad_space}"], "{bad_space}: stages[0].width: unknown key; did you mean"),
        (["search", "{infeasible}"], "{infeasible}: constraints.params: "),
        (["search", "{space}", "--data", "{folder}/none", "--out", "{folder}/run"], "{folder}/none"),
        (["search", "{space}", "--out", "{spec}"], "{spec}: must be a folder, and is a file"),
        (["search", "{space}", "--out", "{folder}"], "{folder}: must be empty or a run's folder"),
        (["search", "{space}", "--trials", "0"], "--trials"),
        (["search", "{space}", "--out", "/proc/none"], "/proc/none: cannot be written to"),
        (["report", "{folder}"], "{folder}: is no run's folder"),
        (["report", "{folder}/none"], "{folder}/none: no such run folder"),
        (["export", "{folder}", "--out", "{folder}/out"], "{folder}: is no run's folder"),
        (["export", "xxs", "--pick", "s", "--out", "{folder}/out"], "--pick and --trial choose from a run's folder"),
        (
            ["latency", "xxs", "--provider", "tpu"],
            "--provider: must be one of cpu, openvino, cuda, tensorrt",
        ),
        (["scale", "xxs"], "modscale scale: give one budget, --params, --flops or --latency-ms; got none"),
        (["scale", "xxs", "--params", "1e6", "--flops", "1e9"], "give one budget"),
        (["scale", "xxs", "--params", "1e6", "--rule", "mine"], "--rule: must be one of efficientnet, efficientmod"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    """File, place, rule and value on standard error, nothing on standard output."""
    files = {
        "spec": "num_classes: 10\nstages: [{dim: 8, depth: 0}]",
        "space": SPACE,
        "bad_space": "stages: [{width: 8, depth: 1}]",
        "infeasible": SPACE + "constraints: {params: {max: 100}}",
    }
    names = {"folder": str(tmp_path)}
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        names[name] = str(tmp_path / f"{name}.yaml")
    assert main([argument.format(**names) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *_, line = captured.err.splitlines()
    assert message.format(**names) in line
    assert "Traceback" not in captured.err


def test_a_fault_of_ours_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unforeseen exception names itself; only --debug lets the traceback through."""

    def break_down(spec: object) -> None:
        raise RuntimeError("a bug\nin two lines")

    monkeypatch.setattr("modscale.specs.counts.count_model", break_down)
    assert main(["count", "xxs"]) == 1
    assert capsys.readouterr().err == (
        "modscale: internal error: RuntimeError: a bug in two lines (--debug shows where; please report it)\n"
    )
    with pytest.raises(RuntimeError):
        main(["count", "xxs", "--debug"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["count", "{raw}"], ["{raw}"], ["count", "xxs", "--{raw}"], ["count", "xxs", "--resolution", "{raw}"],
        ["space", "{raw}"], ["report", "{raw}"], ["scale", "xxs", "--params", "1e6", "--rule", "{raw}"],
        ["latency", "xxs", "--provider", "{raw}"], ["search", "{raw}.yaml"],
    ],
)  # fmt: skip
def test_an_argument_is_never_obeyed_by_the_terminal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """The command line's own messages escape what was typed, too."""
    raw = "\x1b]0;pwned\x07\u202e\udcff"
    assert main([argument.format(raw=raw) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.isprintable()


def test_python_m_runs_no_module_of_the_current_folder(tmp_path: Path) -> None:
    """`python -m modscale` beside somebody's `json.py`, `typer.py` and `rich`."""
    for module in ("json", "typer", "re", "yaml", "shlex", "signal"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('mine ran')")
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise SystemExit('mine ran')")
    for arguments in (["models"], ["count", "xxs", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "modscale", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "xxs" in done.stdout


@pytest.mark.parametrize("closed", ["1", "2", "0 1 2"])
def test_closed_streams_are_never_given_to_files(tmp_path: Path, closed: str) -> None:
    """With standard streams closed, no file of ours gets their number, where a library's message would land in it."""
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    code = (
        "import os, sys, modscale.cli.main as cli\n"
        f"file = {str(tmp_path / 'file')!r}\n"
        "def main():\n"
        "    number = os.open(file, os.O_CREAT | os.O_WRONLY)\n"
        "    os.write(number, str(number).encode())\n"
        "    return 7\n"
        "cli.main = main\n"
        "cli.run()\n"
    )
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} {redirections}"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 7
    assert int((tmp_path / "file").read_text()) > 2


def test_a_stopped_search_names_the_command_that_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly as it was typed, quoted for a shell."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("modscale.api.session.search_space", stop)
    arguments = ["search", str(ROOT / "spaces" / "smoke.yaml"), "--out", "my runs/one", "--trials", "3"]
    assert main(arguments) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("modscale: to go on: modscale search ")
    assert shlex.split(last.partition(": to go on: ")[2]) == ["modscale", *arguments]


@pytest.mark.parametrize(
    ("typed", "again"),
    [
        ("/usr/bin/modscale", ["modscale"]),
        (".venv/bin/modscale", [".venv/bin/modscale"]),
        ("/my place/modscale", ["/my place/modscale"]),
        ("/lib/modscale/__main__.py", [sys.executable, "-m", "modscale"]),
        ("-c", ["modscale"]),
    ],
)
def test_the_command_that_goes_on_begins_with_what_was_typed(
    typed: str, again: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program on the PATH by its name, another one by its place, the module by its Python."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("modscale.api.session.search_space", stop)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/modscale")
    arguments = ["search", str(ROOT / "spaces" / "smoke.yaml")]
    monkeypatch.setattr(sys, "argv", [typed, *arguments])
    assert main() == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert shlex.split(last.partition(": to go on: ")[2]) == [*again, *arguments]


def test_a_terminal_that_knows_only_ascii() -> None:
    """What it cannot show is escaped; the command does not fail for it."""
    command = [sys.executable, "-m", "modscale", "scale", "xxs", "--params", "4e6"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"params" in done.stdout


def test_a_closed_standard_error_keeps_the_exit_code() -> None:
    """The line has nowhere to go; the code still says whose fault it is."""
    command = f"exec {shlex.quote(sys.executable)} -m modscale count nope 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 2


def test_a_full_disk_is_one_line() -> None:
    """Where what is printed goes, or temporary files: no fault of ours."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "modscale", "models"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr.decode().startswith("modscale: output or temporary files: No space left on device")


def test_a_home_folder_is_expanded_in_every_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In arguments, in `--out ~/x` and in `--out=~/x`; no folder called `~` is made. Without a home it is one line."""
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    (home / "net.yaml").write_text("resolution: 32\nnum_classes: 3\nstages: [{dim: 8, depth: 1}]\n")
    (home / "space.yaml").write_text(SPACE)
    assert main(["export", "~/net.yaml", "--out=~/x", "--no-latency"]) == 0
    assert main(["export", "~/net.yaml", "--weights", "~/x/model.safetensors", "--out", "~/y", "--no-latency"]) == 0
    assert main(["scale", "~/x", "--params", "20k", "--out=~/scaled.yaml"]) == 0
    assert main(["count", "~/scaled.yaml"]) == 0
    assert main(["space", "~/space.yaml"]) == 0
    assert main(["scale", "--space=~/space.yaml", "--params", "20k", "--tolerance", "0.9"]) == 0
    capsys.readouterr()
    for command in (["latency", "~/none.onnx"], ["report", "~/none"], ["search", "~/space.yaml", "--data=~/none"],
                    ["search", "~/space.yaml", "--out=~/y"], ["count", "~/none.yaml"]):  # fmt: skip
        assert main(command) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"modscale: {home}/")
    assert main(["export", "~/net.yaml", "--out=~nobody-here/x"]) == 2
    assert "no home folder is known for ~nobody-here" in capsys.readouterr().err
    assert {path.name for path in here.iterdir()} <= {"reports"}


def test_a_size_of_0_hides_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With COLUMNS=0 or nonsense a pipe gets all there is."""
    for columns in ("0", "00", "", "-3", "wide", "\u00b2"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["models"]) == 0
        text = capsys.readouterr().out
        assert "Appendix L, separate MLP" in text
        assert "no room for" not in text


@pytest.mark.parametrize("command", ["models", "models --json", "count xxs", "--help"])
def test_a_reader_that_leaves_early_is_no_error(command: str) -> None:
    """`modscale models | head -1` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "modscale", *command.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
