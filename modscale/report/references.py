"""What a report says of the networks that its front is compared with: a table, its notes, a line of the headline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modscale.analysis.comparison import Compared
from modscale.runs.metrics import ACCURACY, FLOPS, Metric
from modscale.runs.trials import Trial
from modscale.spaces.space import DATA_KEYS
from modscale.specs.published import is_published, published


def numbers_text(numbers: Sequence[int], most: int = 8) -> str:
    """As in `3, 5, 8 and 12 more`."""
    rest = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, sorted(numbers)[:most])) + rest


def beaten_sentence(compared: Sequence[Compared], members: int) -> str:
    """That networks of others beat the front, or some of it, in a sentence; empty where none does."""
    ahead = [one for one in compared if one.beats]
    whole = [one for one in ahead if len(one.beats) == members]
    if whole:
        verb = "beats" if len(whole) == 1 else "each beat"
        return f"{_listed([_told(one) for one in whole])} {verb} the whole front{_unclear(whole)}."
    if not ahead:
        return ""
    beaten = {number for one in ahead for number in one.beats}
    by = _listed([f"{numbers_text(one.beats)} by {_told(one)}" for one in ahead])
    return f"Networks of others beat {len(beaten)} of its {members} trials: {by}{_unclear(ahead)}."


def _unclear(ahead: Sequence[Compared]) -> str:
    """Where a lead is within the noise."""
    return "" if all(one.clearly == one.beats for one in ahead) else ", in part by less than the noise"


def _told(one: Compared) -> str:
    if one.rival is None:
        return f"{one.name} (published)" if is_published(one.name) else one.name
    return f"{one.name} (accuracy as stated)" if one.top1 is not None else one.name


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def reference_row(one: Compared, columns: Sequence[Metric]) -> dict[str, Any]:
    """A row of the table."""
    cells = [metric_cell(one, metric) for metric in columns]
    missing = [i for i, metric in enumerate(columns) if metric.name not in one.results]
    if one.reason is not None and missing:  # why stands where the first result would
        cells[missing[0]] = one.reason
    return {
        "name": one.name,
        "top1": "" if one.top1 is None else f"{one.top1:.1f} %",
        "cells": cells,
        "beats": (numbers_text(one.beats) or "none") if one.is_whole else "",
        "beaten_by": numbers_text(one.beaten_by) if one.is_whole else "",
    }


def metric_cell(one: Compared, metric: Metric) -> str:
    """As `Metric.cell`, and of a rival what is to be said of it there."""
    rival = one.rival
    if rival is not None and metric is ACCURACY:
        return "none stated" if one.top1 is None else "as stated"
    if rival is not None and metric is FLOPS and rival.not_counted:
        return f"not counted ({', '.join(rival.not_counted)})"
    return metric.cell(one.results)


def reference_kind(compared: Sequence[Compared]) -> str:
    """What a mark on the plot stands for that is no candidate's."""
    ours = all(is_published(one.name) for one in compared if one.rival is None)
    return "published network" if ours else "network for comparison"


def reference_title(compared: Sequence[Compared]) -> str:
    """Of the section."""
    is_ours = all(one.rival is None and is_published(one.name) for one in compared)
    return "Published networks, measured the same way" if is_ours else "Networks for comparison"


def top1_heading(compared: Sequence[Compared]) -> str:
    """Over the column of what is published or stated."""
    words = [
        word
        for word, known in (
            ("published", any(is_published(one.name) for one in compared)),
            ("stated", any(one.top1 is not None and not is_published(one.name) for one in compared)),
        )
        if known
    ]
    return f"{' or '.join(words) or 'published'} top-1"


def rival_note(compared: Sequence[Compared], objectives: Mapping[str, str]) -> str:
    """What a reader must know of the rivals; empty where there are none."""
    rivals = [one for one in compared if one.rival is not None and one.reason is None]
    if not rivals:
        return ""
    takes = _listed([f"{one.name}{f' ({told})' if (told := input_text(one)) else ''}" for one in rivals])
    note = f"{takes}: timed and counted as {'it is' if len(rivals) == 1 else 'they are'}, and not trained."
    if ACCURACY.name not in objectives:
        return note
    stated, silent = ([one.name for one in rivals if (one.top1 is None) is missing] for missing in (False, True))
    note += (
        " The proxy trains a thinned copy of a network, which cannot be made of another's graph, and the same training"
        " at full width does not rank."
    )
    if stated:
        note += (
            f" The accuracy of {_listed(stated)} is what the space states, ImageNet-1K top-1 after full training: it"
            " was not measured here, it has no error, and it is set against estimates that have one."
        )
    if silent:
        note += f" None is stated of {_listed(silent)}, which the front is compared with by the other columns alone."
    return note


def input_text(one: Compared) -> str:
    """Of a network without a spec, what it is and what it takes; empty where that is not known."""
    if one.rival is None or not one.rival.input:
        return ""
    what = "" if one.rival.rival.kind == "timm" else f"{Path(one.rival.rival.source).name}, "
    return f"{what}input {' x '.join(map(str, one.rival.input[1:]))}"


def reference_note(references: Sequence[Trial]) -> str:
    """In what the published networks are not as published; empty where they are."""
    pairs = [(trial.spec, published(trial.spec.name)) for trial in references if is_published(trial.spec.name)]
    odd = [key for key in DATA_KEYS if any(getattr(ours, key) != getattr(theirs, key) for ours, theirs in pairs)]
    if not odd:
        return ""
    ours, theirs = (" and ".join(f"{key} {getattr(pairs[0][k], key)}" for key in odd) for k in (0, 1))
    return f"All have the head and the input of this run's candidates: {ours}, where the published ones have {theirs}."
