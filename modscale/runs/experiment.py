"""An experiment: a search space and how it is searched. Its file is the space's, with the sections of the search.

| section | says |
|---|---|
| `extends` | the file whose values hold where this one says none (`spaces/extends.py`) |
| `name`, `base`, `stages`, `constraints` | the space (`spaces/space.py`) |
| `objectives`, `bands` | what is sought, and what a report picks of it |
| `proxy`, `latency`, `search` | how a candidate is measured, and how the next one is chosen (`settings.py`) |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from modscale.document import Section, key_places
from modscale.errors import InputError
from modscale.rivals import reference_to_plain
from modscale.runs.metrics import LATENCY, LEARNT, METRICS, Metric, target_metric
from modscale.settings import (
    SETTINGS,
    LatencySettings,
    ProxySettings,
    SearchSettings,
    latency_to_dict,
    parse_latency,
    parse_proxy,
    parse_search,
)
from modscale.spaces.extends import EXTENDS, read_layers
from modscale.spaces.space import (
    DATA_KEYS,
    SECTIONS,
    SPACE_KEYS,
    Bounds,
    Space,
    bounds_to_dict,
    or_empty,
    parse_bounds,
    parse_space,
    space_to_dict,
)
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec, check_head_fits, check_stem_fits

HEADS = {"segmentation": "semantic_fpn"}
"""Task to the head of its networks, where that is no classifier's."""
EXPERIMENT_KEYS = (*SPACE_KEYS, "objectives", "bands", *SETTINGS)
FILE_KEYS = (*EXPERIMENT_KEYS, EXTENDS)
"""What may stand at the top of a file."""
LIMITED = (LATENCY.name,)
"""What is measured and may be constrained, with the latency on each further device: known before a candidate trains."""
BAND_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A search space and how it is searched."""

    space: Space
    """What is searched."""
    objectives: Mapping[str, str]
    """Metric to `maximize` or `minimize`, in the file's order."""
    bands: Mapping[str, Mapping[str, Bounds]]
    """Band to metric to limits, in the file's order."""
    proxy: ProxySettings
    """The short training that gives a candidate's accuracy, or mIoU."""
    latency: LatencySettings
    """How a candidate is timed."""
    search: SearchSettings
    """How candidates are chosen."""
    limits: Mapping[str, Bounds] = field(default_factory=dict)
    """Of what is measured, what a candidate must keep to: a metric of `LIMITED` to limits."""

    def fitted(self, data: Mapping[str, Any]) -> Experiment:
        """As `Space.fitted` of its space."""
        return replace(self, space=self.space.fitted(data))


def load_experiment(file: str | Path) -> Experiment:
    """Reads the file of a search space with its sections of the search.

    >>> import modscale
    >>> experiment = modscale.load_space("spaces/mobile.yaml")
    >>> experiment.space.size(), list(experiment.objectives)
    (378470400, ['accuracy', 'latency_ms'])

    Where it extends another (`spaces/extends.py`), of both. Instead of a file it may be the name of a space that
    comes with modscale, as in `mobile`.

    Raises:
        InputError: with the file in which the value stands, place, rule and value.
    """
    layers = read_layers(file)
    with layers.naming():
        return parse_experiment(layers.merged())


def parse_experiment(document: object) -> Experiment:
    """An experiment from the plain values of a YAML document, which extends none. Raises InputError."""
    places = _key_places()
    top = Section(document, FILE_KEYS, what="a search space", elsewhere=places)
    if top.has(EXTENDS):
        raise InputError("is for a space's own file, in which another one is named", place=EXTENDS)
    latency = parse_latency(top.raw("latency"), "latency", places)
    devices = tuple(target_metric(target.name).name for target in latency.targets)
    metrics = (*METRICS, *devices)
    counted, limits = _parse_limits(top.raw("constraints"), (*LIMITED, *devices))
    proxy = parse_proxy(top.raw("proxy"), "proxy", places)
    of_space = _with_head(top.values, proxy.task)
    space = parse_space(of_space | ({"constraints": counted} if "constraints" in of_space else {}), places)
    check_stem_fits(proxy.resolution, space.base.stem, "proxy.resolution")
    natural = {m.name: m.direction for m in (LEARNT[proxy.task], LATENCY)}
    experiment = Experiment(
        space=space,
        objectives=_parse_objectives(top.raw("objectives", natural), proxy.task, metrics, places),
        bands=_parse_bands(or_empty(top.raw("bands")), proxy.task, metrics, places),
        proxy=proxy,
        latency=latency,
        search=parse_search(top.raw("search"), "search", places),
        limits=limits,
    )
    _check_pyramids(experiment)
    return experiment


