"""What is known of a proxy's ranking."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modscale.analysis import proxy_records
from modscale.analysis.proxy_records import ProxyRecord, find_record, ranking_doubt, record_sentence, settings_of_record
from modscale.settings import PROXIES


def record(**keys: object) -> ProxyRecord:
    plain = {
        "settings": settings_of_record(PROXIES["thin"]), "data": "photographs", "networks": 27, "seeds": 1, "tau": 0.8,
        "tau_ci95": (0.7, 0.9), "rho": 0.9, "params_tau": 0.64, "gain": 0.16, "gain_ci95": (0.02, 0.3),
        "trained_tau": 0.4, "halves_tau": 0.75, "halves_params_tau": 0.63, "measured": "2026-01-01",
    }  # fmt: skip
    return ProxyRecord(**(plain | keys))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("interval", "verdict", "words", "doubt"),
    [
        ((0.02, 0.3), "better", "better than params alone (+0.64", ""),
        ((-0.02, 0.3), "unclear", "NOT SHOWN TO BE BETTER than params alone", "is not shown to do so better than"),
        ((-0.3, -0.02), "worse", "WORSE THAN PARAMS ALONE", "was measured to do so worse than"),
    ],
)
def test_the_verdict_needs_the_whole_interval(
    interval: tuple[float, float], verdict: str, words: str, doubt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a headline says what speaks against the ranking."""
    found = record(gain_ci95=interval)
    monkeypatch.setattr(proxy_records, "proxy_records", lambda: (found,))
    said = ranking_doubt(PROXIES["thin"], "photographs")
    assert doubt in said
    assert bool(doubt) == bool(said)
    assert "has not been measured" in ranking_doubt(PROXIES["train"], "photographs")
    assert found.verdict == verdict
    assert words in found.sentence()


def test_a_record_is_of_its_settings_and_its_kind_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads do not matter; photographs stand for other photographs, and generated images for themselves alone."""
    photographs, generated = record(), record(data="synthetic", tau=0.5)
    monkeypatch.setattr(proxy_records, "proxy_records", lambda: (photographs, generated))
    thin = replace(PROXIES["thin"], threads=1)
    assert find_record(thin, "photographs") is find_record(thin, "others") is photographs
    assert find_record(thin, "synthetic") is generated
    assert find_record(replace(thin, epochs=3), "photographs") is None
    assert "measured on photographs, not on these data: it ranks 27 networks" in record_sentence(thin, "others")
    assert "HAS NOT BEEN MEASURED" in record_sentence(replace(thin, epochs=3), "photographs")


def test_the_default_proxy_has_a_record_of_photographs_and_of_the_generated_images() -> None:
    """With settings changed, a record would be of another proxy: then it is measured anew."""
    for data in ("tiny-imagenet-20", "synthetic"):
        found = find_record(PROXIES["thin"], data)
        assert found is not None
        assert (found.data, found.networks) == (data, 27)
