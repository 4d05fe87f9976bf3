"""The command line: each command parses, calls one function, prints.

Heavy imports stand inside the command that needs them: `--help`, `count`, `space`, `models` and `scale` by params or
FLOPs never import torch. `main` is the one place that turns an exception into a line and an exit code: 0, 2 for what
the user can mend, 1 for a fault of ours, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from modscale import __version__
from modscale.cli.completion import complete_band, complete_model
from modscale.cli.layout import ENCODING_ERRORS
from modscale.document import read_count
from modscale.errors import InputError, ModscaleError, one_line
from modscale.files import require_current_folder, user_path, user_text

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

Function = TypeVar("Function", bound=Callable[..., Any])

SECTIONS = {
    "Budgets": ("--params", "--flops", "--latency-ms"),
    "Timing": ("--provider", "--threads", "--runs", "--paper"),
    "In every command": ("--json", "--debug", "--help"),
}
"""Options that stand under a heading of their own in the help of a command; the others are its `Options`."""
VALUES = {"<int range>": "N", "<int>": "N", "<float>": "X", "<path>": "PATH", "<str>": "TEXT"}
"""How the help shows a value, in place of typer's names for its types."""


class _Command(TyperCommand):
    """A command whose help has its options in sections, plain text that a pipe and 80 columns hold."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {
            "Arguments": [],
            "Options": [],
            **{title: [] for title in SECTIONS},
        }
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                titles = (title for title, options in SECTIONS.items() if set(options) & set(parameter.opts))
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections[next(titles, usual)].append((_in_plain_words(record[0]), _in_plain_words(record[1])))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


app = typer.Typer(
    name="modscale",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _command(example: str) -> Callable[[Function], Function]:
    """Makes a function a command whose help ends with this example."""
    return app.command(cls=_Command, epilog=f"Example: {example}")


def _in_plain_words(text: str) -> str:
    """A line of typer's help without its names for types and ranges."""
    for name, plain in VALUES.items():
        text = text.replace(name, plain)
    text = re.sub(r"\b(\d+)<=x<=(\d+)", r"\1 to \2", text)
    return re.sub(r"\bx>=(\d+)", r"\1 or more", text)


def _complete_pick(context: typer.Context, incomplete: str) -> list[str]:
    # Before its value is there, --pick cannot be parsed, and what was typed before it is left in the arguments.
    return complete_band(context.params.get("model") or "".join(context.args[:1]), incomplete)


