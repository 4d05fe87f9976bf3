"""Data sets from folders, archives and the generator; every way in which they can be broken."""

import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modscale.datasets import folders
from modscale.datasets.dataset import Dataset, balanced_subset, count_leaked, digests, load_dataset
from modscale.errors import DataError

SIDE = 8


def load(
    source: Path | str, *, resolution: int = SIDE, train: int | None = None, val: int | None = None, seed: int = 0
):
    return load_dataset(str(source), resolution=resolution, train_images=train, val_images=val, seed=seed)


def write_folder(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), train: int = 3, val: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return root


def arrays(*, channels: int = 3, side: int = SIDE) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (6, side, side, channels), dtype=np.uint8),
        "y_train": np.array([5, 5, 7, 7, 7, 5]),
        "x_val": rng.integers(0, 256, (2, side, side, channels), dtype=np.uint8),
        "y_val": np.array([7, 5]),
    }


def assert_refused(source: Path | str, *parts: str) -> None:
    """The load ends in one line that holds every part."""
    with pytest.raises(DataError) as caught:
        load(source)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_folder_gives_the_pixels_of_its_files(tmp_path: Path) -> None:
    """Images of the asked size arrive unchanged, in the order of classes and files, labelled by class."""
    root = write_folder(tmp_path)
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"\0")
    (root / "train" / "cat" / "._0.png").write_bytes(b"\0")
    found = load(root)
    assert found.class_names == ("cat", "dog")
    assert found.y_train.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.y_val.tolist() == [0, 0, 1, 1]
    expected = np.asarray(Image.open(root / "train" / "dog" / "2.png"))
    assert np.array_equal(found.x_train[5], expected)
    assert found.x_train.dtype == np.uint8
    assert found.leaked == 0


def test_archive_gives_its_arrays(tmp_path: Path) -> None:
    """Any whole-number labels become 0 to K - 1 with their values as names; grey images stay of one channel."""
    for channels in (1, 3):
        raw = arrays(channels=channels)
        np.savez(tmp_path / "a.npz", **raw)
        found = load(tmp_path / "a.npz")
        assert np.array_equal(found.x_train, raw["x_train"])
        assert np.array_equal(found.x_val, raw["x_val"])
        assert found.y_train.tolist() == [0, 0, 1, 1, 1, 0]
        assert found.y_val.tolist() == [1, 0]
        assert found.class_names == ("5", "7")
        assert load(tmp_path / "a.npz", resolution=4).x_train.shape == (6, 4, 4, channels)


def test_subset_is_balanced_seeded_and_within_the_cap() -> None:
    """Each class gives the same number; a small class gives all, and the others fill its place."""
    labels = np.array([0] * 50 + [1] * 3 + [2] * 50)
    chosen = balanced_subset(labels, 30, 3, np.random.default_rng(1))
    counts = np.bincount(labels[chosen]).tolist()
    assert counts[1] == 3
    assert sorted(counts) == [3, 13, 14]
    assert len(set(chosen.tolist())) == 30
    again = balanced_subset(labels, 30, 3, np.random.default_rng(1))
    other = balanced_subset(labels, 30, 3, np.random.default_rng(2))
    assert chosen.tolist() == again.tolist() != other.tolist()
    assert len(balanced_subset(labels, None, 3, np.random.default_rng(1))) == 103
    with pytest.raises(DataError, match="at least one image a class, 3 in all, but the cap is 2"):
        balanced_subset(labels, 2, 3, np.random.default_rng(1))


def test_caps_reach_folder_and_archive(tmp_path: Path) -> None:
    """`train_images` and `val_images` hold for both, and the subset follows the seed."""
    root = write_folder(tmp_path / "folder", train=6, val=4)
    found = load(root, train=4, val=2)
    assert (np.bincount(found.y_train).tolist(), np.bincount(found.y_val).tolist()) == ([2, 2], [1, 1])
    np.savez(tmp_path / "a.npz", **arrays())
    assert np.bincount(load(tmp_path / "a.npz", train=4).y_train).tolist() == [2, 2]
    prints = {load(root, train=4, seed=seed).fingerprint for seed in range(5)}
    assert len(prints) > 1
    assert load(root, train=4, seed=3).fingerprint == load(root, train=4, seed=3).fingerprint


