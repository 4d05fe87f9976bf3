"""Predicted latencies from the command line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from modscale.cli.main import main
from modscale.latency.calibration import Calibration, Conditions, Timed, expected_conditions, write_calibration
from modscale.latency.predictor import Deviations
from modscale.latency.steady import Take
from modscale.settings import LatencySettings
from modscale.specs.published import published
from modscale.specs.spec import spec_to_yaml


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    """Ten times xxs, 9.5 to 10.4 ms, calibrated here."""
    here = Conditions(**{"threads": 1, **expected_conditions(LatencySettings())})
    networks = tuple(
        Timed(spec=published("xxs"), takes=(Take(times_ns=(9_500_000 + 100_000 * i,)),), at_s=float(i))
        for i in range(10)
    )
    deviations = Deviations(**{**dict.fromkeys(asdict(Deviations()), 0.0), "noise": 0.05})
    write_calibration(
        tmp_path / "c.json",
        Calibration(space="one", conditions=here, networks=networks, deviations=deviations),
        seconds=1.0,
    )
    return tmp_path / "c.json"


def test_a_network_with_a_spec_is_predicted(capsys: pytest.CaptureFixture[str], calibration: Path, tmp_path: Path):
    """A published one by its name, and the same as a file; nothing is timed."""
    (tmp_path / "xxs.yaml").write_text(spec_to_yaml(published("xxs")))
    assert main(["latency", "xxs", str(tmp_path / "xxs.yaml"), "--calibration", str(calibration), "--json"]) == 0
    one, other = json.loads(capsys.readouterr().out)["models"]
    assert one["predicted_ms"] == other["predicted_ms"] == pytest.approx(9.95, rel=0.02)
    assert one["predicted_ci90_ms"][0] < 9.6 < 10.3 < one["predicted_ci90_ms"][1]


@pytest.mark.parametrize(
    ("model", "kind"), [("timm:resnet18", "a network of timm's"), ("no-such.onnx", "an ONNX file")]
)
def test_what_has_no_spec_is_refused(
    capsys: pytest.CaptureFixture[str], calibration: Path, model: str, kind: str
) -> None:
    """In one line, whether it is there or not."""
    assert main(["latency", "xxs", model, "--calibration", str(calibration)]) == 2
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0
    assert f"{model}: is {kind}, and --calibration predicts only networks that have a spec" in told
