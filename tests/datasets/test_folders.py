"""Folders as people have them: where the splits lie, what is passed over, and what is there instead."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modscale.datasets.dataset import Dataset, load_dataset
from modscale.errors import DataError

SIDE = 8


def write_split(folder: Path, *, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3, seed: int = 0) -> Path:
    rng = np.random.default_rng([seed, *folder.name.encode()])
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def load(root: Path, **keywords: object) -> Dataset:
    settings = {"resolution": SIDE, "train_images": None, "val_images": None, "seed": 0}
    return load_dataset(str(root), **settings | keywords)


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(root)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "dev", "test", "eval", "validation_set", "test_set"])
def test_a_validation_set_of_another_name_is_taken_and_told(tmp_path: Path, name: str) -> None:
    """The images are those of val/."""
    write_split(tmp_path / "train")
    write_split(tmp_path / name)
    found = load(tmp_path)
    assert np.array_equal(found.x_val[4], np.asarray(Image.open(tmp_path / name / "dog" / "1.png")))
    assert found.notes == (f"no val/: {name}/ is the validation set",)


def test_of_several_validation_sets_val_is_taken_and_a_test_set_left_alone(tmp_path: Path) -> None:
    """Two names that mean the same are an error that names both."""
    for name in ("train", "val", "valid", "test"):
        write_split(tmp_path / name)
    found = load(tmp_path)
    assert np.array_equal(found.x_val[0], np.asarray(Image.open(tmp_path / "val" / "cat" / "0.png")))
    (tmp_path / "val").rename(tmp_path / "validation")
    assert "valid and validation could both be the validation set" in refusal(tmp_path)


def test_data_that_lie_deeper_are_found_and_told(tmp_path: Path) -> None:
    """One or two folders around them; two data sets side by side are named."""
    for split in ("train", "val"):
        write_split(tmp_path / "a" / "b" / split)
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "a" / "docs").mkdir()
    assert load(tmp_path / "a").notes == ("the data lie in b/",)
    (tmp_path / "a" / "docs").rmdir()
    assert load(tmp_path).notes == ("the data lie in a/b/",)
    assert load(tmp_path).fingerprint == load(tmp_path / "a" / "b").fingerprint
    write_split(tmp_path / "a" / "c" / "train")
    assert "holds 2 data sets (b/, c/); give one of them" in refusal(tmp_path / "a")


def test_without_a_validation_set_a_seeded_share_of_each_class_is_set_aside(tmp_path: Path) -> None:
    """The parts are disjoint and whole, each class gives its share, and the seed and the names alone decide."""
    write_split(tmp_path / "one" / "train", count=20)
    found = load(tmp_path / "one", val_split=0.2)
    assert (np.bincount(found.y_train).tolist(), np.bincount(found.y_val).tolist()) == ([16, 16], [4, 4])
    parts = [{image.tobytes() for image in x} for x in (found.x_train, found.x_val)]
    files = {np.asarray(Image.open(file)).tobytes() for file in (tmp_path / "one").rglob("*.png")}
    assert len(parts[1]) == 8
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == files
    assert found.notes[0].startswith("no validation set: 8 of 40 training images, 0.2 of each class drawn by seed 0")
    assert load(tmp_path / "one", val_split=0.2).fingerprint == found.fingerprint
    assert load(tmp_path / "one", val_split=0.2, seed=1).fingerprint != found.fingerprint
    assert len(load(tmp_path / "one").y_val) == 4
    (tmp_path / "one" / "train" / "cat" / "0.png").unlink()
    left = {image.tobytes() for image in load(tmp_path / "one", val_split=0.2).x_val}
    assert len(parts[1] & left) >= 7
    (tmp_path / "one" / "train").rename(tmp_path / "two")
    assert {image.tobytes() for image in load(tmp_path / "two", val_split=0.2).x_val} == left
    assert (
        load(tmp_path / "two").notes[0] == f"no train/ and no val/: the 2 folders of {tmp_path / 'two'} are the classes"
    )


def test_a_class_of_one_image_keeps_it_in_training(tmp_path: Path) -> None:
    """It is told that no validation image is of it; where no class has two there is no split."""
    write_split(tmp_path / "train")
    write_split(tmp_path / "train", classes=("owl",), count=1)
    assert "no validation image is of 1 of the 3 classes: owl" in load(tmp_path).notes
    (tmp_path / "few").mkdir()
    write_split(tmp_path / "few" / "train", count=1)
    assert "no class has two images" in refusal(tmp_path / "few")


def test_what_is_there_instead_is_told(tmp_path: Path) -> None:
    """No train/, or a folder beside train/ that might be a misspelt val/."""
    write_split(tmp_path / "vla")
    write_split(tmp_path / "train")
    assert "has no folder val/" in refusal(tmp_path)
    assert "this one holds train/, vla/; `proxy: {val_split: 0.1}`" in refusal(tmp_path)
    assert len(load(tmp_path, val_split=0.4).y_val) == 2
    (tmp_path / "train").rename(tmp_path / "images")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "vla").rename(tmp_path / "val")
    assert "has no folder train/; a folder holds train/CLASS/*" in refusal(tmp_path)
    assert "this one holds images/, val/ and 1 file" in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "this one holds nothing" in refusal(tmp_path / "empty")


def test_why_folders_are_no_classes_is_told(tmp_path: Path) -> None:
    """The first that holds nothing, another folder, or a file that is no image."""
    for name in ("a", "b", "c"):
        write_split(tmp_path / name)
    (tmp_path / "a" / "void").mkdir()
    folder = min((tmp_path / "b").iterdir())
    (folder / "2024").mkdir()
    file = min((tmp_path / "c").iterdir()) / "0 notes.txt"
    file.write_text("x")
    for name, odd in (
        ("a", "void/ holds no image"),
        ("b", f"{folder.name}/ holds 2024/, where images of one class would lie"),
        ("c", f"{file.parent.name}/0 notes.txt is no image that is read here"),
    ):
        line = refusal(tmp_path / name)
        assert f"has no folder train/, and {odd}; a folder holds" in line
        assert "or CLASS/* alone; this one holds" in line


@pytest.mark.parametrize("is_there", [True, False])
def test_a_validation_set_may_lack_a_class(tmp_path: Path, is_there: bool) -> None:
    """Its folder is missing, or empty but for litter; labels stay those of the training set."""
    write_split(tmp_path / "train", classes=("ant", "bee", "cat"))
    write_split(tmp_path / "val", classes=("ant", "cat"))
    if is_there:
        (tmp_path / "val" / "bee").mkdir()
        (tmp_path / "val" / "bee" / "Thumbs.db").write_bytes(b"")
    found = load(tmp_path)
    assert found.y_val.tolist() == [0, 0, 0, 2, 2, 2]
    assert found.notes[-1] == "no validation image is of 1 of the 3 classes: bee"
    assert load(tmp_path, val_images=2).y_val.tolist() == [0, 2]


def test_a_validation_set_of_empty_folders_is_refused(tmp_path: Path) -> None:
    """There is nothing to measure an accuracy on."""
    write_split(tmp_path / "train")
    (tmp_path / "val" / "cat").mkdir(parents=True)
    assert "val: holds no image; without this folder, a seeded share" in refusal(tmp_path)
    (tmp_path / "val" / "cat").rmdir()
    assert "val: is empty; without this folder, a seeded share" in refusal(tmp_path)
    (tmp_path / "val").rmdir()
    assert len(load(tmp_path).y_val) == 2


def test_litter_is_passed_over_and_counted_and_nothing_else_is(tmp_path: Path) -> None:
    """Files and folders of systems in every place, in any case; an unknown file is an error as before."""
    for split in ("train", "val"):
        write_split(tmp_path / split)
    clean = load(tmp_path)
    for place in (tmp_path, tmp_path / "train", tmp_path / "train" / "cat"):
        for name in ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", ".ipynb_checkpoints", "LOST.DIR"):
            (place / name / "cat").mkdir(parents=True)
            (place / name / "cat" / "._0.png").write_bytes(b"\0")
        for name in (
            "Thumbs.db",
            "desktop.ini",
            "DESKTOP.INI",
            ".DS_Store",
            "._0.png",
            "Icon\r",
            "0.png:Zone.Identifier",
        ):
            (place / name).write_bytes(b"\0")
    found = load(tmp_path)
    assert found.fingerprint == clean.fingerprint
    assert clean.notes == ()
    assert len(found.notes) == 1
    assert found.notes[0].startswith(
        "passed over what systems leave in folders, 39 in all: $RECYCLE.BIN 3, .DS_Store 3"
    )
    (tmp_path / "train" / "cat" / "Thumbs.txt").write_bytes(b"\0")
    assert "Thumbs.txt: not a readable image" in refusal(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_outside_of_the_class_folders_are_refused(tmp_path: Path, split: str) -> None:
    """By name or by content, with how many; a list or a licence is passed over and told."""
    for name in ("train", "val"):
        write_split(tmp_path / name)
    (tmp_path / split / "labels.csv").write_text("a,b")
    expected = f"passed over what lies outside of the class folders and is no image, 1 in all: {split}/labels.csv 1"
    assert load(tmp_path).notes == (expected,)
    Image.new("RGB", (8, 8)).save(tmp_path / split / "photo", format="PNG")
    assert f"{split}/photo: an image lies outside of the class folders" in refusal(tmp_path)
    (tmp_path / split / "broken.JPG").write_bytes(b"")
    assert f"{split}/broken.JPG: 2 images lie outside of the class folders" in refusal(tmp_path)


def test_images_beside_the_splits_are_told(tmp_path: Path) -> None:
    """A preview in the data's own folder is in no class; that it is left out is said."""
    for name in ("train", "val"):
        write_split(tmp_path / name)
    clean = load(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "preview.png")
    (tmp_path / "README.md").write_text("hello")
    found = load(tmp_path)
    assert found.notes == ("passed over 1 image that lies beside train/, in no class",)
    assert found.fingerprint == clean.fingerprint


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_both_forms_of_a_class_name_are_one_class(tmp_path: Path, forms: tuple[str, str]) -> None:
    """Composed in one split and decomposed in the other, called as in train/; both in one split is an error."""
    names = [unicodedata.normalize(form, "café") for form in forms]
    for split, name in zip(("train", "val"), names, strict=True):
        write_split(tmp_path / split, classes=("bee", name))
    found = load(tmp_path)
    assert found.class_names == ("bee", names[0])
    assert found.y_val.tolist() == [0, 0, 0, 1, 1, 1]
    other = unicodedata.normalize("NFD" if forms[0] == "NFC" else "NFC", "café")
    write_split(tmp_path / "train", classes=(other,))
    assert "two folders of this name, in two forms of Unicode" in refusal(tmp_path)


