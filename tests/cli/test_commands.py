"""The commands as a user types them: what they print, their exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from modscale import __version__
from modscale.cli.commands import app, main
from modscale.specs.published import published
from modscale.specs.spec import load_spec, spec_to_yaml

PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "golden" / "published.yaml").read_text())
ROOT = Path(__file__).parents[2]
SPACE = """
name: tiny
base: {resolution: 32}
stages: [{dim: [8, 16], depth: [1, 2]}, {dim: 16, depth: 1}]
"""


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("row", PUBLISHED["networks"], ids=lambda row: row["name"])
def test_count_gives_the_published_figures(capsys: pytest.CaptureFixture[str], row: dict[str, object]) -> None:
    """`count --json` has the contract's keys and the authors' exact counts."""
    document = run_json(capsys, "count", str(row["name"]))
    assert document["name"] == row["name"]
    assert document["resolution"] == 224
    assert (document["params"], document["flops"]) == (row["params"], row["flops_exact"])
    for part in ("by_part", "by_operator"):
        assert sum(cost["params"] for cost in document[part].values()) == row["params"]
        assert sum(cost["flops"] for cost in document[part].values()) == row["flops_exact"]


def test_count_checks_itself_against_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` traces the real network, here at another resolution."""
    document = run_json(capsys, "count", "xxs", "--resolution", "64", "--check")
    assert document["resolution"] == 64
    assert document["check"] == {
        "tool": "fvcore", "params": document["params"], "flops": document["flops"], "equal": True
    }  # fmt: skip


def test_a_check_that_fails_is_an_error_and_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When closed form and trace disagree, nothing is printed but the fault."""
    monkeypatch.setattr("modscale.models.fvcore_trace.trace_model", lambda spec: (1, 2))
    assert main(["count", "xxs", "--check"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fvcore traced 1 and 2" in captured.err


def test_count_reads_a_spec_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A spec written out counts like the name it came from, as table and as JSON."""
    file = tmp_path / "xxs.yaml"
    file.write_text(spec_to_yaml(published("xxs")))
    assert load_spec(file) == published("xxs")
    assert run_json(capsys, "count", str(file))["params"] == 4736264
    assert main(["count", str(file)]) == 0
    assert "4,736,264" in capsys.readouterr().out


def test_models_lists_every_network_of_table_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The paper's figures stand beside ours."""
    rows = {row["name"]: row for row in run_json(capsys, "models")["models"]}
    for row in PUBLISHED["networks"]:
        assert rows[row["name"]]["params"] == row["params"]
        assert rows[row["name"]]["paper"]["top1"] == row["top1"]
    assert main(["models"]) == 0
    assert "s_conv" in capsys.readouterr().out