def experiment_to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain values, as `space_to_dict` has its space: `parse_experiment` reads it unchanged."""
    space = space_to_dict(experiment.space)
    if experiment.proxy.task in HEADS:  # whose default is another than a spec's
        space["base"]["head"] = experiment.space.base.head
    limits = {metric: bounds_to_dict(bounds) for metric, bounds in experiment.limits.items()}
    return {
        **space,
        "constraints": space["constraints"] | limits,
        "objectives": dict(experiment.objectives),
        "bands": {
            name: {key: bounds_to_dict(limits) for key, limits in band.items()}
            for name, band in experiment.bands.items()
        },
        "proxy": asdict(experiment.proxy),
        "latency": latency_to_dict(experiment.latency),
        "search": {
            **asdict(experiment.search),
            "references": [reference_to_plain(one) for one in experiment.search.references],
            "rungs": list(experiment.search.rungs),
        },
    }


def mismatch_note(base: ModelSpec, data: Mapping[str, Any]) -> str | None:
    """What a run trains and what it counts, where its networks are not for its data; None where they are.

    `data` has `classes` and `channels`; what it lacks is not compared.
    """
    odd = [key for key, word in DATA_KEYS.items() if data.get(word, getattr(base, key)) != getattr(base, key)]
    if not odd:
        return None
    stated = " and ".join(f"{key} {getattr(base, key)}" for key in odd)
    words = [DATA_KEYS[key] for key in odd]
    had = " and ".join(f"{data[word]} {word if data[word] != 1 else word.removesuffix('s')}" for word in words)
    return (
        f"the space states {stated}, and the data have {had}: networks for the data are trained, and those that the"
        f" space states are counted, timed and exported; without {' and '.join(odd)} in base, all are for the data"
    )


def _key_places() -> dict[str, str]:
    """Where the keys of an experiment's file belong, in words, those of today's metrics among them."""
    places = key_places({
        **SECTIONS, "the top level": FILE_KEYS, "objectives": METRICS, "bands.NAME": METRICS,
        **{name: [f.name for f in fields(kind)] for name, kind in SETTINGS.items()},
    })  # fmt: skip
    for metric in METRICS.values():
        if not metric.is_count and metric.name not in LIMITED:
            rule = f"{metric.name} is measured, not counted, and leaves no candidate out beforehand"
            for key in (metric.name, metric.name.removesuffix("_ms")):
                places[f"constraints.{key}"] = f"{rule}; {places[metric.name]}"
    places |= {f"constraints.{metric.removesuffix('_ms')}": f"did you mean {metric}?" for metric in LIMITED}
    return places


def _parse_limits(document: object, limited: Sequence[str]) -> tuple[object, dict[str, Bounds]]:
    """The constraints of what is counted as they stand, and those of what is measured. Raises InputError."""
    if not isinstance(document, Mapping):
        return document, {}
    limits = {key: parse_bounds(document[key], f"constraints.{key}") for key in limited if key in document}
    return {key: value for key, value in document.items() if key not in limited}, limits


def _with_head(values: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What a file says of its space, with the head that the task's networks have where it says none.

    Raises:
        InputError: a head that the task cannot teach.
    """
    space = {key: value for key, value in values.items() if key in SPACE_KEYS}
    base = or_empty(space.get("base"))
    if not isinstance(base, Mapping):
        return space
    taught = HEADS.get(task, "classifier")
    if base.get("head", taught) not in ("classifier", taught) and base["head"] in HEADS.values():
        needed = next(name for name, head in HEADS.items() if head == base["head"])
        raise InputError(f"goes with proxy: {{task: {needed}}}", place="base.head", value=base["head"])
    return {**space, "base": {"head": taught, **base}} if task in HEADS else space


def _check_pyramids(experiment: Experiment) -> None:
    """Raises InputError where a resolution does not fit Semantic FPN: that of the proxy, or a reference's."""
    if experiment.proxy.task not in HEADS:
        return
    base, head = experiment.space.base, HEADS[experiment.proxy.task]
    sides = {"proxy.resolution": experiment.proxy.resolution}
    check_head_fits(replace(base, head=head, resolution=sides["proxy.resolution"]), "proxy.resolution")
    if base.head == head:
        sides["base.resolution"] = base.resolution
    for i, name in enumerate(experiment.search.references):
        if not isinstance(name, str):  # a rival is measured as it is
            continue
        for where, side in sides.items():
            try:
                check_head_fits(replace(published(name), head=head, resolution=side), where)
            except InputError as error:
                place = f"search.references[{i}]"
                raise InputError(f"for {name} {where} {error.rule}", place=place, value=side) from error


def _check_task(metric: str, task: str, place: str) -> None:
    """Raises InputError for what only another task's training tells."""
    if METRICS[metric].task not in ("", task):
        mine, theirs = LEARNT[task].name, METRICS[metric].task
        rule = f"is told by proxy: {{task: {theirs}}}; with task: {task} it is {mine}"
        raise InputError(rule, place=place, value=metric)


def _parse_objectives(document: object, task: str, metrics: Sequence[str], places: Mapping[str, str]) -> dict[str, str]:
    section = Section(document, metrics, place="objectives", what="metric to direction", elsewhere=places)
    for key in section.values:
        _check_task(key, task, "objectives")
    if not section.values:
        raise InputError(f"must name at least one of {', '.join(metrics)}", place="objectives")
    return {key: _check_direction(value, section.at(key), METRICS[key]) for key, value in section.values.items()}


def _check_direction(value: object, place: str, metric: Metric) -> str:
    if value != metric.direction:
        better = "more" if metric.direction == "maximize" else "less"
        raise InputError(f"must be {metric.direction}: {better} of it is better", place=place, value=value)
    return metric.direction


def _parse_bands(
    document: object, task: str, metrics: Sequence[str], places: Mapping[str, str]
) -> dict[str, dict[str, Bounds]]:
    if not isinstance(document, Mapping):
        raise InputError("must be a mapping (band to limits)", place="bands", value=document)
    bands: dict[str, dict[str, Bounds]] = {}
    for name, limits in document.items():
        if not isinstance(name, str) or not BAND_NAME.fullmatch(name):
            raise InputError("a band's name is 1 to 60 letters, digits, - and _", place="bands", value=name)
        section = Section(limits, metrics, place=f"bands.{name}", what="metric to limits", elsewhere=places)
        for key in section.values:
            _check_task(key, task, f"bands.{name}")
        bands[name] = {key: parse_bounds(section.values[key], section.at(key)) for key in section.values}
    return bands
