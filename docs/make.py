"""Writes the pages of the commands, `docs/commands/`: what each is for, its help, and what it prints.

    python docs/make.py                    # runs help and quick commands; recorded.yaml has the slow ones
    python docs/make.py --slow             # runs these first, a quarter of an hour, and writes recorded.yaml
    python docs/make.py --slow train       # those of one page alone, in the folder of the last time

What is run stands in `commands.yaml`. A test holds the pages to the code.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).parent
PAGES, RECORDED = DOCS / "commands", DOCS / "recorded.yaml"
SESSION = DOCS.parent / "build" / "session"
"""Where the slow commands run."""
WIDTH = "80"
MOST_LINES = 24
"""Lines of a quick command's output that are shown."""
MOST_RECORDED = 60
"""Lines of a slow one's."""
INDEX = """# The commands

Each says of itself what follows with `-h`. With `--json` a command prints one JSON document on standard output and
nothing else there; progress goes to standard error. The exit code is 0, or 2 for what you can mend (told in one line:
file, place, rule, value), or 1 for a fault of ours, and 130 after Ctrl-C, which tells how to go on.

| command | does |
|---|---|
{rows}

MODEL is a name that `modscale models` lists, a spec file, or a folder that `export` or `train` wrote; SPACE.yaml a
space's file, or the name of one that comes with modscale (`mobile`, `smoke`, `segmentation`, `gpu`).

`modscale --install-completion` lets Tab complete commands, options, published networks and bands of a run in bash, zsh,
fish and PowerShell; a new shell knows it.

These pages are written by `docs/make.py`, by running what they show. What takes seconds is run afresh each time. Of the
rest the output of one small session on generated images is kept (`docs/make.py --slow` records it anew). Its networks
are tiny and its trainings short: the form of the output is meant, not the figures.
"""


def render() -> dict[str, str]:
    """Name of each file in `commands/` to its content."""
    from modscale.cli.main import COMMANDS

    texts = read("commands.yaml")["commands"]
    recorded = read(RECORDED.name)
    names = [command.__name__ for command in COMMANDS]
    if sorted(names) != sorted(texts):
        raise SystemExit(f"commands.yaml: describes {sorted(texts)}, the commands are {sorted(names)}")
    rows = [
        f"| [{c.__name__}]({c.__name__}.md) | {' '.join((c.__doc__ or '').split()).split('. ')[0].rstrip('.')} |"
        for c in COMMANDS
    ]
    pages = {"index.md": INDEX.format(rows="\n".join(rows))}
    for name in names:
        parts = [f"# {name}\n\n{texts[name]['does']}\n"]
        shown = [(line, output(shlex.split(line)), MOST_LINES) for line in texts[name].get("quick", [])]
        parts += [block(f"modscale {line}", text, most) for line, text, most in shown]
        kept = [one for one in recorded["session"] if one["of"] == name]
        parts += [block(one["run"], one["printed"], MOST_RECORDED) for one in kept]
        if kept:
            took = ", ".join(f"{one['seconds']:.0f} s" for one in kept)
            images = ", with generated images" if texts[name].get("images", True) else ""
            parts.append(f"Recorded on {kept[0]['date']} on {kept[0]['on']}{images}: {took}.\n")
        parts.append(f"## Help\n\n{block(f'modscale {name} --help', output([name, '--help']), 1000)}")
        pages[f"{name}.md"] = "\n".join(parts)
    return pages


def block(line: str, printed: str, most: int) -> str:
    """A command as it is typed, and what it prints."""
    lines = printed.splitlines()
    typed = [f"$ {one}" for one in line.splitlines()]
    return "\n".join(["```text", *typed, *lines[:most], *["..."][: len(lines) > most], "```", ""])


def read(name: str) -> Any:
    """A YAML file of this folder."""
    return yaml.safe_load((DOCS / name).read_text(encoding="utf-8"))


def output(arguments: list[str]) -> str:
    """What a command prints on standard output, without blanks at the ends of lines."""
    from modscale.cli.main import main

    before, stream = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(io.StringIO()):
            code = main(arguments)
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    if code:
        raise SystemExit(f"modscale {shlex.join(arguments)} ended with {code}")
    return trimmed(stream.getvalue())


def trimmed(text: str) -> str:
    """Without blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def record(names: list[str]) -> None:
    """Runs the session, or what of it stands on these pages, and keeps what it prints on both outputs."""
    from modscale.machine import describe_machine

    if not names and SESSION.exists():
        shutil.rmtree(SESSION)
    (SESSION / "bin").mkdir(parents=True, exist_ok=True)
    program = SESSION / "bin" / "modscale"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m modscale "$@"\n')
    program.chmod(0o755)
    draw_picture(SESSION / "picture.png")
    path = f"{SESSION / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "COLUMNS": WIDTH, "PATH": path, "PYTHONPATH": str(DOCS.parent)}
    machine, now, recorded = describe_machine(), datetime.now(UTC), []
    on = f"{machine['cores']} cores of {machine['cpu']}, {machine['system']}"
    for one in read("commands.yaml")["session"]:
        if names and one["of"] not in names:
            continue
        print(one["run"], flush=True)  # noqa: T201
        if "before" in one:
            subprocess.run(["bash", "-c", one["before"]], cwd=SESSION, check=True)
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", one["run"]], cwd=SESSION, env=environment, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        seconds = round(time.monotonic() - began, 1)
        if done.returncode:
            raise SystemExit(f"{one['run']}: ended with {done.returncode}\n{done.stdout}")
        recorded.append(
            {"of": one["of"], "run": one["run"], "date": f"{now.day} {now:%B %Y}", "on": on, "seconds": seconds}
        )
        recorded[-1]["printed"] = trimmed(done.stdout)
    kept = [one for one in read(RECORDED.name)["session"] if names and one["of"] not in names]
    order = [one["run"] for one in read("commands.yaml")["session"]]
    kept = [one for one in kept if one["run"] in order]
    session = sorted([*kept, *recorded], key=lambda one: order.index(one["run"]))
    with RECORDED.open("w", encoding="utf-8") as file:
        file.write("# What the slow commands printed. Written by docs/make.py --slow.\n")
        yaml.dump({"session": session}, file, Dumper=Literal, sort_keys=False, allow_unicode=True, width=200)


def draw_picture(file: Path) -> None:
    """One generated image as a file, for the command that takes files."""
    from PIL import Image

    from modscale.datasets.synthetic import make_synthetic

    images, *_ = make_synthetic(num_train=20, num_val=20, resolution=64, seed=0)
    Image.fromarray(images[0]).save(file)


class Literal(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


def _as_block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Literal.add_representer(str, _as_block)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--slow"]:
        record(sys.argv[2:])
    PAGES.mkdir(exist_ok=True)
    for name, content in render().items():
        (PAGES / name).write_text(content, encoding="utf-8")