def test_only_the_chosen_images_of_a_large_folder_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set beyond `DECODE_ALL_BYTES` is read in part; a small one is read whole, so that broken files are found."""
    root = write_folder(tmp_path, train=6)
    seen = []
    original = folders.read_image
    monkeypatch.setattr(folders, "read_image", lambda file, *a, **k: seen.append(file) or original(file, *a, **k))
    load(root, train=2, val=2)
    assert len(seen) == 16
    seen.clear()
    monkeypatch.setattr(folders, "DECODE_ALL_BYTES", 100)
    load(root, train=2, val=2)
    assert len(seen) == 4


def test_images_shared_by_training_and_validation_are_counted(tmp_path: Path) -> None:
    """An exact copy in val/ is reported, however it is stored."""
    root = write_folder(tmp_path)
    Image.open(root / "train" / "dog" / "1.png").save(root / "val" / "dog" / "copy.bmp")
    found = load(root)
    assert found.leaked == 1
    assert found.notes[0].startswith("1 of 5 validation images stand in the training set too")
    x = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    assert count_leaked(digests(x), digests(x[[2, 2]])) == 2
    assert count_leaked(digests(x), digests(x + 100)) == 0


def test_fingerprint_tells_data_apart(tmp_path: Path) -> None:
    """One pixel, one label or one class name changes it; loading twice does not."""
    raw = arrays()

    def fingerprint() -> str:
        np.savez(tmp_path / "a.npz", **raw)
        return load(tmp_path / "a.npz").fingerprint

    prints = [fingerprint(), fingerprint()]
    assert prints[0] == prints[1]
    raw["x_val"][0, 0, 0, 0] ^= 1
    prints.append(fingerprint())
    raw["y_val"][0] = 5
    prints.append(fingerprint())
    raw["y_train"][raw["y_train"] == 7] = 8
    raw["y_val"][raw["y_val"] == 7] = 8
    prints.append(fingerprint())
    assert len(set(prints)) == 4


def test_training_images_that_are_left_over_are_held_out_too(tmp_path: Path) -> None:
    """Up to the cap on validation images, evenly over the classes, none of them trained on; without a cap, none."""
    root = write_folder(tmp_path, train=5, val=1)
    found = load(root, train=4, val=6)
    assert sorted(found.y_val.tolist()) == [0, 0, 0, 1, 1, 1]
    assert sorted(found.y_train.tolist()) == [0, 0, 1, 1]
    assert found.leaked == 0
    assert found.notes == ("4 training images that are not trained on are held out too: 6 validation images",)
    assert len(load(root, train=4, val=2).y_val) == len(load(root, train=4).y_val) == 2
    assert len(load(root, val=6).y_val) == 2
    assert load(root, train=4, val=6).fingerprint == found.fingerprint


def test_synthetic_is_capped_and_named() -> None:
    """The generated set has the numbers asked for and both its shares of each class."""
    found = load("synthetic", resolution=16, train=40, val=20)
    assert isinstance(found, Dataset)
    assert found.x_train.shape == (40, 16, 16, 3)
    assert np.bincount(found.y_train).tolist() == [2] * found.num_classes
    assert np.bincount(found.y_val).tolist() == [1] * found.num_classes


def test_folder_that_breaks_a_rule_is_refused(tmp_path: Path) -> None:
    """Whatever is missing or out of place is named."""
    assert_refused(tmp_path / "nowhere", "nowhere", "no such file or folder")
    file = tmp_path / "data.csv"
    file.write_text("1,2")
    assert_refused(file, "data.csv", "must be `synthetic`")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(empty, "empty", "has no folder train/")
    (empty / "train" / "a").mkdir(parents=True)
    (empty / "labels").mkdir()
    assert_refused(empty, "empty", "has no folder val/", "this one holds labels/, train/", "val_split: 0.1")
    (empty / "val").mkdir()
    assert_refused(empty, "val", "is empty")
    (empty / "val" / "a").mkdir()
    assert_refused(empty, "train", "needs at least two classes")
    lonely = write_folder(tmp_path / "lonely")
    (lonely / "val" / "owl").mkdir()
    assert_refused(lonely, "owl", "no folder of that name in train/")
    (lonely / "val" / "owl").rename(lonely / "train" / "owl")
    assert_refused(lonely, "owl", "a class without images")
    nested = write_folder(tmp_path / "nested")
    (nested / "val" / "cat" / "images").mkdir()
    assert_refused(nested, "images", "a folder inside a class")


@pytest.mark.parametrize("name", ["notes.txt", "empty.png", "cut.png", "cut.jpg", "cut.gif", "wrong.png", "float.tif"])
def test_file_that_is_no_image_is_named(tmp_path: Path, name: str) -> None:
    """Text, an empty file, a truncated image, and garbage behind a true header are all one line with the file."""
    root = write_folder(tmp_path)
    broken = root / "val" / "dog" / name
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    if name.startswith("cut"):
        Image.fromarray(noise).save(buffer, format={"png": "PNG", "jpg": "JPEG", "gif": "GIF"}[name[-3:]])
        broken.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    elif name == "wrong.png":
        Image.fromarray(noise).save(buffer, format="PNG")
        broken.write_bytes(buffer.getvalue()[:40] + b"\xff" * 2000)
    elif name == "float.tif":
        Image.fromarray(noise[..., 0].astype(np.float32)).save(broken)
    else:
        broken.write_bytes(b"not an image" if name == "notes.txt" else b"")
    assert_refused(root, str(broken))


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that claims too many pixels is refused before they are decoded, with Pillow's limit or ours."""
    root = write_folder(tmp_path)
    Image.new("1", (12_000, 12_000)).save(root / "train" / "cat" / "bomb.png")
    assert_refused(root, "bomb.png", "12000x12000")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    assert_refused(root, "bomb.png")


