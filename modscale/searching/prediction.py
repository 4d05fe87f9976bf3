"""What the calibration of a search foretells of a candidate, kept beside what is measured of it."""

from __future__ import annotations

from collections.abc import Sequence

from modscale.errors import InputError
from modscale.latency.predictor import Predictor
from modscale.runs.metrics import PREDICTED, Results
from modscale.searching.measures import Measure, Subject
from modscale.searching.steps import Steps
from modscale.specs.pieces import network_pieces


def with_prediction(measures: Sequence[Measure], predictor: Predictor | None) -> tuple[Measure, ...]:
    """The measures with the predicted latency after the first one, where there is a predictor.

    A network that it cannot predict, such as one of another kind that the candidates are compared with, has none.
    """
    if predictor is None:
        return tuple(measures)

    def predict(subject: Subject) -> Steps[Results]:
        try:
            (found,) = predictor.predict([network_pieces(subject.spec)])
        except InputError:
            return {}
        return dict(zip(PREDICTED, (found.latency_ms, *found.ci90_ms), strict=True))
        yield  # it asks for nothing

    return (measures[0], Measure(name="prediction", needs="nothing", take=predict), *measures[1:])
