"""The shape of the house: imports run one way, between packages and inside them, and what must start fast is light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import modscale

ROOT = Path(__file__).parents[1]
PACKAGE = Path(modscale.__file__).parent
FLOORS = (  # top to bottom: a module imports from its own package or from a floor below it
    "__init__ __main__",
    "cli integrations",
    "api",
    "report",
    "analysis",
    "searching",
    "runs",
    "scaling",
    "training",
    "latency",
    "deploy",
    "spaces datasets models",
    "specs kernels",
    "programs",
    "kinds processes settings",
    "rivals",
    "document machine lines memory",
    "files arrays pareto interrupts providers",
    "errors",
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
LIGHT = ("specs.", "spaces.", "runs.", "pareto", "analysis.front", "latency.settings", "training.settings")
HEAVY = {"torch", "optuna", "onnxruntime", "onnx", "fvcore", "rich", "typer", "matplotlib", "PIL", "safetensors"}
SHARED = {"torch", "numpy"}  # the two array libraries; every other one has a module to itself
TOOLS = (
    "onnxruntime.quantization",
    "onnxruntime.transformers",
    "optuna.storages",
)  # libraries that come in another's package


def module_name(path: Path) -> str:
    """As in `specs.counts`; a package's own file has the package's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = sorted(PATHS)


def room(module: str) -> str:
    """The package of a module, or itself on the ground."""
    return module.partition(".")[0]


def imports(module: str) -> Iterator[str]:
    """Every module that `module` imports, anywhere in its text."""
    for node in ast.walk(ast.parse(PATHS[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner(module: str) -> set[str]:
    """The modules of the house that `module` imports."""
    found = {name.removeprefix("modscale.") for name in imports(module) if name.startswith("modscale.")}
    return {name for name in found if name in PATHS} - {module}


def outer(module: str) -> set[str]:
    """The third-party packages that `module` imports."""
    tops = {next((tool for tool in TOOLS if name.startswith(tool)), name.partition(".")[0]) for name in imports(module)}
    return {top for top in tops if top and top not in sys.stdlib_module_names and top != "modscale"}


def code_map() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text().split("## Code map")[1].split("## ")[0]


def test_every_room_has_its_floor():
    """A new package or ground module is named in the table above before it is used, and none that is gone."""
    assert {room(module) for module in MODULES} == set(FLOOR)


def test_every_module_is_on_the_code_map():
    """CONTRIBUTING.md has a line for each module, and none for modules that are gone."""
    on_the_map = {name.replace("/", ".") for name in re.findall(r"`([\w/]+)\.py`", code_map())}
    modules = {name for name, path in PATHS.items() if path.name != "__init__.py"}
    assert on_the_map == modules - {"__main__"}


def test_the_packaging_takes_every_package():
    """A wheel holds every folder that has a module: each one is a package, and setuptools is told to find them."""
    folders = {path.parent for path in PATHS.values()}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert found == {"include": ["modscale*"]}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    """No module imports from a floor above its own, nor from another room of the same floor."""
    wrong = {name for name in inner(module) if FLOOR[room(name)] <= FLOOR[room(module)] and room(name) != room(module)}
    assert not wrong


def test_no_import_cycle():
    """Inside a package, too, imports have an order."""
    TopologicalSorter({module: inner(module) for module in MODULES}).prepare()


def test_one_library_in_one_module():
    """Each third-party library but the array libraries is imported by a single module."""
    users: dict[str, set[str]] = {}
    for module in MODULES:
        for library in outer(module) - SHARED:
            users.setdefault(library, set()).add(module)
    assert {library: names for library, names in users.items() if len(names) > 1} == {}


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(LIGHT)])
def test_light_modules_import_nothing_heavy(module):
    """What counts and reads files needs neither torch nor a console, nor does anything it imports."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += inner(name)
    assert not {library for name in seen for library in outer(name)} & HEAVY


def run_python(code: str) -> str:
    """What a fresh interpreter prints for `code`, run in the repository's root."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["count", "xxs"], ["space", "spaces/mobile.yaml"]], ids=" ".join)
def test_quick_commands_leave_torch_alone(arguments):
    """Help, counts and spaces answer without loading torch, Optuna or ONNX Runtime."""
    code = f"""
import sys
from modscale.cli.main import main
assert main({arguments!r}) == 0
print("loaded:", sorted({{"torch", "optuna", "onnxruntime", "onnx", "fvcore"}} & set(sys.modules)))
"""
    assert run_python(code).splitlines()[-1] == "loaded: []"


def test_the_search_leaves_torch_alone():
    """The search is given the evaluation of a candidate as an argument, and so is its plan; they load no torch."""
    code = "import modscale.api.session, modscale.api.plan, sys; print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"


def test_what_a_search_needs_is_no_extra():
    """With workers of this machine neither Ray nor a database's driver is loaded, nor what they speak."""
    code = """
import sys, modscale.api.session, modscale.api.workers, modscale.cli.commands.search, modscale.searching.pool
print(sorted({"ray", "grpc", "psycopg", "psycopg2"} & set(sys.modules)))
"""
    assert run_python(code).strip() == "[]"


def test_the_front_door_is_light():
    """`import modscale` loads nothing but itself and the standard library."""
    code = f"import modscale, sys; print(sorted({HEAVY | {'numpy', 'yaml'}!r} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"
