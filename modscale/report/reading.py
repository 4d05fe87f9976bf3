"""What a report says of which choices mattered: the design reading as text."""

from __future__ import annotations

from typing import Any

from modscale.analysis.design_reading import DesignReading, Half, Interval, ParameterReading, is_number, split_noun
from modscale.report.figures import Picture
from modscale.report.pages import base64_text
from modscale.runs.metrics import METRICS


def reading_view(reading: DesignReading, picture: Picture | None) -> dict[str, Any]:
    """The design reading as the templates print it: one line where nothing stands out from chance."""
    if reading.parameters and not _stands_out(reading):
        nouns = " or ".join(METRICS[metric].noun for metric in reading.parameters[0].importance)
        line = (
            f"Nothing stands out from chance for {nouns} in {reading.trials} trials; design_reading.json has the"
            " figures, design_reading.png draws them."
        )
        return {"summary": line, "plot": None, "metrics": [], "splits": [], "rows": []}
    first = reading.parameters[0] if reading.parameters else None
    return {
        "summary": reading.summary,
        "plot": None if picture is None else base64_text(picture.svg),
        "metrics": [METRICS[metric].noun for metric in first.importance] if first else [],
        "splits": [split_noun(split) for split in first.better] if first else [],
        "rows": [
            {
                "name": parameter.name,
                "options": _options_text(parameter),
                "importances": [
                    (_interval_text(i.share, percent=True), _chance_text(i.chance), i.share.value > i.chance)
                    for i in parameter.importance.values()
                ],
                "halves": [
                    (_half_text(parameter.better[split]), _half_text(parameter.worse[split]))
                    for split in parameter.better
                ],
            }
            for parameter in reading.parameters
        ],
    }


def _chance_text(chance: float) -> str:
    return f"{100 * chance:.0f} %" if chance < 1 else "over 100 %"


def _options_text(parameter: ParameterReading) -> str:
    if is_number(parameter) and len(parameter.options) > 6:
        numbers = sorted(float(option) for option in parameter.options)
        return f"{numbers[0]:g} to {numbers[-1]:g}"
    return ", ".join(map(str, parameter.options))


def _half_text(half: Half) -> str:
    if half.low is None or half.median is None or half.high is None:
        shares = sorted((half.shares or {}).items(), key=lambda item: -item[1].value)
        return ", ".join(f"{label} {_interval_text(share, percent=True)}" for label, share in shares)
    ends = f"{_interval_text(half.low)} to {_interval_text(half.high)}"
    return f"{ends}, median {_interval_text(half.median)}"


def _interval_text(interval: Interval, *, percent: bool = False) -> str:
    """The estimate, then its interval in brackets where it has any width."""
    factor, unit = (100, " %") if percent else (1, "")
    value, low, high = (
        f"{round(factor * v, 0 if percent else 2):g}" for v in (interval.value, interval.low, interval.high)
    )
    return f"{value}{unit}" if low == high else f"{value}{unit} [{low}, {high}]"


def _stands_out(reading: DesignReading) -> bool:
    """Whether some importance is above what chance gives."""
    return any(one.share.value > one.chance for each in reading.parameters for one in each.importance.values())