def test_archive_that_breaks_a_rule_is_refused(tmp_path: Path) -> None:
    """Missing keys, wrong types and shapes, labels out of step, strange labels, and pickled objects."""
    file = tmp_path / "a.npz"

    def refused(*parts: str, **changes: object) -> None:
        np.savez(file, **{key: value for key, value in {**arrays(), **changes}.items() if value is not None})
        assert_refused(file, "a.npz", *parts)

    refused("y_val", "is missing", y_val=None)
    refused("x_train", "must be uint8", x_train=arrays()["x_train"].astype(np.complex64))
    refused("x_train", "[N, H, W, C]", x_train=arrays()["x_train"][:, 0, :, 0])
    refused("x_val", "as many channels", x_train=arrays()["x_train"][..., 0])
    refused("x_val", "of the type of x_train, float32", x_train=arrays()["x_train"].astype(np.float32))
    refused("x_train", "[N, H, W, C]", x_train=arrays()["x_train"].transpose(0, 3, 1, 2))
    refused("x_val", "[N, H, W, C]", x_val=arrays()["x_val"][:0], y_val=arrays()["y_val"][:0])
    refused("x_val", "as many channels", x_val=arrays()["x_val"][..., :1])
    refused("y_train", "whole numbers", y_train=np.linspace(0, 1, 6))
    refused("y_train", "one label an image", y_train=np.arange(5))
    refused("y_val", "has a label that y_train has not, got 9", y_val=np.array([7, 9]))
    refused("y_train", "at least two classes", y_train=np.full(6, 5))
    refused("x_train", "cannot be read", x_train=np.array([{}] * 6, dtype=object))


