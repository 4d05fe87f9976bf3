"""modscale: architecture search and model scaling of EfficientMod vision networks.

What a notebook needs is imported from here, each name loading what it needs when it is first used:

>>> import modscale
>>> modscale.count_model(modscale.published("xxs")).params
4736264
"""

# Nothing is imported up here, not even from the standard library: `python -m modscale` runs this file while the current
# folder is still the first place in which Python looks.

__version__ = "0.2.0"

TYPE_CHECKING = False  # true for a type checker, which knows it by its name

if TYPE_CHECKING:
    from modscale.analysis.results import load_run
    from modscale.api.calls import measure_latency, search
    from modscale.deploy.export import export_model
    from modscale.models.efficientmod import build_network
    from modscale.runs.experiment import load_experiment as load_space
    from modscale.specs.counts import count_model
    from modscale.specs.published import published
    from modscale.specs.spec import load_spec

__all__ = [
    "build_network",
    "count_model",
    "export_model",
    "load_run",
    "load_space",
    "load_spec",
    "measure_latency",
    "published",
    "search",
]

_DOORS = {
    "build_network": ("modscale.models.efficientmod", "build_network"),
    "count_model": ("modscale.specs.counts", "count_model"),
    "export_model": ("modscale.deploy.export", "export_model"),
    "load_run": ("modscale.analysis.results", "load_run"),
    "load_space": ("modscale.runs.experiment", "load_experiment"),
    "load_spec": ("modscale.specs.spec", "load_spec"),
    "measure_latency": ("modscale.api.calls", "measure_latency"),
    "published": ("modscale.specs.published", "published"),
    "search": ("modscale.api.calls", "search"),
}
"""Name to the module that has it, and its name there."""


def __getattr__(name: str) -> object:
    if name not in _DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, inside = _DOORS[name]
    return getattr(import_module(module), inside)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
