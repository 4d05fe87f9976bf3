"""The folder of `modscale fidelity`: how its networks are scored and timed, and what it is held to.

`fidelity.yaml` has the settings, data, machine and versions; `fidelity.jsonl` and `latency.jsonl` what was measured
(`scores.py`); the rest is built from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from modscale import __version__
from modscale.document import Section, dump_yaml
from modscale.errors import RunError, naming_file
from modscale.files import write_whole
from modscale.kinds import FIDELITY_FILE
from modscale.machine import available_cores
from modscale.runs.conditions import differences, told
from modscale.runs.locking import locked_folder
from modscale.runs.records import is_begun, made_here, read_record
from modscale.settings import LatencySettings, ProxySettings, latency_to_dict, parse_latency, parse_proxy

SCORES_FILE = "fidelity.jsonl"
LATENCY_FILE = "latency.jsonl"
OUTPUTS = frozenset({FIDELITY_FILE, "fidelity.json", "fidelity.md", "fidelity.png"})
"""What is written whole into the folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FidelitySetup:
    """How networks of known accuracy are measured, as a space would measure its candidates."""

    proxy: ProxySettings
    """How they are scored."""
    latency: LatencySettings
    """How they are timed."""
    drop_path_rate: float
    """Of every network: a space's candidates have one, that of its base."""
    seed: int
    """Draws the data, and is the first of the seeds by which each network is scored."""

    def resolved(self) -> FidelitySetup:
        """With every setting that depends on the machine filled in."""
        return replace(
            self,
            proxy=replace(self.proxy, threads=self.proxy.threads or available_cores()),
            latency=replace(self.latency, threads=self.latency.resolved_threads()),
        )


def read_setup(folder: Path) -> dict[str, Any] | None:
    """The content of the folder's `fidelity.yaml`; None where the folder is not there, or empty.

    Raises:
        RunError: it holds something else, or the file is broken.
    """
    if not is_begun(folder, FIDELITY_FILE, what="a folder of `modscale fidelity`"):
        return None
    rule = "is not what `modscale fidelity` writes: it has no setup or no data"
    return read_record(folder / FIDELITY_FILE, "setup", "data", rule=rule)


def check_setup(document: Mapping[str, Any], setup: FidelitySetup, folder: Path) -> None:
    """Raises RunError where the scores of the folder were taken in another way than `setup`."""
    with naming_file(folder / FIDELITY_FILE):
        began = parse_setup(document["setup"])
    for place, before, now in differences(setup_to_dict(began), setup_to_dict(setup)):
        what = "was made with other threads" if place.endswith(".threads") else "was made with other settings"
        rule = f"{what}: its {place} is {told(before)}, and {told(now)} here; give another --out"
        raise RunError(rule, file=folder)


def parse_setup(document: object) -> FidelitySetup:
    """A setup from its plain values. Raises InputError."""
    section = Section(
        document, tuple(FidelitySetup.__dataclass_fields__), place="setup", what="how networks are scored"
    )
    return FidelitySetup(
        proxy=parse_proxy(section.raw("proxy"), section.at("proxy")),
        latency=parse_latency(section.raw("latency"), section.at("latency")),
        drop_path_rate=section.number("drop_path_rate", None, low=0, below=1),
        seed=section.integer("seed", None, low=0, high=2**32 - 1),
    )


def setup_to_dict(setup: FidelitySetup) -> dict[str, Any]:
    """As plain values, which `parse_setup` reads unchanged."""
    return {**asdict(setup), "latency": latency_to_dict(setup.latency)}


def write_setup(folder: Path, setup: FidelitySetup, data: Mapping[str, Any]) -> None:
    """Records how the scores are taken. Raises InputError where it cannot."""
    document = {
        "modscale": __version__,
        "setup": setup_to_dict(setup),
        "data": dict(data),
        **made_here(),
    }
    write_whole(folder / FIDELITY_FILE, dump_yaml(document))


def locked_fidelity(folder: Path) -> AbstractContextManager[None]:
    """As `locked_folder`, of a fidelity check."""
    appended = (SCORES_FILE, LATENCY_FILE)
    return locked_folder(folder, appended=appended, written=OUTPUTS, what="fidelity check")
