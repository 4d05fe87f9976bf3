"""`modscale latency`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from modscale.cli.app import answer, argument, option
from modscale.cli.arguments import (
    MODEL_HELP,
    DebugOption,
    JsonOption,
    ResolutionOption,
    latency_settings,
    resolve_spec,
)
from modscale.cli.completion import complete_model
from modscale.files import scratch_folder, user_path, user_text
from modscale.rivals import TIMM

if TYPE_CHECKING:
    from modscale.latency.protocol import OnnxModel
    from modscale.settings import LatencySettings
    from modscale.specs.spec import ModelSpec


OUT_HELP = "Keep the raw timings in this file; as a MODEL it gives the figures again."


def latency(
    models: Annotated[
        list[str],
        argument(
            "MODEL|FILE.onnx|timm:NAME...",
            f"{MODEL_HELP} Or any ONNX file, or a name of timm's.",
            parser=user_text,
            completion=complete_model,
        ),
    ],
    provider: Annotated[
        str | None, option("cpu (the default), openvino, cuda, tensorrt, coreml or qnn.", metavar="NAME")
    ] = None,
    threads: Annotated[
        int | None, option("Intra-op threads [default: all cores, 4 at most].", low=1, high=1024)
    ] = None,
    runs: Annotated[
        int | None, option("Timed runs, and no more without --until [default: 100].", low=10, high=1_000_000)
    ] = None,
    paper: Annotated[bool, option("The paper's protocol: 4 threads, 4000 runs.", "--paper")] = False,
    until: Annotated[
        float | None,
        option("Measure again while half of the 95 % interval is wider [default: 1].", metavar="PERCENT"),
    ] = None,
    patience: Annotated[
        float | None, option("Measure again for so long at most, a model [default: 30].", metavar="SECONDS")
    ] = None,
    target: Annotated[
        str | None,
        option("YAML of another device, command: [ssh, pi, python3, -].", metavar="FILE", parser=user_text),
    ] = None,
    calibration: Annotated[
        Path | None,
        option("Predict by a file of `modscale calibrate`; nothing is timed.", metavar="FILE", parser=user_path),
    ] = None,
    precision: Annotated[str, option("fp32, fp16 or int8 (calibrated on noise).", metavar="KIND")] = "fp32",
    out: Annotated[str | None, option(OUT_HELP, metavar="FILE.jsonl", parser=user_text)] = None,
    resolution: ResolutionOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """ONNX Runtime latency, batch 1, each in a process of its own.

    An ONNX file is timed as it is. An open batch is 1; open sides take --resolution. A network of timm's is
    exported with random weights and checked as ours are, at its own resolution unless one is given.
    """
    from modscale.cli.console import say
    from modscale.cli.progress import latency_progress
    from modscale.latency.known_speed import learn_speed
    from modscale.latency.noise import noise_text
    from modscale.latency.protocol import latency_to_json, measure_models, model_to_json
    from modscale.latency.raw import check_raw, keep_in

    if any(model.endswith(".jsonl") for model in models):
        answer_again(models, as_json)
        return
    settings = latency_settings(
        provider, threads, runs, until, patience, paper=paper, target=target, precision=precision
    )
    if calibration is not None:
        _predict(models, resolution, calibration, settings, as_json)
        return
    with scratch_folder() as folder:  # for what is exported of timm's
        timed = [_timed(model, resolution, folder) for model in models]
        if out is not None:
            check_raw(out)
        told = [{**model_to_json(model), "precision": _precision(model, precision)} for model in timed]
        keep = None if out is None else keep_in(out, told)
        with latency_progress(settings) as on_round:
            results = measure_models(timed, settings, on_round=on_round, note=say, keep=keep)
    measured = [latency_to_json(model, result) for model, result in zip(timed, results, strict=True)]
    known = learn_speed(results[0])
    reference_ms = results[0].reference_quiet_ms
    if known is not None and reference_ms is not None and known.is_beaten_by(reference_ms):
        say(known.slow_text(reference_ms))
    _answer(measured, noise_text(results, settings), as_json, None if known is None else known.best_ms)


def _precision(model: ModelSpec | OnnxModel, asked: str) -> str:
    """What is timed is kept in this: a file is left as it is where nothing else is asked for."""
    return str(getattr(model, "precision", asked)) if asked == "fp32" else asked


def answer_again(files: list[str], as_json: bool) -> None:
    """The figures of raw timings that `--out` has kept, computed anew."""
    from dataclasses import asdict

    from modscale.errors import InputError
    from modscale.latency.noise import noise_text
    from modscale.latency.raw import read_measurements

    if others := [file for file in files if not file.endswith(".jsonl")]:
        raise InputError("raw timings are computed again by themselves, without", place="MODEL", value=others[0])
    measured, noise = [], []
    for file in files:
        for one in read_measurements(file):
            results = one.latencies()
            measured += [{**model, **asdict(result)} for model, result in zip(one.models, results, strict=True)]
            noise += [text] if (text := noise_text(results, one.device.settings)) else []
    _answer(measured, "; ".join(noise) or None, as_json)


def _answer(
    measured: list[dict[str, Any]], noise: str | None, as_json: bool, best_known_ms: float | None = None
) -> None:
    from modscale.cli.console import say

    def show() -> None:
        from modscale.cli.tables import show_latency

        show_latency(measured)

    if noise:
        say(noise)
    first = measured[0] if measured else {}
    reference = {key: first.get(f"reference_{key}") for key in ("ms", "quiet_ms", "drift_percent")}
    reference["best_known_ms"] = best_known_ms
    answer({"models": measured, "reference": reference, "too_noisy": noise is not None, "noise": noise}, as_json, show)


def _predict(models: list[str], resolution: int | None, file: Path, settings: LatencySettings, as_json: bool) -> None:
    """Answers with what is expected of each network."""
    from modscale.errors import InputError
    from modscale.latency.calibration import load_predictor, prediction_to_json
    from modscale.specs.pieces import network_pieces

    for model in models:
        kind = "an ONNX file" if model.lower().endswith(".onnx") else "a network of timm's" * model.startswith(TIMM)
        if kind:
            raise InputError(f"is {kind}, and --calibration predicts only networks that have a spec", file=model)
    specs = [resolve_spec(model, resolution) for model in models]
    predictor, conditions = load_predictor(file, settings)
    found = predictor.predict([network_pieces(spec) for spec in specs])
    rows = [prediction_to_json(spec, one, conditions) for spec, one in zip(specs, found, strict=True)]

    def show() -> None:
        from modscale.cli.tables import show_predictions

        show_predictions(rows)

    answer({"models": rows}, as_json, show)


def _timed(model: str, resolution: int | None, folder: Path) -> ModelSpec | OnnxModel:
    """What is timed: an ONNX file as it is, the network of a MODEL, or one of timm's, exported into `folder`."""
    if model.startswith(TIMM):
        from modscale.latency.rivals import timm_model

        return timm_model(model.removeprefix(TIMM), folder, resolution)
    if not model.lower().endswith(".onnx"):
        return resolve_spec(model, resolution)
    from modscale.cli.console import say
    from modscale.latency.protocol import find_onnx

    found = find_onnx(model, resolution)
    if found.shape[:1] not in ((), (1,)):
        say(f"note: the batch in {model} is fixed: what is timed is {found.shape[0]} images at once")
    return found
