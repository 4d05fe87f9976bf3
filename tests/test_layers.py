"""The shape of the package: imports run one way, and what must start fast leaves torch alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import modscale

ROOT = Path(__file__).parents[1]
PACKAGE = Path(modscale.__file__).parent
LAYERS = (  # top to bottom: a module imports from its own row or the rows below it
    "__main__",
    "cli",
    "session",
    "search report report_text console plots",
    "results measures worker design_reading study mirror ranking",
    "latency proxy",
    "export recipe network blocks tracing checkpoint candidates pickled",
    "data folders archives labelled synthetic images runtime",
    "experiment runs settings",
    "census feasibility scaling budgets latency_budget ray sampling halves pairs wavelet_matrix",
    "completion",
    "variants tables stage_tables",
    "counts pareto front trials space",
    "spec kinds metrics",
    "document files arrays layout machine processes confidence",
    "errors interrupts __init__",
)
ROW = {module: row for row, names in enumerate(LAYERS) for module in names.split()}
LIGHT_ROWS = range(ROW["experiment"], len(LAYERS))
HEAVY = {"torch", "optuna", "onnxruntime", "onnx", "fvcore", "rich", "typer", "matplotlib", "PIL", "safetensors"}
SHARED = {"torch", "numpy"}  # the two array libraries; every other one has a module to itself


def imports(module: str) -> Iterator[str]:
    """Every module that `module` imports, anywhere in its text."""
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}.py has a relative import"
            yield from (
                [f"modscale.{a.name}" for a in node.names] if node.module == "modscale" else [node.module or ""]
            )


def inner(module: str) -> set[str]:
    """The modules of the package that `module` imports."""
    names = {name.removeprefix("modscale.") for name in imports(module) if name.startswith("modscale.")}
    return {name if (PACKAGE / f"{name}.py").is_file() else "__init__" for name in names}


def outer(module: str) -> set[str]:
    """The third-party packages that `module` imports."""
    tops = {name.partition(".")[0] for name in imports(module)}
    return {top for top in tops if top not in sys.stdlib_module_names and top != "modscale"}


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def test_every_module_has_its_place():
    """A new module is named in the table above before it is used."""
    assert set(MODULES) <= set(ROW)


def test_every_module_is_on_the_code_map():
    """CONTRIBUTING.md has a line for each module, and none for modules that are gone."""
    on_the_map = set(
        re.findall(r"`(\w+)\.py`", (ROOT / "CONTRIBUTING.md").read_text().split("## Code map")[1].split("## ")[0])
    )
    assert on_the_map == set(MODULES) - {"__init__"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    """No module imports from a row above its own."""
    upward = {name for name in inner(module) if ROW[name] < ROW[module]}
    assert not upward


def test_no_import_cycle():
    """Within a row, too, imports have an order."""
    TopologicalSorter({module: inner(module) - {module} for module in MODULES}).prepare()


def test_one_library_in_one_module():
    """Each third-party library but the array libraries is imported by a single module."""
    users: dict[str, set[str]] = {}
    for module in MODULES:
        for library in outer(module) - SHARED:
            users.setdefault(library, set()).add(module)
    assert {library: names for library, names in users.items() if len(names) > 1} == {}


@pytest.mark.parametrize("module", [module for module in MODULES if ROW.get(module) in LIGHT_ROWS])
def test_light_modules_import_nothing_heavy(module):
    """What counts and reads files needs neither torch nor a console."""
    assert not outer(module) & HEAVY


def run_python(code: str) -> str:
    """What a fresh interpreter prints for `code`, run in the repository's root."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["count", "xxs"], ["space", "spaces/mobile.yaml"], ["models"]], ids=" ".join
)
def test_quick_commands_leave_torch_alone(arguments):
    """Help, counts and spaces answer without loading torch, Optuna or ONNX Runtime."""
    code = f"""
import sys
from modscale.cli import main
assert main({arguments!r}) == 0
print("loaded:", sorted({{"torch", "optuna", "onnxruntime", "onnx", "fvcore"}} & set(sys.modules)))
"""
    assert run_python(code).splitlines()[-1] == "loaded: []"


def test_the_search_leaves_torch_alone():
    """The search is given the evaluation of a candidate as an argument; its own modules load no torch."""
    assert run_python("import modscale.search, modscale.study, sys; print('torch' in sys.modules)").strip() == "False"
