"""The proxy, latency and search sections: defaults, and the line for each broken rule."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from modscale.errors import InputError
from modscale.machine import available_cores
from modscale.settings import (
    LatencySettings,
    ProxySettings,
    SearchSettings,
    latency_to_dict,
    parse_latency,
    parse_proxy,
    parse_search,
)

SECTIONS = {
    "proxy": (parse_proxy, ProxySettings),
    "latency": (parse_latency, LatencySettings),
    "search": (parse_search, SearchSettings),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_an_empty_section_is_all_defaults(name):
    """A section that is missing, null or empty gives the defaults; so do the defaults written out."""
    parse, kind = SECTIONS[name]
    plain = latency_to_dict(kind()) if kind is LatencySettings else asdict(kind())
    for document in (None, {}, plain):
        assert parse(document, name) == kind()


@pytest.mark.parametrize(
    ("name", "document", "message"),
    [
        ("proxy", {"epochs": 0}, "proxy.epochs: must be 1 or more, got 0"),
        ("proxy", {"learning_rate": 0}, "proxy.learning_rate: must be more than 0, got 0"),
        ("proxy", {"learning_rate": ".inf"}, "proxy.learning_rate: must be a number, got '.inf'"),
        ("proxy", {"warmup": 1}, "proxy.warmup: must be less than 1, got 1"),
        ("proxy", {"resolution": 7}, "proxy.resolution: must be 8 or more, got 7"),
        ("proxy", {"device": "tpu"}, "proxy.device: must be one of auto, cpu, cuda, got 'tpu'"),
        ("proxy", {"threads": 0}, "proxy.threads: must be 1 or more, got 0"),
        ("proxy", {"train_images": -1}, "proxy.train_images: must be 1 or more, got -1"),
        ("proxy", {"lerning_rate": 1}, "proxy.lerning_rate: unknown key; did you mean learning_rate?"),
        ("proxy", {"flip": 1}, "proxy.flip: must be true or false, got 1"),
        ("proxy", 3, "proxy: must be a mapping (settings), got 3"),
        ("proxy", [], "proxy: must be a mapping (settings), got []"),
        ("latency", {"provider": "CPU"}, "latency.provider: must be one of cpu, openvino, cuda, tensorrt"),
        ("latency", {"runs": 9}, "latency.runs: must be 10 or more, got 9"),
        ("latency", {"warmup": 0}, "latency.warmup: must be 1 or more, got 0"),
        ("latency", {"until_percent": 0}, "latency.until_percent: must be more than 0, got 0"),
        ("latency", {"until_percent": 101}, "latency.until_percent: must be 100 or less, got 101"),
        ("latency", {"patience_s": -1}, "latency.patience_s: must be 0 or more, got -1"),
        ("latency", {"graph_level": "some"}, "latency.graph_level: must be one of all, basic, disabled, got 'some'"),
        ("latency", {"target": "pi"}, "latency.target: must be a mapping (a device), got 'pi'"),
        ("latency", {"target": {}}, "latency.target.command: must be a list of words, as in [ssh, pi, python3, -]"),
        ("latency", {"target": {"command": "ssh pi"}}, "latency.target.command: must be a list of words"),
        ("latency", {"target": {"command": ["ssh", 1]}}, "latency.target.command[1]: must be a word, got 1"),
        (
            "latency",
            {"target": {"command": ["a"], "name": "My Pi"}},
            "latency.target.name: a device's name is",
        ),
        ("latency", {"target": {"comand": ["a"]}}, "latency.target.comand: unknown key; did you mean command?"),
        ("search", {"trials": 0}, "search.trials: must be 1 or more, got 0"),
        ("search", {"seed": -1}, "search.seed: must be 0 or more, got -1"),
        ("search", {"seed": 2**32}, "search.seed: must be 4294967295 or less, got 4294967296"),
        ("search", {"sampler": "grid"}, "search.sampler: must be one of surrogate, tpe, random, got 'grid'"),
        (
            "search",
            {"references": "s"},
            "search.references: must be a list of at most 100 networks, got 's'",
        ),
        (
            "search",
            {"references": ["xl"]},
            "search.references[0]: must be one of xxs, xs, s, s_conv, an .onnx, timm:NAME or a spec's file, got 'xl'",
        ),
        (
            "search",
            {"references": ["s", "s"]},
            "search.references[1]: must not repeat a network, nor a name, got 's'",
        ),
        ("search", {"rungs": 0.5}, "search.rungs: must be a list of shares of the training, got 0.5"),
        ("search", {"rungs": [0.5, 1]}, "search.rungs[1]: must be less than 1, got 1"),
        ("search", {"rungs": [0]}, "search.rungs[0]: must be more than 0, got 0"),
        ("search", {"rungs": [0.5, 0.5]}, "search.rungs[1]: must be more than the rung before it, got 0.5"),
        ("search", {"rungs": ["a"]}, "search.rungs[0]: must be a number, got 'a'"),
        ("search", {"keep": 0}, "search.keep: must be more than 0, got 0"),
        ("search", {"keep": 1.1}, "search.keep: must be 1 or less, got 1.1"),
        ("search", {"references": [["s"]]}, "search.references[0]: must be a mapping (a network), got ['s']"),
    ],
)
def test_refused_settings(name, document, message):
    """Each rule has its line, with the section and the key."""
    with pytest.raises(InputError) as caught:
        SECTIONS[name][0](document, name)
    assert str(caught.value).startswith(message)


def test_null_takes_everything():
    """All images and all cores are asked for with null."""
    proxy = parse_proxy({"train_images": None, "val_images": None, "threads": None}, "proxy")
    assert (proxy.train_images, proxy.val_images, proxy.threads) == (None, None, None)


def test_no_references_is_a_choice():
    """An empty list leaves the published networks out."""
    assert parse_search({"references": []}, "search").references == ()
    assert parse_search({"references": ["s", "xxs"]}, "search").references == ("s", "xxs")


def test_threads_of_a_measurement():
    """Unless told, as many threads as the paper had, or every core where there are fewer."""
    assert LatencySettings().resolved_threads() == min(4, available_cores())
    assert LatencySettings(threads=7).resolved_threads() == 7
