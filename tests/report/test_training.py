"""The report of a training: counted by hand from a made record, and the text of others stays text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import needs_browser, open_browser
from PIL import Image
from tiny_training import SPEC

from modscale.errors import RunError
from modscale.report.training import TrainingRecord, build_training_report, class_rows, page_context
from modscale.runs.train_folder import read_validation, write_validation
from modscale.training.settings import TrainSettings, train_to_dict

CONFUSION = [(0, 0, 3), (0, 1, 1), (1, 1, 1), (1, 0, 2), (1, 2, 1), (2, 2, 4)]


def row(epoch: int, accuracy: float, averaged: float) -> dict[str, Any]:
    return {
        "epoch": epoch, "train_loss": 2.0 / epoch, "accuracy": accuracy, "learning_rate": 1e-3, "seconds": 90.0,
        "val_loss": 1.5, "ema_accuracy": averaged, "ema_val_loss": 1.4,
    }  # fmt: skip


def record(folder: Path, **changes: Any) -> TrainingRecord:
    asked = train_to_dict(replace(TrainSettings(), epochs=2, threads=1))
    document = {
        "asked": {"settings": asked, "seed": 5},
        "settings": asked | {"learning_rate": 0.5, "batch_size": 12},
        "data": {
            "name": "<b>photos</b>", "source": "photos", "train_images": 48, "val_images": 12, "notes": ["two are one"],
        },
        "classes": ["cat", "<i>dog</i>", "fox"],
        "taken_over": None, "teacher": "xs of there", "device": "cpu", "processes": 1, "machine": {"cpu": "A"},
        "versions": {"torch": "2"}, "modscale": "0",
    }  # fmt: skip
    values = {"folder": folder, "spec": SPEC, "document": document, "confusion": CONFUSION}
    return TrainingRecord(**{**values, "rows": [row(1, 0.5, 0.25), row(2, 0.5, 0.75)], **changes})  # type: ignore[arg-type]


def test_classes_by_what_was_right_the_worst_first() -> None:
    found = class_rows(CONFUSION, ["cat", "dog", "fox"])
    assert [(one["name"], one["number"], one["right"]) for one in found] == [
        ("dog", "4", "25.0%"), ("cat", "4", "75.0%"), ("fox", "4", "100.0%"),
    ]  # fmt: skip
    assert [one["taken_for"] for one in found] == ["cat (50.0%), fox (25.0%)", "dog (25.0%)", ""]


def test_what_was_asked_for_and_what_followed_are_told_apart(tmp_path: Path) -> None:
    page = page_context(record(tmp_path))
    assert page["changed"] == [("epochs", "2"), ("threads", "1")]
    assert page["followed"] == [("batch_size", "12"), ("learning_rate", "0.5")]
    assert page["headline"] == (
        "Accuracy 75.0 % on the 12 validation images of 3 classes: the averaged weights after epoch 2 of 2"
    )
    assert "right on 8 of 12: 66.67%" in page["score_note"]
    assert dict(page["facts"])["took"] == "3.0 minutes on cpu (A, 1 threads)"


def test_names_stay_text_and_a_report_before_the_end_says_so(tmp_path: Path) -> None:
    files = build_training_report(record(tmp_path, rows=[row(1, 0.5, 0.25)], confusion=None))
    assert set(files) == {"curves", "markdown", "html"}
    html, text = files["html"].read_text(), files["markdown"].read_text()
    assert "not over: the same command goes on" in html
    assert "not over: the same command goes on" in text
    assert "Class by class" not in html
    assert "&lt;b&gt;photos" in html
    assert "<b>photos" not in html + text
    assert "two are one" in html


@needs_browser
def test_the_page_fits_a_phone(tmp_path: Path) -> None:
    """Nothing is wider than the window, pictures are moved in their frames, and no short name of a class is broken."""
    Image.new("RGB", (900, 700)).save(tmp_path / "context.png")
    document = record(tmp_path).document | {"classes": ["n04398044", "n03255030", "fox"]}
    files = build_training_report(record(tmp_path, document=document))
    with open_browser(tmp_path / "profile") as browser:
        browser.open(files["html"], width=390)
        assert browser.ask("document.documentElement.scrollWidth") <= 390
        assert browser.ask("document.querySelectorAll('figure img').length") == 2
        lines = "Array.from(document.querySelectorAll('td.wide:first-child')).map((td) => td.firstChild)"
        ranges = f"{lines}.map((text) => {{ const r = document.createRange(); r.selectNode(text); return r }})"
        assert browser.ask(f"{ranges}.map((r) => r.getClientRects().length)") == [1, 1, 1]


@needs_browser
def test_photographs_have_the_ground_of_the_page(tmp_path: Path) -> None:
    """In the dark another picture is shown; on paper, and of a training before there was one, the light one."""

    def shown(theme: str, media: str = "") -> list[int]:
        browser.open(html, theme=theme)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        browser.send("Emulation.setEmulatedMedia", media=media, features=features)
        widths = "img => img.getClientRects().length ? [img.naturalWidth] : []"
        return browser.ask(f"Array.from(document.querySelectorAll('figure:not(.plot) img')).flatMap({widths})")

    with open_browser(tmp_path / "profile") as browser:
        Image.new("RGB", (900, 700), "white").save(tmp_path / "context.png")
        html = build_training_report(record(tmp_path))["html"]
        assert (shown("light"), shown("dark")) == ([900], [900])
        Image.new("RGB", (901, 700), "black").save(tmp_path / "context.dark.png")
        files = build_training_report(record(tmp_path))
        assert (shown("light"), shown("dark"), shown("dark", "print")) == ([900], [901], [900])
    assert 'srcset="context.dark.png"' in files["markdown"].read_text()


def test_a_folder_of_another_hand_is_refused_in_a_line(tmp_path: Path) -> None:
    found = record(tmp_path)
    with pytest.raises(RunError, match="lacks what a report needs"):
        build_training_report(record(tmp_path, document={**found.document, "data": {}}))


def test_the_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_validation(tmp_path, 3) is None
    write_validation(tmp_path, CONFUSION)
    assert read_validation(tmp_path, 3) == CONFUSION
    with pytest.raises(RunError, match="of 2 classes"):
        read_validation(tmp_path, 2)
    for text in ("[]", "{", '{"confusion": [[0, 0, -1]]}', '{"confusion": [[0, 0]]}'):
        (tmp_path / "validation.json").write_text(text)
        with pytest.raises(RunError):
            read_validation(tmp_path, 3)
