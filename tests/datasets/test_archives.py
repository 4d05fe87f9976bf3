"""Arrays as people have them: names, layouts and types; and archives that were made to do harm."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from modscale.datasets import archives
from modscale.datasets.dataset import Dataset, load_dataset
from modscale.errors import DataError

SIDE = 8
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (9, SIDE, SIDE, 3), dtype=np.uint8)
Y = np.array([0, 1, 2] * 3)
PLAIN = {"x_train": X[:6], "y_train": Y[:6], "x_val": X[6:], "y_val": Y[6:]}


def load(file: Path, **keywords: object) -> Dataset:
    settings = {"resolution": SIDE, "train_images": None, "val_images": None, "seed": 0}
    return load_dataset(str(file), **settings | keywords)


def saved(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def refusal(file: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(file)
    text = str(caught.value)
    assert "\n" not in text
    assert "a.npz: " in text
    return text


@pytest.mark.parametrize(
    "keys",
    [
        ("X_train", "y_train", "X_val", "y_val"), ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels"), ("x_train", "y_train", "x_valid", "y_valid"),
        ("train_images", "train_labels", "test_images", "test_labels"), ("train_x", "train_y", "dev_x", "dev_y"),
        ("train_data", "train_labels", "eval_data", "eval_labels"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_common_names_are_the_plain_ones(tmp_path: Path, keys: tuple[str, ...]) -> None:
    """Keras's, MedMNIST's and others give the data of the plain names; a test set in place of another is told."""
    plain = load(saved(tmp_path, PLAIN))
    found = load(saved(tmp_path, dict(zip(keys, PLAIN.values(), strict=True))))
    assert found.fingerprint == plain.fingerprint
    assert plain.notes == ()
    assert found.notes == ((f"{keys[2]} is the validation set",) if "test" in keys[2] else ())


def test_a_validation_set_goes_before_a_test_set(tmp_path: Path) -> None:
    """The test set stays unseen; two arrays that mean the same are an error."""
    names = ("train_images", "train_labels", "val_images", "val_labels")
    arrays = dict(zip(names, PLAIN.values(), strict=True))
    arrays |= {"test_images": 255 - X[6:], "test_labels": Y[6:]}
    assert np.array_equal(load(saved(tmp_path, arrays)).x_val, X[6:])
    arrays |= {"train_x": X, "train_y": Y}
    assert "train_images and train_x could both be the images of the training set" in refusal(saved(tmp_path, arrays))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda y: y[:, None], ("0", "1", "2")),
        (lambda y: y.astype(np.float64), ("0", "1", "2")),
        (lambda y: np.array(["ant", "bee", "cafe\u0301"])[y], ("ant", "bee", "caf\u00e9")),
        (lambda y: np.array([b"ant", b"bee", "caf\u00e9".encode()])[y], ("ant", "bee", "caf\u00e9")),
        (lambda y: np.eye(3)[y], ("0", "1", "2")),
        (lambda y: np.eye(3, dtype=bool)[y], ("0", "1", "2")),
        (lambda y: y > 0, ("False", "True")),
        (lambda y: y.astype(np.uint8), ("0", "1", "2")),
    ],
)
def test_labels_of_common_layouts(tmp_path: Path, change, names: tuple[str, ...]) -> None:
    """A column, one-hot rows, whole floats, text of both kinds in one form of Unicode, bool."""
    arrays = PLAIN | {key: change(PLAIN[key]) for key in ("y_train", "y_val")}
    found = load(saved(tmp_path, arrays))
    assert found.class_names == names
    assert found.y_train.tolist() == np.minimum(PLAIN["y_train"], len(names) - 1).tolist()
    assert found.y_val.tolist() == np.minimum(PLAIN["y_val"], len(names) - 1).tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.uint16),
        lambda x: x.astype(np.uint16) << 8,
        lambda x: x.astype(np.float32),
        lambda x: (x / 255).astype(np.float32),
        lambda x: (x / 255).astype(">f8"),
        np.asfortranarray,
    ],
)
def test_images_of_common_types_are_the_same_bytes(tmp_path: Path, change) -> None:
    """Whole numbers of other types, floats from 0 to 1 and to 255, 16 bits, another order in memory."""
    found = load(saved(tmp_path, PLAIN | {key: change(PLAIN[key]) for key in ("x_train", "x_val")}))
    assert np.array_equal(found.x_train, PLAIN["x_train"])
    assert np.array_equal(found.x_val, PLAIN["x_val"])


def test_grey_without_channels_is_grey(tmp_path: Path) -> None:
    """[N, H, W] is [N, H, W, 1]."""
    grey = {key: value[..., 0] if value.ndim == 4 else value for key, value in PLAIN.items()}
    with_channel = {key: value[..., :1] if value.ndim == 4 else value for key, value in PLAIN.items()}
    assert load(saved(tmp_path, grey)).fingerprint == load(saved(tmp_path, with_channel)).fingerprint


def test_what_would_be_a_guess_is_refused(tmp_path: Path) -> None:
    """Channels first, floats of another range, labels that are fractions or of several columns, unknown text."""

    def refused(**changes: np.ndarray) -> str:
        return refusal(saved(tmp_path, PLAIN | changes))

    assert "`x.transpose(0, 2, 3, 1)` turns it, got (6, 3, 8, 8)" in refused(
        x_train=PLAIN["x_train"].transpose(0, 3, 1, 2)
    )
    for high in (1.5, 255.5):
        both = {key: (PLAIN[key] * (high / 255)).astype(np.float32) for key in ("x_train", "x_val")}
        assert "x_train: floats must lie from 0 to 1, or be whole numbers from 0 to 255, got" in refused(**both)
    holes = {key: np.where(PLAIN[key] == PLAIN[key].max(), np.nan, 0.5) for key in ("x_train", "x_val")}
    assert "floats must lie from 0 to 1" in refused(**holes)
    for several in (np.eye(6, 3), np.ones((6, 3)), np.full((6, 3), 1 / 3)):
        assert "y_train: of several columns must be one-hot" in refused(y_train=several)
    assert "y_train: must be one label an image, [6], or one-hot, [6, K], got (3, 6)" in refused(y_train=np.eye(3, 6))
    assert "y_val: must be text or numbers as y_train is" in refused(y_val=np.array(["a", "b", "c"]))
    text = np.array(["ant", "bee", "cat"])
    wrong = {"y_train": text[PLAIN["y_train"]], "y_val": np.array(["ant", "Bee", "cat"])}
    assert "y_val: has a label that y_train has not (did you mean bee?), got 'Bee'" in refused(**wrong)


@pytest.mark.parametrize("keys", [("x_train", "y_train"), ("images", "labels"), ("x", "y"), ("data", "target")])
def test_without_a_validation_set_a_seeded_share_is_set_aside(tmp_path: Path, keys: tuple[str, str]) -> None:
    """As with folders: of each class, disjoint, told; arrays of unknown names are told too."""
    file = saved(tmp_path, {keys[0]: X, keys[1]: Y, "x_extra": X})
    found = load(file)
    assert (len(found.y_train), sorted(found.y_val.tolist())) == (6, [0, 1, 2])
    parts = {image.tobytes() for image in found.x_train}, {image.tobytes() for image in found.x_val}
    assert parts[0] | parts[1] == {image.tobytes() for image in X}
    label_of = {image.tobytes(): label for image, label in zip(X, Y.tolist(), strict=True)}
    for x, y in ((found.x_train, found.y_train), (found.x_val, found.y_val)):
        assert [label_of[image.tobytes()] for image in x] == y.tolist()
    assert found.leaked == 0
    assert found.notes[0] == "left alone, for no name of theirs is known: x_extra"
    assert "3 of 9 training images, 0.1 of each class" in found.notes[1]
    assert load(file, seed=5).fingerprint != load(file).fingerprint == found.fingerprint


def header(shape: tuple[int, ...], descr: str = "|u1", *, prefix: bytes = b"\x93NUMPY\x01\x00") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return prefix + len(text).to_bytes(2, "little") + text


def test_shapes_are_judged_before_any_array_is_unpacked(tmp_path: Path) -> None:
    """60 MB of zeros in a few kilobytes, of a shape that is refused: no memory is taken for them."""
    np.savez_compressed(tmp_path / "a.npz", **PLAIN | {"x_train": np.zeros((60_000_000,), dtype=np.uint8)})
    tracemalloc.start()
    assert "x_train: must be [N, H, W, C]" in refusal(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_only_the_chosen_images_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive is read in blocks: a subset is the same rows whatever a block holds, and takes little memory."""
    rng = np.random.default_rng(1)
    arrays = {"x_train": rng.integers(0, 256, (400, 100, 100, 3), dtype=np.uint8), "y_train": np.arange(400) % 3}
    file = saved(tmp_path, arrays | {"x_val": arrays["x_train"][:9], "y_val": np.arange(9) % 3})
    whole = load(file, train_images=30, resolution=100)
    for image in whole.x_train:
        assert (arrays["x_train"] == image).all((1, 2, 3)).any()
    monkeypatch.setattr(archives, "BLOCK_BYTES", 70_000)
    tracemalloc.start()
    assert load(file, train_images=30, resolution=100).fingerprint == whole.fingerprint
    assert tracemalloc.get_traced_memory()[1] < 6_000_000
    tracemalloc.stop()


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that unpacks to hundreds of times its size, or to more than is read, or an image without end."""
    np.savez_compressed(tmp_path / "a.npz", **PLAIN | {"x_val": np.zeros((3, 700, 700, 3), dtype=np.uint8)})
    monkeypatch.setattr(archives, "BOMB_BYTES", 1_000_000)
    assert "a decompression bomb" in refusal(tmp_path / "a.npz")
    monkeypatch.setattr(archives, "MOST_BYTES", 1_000_000)
    assert "unpacks to 4411224 bytes; at most 1000000 are read" in refusal(tmp_path / "a.npz")
    monkeypatch.setattr(archives, "MAX_PIXELS", 63)
    assert "must have at most 63 pixels an image" in refusal(saved(tmp_path, PLAIN))


def test_entries_that_lie_or_repeat_are_refused(tmp_path: Path) -> None:
    """A header and a size that disagree, an entry that stands twice, Python objects, negative lengths, records."""
    file = tmp_path / "a.npz"

    def refused(*entries: tuple[str, bytes]) -> str:
        with zipfile.ZipFile(file, "w") as archive:
            for key, value in PLAIN.items():
                if key not in dict(entries):
                    stream = io.BytesIO()
                    np.save(stream, value)
                    archive.writestr(f"{key}.npy", stream.getvalue())
            for key, content in entries:
                archive.writestr(f"{key}.npy", content)
        return refusal(file)

    short = header((6, 8, 8, 3)) + b"\0" * 100
    assert "x_train: cannot be read: its header promises 1152 bytes, the archive 100" in refused(("x_train", short))
    assert "the archive 2000" in refused(("x_train", header((6, 8, 8, 3)) + b"\0" * 2000))
    assert "x_train: cannot be read: it holds Python objects" in refused(("x_train", header((6,), "|O")))
    assert "x_train: cannot be read" in refused(("x_train", header((-6, 8, 8, -3)) + b"\0" * 1152))
    assert "x_train: cannot be read" in refused(("x_train", header((6,), prefix=b"\x93NUMPY\x03\x00")))
    assert "x_train: cannot be read" in refused(("x_train", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535))
    with pytest.warns(UserWarning, match="Duplicate name"):
        assert "x_train: stands 2 times in the archive" in refused(("x_train", short), ("x_train", short))
