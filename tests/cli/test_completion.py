"""What the shell offers after Tab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modscale.cli.completion import complete_band, complete_model, complete_proxy


def test_published_names_go_on_from_what_is_typed() -> None:
    """Names of the paper; nothing where none fits, so that the shell offers files."""
    assert complete_model("xx") == ["xxs", "xxs_conv", "xxs/table-4"]
    assert complete_model("./my") == []
    assert complete_proxy("tr") == ["train"]
    assert complete_proxy("spaces/") == []


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"bands": 3}', '{"bands": {"a": 1}, "x": ' + "[" * 9999, "\xff"])
def test_a_run_that_cannot_be_read_offers_nothing(tmp_path: Path, text: str) -> None:
    """Tab never complains."""
    (tmp_path / "front.json").write_bytes(text.encode("latin-1"))
    assert complete_band(str(tmp_path), "") == []
    assert complete_band("~nobody\0/x", "") == []


def test_tab_offers_the_bands_with_a_pick(tmp_path: Path) -> None:
    """As bash asks for them: with the run typed, --pick typed, and a letter or none of the band."""
    (tmp_path / "front.json").write_text(json.dumps({"bands": {"xxs": 3, "xs": None, "s": 4, "s\x1b": 5}}))

    def offered(words: str) -> list[str]:
        environment = os.environ | {"_MODSCALE_COMPLETE": "complete_bash", "COMP_WORDS": f"modscale {words}"}
        environment["COMP_CWORD"] = str(len(words.split(" ")))
        done = subprocess.run(
            [sys.executable, "-m", "modscale"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert offered(f"export {tmp_path} --pick ") == ["xxs", "s"]
    assert offered(f"export {tmp_path} --out o --pick x") == ["xxs"]
    assert offered("count s_conv/kernels-7") == ["s_conv/kernels-7"]
    assert {"search", "space", "scale"} <= set(offered("s"))
