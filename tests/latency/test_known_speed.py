"""Whether a machine was slow all the time is told by the best that was ever seen of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from modscale.cli.main import main
from modscale.deploy.timing_worker import Timings
from modscale.latency.device import Device
from modscale.latency.known_speed import FILE, KEPT_S, learn_speed
from modscale.latency.summary import Latency, Round, summarise
from modscale.settings import LatencySettings

FACTS = {"processor": "a CPU", "cores": 2, "threads": 2, "system": "Linux", "runtime": "1.2.3", "nice": -20}


def measured(reference_ms: float, **changes) -> Latency:
    """A model of 20 ms beside a reference, in five rounds each."""

    def rounds(ms: float) -> list[Round]:
        seen = Timings(times_ns=(round(ms * 1e6),) * 20, preemptions=0, cpu_ns=1, main_cpu_ns=1)
        return [Round(order=i, at_s=float(i), seconds=1.0, timings=seen) for i in range(5)]

    return replace(summarise(rounds(20.0), rounds(reference_ms), Device(LatencySettings(), FACTS)), **changes)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODSCALE_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path / "modscale" / "models" / FILE


def test_the_best_of_a_week_is_kept(cache):
    """A machine at its best, or near it, is not slow; 1.15 times that is what rounds of one measurement differ by."""
    assert learn_speed(measured(9.0), now_s=1000.0).best_ms == 9.0
    for ms, is_beaten in ((10.3, False), (10.4, True), (14.5, True)):
        known = learn_speed(measured(ms), now_s=2000.0)
        assert (known.best_ms, known.at_s, known.is_beaten_by(ms)) == (9.0, 1000.0, is_beaten)
    assert learn_speed(measured(8.0), now_s=3000.0).best_ms == 8.0
    late = learn_speed(measured(14.5), now_s=3001.0 + KEPT_S)
    assert (late.best_ms, late.is_beaten_by(14.5)) == (14.5, False)
    assert learn_speed(measured(15.0), now_s=3000.0).best_ms == 15.0  # a clock that was put back


@pytest.mark.parametrize(
    "other",
    [{"threads": 1}, {"processor": "another"}, {"runtime": "1.2.4"}, {"provider": "openvino"}, {"target": "pi"},
     {"cores": 4}, {"graph_level": "basic"}],
)  # fmt: skip
def test_another_machine_has_its_own(cache, other):
    learn_speed(measured(9.0), now_s=1.0)
    assert learn_speed(measured(14.5, **other), now_s=2.0).best_ms == 14.5
    assert learn_speed(measured(14.0), now_s=3.0).best_ms == 9.0


def test_without_a_reference_nothing_is_known(cache):
    assert learn_speed(measured(9.0, reference_quiet_ms=None)) is None
    assert not cache.exists()


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": {"best_ms": "x", "at_s": 1}}', "[" * 100_000, "\xff"])
def test_a_damaged_file_is_none(cache, text):
    cache.parent.mkdir(parents=True)
    cache.write_text(text, encoding="latin-1")
    assert learn_speed(measured(9.0), now_s=1.0).best_ms == 9.0
    assert [row["best_ms"] for row in json.loads(cache.read_text()).values()] == [9.0]


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(tmp_path, monkeypatch):
    """A file lies where the folder would be."""
    (tmp_path / "modscale").write_text("")
    for name in ("MODSCALE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "modscale"))
    assert learn_speed(measured(9.0), now_s=1.0).best_ms == 9.0


def test_nor_is_a_folder_in_its_place(cache):
    cache.mkdir(parents=True)
    assert learn_speed(measured(9.0), now_s=1.0).best_ms == 9.0


def test_the_command_says_so(cache, monkeypatch, capsys):
    """In words, and in JSON beside what the reference took now."""
    for ms, says in ((9.0, False), (14.5, True)):
        monkeypatch.setattr("modscale.latency.protocol.measure_models", lambda *_, ms=ms, **__: [measured(ms)])
        assert main(["latency", "xxs", "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["reference"] == {
            "ms": ms, "quiet_ms": ms, "drift_percent": 0.0, "best_known_ms": 9.0
        }  # fmt: skip
        assert ("note: the machine was slow all the time: the reference took 14.5 ms, and 9 ms on " in err) is says
        # by hand: 1.96 standard deviations of 0.3 times log(14.5 / 9)
        assert ("in units of it (x ref.), to 28 %" in err) is says