def test_archive_that_is_damaged_is_refused(tmp_path: Path) -> None:
    """A truncated zip, garbage, a bare .npy, a broken member, and a header that claims more than memory holds."""
    file = tmp_path / "a.npz"
    np.savez(file, **arrays())
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert_refused(file, "a.npz", "not a readable .npz")
    file.write_bytes(b"garbage")
    assert_refused(file, "a.npz", "not a readable .npz")
    file.write_bytes(b"")
    assert_refused(file, "a.npz", "not a readable .npz")
    with file.open("wb") as stream:
        np.save(stream, arrays()["x_train"])
    assert_refused(file, "a.npz", "not a readable .npz archive of named arrays")
    file.write_bytes(whole[:300] + b"\0" * 50 + whole[350:])
    assert_refused(file, "a.npz", "x_train", "cannot be read")
    with zipfile.ZipFile(file, "w") as archive:
        for key in arrays():
            header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000000000000,), }"
            archive.writestr(f"{key}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert_refused(file, "a.npz", "x_train", "cannot be read")


def test_cap_below_the_number_of_classes_is_refused(tmp_path: Path) -> None:
    """The message says which split, how many classes and the cap."""
    root = write_folder(tmp_path)
    with pytest.raises(DataError, match="train: needs at least one image a class, 2 in all, but the cap is 1"):
        load(root, train=1)


def test_pipes_are_refused_at_once(tmp_path: Path) -> None:
    """A pipe in place of an archive or of an image might never end."""
    os.mkfifo(tmp_path / "a.npz")
    assert_refused(tmp_path / "a.npz", "a.npz", "must be `synthetic`")
    root = write_folder(tmp_path / "images")
    os.mkfifo(root / "train" / "cat" / "9.png")
    assert_refused(root, "9.png", "must be a plain file")


def test_generated_images_are_at_least_one_a_class() -> None:
    """As it is with a folder: a cap below the number of classes is refused."""
    with pytest.raises(DataError, match="needs at least one image a class, 20 in all, but the cap is 3"):
        load_dataset("synthetic", resolution=16, train_images=3, val_images=40, seed=0)


def test_images_that_tell_no_class_from_another_are_refused(tmp_path: Path) -> None:
    """All the same, or the same ones in every class; one image that differs is enough to go on, and is told."""
    same = np.repeat(arrays()["x_train"][:1], 6, axis=0)
    file = tmp_path / "a.npz"
    np.savez(file, **arrays() | {"x_train": same})
    assert_refused(file, "a.npz: the 6 training images are all the same image: nothing can be learnt from them")
    pair = arrays()["x_train"][:2]
    np.savez(
        file, **arrays() | {"x_train": np.concatenate([pair, pair, pair]), "y_train": np.array([5, 5, 7, 7, 5, 5])}
    )
    assert_refused(file, "the 6 training images are the same ones in every class")
    np.savez(file, **arrays() | {"x_val": same[:2]})
    assert_refused(file, "the 2 validation images are all the same image")
    other = arrays()["x_train"]
    np.savez(file, **arrays() | {"x_train": np.concatenate([same[:5], other[5:]])})
    assert load(file).notes == (
        "4 of 6 training images are repetitions of others, pixel for pixel",
        "1 training image stands in more than one class",
        "all training images of a class are the same image in 1 classes: 7",
    )


def test_images_that_are_nearly_black_are_told(tmp_path: Path) -> None:
    """As of values 0 to 5 in bytes; a dark photograph is not."""
    dark = arrays()
    dark |= {key: dark[key] % 6 for key in ("x_train", "x_val")}
    np.savez(tmp_path / "a.npz", **dark)
    assert load(tmp_path / "a.npz").notes == ("the training images are nearly black: 0 of 1152 values reach 16 of 255",)
    dark |= {key: dark[key] * 4 for key in ("x_train", "x_val")}
    np.savez(tmp_path / "a.npz", **dark)
    assert load(tmp_path / "a.npz").notes == ()


def test_more_images_than_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what they take, what there is, and what to lower."""
    np.savez(tmp_path / "a.npz", **arrays())
    monkeypatch.setattr(os, "sysconf", lambda name: 40 if name == "SC_PAGE_SIZE" else 30)
    assert_refused(tmp_path / "a.npz", "8 images at 8 px take 1536 bytes, and 1200 are there for this process; lower")


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    """What was given in place of data is told, and which command takes it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("modscale: x\n")
    (tmp_path / "space.yaml").write_text("stages: [{dim: [8, 16], depth: 1}]\nconstraints: {}\n")
    for name, told in (("run", "is a run's folder; `modscale report` takes it"), ("space.yaml", "is a search space; ")):
        with pytest.raises(DataError, match=re.escape(f"{tmp_path / name}: {told}")):
            load_dataset(str(tmp_path / name), resolution=8, train_images=None, val_images=None, seed=0)
