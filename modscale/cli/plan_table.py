"""What `search --dry-run` shows."""

from __future__ import annotations

from modscale.api.plan import Plan
from modscale.cli.console import note, show_table
from modscale.cli.layout import Column
from modscale.cli.progress import duration_text
from modscale.runs.experiment import Experiment

PARTS = {
    "start": "loading, counting the space",
    "trials": "trials",
    "anchor": "the network that others are compared with",
    "references": "references",
    "finals": "the front and the picks once more",
    "report": "report",
}


def show_plan(experiment: Experiment, plan: Plan, name: str) -> None:
    """Prints the plan of a search."""
    trials = plan.trials if plan.workers == 1 else plan.trials + plan.references
    counts = {"trials": trials, "references": plan.references, "finals": plan.finals}
    beside = f"trials and references, {plan.workers} at a time"
    names = PARTS if plan.workers == 1 else PARTS | {"trials": beside}
    rows = [
        [names[part], str(counts.get(part, "")), duration_text(seconds)]
        for part, seconds in plan.parts_s.items()
        if seconds
    ]
    rows.append(["all", "", duration_text(plan.seconds)])
    columns = [Column(heading="part", is_text=True), Column(heading="number"), Column(heading="time")]
    show_table(f"{name}: what the search would take here", columns, rows, footer=True)
    note(f"{plan.seconds_per_trial:.0f} s a trial ({_trial_text(plan)})")
    for line in speed_lines(plan):
        note(line)
    if plan.finals:
        low, high = plan.finals_range
        chance = "" if low == high else f", {low} to {high} by chance"
        each_s = plan.parts_s["finals"] / plan.finals
        note(
            f"At the end the front is taken to have {plan.finals} networks{chance}: the search was gone through, with"
            f" latencies and sizes like those that were measured. One more or less takes {each_s:.0f} s."
        )
    if plan.ended_early:
        note(f"About {plan.ended_early} of the trials would end before their training is over; that is counted.")
    memory = "" if plan.memory_bytes is None else f"memory: {plan.memory_bytes / 1e9:.1f} GB at most; "
    note(
        f"{memory}disk: {_size_text(plan.disk_bytes)} in the run's folder, {_size_text(plan.scratch_bytes)} for a while"
    )
    for line in told_lines(experiment, plan):
        note(line)
    note("nothing was begun; the same command without --dry-run does it")


def speed_lines(plan: Plan) -> list[str]:
    """At what speed of the machine that is, and what it becomes at the others that are known."""
    if plan.reference_ms is None:
        return []
    low, high = (duration_text(seconds) for seconds in plan.range_s)
    now = f"This is at the speed that the machine has now: its reference network takes {plan.reference_ms:.1f} ms."
    others = [
        f"As {'fast' if level.reference_ms < plan.reference_ms else 'slow'} as in the run {level.run}"
        f" ({level.reference_ms:.1f} ms) it would take {duration_text(level.seconds)}."
        for level in plan.levels
        if level.run is not None
    ]
    others = others or ["A slower machine takes longer in proportion."]
    return [f"{' '.join([now, *others])} With the luck of the front and what plans were off: {low} to {high}."]


def told_lines(experiment: Experiment, plan: Plan) -> list[str]:
    """What the budget can tell apart, in sentences."""
    if experiment.proxy.task != "classification":
        return [
            "How far apart two backbones must be for their mIoU after so short a training to order them is not known;"
            " each trial has the standard error that its validation images leave."
        ]
    told, error = plan.told_apart, 100 * (plan.standard_error or 0.0)
    if told is None:
        return [
            f"Each estimate has a standard error of about {error:.1f} points, whatever the number of images. What"
            " differences of full training this proxy orders rightly is not known with these settings on such data;"
            " modscale fidelity --proxy SPACE.yaml measures it."
        ]
    noise, record = told.noise, told.record
    where = "the generated images" if record.data == "synthetic" else record.data
    seeds = "" if noise.seed_points is None else f", another seed ± {noise.seed_points:.2f}"
    lines = [
        f"{noise.val_images:,} validation images leave ± {noise.images_points:.2f} points in an estimate{seeds};"
        f" what size and a short training cannot know leaves ± {error:.1f}.",
        f"By its record on {where} ({record.networks} networks of known top-1), networks {told.apart_points:.1f} points"
        " apart are in the right order 19 times of 20. Of the published ones:",
    ]
    lines += [
        f"  {pair.better} and {pair.worse} ({pair.points:.1f} points) {'tie' if pair.ties else 'are told apart'}:"
        f" right {_chance_text(pair.probability)} times of 100"
        for pair in told.pairs
    ]
    gain = told.apart_points - told.rest_points
    dearer, time = plan.more, duration_text(plan.more["seconds"])
    more = f"{dearer['val_images']:,} validation images and {dearer['epochs']} epochs take {time}"
    parted = [p for p in told.pairs if p.ties and p.points >= told.rest_points]
    if parted:
        lines.append(f"{more}, and would part {', '.join(f'{p.better} and {p.worse}' for p in parted)} at best.")
    elif any(p.ties for p in told.pairs):
        lines.append(
            f"{more} and would part none of the ties: without any noise of images and seeds it would still be"
            f" {told.rest_points:.1f} points ({gain:.2f} less). Full training parts them: modscale train RUN --trial N."
        )
    return lines


def _trial_text(plan: Plan) -> str:
    shown = [
        f"{row['flops'] / 1e6:.0f} MFLOPs: {row['export_seconds'] + row['latency_seconds']:.0f} s to export and time,"
        f" {row['training_seconds']:.0f} s to train"
        for row in plan.networks
    ]
    return "; ".join(shown)


def _chance_text(probability: float) -> str:
    return "more than 99" if probability > 0.99 else f"{100 * probability:.0f}"


def _size_text(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
