"""Charts in pixels: scales, their ticks, where labels go, and the picture of a network's stages."""

from __future__ import annotations

from itertools import combinations

import pytest

from modscale.report.architecture import GAP, draw_stages
from modscale.report.chart import Mark, Scale, lay_out, staircase
from modscale.specs.published import published


def chart(marks: list[Mark], **changes: object):
    return lay_out(marks, **{"x_label": "x", "y_label": "y", "width": 600, "height": 400, **changes})


def test_a_scale_goes_from_end_to_end():
    """Linear and logarithmic, by hand: 10 lies half way from 1 to 100 on the latter."""
    assert [Scale(low=0, high=10, start=50, end=250).at(v) for v in (0, 2.5, 10)] == [50, 100, 250]
    assert [Scale(low=1, high=100, start=0, end=200, is_log=True).at(v) for v in (1, 10, 100)] == [0, 100, 200]
    assert Scale(low=0, high=10, start=300, end=100).at(10) == 100  # upwards on a page


@pytest.mark.parametrize(
    ("low", "high", "is_log", "texts"),
    [
        (0, 10, False, ["0", "2", "4", "6", "8", "10"]),
        (69.7, 81.2, False, ["70", "72", "74", "76", "78", "80"]),
        (0.0012, 0.0031, False, ["0.0015", "0.002", "0.0025", "0.003"]),
        (-3, 3, False, ["-3", "-2", "-1", "0", "1", "2", "3"]),
        (1.5, 80, True, ["2", "5", "10", "20", "50"]),
        (1, 1e6, True, ["1", "10", "100", "1000", "10000", "100000", "1000000"]),
    ],
)
def test_ticks_are_round_and_few(low, high, is_log, texts):
    assert [text for _, text in Scale(low=low, high=high, start=0, end=100, is_log=is_log).ticks(6)] == texts


def test_everything_lies_in_the_frame():
    """Points with their intervals, lines across, and what is told to be reached; values far apart go on a log axis."""
    marks = [
        Mark(kind="front", x=x, y=y, x_error=0.9 * x, y_error=3, key=f"t{x}") for x, y in ((1, 5), (3, 9), (50, 2))
    ]
    drawn = chart(marks, across=[("a", 90.0)], along=[("b", -8.0)], reach=[(2, 40)])
    for point in drawn.points:
        assert drawn.left <= point.left <= point.x <= point.right <= drawn.right
        assert drawn.top <= point.top <= point.y <= point.bottom <= drawn.bottom
    assert drawn.left < drawn.across[0][1] < drawn.right
    assert drawn.top < drawn.along[0][1] < drawn.bottom
    one, three, fifty = (point.x for point in drawn.points)
    assert (three - one) / (fifty - one) == pytest.approx(0.281, abs=0.002)  # log 3 / log 50
    near = chart(marks, logs=(False, False)).points
    assert (near[1].x - near[0].x) / (near[2].x - near[0].x) == pytest.approx(2 / 49, abs=0.002)


def test_labels_keep_off_each_other():
    """Eight points in a ring with long names: no two names overlap, where on one side of all some would."""
    ring = [(0, 3), (2, 2), (3, 0), (2, -2), (0, -3), (-2, -2), (-3, 0), (-2, 2)]
    marks = [Mark(kind="front", x=20 + x, y=20 + y, key=str(i), label="a long name") for i, (x, y) in enumerate(ring)]
    marks += [Mark(kind="front", x=0, y=0, key="far"), Mark(kind="front", x=40, y=40, key="off")]
    boxes = []
    for p in chart(marks).points[:8]:
        width = 6 * len(p.mark.label)
        left = p.text_x - {"start": 0, "middle": width / 2, "end": width}[p.anchor]
        boxes.append((left, p.text_y - 9, left + width, p.text_y))
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_what_none_can_ask_about_is_drawn_once_a_place():
    """A hundred thousand dots on one spot are one, and a chart of one point or of none is a chart."""
    marks = [Mark(kind="far", x=1, y=2)] * 100_000
    ((kind, path),) = chart(marks).dots
    assert (kind, path.count("M")) == ("far", 1)
    assert chart([]).points == []
    assert chart(marks).x_ticks


def test_a_staircase_goes_along_x_then_up():
    """By hand, from the best x on."""
    assert staircase([(3, 9), (1, 5)], falls_to_left=False) == [(1, 5), (3, 5), (3, 9)]
    assert staircase([(3, 5), (1, 9)], falls_to_left=True) == [(3, 5), (1, 5), (1, 9)]
    assert staircase([], falls_to_left=True) == []


def test_a_network_is_drawn_stage_by_stage():
    """xs of the paper: 32, 64, 144 and 288 channels, 3, 3, 4 and 2 blocks, then 3 and 3 that attend."""
    picture = draw_stages(published("xs"))
    assert [stage.dim for stage in picture.stages] == ["32", "64", "144", "288"]
    assert [stage.blocks for stage in picture.stages] == ["×3", "×3", "×4+3", "×2+3"]
    assert [[bar.attends for bar in stage.bars].count(True) for stage in picture.stages] == [0, 0, 3, 3]
    heights = [stage.bars[0].height for stage in picture.stages]
    assert (heights[-1] / heights[0]) ** 2 == pytest.approx(288 / 32, rel=0.02)
    for a, b in zip(picture.stages, picture.stages[1:], strict=False):
        assert b.bars[0].x - (a.bars[-1].x + a.bars[-1].width) >= GAP
    assert picture.has_attention
    assert picture.text.endswith("32×3 64×3 144×4+3 288×2+3")
