"""The proxy training: seeded, deterministic, scored on held-out images, and honest when it fails."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from modscale.datasets.dataset import Dataset
from modscale.errors import InputError, ProviderError, TrialFailed
from modscale.models.efficientmod import EfficientMod
from modscale.settings import ProxySettings, parse_proxy
from modscale.specs.block_kinds import BLOCKS
from modscale.specs.spec import ModelSpec, StageSpec, StemSpec
from modscale.training import proxy
from modscale.training.proxy import train_proxy, train_to_rungs
from modscale.training.proxy_data import ProxyData, prepare, resolve_device
from modscale.training.slices import Slices

SETTINGS = ProxySettings(resolution=16, epochs=2, batch_size=8, device="cpu", threads=1)


def small_spec(block: str = "modulation", **changes: object) -> ModelSpec:
    stages = (StageSpec(dim=8, depth=1, block=block), StageSpec(dim=16, depth=1, block=block, attention_depth=1))
    return replace(ModelSpec(stages=stages), **changes)


def two_colours(*, train: int = 64, val: int = 40, channels: int = 3, side: int = 16) -> Dataset:
    """Dark and bright noise: a task that any sound training solves."""
    rng = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(count, dtype=np.int64) % 2
        x = rng.integers(0, 128, (count, side, side, channels)) + 127 * y[:, None, None, None]
        return x.astype(np.uint8), y

    x_train, y_train = split(train)
    x_val, y_val = split(val)
    return Dataset(
        name="two", class_names=("dark", "bright"), x_train=x_train, y_train=y_train, x_val=x_val, y_val=y_val,
        fingerprint="", leaked=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data() -> ProxyData:
    return prepare(two_colours(), SETTINGS)


def same_but_time(a: proxy.ProxyResult, b: proxy.ProxyResult) -> bool:
    return replace(a, seconds=0) == replace(b, seconds=0)


def test_learns_what_can_be_learned(data: ProxyData) -> None:
    """A task that brightness solves is solved, and the result's figures fit together."""
    result = train_proxy(small_spec(), data, replace(SETTINGS, epochs=4), seed=0)
    assert result.accuracy > 0.9
    assert result.accuracy == result.correct / result.val_images
    assert (result.val_images, result.steps) == (40, 4 * 64 // 8)
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    assert len(result.epoch_losses) == 4


def test_accuracy_is_measured_on_held_out_images() -> None:
    """Validation labels turned about turn the score about: it comes from them and from nothing in training."""
    dataset = two_colours()
    settings = replace(SETTINGS, epochs=4)
    right = train_proxy(small_spec(), prepare(dataset, settings), settings, seed=0)
    turned = replace(dataset, y_val=1 - dataset.y_val)
    wrong = train_proxy(small_spec(), prepare(turned, settings), settings, seed=0)
    assert wrong.correct == right.val_images - right.correct
    assert wrong.epoch_losses == right.epoch_losses


@pytest.mark.parametrize("threads", [1, 2])
def test_same_seed_same_result_to_the_bit(data: ProxyData, threads: int) -> None:
    """Drop path, flips, order and weights all follow the seed, whatever the global state; another seed differs."""
    spec = small_spec(drop_path_rate=0.2)
    settings = replace(SETTINGS, threads=threads)
    torch.manual_seed(1)
    first = train_proxy(spec, data, settings, seed=7)
    torch.manual_seed(2)
    again = train_proxy(spec, data, settings, seed=7)
    other = train_proxy(spec, data, settings, seed=8)
    assert same_but_time(first, again)
    assert first.epoch_losses != other.epoch_losses


def test_global_state_is_left_as_it_was(data: ProxyData) -> None:
    """The random state and the number of threads are the caller's."""
    torch.manual_seed(3)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train_proxy(small_spec(drop_path_rate=0.2), data, replace(SETTINGS, threads=threads + 1), seed=7)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("block", ["modulation", "mbconv"])
def test_rungs_leave_the_end_as_it_is(data: ProxyData, block: str) -> None:
    """To the bit, with drop path and BatchNorm, whatever is drawn while it waits; rungs lie within epochs too."""
    spec = small_spec(block, drop_path_rate=0.2)
    settings = replace(SETTINGS, threads=2)
    expected = train_proxy(spec, data, settings, seed=7)
    threads, results = torch.get_num_threads(), []
    for result in train_to_rungs(spec, data, settings, seed=7, rungs=(0.2, 0.5, 0.7, 1.0)):
        results.append(result)
        torch.manual_seed(len(results))
        state = torch.random.get_rng_state()
        assert torch.get_num_threads() == threads
        assert torch.equal(state, torch.random.get_rng_state())
    assert [result.steps for result in results] == [3, 8, 11, 16]
    assert [len(result.epoch_losses) for result in results] == [1, 1, 2, 2]
    assert same_but_time(results[-1], expected)
    assert results[0].seconds < results[1].seconds < results[-1].seconds


def test_a_rung_is_a_training_that_was_cut_off(data: ProxyData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rate is the same all along, half of four epochs is two epochs."""
    monkeypatch.setattr(proxy.recipe, "learning_rate_factor", lambda *_: 0.1)
    spec = small_spec(drop_path_rate=0.2)
    halfway = next(train_to_rungs(spec, data, replace(SETTINGS, epochs=4), seed=3, rungs=(0.5, 1.0)))
    assert same_but_time(halfway, train_proxy(spec, data, SETTINGS, seed=3))


def test_more_rungs_than_steps_are_all_reached() -> None:
    """Two steps and five rungs: what stands after the first step, then after the second."""
    tiny = prepare(two_colours(train=8, val=40), SETTINGS)
    results = list(train_to_rungs(small_spec(), tiny, SETTINGS, seed=0, rungs=(0.01, 0.5, 0.7, 0.9, 1.0)))
    assert [result.steps for result in results] == [1, 1, 1, 2, 2]
    assert same_but_time(results[0], results[1])
    assert results[-1].val_loss != results[0].val_loss


def test_held_out_loss_is_the_mean_cross_entropy(data: ProxyData) -> None:
    """By its definition in double precision, over batches of unequal size."""
    many = replace(data, x_val=data.x_val.repeat(7, 1, 1, 1), y_val=data.y_val.repeat(7))
    spec = proxy.proxy_spec(small_spec(), data, SETTINGS)
    network = EfficientMod(spec)
    with Slices(network, spec, items=8, threads=2) as slices:
        found = proxy._evaluate(network, many, slices)
    logits = network(many.normalise(many.x_val)).detach().double().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = -np.log(shares[np.arange(280), many.y_val.numpy()])
    assert found.val_loss == pytest.approx(losses.mean(), abs=1e-6)
    assert found.val_loss_error == pytest.approx(losses.std() / 280**0.5, abs=1e-6)
    assert found.correct == (logits.argmax(1) == many.y_val.numpy()).sum()


def test_divergence_is_seen_at_a_rung(data: ProxyData) -> None:
    """Before the epoch has ended."""
    broken = replace(data, mean=data.mean * math.nan)
    with pytest.raises(TrialFailed, match="training diverged: the loss is not finite in epoch 1"):
        next(train_to_rungs(small_spec(), broken, SETTINGS, seed=0, rungs=(0.1, 1.0)))


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_trains(data: ProxyData, block: str) -> None:
    """BatchNorm's blocks too, with a batch that does not divide the images and would leave a last one of size 1."""
    result = train_proxy(small_spec(block), data, replace(SETTINGS, batch_size=21), seed=0)
    assert math.isfinite(result.train_loss)
    assert result.steps == 2 * 3


def test_batch_larger_than_the_data_takes_all_of_it() -> None:
    """Three images and a batch of 32: one step an epoch."""
    tiny = prepare(two_colours(train=3, val=2), SETTINGS)
    result = train_proxy(small_spec("mbconv"), tiny, replace(SETTINGS, batch_size=32), seed=0)
    assert result.steps == 2


def test_one_channel_trains() -> None:
    """Grey images make a network of one input channel."""
    grey = prepare(two_colours(channels=1), SETTINGS)
    assert grey.x_train.shape == (64, 1, 16, 16)
    assert train_proxy(small_spec(), grey, SETTINGS, seed=0).val_images == 40


def test_training_images_are_normalised_and_validation_alike() -> None:
    """Zero mean and unit deviation a channel over the training images; validation by the same figures."""
    dataset = two_colours()
    data = prepare(dataset, SETTINGS)
    x_train = data.normalise(data.x_train)
    assert torch.allclose(x_train.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(x_train.std((0, 2, 3)), torch.ones(3), atol=1e-4)
    pixels = dataset.x_train.reshape(-1, 3).astype(np.float64)
    expected = (dataset.x_val - pixels.mean(0)) / pixels.std(0, ddof=1)
    assert np.abs(data.normalise(data.x_val).numpy().transpose(0, 2, 3, 1) - expected).max() < 1e-4


def test_constant_images_stay_finite() -> None:
    """A channel without variation divides by nothing."""
    dataset = two_colours()
    flat = prepare(replace(dataset, x_train=np.zeros_like(dataset.x_train)), SETTINGS)
    assert flat.normalise(flat.x_train).abs().max() == 0
    assert flat.normalise(flat.x_val).isfinite().all()


def test_layer_scale_of_the_proxy_replaces_the_specs(data: ProxyData) -> None:
    """A spec with LayerScale starts at the proxy's value; a spec without it stays without."""
    assert proxy.proxy_spec(small_spec(), data, SETTINGS).layer_scale == SETTINGS.layer_scale
    assert proxy.proxy_spec(small_spec(layer_scale=None), data, SETTINGS).layer_scale is None
    small = proxy.proxy_spec(small_spec(resolution=224, num_classes=1000), data, SETTINGS)
    assert (small.resolution, small.in_chans, small.num_classes) == (16, 3, 2)


def test_divergence_is_the_trials_failure(data: ProxyData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite ends the trial with its reason."""
    broken = replace(data, mean=data.mean * math.nan)
    with pytest.raises(TrialFailed, match="training diverged: the loss is not finite in epoch 1"):
        train_proxy(small_spec(), broken, SETTINGS, seed=0)

    def blow_up(network: EfficientMod, *_: object) -> Iterator[list[torch.Tensor]]:
        torch.nn.init.constant_(network.head.weight, math.inf)
        yield [torch.zeros(1)]

    monkeypatch.setattr(proxy, "_train", blow_up)
    with pytest.raises(TrialFailed, match="training diverged: the logits are not finite"):
        train_proxy(small_spec(), data, SETTINGS, seed=0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_is_the_trials_failure(
    data: ProxyData, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whichever way memory ends, the search can go on; threads are put back."""
    threads = torch.get_num_threads()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(proxy, "_train", fail)
    with pytest.raises(TrialFailed, match="out of memory"):
        train_proxy(small_spec(), data, replace(SETTINGS, threads=threads + 1), seed=0)
    assert torch.get_num_threads() == threads


def test_real_allocation_failure_is_recognised(data: ProxyData) -> None:
    """torch's own words for a CPU allocation that cannot be met."""
    failure = TrialFailed("out of memory in this test")
    with pytest.raises(TrialFailed, match="out of memory in this test"), proxy.out_of_memory_as(failure):
        torch.empty(2**48)


def test_other_faults_are_not_hidden(data: ProxyData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours is no reason of a candidate's."""

    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(proxy, "_train", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        train_proxy(small_spec(), data, SETTINGS, seed=0)


def test_stem_that_does_not_fit_is_the_trials_failure(data: ProxyData) -> None:
    """A patch stem made for 224 px cannot see a 16 px image."""
    with pytest.raises(TrialFailed, match="32 px kernel does not fit the proxy's 16 px images"):
        train_proxy(small_spec(stem=StemSpec(kernel_size=32, stride=32)), data, SETTINGS, seed=0)


def test_missing_cuda_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda` without a device is an error that says so; `auto` falls to the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ProviderError, match=r"proxy\.device: no CUDA device"):
        resolve_device(replace(SETTINGS, device="cuda"))
    assert resolve_device(replace(SETTINGS, device="auto")).type == "cpu"


def test_kernels_learn_what_torch_learns(data: ProxyData) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    by_torch = train_proxy(small_spec(), data, SETTINGS, seed=0)
    one, other = (train_proxy(small_spec(), data, replace(SETTINGS, kernels="numba"), seed=0) for _ in range(2))
    assert same_but_time(one, other)
    assert not same_but_time(one, by_torch)
    assert one.val_loss == pytest.approx(by_torch.val_loss, rel=1e-4)


def test_absent_numba_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modscale.settings.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"proxy\.kernels: needs Numba, .* pip install 'modscale\[numba\]'"):
        prepare(two_colours(), replace(SETTINGS, kernels="numba"))


def test_flip_mirrors_about_half_of_the_images() -> None:
    """Each image is itself or its mirror image, a mask goes with it, and only where the settings say so."""
    images = torch.arange(200 * 4.0).reshape(200, 1, 1, 4)
    flipped, masks = proxy._flip(images, images[:, 0].long(), torch.Generator().manual_seed(0))
    assert torch.equal(flipped[:, 0].long(), masks)
    mirrored = (flipped == images.flip(3)).all(3).flatten()
    assert ((flipped == images).all(3).flatten() ^ mirrored).all()
    assert 70 < mirrored.sum() < 130
    section = parse_proxy({"flip": False, "batch_size": 2}, "proxy")
    assert (section.flip, section.batch_size) == (False, 2)
    with pytest.raises(InputError, match=r"proxy\.flip: must be true or false, got 'no'"):
        parse_proxy({"flip": "no"}, "proxy")
    with pytest.raises(InputError, match=r"proxy\.batch_size: must be 2 or more, got 1"):
        parse_proxy({"batch_size": 1}, "proxy")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trains_on_cuda() -> None:
    """The same training on the GPU."""
    settings = replace(SETTINGS, epochs=4, device="cuda")
    assert train_proxy(small_spec(), prepare(two_colours(), settings), settings, seed=0).accuracy > 0.9