@pytest.mark.parametrize(("wrong", "near"), [("Cat", "cat"), ("dgo", "dog"), ("cat ", "cat"), ("zebra", "")])
def test_a_class_of_the_validation_set_alone_is_refused_with_the_nearest_name(
    tmp_path: Path, wrong: str, near: str
) -> None:
    """Another case, a slip of the finger, a blank; nothing is guessed where nothing is near."""
    write_split(tmp_path / "train")
    write_split(tmp_path / "val", classes=(wrong,))
    end = f" (did you mean {near}?)" if near else ""
    assert refusal(tmp_path).endswith(f"has no folder of that name in train/{end}")


def test_one_range_holds_for_all_images_of_a_set(tmp_path: Path) -> None:
    """12 bits in 16: each pixel is `value >> 4`, the darkest image's too; the range is told once."""
    rng = np.random.default_rng(0)
    expected = []
    for split in ("train", "val"):
        for k, name in enumerate(("a", "b")):
            (tmp_path / split / name).mkdir(parents=True)
            for i, high in enumerate((256, 1024, 4096)):
                values = rng.integers(0, high - k, (SIDE, SIDE)).astype(np.uint16)
                Image.fromarray(values).save(tmp_path / split / name / f"{i}.png")
                expected.append(values >> 4)
    found = load(tmp_path)
    assert np.array_equal(np.concatenate([found.x_train, found.x_val])[..., 0], expected)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("12 images have more than 8 bits a pixel: values from 0 to 4")
    assert found.notes[0].endswith("are taken as 12 bits")
    part = load(tmp_path, train_images=2, val_images=2)
    assert {image.tobytes() for image in part.x_train} <= {image.tobytes() for image in found.x_train}


def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries can be listed and not told apart."""
    for split in ("train", "val"):
        write_split(tmp_path / split)
    is_dir = Path.is_dir

    def refuse(path: Path) -> bool:
        if path.name == "cat":
            raise PermissionError(13, "Permission denied")
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert "cannot be read (Permission denied)" in refusal(tmp_path)