MODEL_HELP = "A published name (see `modscale models`), a spec file or an export's folder."
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", parser=user_text, help=MODEL_HELP, autocompletion=complete_model)
]
TimedArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL|FILE.onnx...",
        parser=user_text,
        help=f"{MODEL_HELP} Or any ONNX file.",
        autocompletion=complete_model,
    ),
]
SpaceArgument = Annotated[str, typer.Argument(metavar="SPACE.yaml", parser=user_text, help="A search space.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ResolutionOption = Annotated[int | None, typer.Option(min=1, help="Side of the square input, pixels.")]


def _count(text: str) -> float:
    """A budget as typed; click names the option in the error."""
    try:
        return read_count(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without this sign, a path that is no Unicode
            stream.reconfigure(errors=ENCODING_ERRORS)
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("0*[1-9][0-9]{0,5}", os.environ.get(name, "1")):  # no size: rich would print nothing
            del os.environ[name]
    try:
        code = app(args=arguments, prog_name="modscale", standalone_mode=False)
        if sys.stdout is not None:  # None where whoever called closed it
            sys.stdout.flush()
        if code == INTERRUPTED:  # typer's own answer to Ctrl-C inside a command
            return _interrupted(arguments)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        _complain(error.format_message(), command=context.command_path if context else "modscale")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments)
    except ModscaleError as error:
        if debug:
            raise
        _complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        _let_go_of_output()
        return 0
    except SystemExit as end:  # typer's own, as for `modscale models | head -1`
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        _let_go_of_output()
        return 0
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _complain(f"{error.filename or 'output or temporary files'}: {error.strerror}")
            return 2
        _complain(f"internal error: {type(error).__name__}: {error} (--debug shows where; please report it)")
        return 1


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False
) -> None:
    """Architecture search and model scaling of EfficientMod vision networks."""
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@_command("modscale search spaces/mobile.yaml --data photos --trials 60")
def search(
    space_file: SpaceArgument,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            parser=user_text,
            help="`synthetic`, a folder with train/CLASS/* and val/CLASS/*, or a .npz.",
        ),
    ] = "synthetic",
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials, failed ones included.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of the whole search.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", parser=user_path, help="The run's folder [default: reports/NAME].")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Search a space: count, time and train candidates, then report. The same command again resumes."""
    from modscale.api.session import search_space
    from modscale.cli.console import Terminal

    experiment = _experiment(space_file)
    settings = replace(
        experiment.search,
        trials=experiment.search.trials if trials is None else trials,
        seed=experiment.search.seed if seed is None else seed,
    )
    folder = Path("reports") / experiment.space.name if out is None else out
    run, summary = search_space(
        replace(experiment, search=settings),
        space_file=space_file,
        source=data,
        folder=folder,
        watcher=Terminal(),
        debug=debug,
    )
    _show(summary, as_json, lambda: _show_run(run, summary, searched=True))


