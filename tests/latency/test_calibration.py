"""The file of a calibration, and where it is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from modscale.errors import InputError
from modscale.latency.calibration import (
    Calibration,
    Conditions,
    Timed,
    expected_conditions,
    load_predictor,
    read_calibration,
    write_calibration,
)
from modscale.latency.predictor import Deviations
from modscale.latency.steady import Take
from modscale.settings import LatencySettings, Target
from modscale.specs.pieces import network_pieces
from modscale.specs.spec import ModelSpec, StageSpec


def made(**conditions) -> Calibration:
    """Ten networks of one stage, a millisecond a block; calibrated here, unless conditions say otherwise."""
    here = {"threads": 2, **expected_conditions(LatencySettings())}
    networks = tuple(
        Timed(
            spec=ModelSpec(resolution=64, stages=(StageSpec(dim=dim, depth=depth),)),
            takes=(Take(times_ns=(depth * 10**6, depth * 10**6), probes_ns=(500, 500)),),
            at_s=float(depth),
            left_out=depth == 9,
        )
        for dim in (8, 16)
        for depth in range(1, 10)
    )
    return Calibration(
        space="tiny",
        conditions=Conditions(**{**here, **conditions}),
        networks=networks,
        deviations=Deviations(kind=0.3, own=0.05, shared=0.1, whole=0.0, drift=0.0, noise=0.01),
    )


@pytest.fixture
def write(tmp_path):
    def at(calibration: Calibration):
        write_calibration(tmp_path / "c.json", calibration, seconds=1.5)
        return tmp_path / "c.json"

    return at


def test_a_file_is_read_as_it_was_written(write):
    """Networks, times, conditions and deviations come back."""
    assert read_calibration(write(made())) == made()


def test_it_predicts_what_it_was_made_of(write):
    """Six blocks of a millisecond take six; what was left out has no part in it."""
    predictor, conditions = load_predictor(write(made()), LatencySettings())
    spec = ModelSpec(resolution=64, stages=(StageSpec(dim=8, depth=6),))
    (found,) = predictor.predict([network_pieces(spec)])
    assert found.latency_ms == pytest.approx(6.0, rel=0.01)
    assert found.ci90_ms[0] < 6.0 < found.ci90_ms[1]
    assert conditions.threads == 2


@pytest.mark.parametrize(
    ("made_under", "asked", "words"),
    [
        ({"processor": "a phone's"}, {}, r"another processor: .a phone's. there"),
        ({"runtime": "1.2.3"}, {}, r"another version of ONNX Runtime: .1\.2\.3. there"),
        ({"precision": "int8"}, {}, "another precision"),
        ({"graph": 0}, {}, "another version of modscale's graphs: 0 there"),
        ({}, {"threads": 4}, "another number of threads: 2 there, and 4 here"),
        ({}, {"provider": "cuda"}, r"another provider: .cpu. there, and .cuda. here"),
        ({}, {"graph_level": "basic"}, "another graph level"),
        ({"target": "phone"}, {}, r"another target: .phone. there, and this machine here"),
        ({}, {"target": Target(command=("ssh",), name="pi")}, r"another target: this machine there, and .pi. here"),
    ],
)
def test_a_calibration_from_elsewhere_is_refused(write, made_under, asked, words):
    """In one line that names the file, what differs and both values."""
    file = write(made(**made_under))
    with pytest.raises(InputError, match=words) as caught:
        load_predictor(file, LatencySettings(**asked))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_device_named_as_the_target_is_believed(write):
    """A calibration of a phone serves on a server, whatever the server's processor and runtime, if it is named."""
    file = write(made(target="phone", processor="a phone's", runtime="1.2.3", threads=8))
    predictor, conditions = load_predictor(file, LatencySettings(target=Target(command=("adb",), name="phone")))
    assert (conditions.processor, conditions.threads) == ("a phone's", 8)
    assert len(predictor.pieces) == 2 + 4 + 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("networks"), "is no calibration"),
        (lambda d: d["networks"][0].update(times_ns=[[0]]), r"networks\[0\].times_ns\[0\]: must be 1 or more"),
        (lambda d: d["networks"][1].update(probes_ns=[[]]), "probes_ns: must be there for all processes, or for none"),
        (lambda d: d["networks"][1].update(probes_ns=[[9], [9]]), r"networks\[1\].probes_ns: must have a process"),
        (lambda d: d["networks"][2]["spec"].pop("stages"), r"networks\[2\].spec.stages: is required"),
        (lambda d: d["conditions"].update(threads="many"), "conditions.threads: must be a whole number"),
        (lambda d: d["deviations"].update(own=-1), "deviations.own: must be 0 or more"),
        (lambda d: d.update(networks=d["networks"][:3]), "must have 8 networks or more"),
    ],
)
def test_a_broken_file_is_one_line(write, change, words):
    """With the place in it and the rule."""
    file = write(made())
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=words) as caught:
        load_predictor(file, LatencySettings())
    assert caught.value.file == str(file)


def test_what_is_no_file_of_ours_is_told(tmp_path):
    """Text, nothing, a folder."""
    (tmp_path / "text").write_text("stages: []")
    for name, words in (("text", "not JSON"), ("absent", "cannot be read"), (".", "cannot be read")):
        with pytest.raises(InputError, match=words):
            read_calibration(tmp_path / name)


def test_networks_of_one_calibration_share_conditions():
    """Those of the default settings say nothing of threads, so that the file's are taken."""
    assert "threads" not in expected_conditions(LatencySettings())
    assert expected_conditions(replace(LatencySettings(), threads=3))["threads"] == 3
