"""Networks of known accuracy: the published ones, and one's own past, on which a proxy can be checked.

One's own stand in a YAML file, a list of what each network is and the top-1 accuracy that it reached in full training:

    - {spec: runs/small/spec.yaml, top1: 71.3}       # a path, from the file's own folder, or a published name
    - {spec: {stages: [{dim: 32, depth: 2}, {dim: 64, depth: 4}]}, top1: 68.9, name: two-stages}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modscale.document import Section, read_yaml
from modscale.errors import InputError, naming_file
from modscale.files import user_path
from modscale.kinds import YAML_SUFFIXES, naming_kind
from modscale.specs.published import is_published, list_models, published, resolve_model
from modscale.specs.spec import ModelSpec, parse_spec

EVERY_PUBLISHED = "published"
"""In place of a name: all the published networks."""
MOST_NETWORKS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownNetwork:
    """A network, and how well it does after full training."""

    name: str
    """By which it is told; unique among those that are compared."""
    spec: ModelSpec
    """The network."""
    top1: float
    """Top-1 accuracy in %, above 0: ImageNet-1K's for a published network."""


def published_networks() -> tuple[KnownNetwork, ...]:
    """Every published network that has a top-1, once each, in the order of `models.yaml`."""
    rows = (row for row in list_models() if row.same_as is None and "top1" in row.paper)
    return tuple(KnownNetwork(name=row.name, spec=row.spec, top1=row.paper["top1"]) for row in rows)


def known_networks(models: Sequence[str]) -> tuple[KnownNetwork, ...]:
    """The networks that these name: published names, `published` for all of them, or files; without any, `published`.

    Raises:
        InputError: no such name, a broken file, or a name that stands for two networks.
    """
    found = [network for model in models or [EVERY_PUBLISHED] for network in _named(model)]
    seen: set[str] = set()
    for network in found:
        if network.name in seen:
            raise InputError("must not name two networks alike", place="--models", value=network.name)
        seen.add(network.name)
    return tuple(found)


def load_known(file: str | Path) -> tuple[KnownNetwork, ...]:
    """The networks of a YAML file; see above. Raises InputError with file, place, rule and value."""
    with naming_file(file):
        document = read_yaml(file)
        if not isinstance(document, list) or not 1 <= len(document) <= MOST_NETWORKS:
            rule = f"must be a list of 1 to {MOST_NETWORKS} networks, each with its `spec` and its `top1` in %"
            raise InputError(rule, value=document)
        return tuple(_parse(entry, f"[{i}]", Path(file).parent) for i, entry in enumerate(document))


def _named(model: str) -> Sequence[KnownNetwork]:
    if model == EVERY_PUBLISHED:
        return published_networks()
    if not is_published(model) and (model.endswith(YAML_SUFFIXES) or "/" in model or Path(model).exists()):
        with naming_kind(model, "spec", "space"):
            return load_known(model)
    spec = published(model)
    top1 = next(row.paper.get("top1") for row in list_models() if row.name == model)
    if top1 is None:
        raise InputError("must have a published top-1", place="--models", value=model)
    return (KnownNetwork(name=model, spec=spec, top1=top1),)


def _parse(entry: object, place: str, folder: Path) -> KnownNetwork:
    section = Section(entry, ("spec", "top1", "name"), place=place, what="a network and its accuracy")
    top1 = section.number("top1", None, above=0, high=100)
    spec = _parse_network(section.raw("spec"), section.at("spec"), folder)
    if spec.head != "classifier":
        raise InputError("must be classifier: a top-1 is one's", place=f"{section.at('spec')}.head", value=spec.head)
    return KnownNetwork(name=section.text("name", spec.name), spec=spec, top1=top1)


def _parse_network(document: object, place: str, folder: Path) -> ModelSpec:
    if not isinstance(document, str):
        return parse_spec(document, place)
    if is_published(document):
        return published(document)
    path = user_path(document, folder, place=place)
    if not path.exists():
        raise InputError("must be a spec, its file, or a published name", place=place, value=document)
    return resolve_model(str(path))
