"""The census of today's form of counting against that of the first release, in turn, by CPU seconds.

    git worktree add /tmp/first 33f3540
    python benchmarks/counting_forms.py /tmp/first [--rounds 2]

Each census runs in a process of its own. The numbers must be equal, or the script stops.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SPACES = ("mobile", "gpu", "fine3e10", "wide")


def take(form: str, place: str, name: str) -> None:
    """In a child: one census of one form; prints the number and the CPU seconds."""
    sys.path.insert(0, place)
    if form == "first":
        from modscale.census import take_census
        from modscale.space import parse_space
    else:
        from modscale.spaces.census import take_census
        from modscale.spaces.space import parse_space
    document = json.loads(sys.stdin.read())
    space = parse_space(document)
    start = time.process_time()
    low, high = take_census(space).feasible_interval
    print(json.dumps({"number": low, "exact": low == high, "cpu_s": time.process_time() - start}))


def documents() -> dict[str, dict[str, object]]:
    """The spaces as YAML would have them, without the sections that are not of a space."""
    import yaml
    from counting import fine_document, wide_document

    found = {"fine3e10": fine_document("fine3e10", 8, (3, 3, 5, 4), [7]), "wide": wide_document("wide", 12)}
    for name in ("mobile", "gpu"):
        document = yaml.safe_load((HERE / "spaces" / f"{name}.yaml").read_text())
        found[name] = {key: document[key] for key in ("name", "base", "stages", "constraints")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="a working tree of commit 33f3540")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    spaces = documents()
    places = {"first": options.first, "today's": str(HERE)}
    print("| space | feasible | CPU s, first release | CPU s, today's | ratios |\n|---|--:|---|---|---|")
    for name in SPACES:
        seconds: dict[str, list[float]] = {form: [] for form in places}
        numbers = set()
        for _ in range(options.rounds):
            for form, place in places.items():
                child = subprocess.run(
                    [sys.executable, __file__, "--take", form, place, name],
                    input=json.dumps(spaces[name]), capture_output=True, text=True, check=True, cwd="/",
                )  # fmt: skip
                answer = json.loads(child.stdout)
                assert answer["exact"], f"{form} does not count {name} exactly"
                numbers.add(answer["number"])
                seconds[form].append(answer["cpu_s"])
        assert len(numbers) == 1, f"the forms disagree on {name}: {numbers}"
        ours, theirs = seconds["today's"], seconds["first"]
        ratios = ", ".join(f"{new / old:.2f}" for new, old in zip(ours, theirs, strict=True))
        listed = " | ".join(", ".join(f"{value:.1f}" for value in some) for some in (theirs, ours))
        print(f"| {name} | {numbers.pop():,} | {listed} | {ratios} |", flush=True)


if __name__ == "__main__":
    take(*sys.argv[2:]) if sys.argv[1:2] == ["--take"] else main()