@_command("modscale space spaces/mobile.yaml")
def space(space_file: SpaceArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Size, reach and feasibility of a space."""
    from modscale.cli.answers import census_to_json
    from modscale.cli.console import counting_progress, show_assumed, show_census
    from modscale.errors import naming_file
    from modscale.spaces.census import take_census

    with naming_file(space_file):
        loaded = _experiment(space_file).space
        with counting_progress(loaded.name) as progress:
            census = take_census(loaded, progress=progress)

    def show() -> None:
        show_census(census)
        show_assumed(loaded.assumed)

    _show(census_to_json(census) | {"assumed": loaded.assumed}, as_json, show)


@_command("modscale count xxs --resolution 160 --check")
def count(
    model: ModelArgument,
    resolution: ResolutionOption = None,
    check: Annotated[bool, typer.Option("--check", help="Compare with an fvcore trace of the network.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Params and FLOPs by stage and by operator."""
    from modscale.errors import MismatchError
    from modscale.specs.counts import count_model, sum_by

    spec = _resolve(model, resolution)
    counted = count_model(spec)
    traced = None
    if check:
        require_current_folder()
        from modscale.models.fvcore_trace import trace_model

        traced = trace_model(spec)
        if traced != (counted.params, counted.flops):
            raise MismatchError(
                f"{spec.name}: counted {counted.params} params and {counted.flops} FLOPs,"
                f" fvcore traced {traced[0]} and {traced[1]}"
            )
    document: dict[str, Any] = {
        "name": spec.name,
        "resolution": spec.resolution,
        "params": counted.params,
        "flops": counted.flops,
    }
    for key, title in (("part", "by_part"), ("operator", "by_operator")):
        sums = sum_by(counted.parts, key)
        document[title] = {name: {"params": params, "flops": flops} for name, (params, flops) in sums.items()}
    if traced is not None:
        document["check"] = {"tool": "fvcore", "params": traced[0], "flops": traced[1], "equal": True}

    def show() -> None:
        from modscale.cli.console import show_count

        show_count(spec, counted, traced)

    _show(document, as_json, show)


@_command("modscale latency xxs s_conv --threads 2 --runs 400")
def latency(
    models: TimedArgument,
    provider: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Intra-op threads.")] = None,
    runs: Annotated[
        int | None, typer.Option(min=10, max=1_000_000, help="Timed runs, and no more without --until.")
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's protocol: 4 threads, 4000 runs.")] = False,
    until: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Measure again while the interval is wider [default: 10].")
    ] = None,
    patience: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Measure again for so long at most, a model [default: 20].")
    ] = None,
    resolution: ResolutionOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """ONNX Runtime latency, batch 1, each in a process of its own.

    An ONNX file is timed as it is. An open batch is 1; open sides take --resolution.
    """
    from modscale.cli.console import latency_progress, say
    from modscale.latency.protocol import latency_to_json, measure_models

    settings = _latency_settings(provider, threads, runs, until, patience, paper=paper)
    timed = [_timed(model, resolution) for model in models]
    with latency_progress(settings) as on_round:
        results = measure_models(timed, settings, on_round=on_round, note=say)
    measured = [latency_to_json(model, result) for model, result in zip(timed, results, strict=True)]

    def show() -> None:
        from modscale.cli.console import show_latency

        show_latency(measured)

    _show({"models": measured}, as_json, show)


@_command("modscale report reports/mobile")
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", parser=user_path, help="A run's folder.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Rebuild the Pareto report of a run from its files."""
    from modscale.api.session import report_run
    from modscale.kinds import naming_kind

    with naming_kind(run, "run"):
        reported, summary = report_run(run)
    _show(summary, as_json, lambda: _show_run(reported, summary))


@_command("modscale export reports/mobile --pick xs --out backbone")
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN",
            parser=user_text,
            help=f"{MODEL_HELP} Or a run's folder.",
            autocompletion=complete_model,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="PATH", parser=user_path, help="Folder for spec.yaml, model.onnx and model.safetensors."),
    ],
    pick: Annotated[
        str | None, typer.Option(metavar="BAND", help="The run's pick for this band.", autocompletion=_complete_pick)
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="The run's trial of this number.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=user_path, help="A checkpoint [default: that in MODEL's folder]."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Where in the checkpoint they lie, as in ema.module [default: found].")
    ] = None,
    fresh_head: Annotated[
        bool, typer.Option("--fresh-head", help="Start the classifier fresh; load the rest.")
    ] = False,
    resolution: ResolutionOption = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the initial weights, without --weights.")
    ] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a network's spec, ONNX (checked against torch) and weights."""
    from modscale.api.session import choose_spec, choose_weights
    from modscale.kinds import naming_kind

    spec = _at(choose_spec(model, pick=pick, trial=trial), resolution)
    weights = choose_weights(model, weights, chooses=pick is not None or trial is not None)
    if weights is None and (key is not None or fresh_head):
        raise InputError("goes with --weights", place="--fresh-head" if fresh_head else "--key")
    require_current_folder()
    from modscale.deploy.export import export_model
    from modscale.models.checkpoint import loaded_to_json

    with naming_kind(weights or "", "checkpoint"):
        result = export_model(spec, out, weights=weights, key=key, fresh_head=fresh_head, seed=seed)
    document = {
        "spec": str(result.spec),
        "onnx": str(result.onnx),
        "weights": str(result.weights),
        "trained": result.loaded is not None and result.loaded.trained,
        "loaded": None if result.loaded is None else {"file": str(weights), **loaded_to_json(result.loaded)},
        "params": result.params,
        "flops": result.flops,
        "max_abs_error": result.max_abs_error,
    }

    def show() -> None:
        from modscale.cli.console import show_export

        show_export(spec, document)

    _show(document, as_json, show)


