"""How well a proxy with some settings was measured to rank networks of known accuracy: `proxy_records.yaml`.

Each record is one `modscale fidelity` over the published networks, written by `benchmarks/proxy_weights.py`. A run says
what is known of the settings that it used, and whether they rank better than counting params does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from modscale.document import read_yaml
from modscale.settings import ProxySettings

RECORDS_FILE = Path(__file__).parent / "proxy_records.yaml"
NO_MATTER = ("device", "threads", "kernels", "val_split", "reduce_zero_label")
"""Settings that do not change what is learned, but for rounding."""
SYNTHETIC = "synthetic"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyRecord:
    """One measurement of a proxy's ranking; taus and rhos are with the published top-1."""

    settings: Mapping[str, Any]
    """The proxy's, without those of `NO_MATTER`."""
    data: str
    """The data's name."""
    networks: int
    """Networks that were ranked."""
    seeds: int
    """Trainings of each."""
    tau: float
    """Kendall's."""
    tau_ci95: tuple[float, float]
    """Its 95 % interval over networks and seeds."""
    rho: float
    """Spearman's."""
    params_tau: float
    """Of the number of params."""
    gain: float
    """The proxy's tau less that of params."""
    gain_ci95: tuple[float, float]
    """95 % interval of that, both on the same resamples."""
    trained_tau: float
    """Of the short training's loss alone."""
    halves_tau: float
    """Of the proxy, on networks that had no part in choosing its weights: the mean over random halves."""
    halves_params_tau: float
    """Of params, on the same halves."""
    measured: str
    """The day."""
    pair_error: float | None = None
    """Points of top-1: the error of a difference between two networks under which its pairs are likeliest."""
    val_images: int | None = None
    """Validation images behind each score."""
    loss_spread: float | None = None
    """Standard deviation of the held-out loss from image to image, over its mean, of the published xxs."""
    seed_noise: float | None = None
    """Standard deviation of the logarithm of the held-out loss from seed to seed, on the same images."""

    @property
    def verdict(self) -> Literal["better", "worse", "unclear"]:
        """Whether it ranks better than params do, as far as the interval tells."""
        low, high = self.gain_ci95
        return "better" if low > 0 else "worse" if high < 0 else "unclear"

    def sentence(self) -> str:
        """What was found, for people."""
        low, high = self.tau_ci95
        against = {
            "better": "better than params alone",
            "worse": "WORSE THAN PARAMS ALONE",
            "unclear": "NOT SHOWN TO BE BETTER than params alone",
        }[self.verdict]
        return (
            f"it ranks {self.networks} networks of known ImageNet top-1 with Kendall's tau {self.tau:+.2f}"
            f" [{low:+.2f}, {high:+.2f}], {against} ({self.params_tau:+.2f}; difference {self.gain:+.2f}"
            f" [{self.gain_ci95[0]:+.2f}, {self.gain_ci95[1]:+.2f}]); {self.halves_tau:+.2f} on networks that had no"
            f" part in choosing its weights (params {self.halves_params_tau:+.2f}); its short training alone with"
            f" {self.trained_tau:+.2f}"
        )


@cache
def proxy_records() -> tuple[ProxyRecord, ...]:
    """All of them."""
    rows: Any = read_yaml(RECORDS_FILE)
    return tuple(ProxyRecord(**(row | {key: tuple(row[key]) for key in ("tau_ci95", "gain_ci95")})) for row in rows)


def settings_of_record(settings: ProxySettings) -> dict[str, Any]:
    """What of the settings a record is found by."""
    return {key: value for key, value in asdict(settings).items() if key not in NO_MATTER}


def find_record(settings: ProxySettings, data: str) -> ProxyRecord | None:
    """The record of these settings on these data, or else on data of the same kind, generated or not; None: neither."""
    wanted = settings_of_record(settings)
    found = [record for record in proxy_records() if record.settings == wanted]
    of_kind = [record for record in found if (record.data == SYNTHETIC) == (data == SYNTHETIC)]
    return next((record for record in of_kind if record.data == data), next(iter(of_kind), None))


def record_sentence(settings: ProxySettings, data: str) -> str:
    """What is known of how a run's proxy ranks, for the head of its report."""
    record = find_record(settings, data)
    name = f"The proxy {settings.method}"
    if record is None:
        return (
            f"{name}: how well it ranks with these settings on such data HAS NOT BEEN MEASURED;"
            " modscale fidelity --proxy SPACE.yaml --data DATA does so."
        )
    where = f"on {record.data}" + ("" if record.data == data else ", not on these data")
    return f"{name}, measured {where}: {record.sentence()}."


def ranking_doubt(settings: ProxySettings, data: str) -> str:
    """What a headline has to say against a run's ranking; empty where it is better than params."""
    record = find_record(settings, data)
    if record is None:
        return "How well its proxy ranks with these settings has not been measured."
    if record.verdict == "better":
        return ""
    than = "was measured to do so worse than" if record.verdict == "worse" else "is not shown to do so better than"
    return f"The proxy that ranks these networks {than} their number of params."
