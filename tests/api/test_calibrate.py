"""A whole calibration on a machine whose blocks take exactly known times."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import cycle

import pytest

from modscale.api.calibrate import Clock, calibrate, draw_networks
from modscale.errors import InputError, TrialFailed
from modscale.latency.calibration import Conditions, read_calibration
from modscale.latency.steady import Take
from modscale.runs.experiment import parse_experiment
from modscale.specs.pieces import network_pieces
from modscale.specs.spec import load_spec, spec_to_yaml

EXPERIMENT = parse_experiment({
    "name": "tiny",
    "base": {"resolution": 64, "num_classes": 10, "in_chans": 3},
    "stages": [
        {"dim": [8, 16], "depth": [1, 2, 3], "expansion": [2, 4]},
        {"dim": [16, 24], "depth": [1, 2, 3], "attention_depth": [0, 1, 2]},
    ],
    "constraints": {"widths": "nondecreasing"},
})  # fmt: skip
CONDITIONS = Conditions(
    target="", processor="fake", provider="cpu", threads=1, precision="fp32", runtime="1", graph_level="all"
)


def piece_ms(piece) -> float:
    """What a piece takes on this machine: something that is no smooth function of its sizes."""
    odd = hash((piece.side, piece.dim, piece.out, piece.hidden)) % 7 - 3
    return (0.1 + piece.flops / 1e6) * (1 + 0.05 * odd)


class Fake:
    """A composer that writes a spec in place of a model, and a clock that reads it."""

    def __init__(self) -> None:
        self.exported, self.timed = [], []
        self.speed = cycle((1.0,))
        self.probed = None
        self.threads = 1

    def add(self, spec) -> None:
        self.exported.append(spec)

    def write(self, spec, file) -> None:
        known = {piece for one in self.exported for piece in network_pieces(one)}
        assert known.issuperset(network_pieces(spec))
        file.write_text(spec_to_yaml(spec))

    def time_file(self, file, runs):
        spec = load_spec(file)
        self.timed.append(spec)
        factor = next(self.speed)
        times = (round(1e6 * factor * sum(map(piece_ms, network_pieces(spec)))),) * runs
        probed = factor if self.probed is None else next(self.probed)
        return Take(times_ns=times, probes_ns=(round(500_000 * probed),) * runs), factor > 3

    def clock(self) -> Clock:
        return Clock(time_file=self.time_file, conditions=lambda: replace(CONDITIONS, threads=self.threads))


def test_a_machine_of_known_pieces_is_recovered(tmp_path):
    """All 216 networks of the space are predicted to a hundredth from 60 that were timed."""
    fake, file = Fake(), tmp_path / "c.json"
    summary = calibrate(EXPERIMENT, fake.clock(), file, most=60, composer=fake)
    every = draw_networks(EXPERIMENT.space, 2000, seed=3)
    pieces = [network_pieces(spec) for spec in every]
    found = read_calibration(file).predictor().predict(pieces)
    assert len(every) == 216
    for one, network in zip(found, pieces, strict=True):
        assert one.latency_ms == pytest.approx(sum(map(piece_ms, network)), rel=0.01)
        assert one.unseen == 0
    assert summary["pieces"] == len({piece for network in pieces for piece in network})
    assert (summary["calibration"], summary["processor"], summary["networks"]) == (str(file), "fake", 60)
    assert json.loads(file.read_text())["conditions"]["runtime"] == "1"
    assert len(fake.exported) < 10


def test_a_machine_that_changes_its_speed_is_recovered_too(tmp_path):
    """A third take 1.65 times as long, and so do the probes beside them; what was disturbed is left out."""
    fake, file = Fake(), tmp_path / "c.json"
    fake.speed = cycle((1.0, 1.65, 1.0, 1.0, 1.65, 1.0, 3.5))
    summary = calibrate(EXPERIMENT, fake.clock(), file, most=70, composer=fake)
    pieces = [network_pieces(spec) for spec in draw_networks(EXPERIMENT.space, 2000, seed=3)]
    found = read_calibration(file).predictor().predict(pieces)
    for one, network in zip(found, pieces, strict=True):
        assert one.latency_ms == pytest.approx(sum(map(piece_ms, network)), rel=0.01)
    assert (summary["networks"], summary["noisy"]) == (60, False)


def test_slow_processes_of_several_threads_are_left_out(tmp_path):
    """Half take 1.4 to 1.9 times as long and their probes 1.25 times: too many for the fit itself to find them odd."""
    fake, file = Fake(), tmp_path / "c.json"
    fake.threads = 2
    fake.speed, fake.probed = cycle((1.0, 1.4, 1.0, 1.7, 1.9, 1.0)), cycle((1.0, 1.25, 1.0, 1.25, 1.25, 1.0))
    summary = calibrate(EXPERIMENT, fake.clock(), file, most=120, composer=fake)
    pieces = [network_pieces(spec) for spec in draw_networks(EXPERIMENT.space, 2000, seed=3)]
    found = read_calibration(file).predictor().predict(pieces)
    for one, network in zip(found, pieces, strict=True):
        assert one.latency_ms == pytest.approx(sum(map(piece_ms, network)), rel=0.01)
    assert (summary["networks"], summary["left_out"]) == (60, 60)


def test_a_calibration_that_fails_loses_nothing(tmp_path):
    """A device that breaks is its own error; nothing half made lies there, and what lay there before still does."""
    fake, file = Fake(), tmp_path / "c.json"
    before = tmp_path / "before.json"
    before.write_text("an older one")

    def broken(path, runs):
        raise TrialFailed("gone")

    with pytest.raises(TrialFailed, match="gone"):
        calibrate(EXPERIMENT, Clock(time_file=broken, conditions=lambda: CONDITIONS), file, composer=fake)
    with pytest.raises(TrialFailed, match="gone"):
        calibrate(EXPERIMENT, Clock(time_file=broken, conditions=lambda: CONDITIONS), before, composer=fake)
    assert [path.name for path in tmp_path.iterdir()] == ["before.json"]
    assert before.read_text() == "an older one"


def test_a_place_that_cannot_be_written_is_told_first(tmp_path):
    """Before anything is exported or timed."""
    fake = Fake()
    with pytest.raises(InputError, match="cannot be written"):
        calibrate(EXPERIMENT, fake.clock(), tmp_path / "absent" / "c.json", composer=fake)
    with pytest.raises(InputError, match="must be a file"):
        calibrate(EXPERIMENT, fake.clock(), tmp_path, composer=fake)
    assert (fake.exported, fake.timed) == ([], [])