@_command("modscale models --json")
def models(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the networks of the paper with its figures beside ours."""
    from modscale.specs.published import list_models, models_to_json

    rows = models_to_json(list_models())

    def show() -> None:
        from modscale.cli.console import show_models

        show_models(rows)

    _show({"models": rows}, as_json, show)


@_command("modscale scale xxs --params 9e6 --out bigger.yaml")
def scale(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", parser=user_text, help=MODEL_HELP, autocompletion=complete_model),
    ] = None,
    params: Annotated[
        float | None, typer.Option(metavar="N", parser=_count, help="Budget: learned numbers, as in 6M.")
    ] = None,
    flops: Annotated[
        float | None, typer.Option(metavar="N", parser=_count, help="Budget: multiply-adds an image, as in 1.4G.")
    ] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Budget: ONNX Runtime latency here, ms.")] = None,
    conv_only: Annotated[bool, typer.Option("--conv-only", help="Replace attention by convolutional blocks.")] = False,
    resolution: Annotated[int | None, typer.Option(min=1, help="Fix the input's side; else it is scaled too.")] = None,
    rule: Annotated[
        str | None, typer.Option(help="efficientnet (depth, width, resolution; default) or efficientmod.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Share of a budget by which it may be missed.")] = 0.01,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="SPACE.yaml", parser=user_text, help="Instead of MODEL: all of this space near the budgets."
        ),
    ] = None,
    best: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="With --space: how many of the nearest to list [default: 10].")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="For --latency-ms: cpu (default) or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="For --latency-ms: threads.")] = None,
    runs: Annotated[int | None, typer.Option(min=10, max=1_000_000, help="For --latency-ms: timed runs.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", parser=user_path, help="Write the scaled spec to this file.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Scale a network to a budget along depth, width and resolution."""
    budgets = {"params": params, "flops": flops, "latency_ms": latency_ms}
    given = {metric: value for metric, value in budgets.items() if value is not None}
    if (model is None) == (space is None):
        raise InputError("give a MODEL to scale, or --space SPACE.yaml to look through", place="scale")
    of_timing = {"--provider": provider, "--threads": threads, "--runs": runs}
    of_model = {"--out": out, "--rule": rule, "--conv-only": conv_only or None, "--resolution": resolution}
    if space is not None:
        _refuse({**of_model, **of_timing}, "is for scaling a MODEL; --space only lists what the space has")
        _list_near(space, given, tolerance, 10 if best is None else best, as_json)
        return
    _refuse({"--best": best}, "goes with --space; a MODEL is scaled to one network")
    if len(given) != 1:
        raise InputError("give one budget: --params, --flops or --latency-ms", place="scale", value=sorted(given))
    if latency_ms is None:
        _refuse(of_timing, "goes with --latency-ms; nothing is timed for a budget of params or FLOPs")
    from modscale.document import check_choice
    from modscale.scaling.compound import RULES
    from modscale.scaling.scale import require_met, scale_model, scaled_to_json

    def measure(candidate: Any) -> float:
        from modscale.cli.console import say
        from modscale.latency.protocol import measure_models

        return measure_models([candidate], _latency_settings(provider or "cpu", threads, runs), note=say)[0].mean_ms

    (metric, target), *_ = given.items()
    scaled = scale_model(
        _resolve(str(model), None),
        metric,
        target,
        measure=measure,
        rule=RULES[check_choice(rule or "efficientnet", "--rule", tuple(RULES))],
        conv_only=conv_only,
        resolution=resolution,
        tolerance=tolerance,
    )
    require_met(scaled)
    if out is not None:
        from modscale.files import write_whole
        from modscale.specs.spec import spec_to_yaml

        write_whole(out, spec_to_yaml(scaled.spec))

    def show() -> None:
        from modscale.cli.console import show_scaled

        show_scaled(scaled)

    _show(scaled_to_json(scaled), as_json, show)


def _list_near(space_file: str, budgets: dict[str, float], tolerance: float, best: int, as_json: bool) -> None:
    """All architectures of a space within the tolerance of every budget, the nearest first."""
    from modscale.cli.answers import matches_to_json
    from modscale.errors import naming_file
    from modscale.spaces.nearest import within_budgets

    if "latency_ms" in budgets:
        raise InputError("a space is looked through by --params and --flops", place="--latency-ms")
    with naming_file(space_file):
        loaded = _experiment(space_file).space
        matches = within_budgets(loaded, budgets, tolerance, best=best)

    def show() -> None:
        from modscale.cli.console import show_assumed, show_matches

        show_matches(matches)
        show_assumed(loaded.assumed)

    _show(matches_to_json(matches) | {"assumed": loaded.assumed}, as_json, show)


def _refuse(options: dict[str, Any], rule: str) -> None:
    """Raises InputError for the first of these options that was given: it would do nothing."""
    for name, value in options.items():
        if value is not None:
            raise InputError(rule, place=name)


def _show_run(run: Any, summary: Any, *, searched: bool = False) -> None:
    from modscale.cli.console import show_next, show_report

    show_report(summary, run.trials)
    show_next(summary, searched=searched)


def _latency_settings(
    provider: str,
    threads: int | None,
    runs: int | None,
    until: float | None = None,
    patience: float | None = None,
    *,
    paper: bool = False,
) -> Any:
    from modscale.document import check_choice, check_number
    from modscale.settings import PROVIDERS, LatencySettings

    check_choice(provider, "--provider", PROVIDERS)
    default = LatencySettings(threads=4, runs=4000, patience_s=60.0) if paper else LatencySettings(patience_s=20.0)
    if runs is not None and until is None:
        default = replace(default, patience_s=0.0)  # so many runs were asked for, and no more
    return replace(
        default,
        provider=provider,
        threads=threads or default.threads,
        runs=runs or default.runs,
        until_percent=default.until_percent if until is None else check_number(until, "--until", above=0, high=100),
        patience_s=default.patience_s if patience is None else check_number(patience, "--patience", low=0, high=86_400),
    )


def _experiment(file: str) -> Any:
    from modscale.kinds import naming_kind
    from modscale.runs.experiment import load_experiment

    with naming_kind(file, "space"):
        return load_experiment(file)


def _timed(model: str, resolution: int | None) -> Any:
    """What `latency` times: an ONNX file as it is, or the network of a MODEL."""
    if not model.lower().endswith(".onnx"):
        return _resolve(model, resolution)
    from modscale.cli.console import say
    from modscale.latency.protocol import find_onnx

    found = find_onnx(model, resolution)
    if found.shape[:1] not in ((), (1,)):
        say(f"note: the batch in {model} is fixed: what is timed is {found.shape[0]} images at once")
    return found


def _resolve(model: str, resolution: int | None) -> Any:
    from modscale.specs.published import resolve_model

    return _at(resolve_model(model), resolution)


def _at(spec: Any, resolution: int | None) -> Any:
    """The spec at another resolution, checked as if it stood in a file."""
    if resolution is None:
        return spec
    from modscale.errors import naming_file
    from modscale.specs.spec import parse_spec, spec_to_dict

    with naming_file("--resolution"):
        return parse_spec({**spec_to_dict(spec), "resolution": resolution})


def _show(document: Any, as_json: bool, show: Any) -> None:
    if as_json:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        show()


def _interrupted(arguments: list[str]) -> int:
    """The exit code after Ctrl-C; a search is told by which command it goes on."""
    if arguments[:1] == ["search"]:
        _complain(f"to go on: {shlex.join(['modscale', *arguments])}")
    return INTERRUPTED


def _let_go_of_output() -> None:
    """What is still to be written goes nowhere, so that Python finds no broken pipe when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _complain(text: str, *, command: str = "modscale") -> None:
    """One line on standard error, whatever an argument, a file or a library put into it."""
    if sys.stderr is not None:  # closed by whoever called
        with contextlib.suppress(OSError):  # or a terminal that is gone
            sys.stderr.write(f"{command}: {one_line(text)}\n")


def run() -> None:
    """The entry point of the installed command, and of `python -m modscale`."""
    for number in range(3):  # a file opened later must not become the standard error that libraries write to
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.exit(main())


if __name__ == "__main__":
    run()