def test_space_has_the_keys_of_the_contract(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`space --json` of a space counted by hand: 2 dims x 2 depths."""
    file = tmp_path / "tiny.yaml"
    file.write_text(SPACE)
    document = run_json(capsys, "space", str(file))
    assert (document["size"], document["feasible"]) == (4, 4)
    assert document["params"]["min"] < document["params"]["max"]
    assert document["flops"]["min"] < document["flops"]["max"]
    assert main(["space", str(file)]) == 0
    assert "4" in capsys.readouterr().out


def test_counts_of_a_space_say_what_they_take_for_granted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What a space leaves to the data is counted at its default, by `space` and by `scale --space`."""
    file = tmp_path / "tiny.yaml"
    for base, assumed in (({}, {"num_classes": 1000, "in_chans": 3}), ({"num_classes": 10, "in_chans": 1}, {})):
        file.write_text(json.dumps({"base": base, "stages": [{"dim": [8, 12], "depth": 1}]}))
        for command in (["space", str(file)], ["scale", "--space", str(file), "--params", "9e3"]):
            assert run_json(capsys, *command)["assumed"] == assumed
            assert main(command) == 0
            said = "num_classes 1000 and in_chans 3: the space leaves them to the data" in capsys.readouterr().out
            assert said is bool(assumed)


def test_scale_meets_its_budget(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The scaled spec is written out and counts what was promised."""
    file = tmp_path / "scaled.yaml"
    document = run_json(capsys, "scale", "xxs", "--params", "9e6", "--out", str(file))
    assert document["within_tolerance"] is True
    assert abs(document["params"] / 9e6 - 1) <= 0.01
    assert run_json(capsys, "count", str(file))["params"] == document["params"]
    assert main(["scale", "xxs", "--flops", "1e9", "--conv-only"]) == 0
    assert "within 1.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "xxl"], "must be a spec file or a published name"),
        (["count", "no/such.yaml"], "no/such.yaml: "),
        (["count", "{spec}"], "{spec}: stages[0].depth: must be 1 or more, got 0"),
        (["count", "xxs", "--resolution", "0"], "--resolution"),
        (["count", "isotropic-6m", "--resolution", "4"], "resolution: must be at least the stem's kernel (14), got 4"),
        (["count"], "Missing argument 'MODEL'"),
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
        (["latency", "xxs", "--provider", "tpu"], "--provider: must be one of cpu, cuda, got 'tpu'"),
        (["scale", "xxs"], "give one budget"),
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
        "import os, sys, modscale.cli.commands as cli\n"
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


def test_a_terminal_that_knows_only_ascii() -> None:
    """What it cannot show is escaped; the command does not fail for it."""
    command = [sys.executable, "-m", "modscale.cli.commands", "scale", "xxs", "--params", "4e6"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"params" in done.stdout


def test_a_closed_standard_error_keeps_the_exit_code() -> None:
    """The line has nowhere to go; the code still says whose fault it is."""
    command = f"exec {shlex.quote(sys.executable)} -m modscale.cli.commands count nope 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 2


def test_a_published_name_is_exported_again_into_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`export xxs --out xxs` twice: the folder of the first is no run."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["export", "xxs", "--resolution", "64", "--out", "xxs", "--json"]) == 0
    capsys.readouterr()
    assert main(["export", "xxs", "--trial", "0", "--out", "o"]) == 2
    assert "is no run's folder: it has no run.yaml" in capsys.readouterr().err


def test_a_full_disk_is_one_line() -> None:
    """Where what is printed goes, or temporary files: no fault of ours."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "modscale.cli.commands", "models"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr.decode().startswith("modscale: output or temporary files: No space left on device")


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


def test_scale_reads_suffixes(capsys: pytest.CaptureFixture[str]) -> None:
    """`6M` is six million, and what is no number is refused by the option's name."""
    assert run_json(capsys, "scale", "xxs", "--params", "6M")["target"] == 6e6
    assert run_json(capsys, "scale", "xxs", "--flops", "0.6G")["target"] == 6e8
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
    assert main(["export", "~/net.yaml", "--out=~/x"]) == 0
    assert main(["export", "~/net.yaml", "--weights", "~/x/model.safetensors", "--out", "~/y"]) == 0
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


def test_an_exported_folder_is_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every MODEL argument takes it; `export` loads its weights, and says that they are untrained where they are."""
    spec = tmp_path / "net.yaml"
    spec.write_text("name: net\nresolution: 32\nnum_classes: 3\nstages: [{dim: 8, depth: 1}]\n")
    folder, again, plain = (str(tmp_path / name) for name in ("a", "b", "c"))
    assert run_json(capsys, "export", str(spec), "--seed", "5", "--out", folder)["trained"] is False
    assert run_json(capsys, "count", folder)["params"] == run_json(capsys, "count", str(spec))["params"]
    assert run_json(capsys, "scale", folder, "--params", "9k", "--tolerance", "0.2")["metric"] == "params"
    document = run_json(capsys, "export", folder, "--out", again)
    assert document["loaded"]["file"] == f"{folder}/model.safetensors"
    assert document["trained"] is False
    first, second = (Path(place, "model.safetensors").read_bytes() for place in (folder, again))
    assert first == second
    assert main(["export", folder, "--out", plain]) == 0
    assert "initial, not trained" in capsys.readouterr().out
    Path(folder, "model.safetensors").unlink()
    assert run_json(capsys, "export", folder, "--out", plain)["loaded"] is None
