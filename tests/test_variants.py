"""The published networks: their sizes against the authors' own, and every published row against a named model."""

from __future__ import annotations

import pytest

from modscale.counts import count_model
from modscale.errors import InputError
from modscale.spec import spec_to_yaml
from modscale.variants import published, resolve_model

EXACT = {
    "xxs": (4_736_264, 583_012_608),
    "xs": (6_627_544, 778_381_344),
    "s": (12_897_184, 1_409_390_888),
    "s_conv": (12_872_336, 1_478_400_776),
}


@pytest.mark.parametrize("name", EXACT)
def test_published_networks_count_to_the_unit(name: str) -> None:
    """The four released networks have exactly the params and FLOPs of the authors' code."""
    count = count_model(published(name))
    assert (count.params, count.flops) == EXACT[name]


def test_a_spec_file_is_resolved_as_the_network_it_holds(tmp_path) -> None:
    """A spec written to a file and resolved by its path is the published spec again."""
    file = tmp_path / "mine.yaml"
    file.write_text(spec_to_yaml(published("s")))
    assert resolve_model(str(file)) == published("s")


@pytest.mark.parametrize(("model", "nearest"), [("xxss", "xxs"), ("s-conv", "s_conv")])
def test_an_unknown_name_is_told_the_nearest_one(model: str, nearest: str) -> None:
    """A misspelt name is one line with the name that was probably meant."""
    with pytest.raises(InputError, match=f"did you mean {nearest}\\?"):
        resolve_model(model)


@pytest.mark.parametrize("model", ["missing.yaml", "", "\0", "x" * 5000, "/tmp"])  # noqa: S108  # only looked at
def test_what_is_no_model_is_an_input_error(model: str) -> None:
    """A missing file, an empty or impossible name and a folder are the user's to mend."""
    with pytest.raises(InputError):
        resolve_model(model)
