"""What a space may say of the networks that its run is compared with, and what it is told where it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modscale.errors import InputError
from modscale.rivals import Rival, parse_references, reference_to_plain

PUBLISHED = ("xxs", "xs")


def parse(*entries: Any) -> tuple[str | Rival, ...]:
    return parse_references(list(entries), "references", PUBLISHED)


def test_every_form_is_read_and_written_again() -> None:
    """Published names, the three kinds in full and by name alone; what is written reads the same."""
    found = parse(
        "xxs",
        {"onnx": "nets/rival.onnx", "accuracy": 0.752, "name": "Rival"},
        {"timm": "timm:mobilenetv2_100", "accuracy": 0.72, "resolution": 192},
        "other.ONNX",
        "timm:a.b",
        "mine.yaml",
    )
    assert found[1] == Rival(name="Rival", kind="onnx", source="nets/rival.onnx", accuracy=0.752)
    assert found[2] == Rival(
        name="timm:mobilenetv2_100", kind="timm", source="mobilenetv2_100", accuracy=0.72, resolution=192
    )
    named = [(one.kind, one.source, one.name) for one in found[3:] if isinstance(one, Rival)]
    assert named == [("onnx", "other.ONNX", "other"), ("timm", "a.b", "timm:a.b"), ("spec", "mine.yaml", "mine")]
    assert parse(*(reference_to_plain(one) for one in found)) == found
    assert found[1].file(Path("/spaces")) == Path("/spaces/nets/rival.onnx")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"onnx": "a.onnx", "accuracy": 75.2}, "references[0].accuracy: must be a fraction, as in 0.752 for 75.2 %"),
        ({"onnx": "a.onnx", "accuracy": 0}, "references[0].accuracy: must be more than 0"),
        ({"onnx": "a.onnx", "accuracy": 752}, "references[0].accuracy: must be 1 or less"),
        ({"onnx": "a.onnx", "timm": "b"}, "references[0]: must say what the network is by one of onnx, timm, spec"),
        ({"accuracy": 0.7}, "references[0]: must say what the network is by one of onnx, timm, spec"),
        ({"onx": "a.onnx"}, "references[0].onx: unknown key; did you mean onnx?"),
        ({"onnx": "a.onnx", "name": "xs"}, "references[0].name: must be of at most 60 characters, and no published"),
        ({"spec": "a.yaml", "resolution": 64}, "references[0].resolution: must not be said of a spec"),
        ("resnet18", "references[0]: must be one of xxs, xs, an .onnx, timm:NAME or a spec's file"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(entry: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(entry)
    assert str(caught.value).startswith(message)


def test_no_name_stands_twice() -> None:
    """Two files of one name in two folders need a name each."""
    with pytest.raises(InputError, match=r"references\[1\]: must not repeat a network, nor a name, got 'net'"):
        parse("a/net.onnx", "b/net.onnx")
    assert len(parse("a/net.onnx", {"onnx": "b/net.onnx", "name": "other"})) == 2
