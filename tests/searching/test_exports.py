"""Exported files that are kept for the end of a search, by their networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modscale.searching.engine import Inline
from modscale.searching.exports import Exports
from modscale.searching.measures import Subject, time_again, time_latency
from modscale.searching.steps import Timing, Work, take_steps
from modscale.specs.published import published

XXS, XS, S = (published(name) for name in ("xxs", "xs", "s"))


def export(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_what_is_kept_is_found_by_its_network_until_it_is_dropped(tmp_path: Path) -> None:
    """Whatever it is called; nothing is left at the end."""
    with Exports() as kept:
        kept.leave_out([S])
        for spec in (XXS, XS, S):
            kept.keep(spec, export(tmp_path / "model.onnx", str(spec.name)))
        kept.keep(XXS, export(tmp_path / "model.onnx", "another"))
        kept.keep(published("s_conv"), tmp_path / "elsewhere.onnx")
        found = kept.find(replace(XXS, name="mobile-3"))
        assert found is not None
        assert found.read_text() == "xxs"
        assert [kept.find(spec) for spec in (S, published("s_conv"))] == [None, None]
        kept.drop([XXS, S])
        assert (kept.find(XXS), found.exists()) == (None, False)
        left = kept.find(XS)
        assert left is not None
    assert not left.parent.exists()


def test_there_are_never_too_many(tmp_path: Path) -> None:
    """The first few; the others are exported again."""
    with Exports() as kept:
        kept.most = 2
        for spec in (XXS, XS, S):
            kept.keep(spec, export(tmp_path / "model.onnx", str(spec.name)))
        assert [kept.find(spec) is not None for spec in (XXS, XS, S)] == [True, True, False]


def test_the_front_is_timed_from_what_was_kept(tmp_path: Path) -> None:
    """What was timed as a candidate is not exported again; another one is."""
    exported, timed, known = [], [], []

    def answer(request: Work | Timing, announce: object) -> object:
        if isinstance(request, Work):
            spec, file = request.arguments
            exported.append(spec.name)
            file.write_text(spec.name)
            return None
        known.append([one["latency_ms"] for one in request.beside])
        timed.append([Path(str(model)).read_text() for model in request.models])
        return [{"latency_ms": 1.0} for _ in request.models]

    with Exports() as kept:
        for spec in (XXS, XS):
            steps = time_latency(Subject(spec=spec, exports=kept))
            take_steps(steps, lambda request: answer(request, None))
        assert time_again(Inline(answer), [XS, S, XXS], kept, beside=[{"latency_ms": 3.0}]) == [{"latency_ms": 1.0}] * 3
    assert exported == ["xxs", "xs", "s"]
    assert timed == [["xxs"], ["xs"], ["xs", "s", "xxs"]]
    assert known == [[], [], [3.0]]
