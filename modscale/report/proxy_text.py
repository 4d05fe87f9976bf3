"""What a report says of the proxy: what its figures are, how well it is known to rank, what their noise leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from modscale.analysis.proxy_records import ranking_doubt, record_sentence
from modscale.analysis.results import Run
from modscale.runs.folder import section
from modscale.runs.metrics import LEARNT, Results, metric_text
from modscale.runs.trials import complete_trials
from modscale.training.estimate import FITTED_FLOPS_PER_PARAM, FITTED_PARAMS

SIZE_MARGIN = 1.5
"""Factor in params by which a network may lie beyond those of known accuracy before that is said."""
RATIO_MARGIN = 1.1
"""The same in FLOPs a param, of which those of known accuracy have much the same."""


def all_results(run: Run) -> list[Results]:
    """Of all that was measured to the end, the published networks included."""
    return [trial.results for trial in (*complete_trials(run.trials), *complete_trials(run.references))]


def proxy_sentence(run: Run) -> str:
    """What the figure is that the training told."""
    data, proxy = section(run.document, "data"), run.experiment.proxy
    known = {key: data.get(key, "an unknown number of") for key in ("classes", "train_images", "val_images")}
    epochs = f"{proxy.epochs} epoch{'' if proxy.epochs == 1 else 's'}"
    if _is_dense(run):
        return (
            f"The mIoU here is that of a short training: a copy of each network, {proxy.width_factor:g} of its width"
            f" under Semantic FPN of as little, on {known['val_images']} held-out images of {known['classes']} classes"
            f" after {epochs} on {known['train_images']} training images, centre squares at {proxy.resolution} px."
            " It ranks the candidates against each other; what full training reaches is another number. The size of a"
            " network is not put to it, for nothing published says what size is worth there. " + _what_ships(run)
        )
    if not _is_estimate(run):
        return (
            f"The accuracy here is a proxy: the share of {known['val_images']} held-out images of {known['classes']}"
            f" classes that a network gets right after {epochs} on {known['train_images']} training images at"
            f" {proxy.resolution} px. It ranks the candidates of this run against each other. It is not ImageNet"
            " accuracy, and a network that learns slowly may rank lower here than it would after full training."
        )
    return (
        "The accuracy here is an estimate of the ImageNet-1K top-1 that full training (300 epochs, as in the paper)"
        f" would reach: from the network's size, the share of the image that it sees, and its loss on"
        f" {known['val_images']} held-out images of {known['classes']} classes after {epochs} on"
        f" {known['train_images']} training images at {proxy.resolution} px, {proxy.width_factor:g} of its width."
        " It ranks the candidates against each other; what they would reach on other data is another number."
        + _extrapolation(run)
    )


def fidelity_sentence(run: Run) -> str:
    """How well the run's proxy is known to rank; empty where nothing of its objectives is one's, or told by one."""
    if LEARNT[run.experiment.proxy.task].name not in run.experiment.objectives:
        return ""
    if _is_dense(run):
        return (
            f"The proxy {run.experiment.proxy.method} of segmentation: how it ranks backbones HAS NOT BEEN MEASURED"
            " against published results. The paper has the mIoU of two of these networks alone, s (46.0) and s_conv"
            " (43.5), and the default settings put them THE OTHER WAY ROUND on generated scenes (docs/dense.md); with"
            " search: {references: [s, s_conv]} a report says in which order the run puts them."
        )
    return record_sentence(run.experiment.proxy, _data_name(run)) if _is_estimate(run) else ""


def headline_doubt(run: Run) -> str:
    """What the first sentence of a report has to say against the ranking; empty where nothing."""
    if not fidelity_sentence(run):
        return ""
    if _is_dense(run):
        return "How this proxy ranks backbones for segmentation was not measured against published results."
    return ranking_doubt(run.experiment.proxy, _data_name(run))


def noise_note(run: Run) -> str:
    """What ± after a figure of the training means, and what it leaves out."""
    if _is_dense(run):
        return (
            "± after a mIoU is its standard error over the validation images, by a bootstrap over them. Noise between"
            " training seeds is not in it: a run trains each candidate once."
        )
    if _is_estimate(run):
        return (
            "± after an accuracy is the standard error of the estimate: what size and a short training leave open, by"
            " networks of known accuracy. Two networks of like build differ by less than that."
        )
    return (
        "± after an accuracy is its standard error over the validation images. Noise between training seeds is not in"
        " it: a run trains each candidate once."
    )


def _is_dense(run: Run) -> bool:
    return run.experiment.proxy.task == "segmentation"


def _is_estimate(run: Run) -> bool:
    """Whether the accuracies are estimates of full training; in older runs they are those of the short training."""
    return any("accuracy_standard_error" in results for results in all_results(run))


def _data_name(run: Run) -> str:
    return str(section(run.document, "data").get("name"))


def _what_ships(run: Run) -> str:
    """Of what network the counts and the latency are."""
    base = run.experiment.space.base
    if base.head == "classifier":
        return (
            f"Params, FLOPs and latency are those of the backbone with a classifier at {base.resolution} px, as the"
            " space asks (base: {head: classifier}) and as it is exported: Semantic FPN is not in them."
        )
    return (
        f"Params, FLOPs and latency are those of the whole network at {base.resolution} px, Semantic FPN and its masks"
        " included, which is what modscale export writes; with --features --no-logits it writes the backbone alone."
    )


def _extrapolation(run: Run) -> str:
    """That the run's networks are unlike those whose accuracies are known; empty where they are not."""
    results = all_results(run)
    sizes = [float(one["params"]) for one in results]
    ratios = [float(one["flops"]) / float(one["params"]) for one in results]
    told = []
    if _is_outside(sizes, FITTED_PARAMS, SIZE_MARGIN):
        ours, theirs = (
            " to ".join(metric_text("params", value) for value in pair)
            for pair in ((min(sizes), max(sizes)), FITTED_PARAMS)
        )
        told.append(f"have {ours} params, those of known accuracy {theirs}")
    if _is_outside(ratios, FITTED_FLOPS_PER_PARAM, RATIO_MARGIN):
        least, most = FITTED_FLOPS_PER_PARAM
        told.append(
            f"spend {min(ratios):.0f} to {max(ratios):.0f} FLOPs a param, those of known accuracy {least:.0f} to"
            f" {most:.0f}"
        )
    if not told:
        return ""
    return f" The networks here {', and '.join(told)}: beyond these it is extrapolated, an order rather than a number."


def _is_outside(values: Sequence[float], limits: tuple[float, float], margin: float) -> bool:
    """Whether any of some values lies beyond the limits by more than a factor."""
    return min(values) < limits[0] / margin or max(values) > limits[1] * margin
