"""A step in slices: the whole batch's gradients, the same bits in any number of threads, and no fault swallowed."""

from __future__ import annotations

import _thread
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import make_job
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.datasets.dataset import Dataset
from modscale.errors import TrialFailed
from modscale.models.efficientmod import build_network
from modscale.settings import ProxySettings
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec, StageSpec, parse_spec
from modscale.training import proxy, slices
from modscale.training.full import FullTraining
from modscale.training.job import LAST_FILE
from modscale.training.proxy import train_proxy
from modscale.training.proxy_data import prepare
from modscale.training.slices import Slices, is_separable, slice_rows

ITEMS = 11
SPEC = parse_spec(
    {
        "name": "tiny", "resolution": 16, "drop_path_rate": 0.5, "num_classes": 4, "layer_scale": 0.1,
        "stages": [{"dim": 8, "depth": 2, "mlp_ratios": [2, 1]}, {"dim": 16, "depth": 1, "attention_depth": 1}],
    }
)  # fmt: skip


@pytest.fixture
def finely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of three items at most, however small the network."""
    monkeypatch.setattr(slices, "WORTH_MACS", 0.0)
    monkeypatch.setattr(slices, "MOST_ITEMS", 3)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ITEMS, 3, 16, 16, generator=generator), torch.arange(ITEMS) % 4


def learnt(spec: ModelSpec, threads: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a step by slices; what is dropped follows the global state."""
    network = build_network(spec, seed=1).train()
    images, labels = batch()
    torch.manual_seed(5)
    with Slices(network, spec, items=ITEMS, threads=threads) as found:
        assert len(found.rows) == 4
        loss = found.learn(lambda rows: F.cross_entropy(network(images[rows]), labels[rows], label_smoothing=0.1))
    return loss, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("finely")
@pytest.mark.parametrize("block", ["modulation", "separate_mlp", "focal"])
def test_loss_and_gradients_are_those_of_the_whole_batch(block: str) -> None:
    """torch's own, of the batch at once, with the same paths dropped; slices of unequal size."""
    spec = replace(SPEC, stages=(replace(SPEC.stages[0], block=block), *SPEC.stages[1:]))
    network = build_network(spec, seed=1).train()
    images, labels = batch()
    torch.manual_seed(5)
    whole = F.cross_entropy(network(images), labels, label_smoothing=0.1)
    whole.backward()
    state = torch.get_rng_state()
    loss, gradients = learnt(spec, threads=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(loss, whole.detach(), rtol=0, atol=1e-6)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert gradients[name].stride() == parameter.stride()
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-6)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values())


@pytest.mark.usefixtures("finely")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    """One, fewer than there are slices, as many; five times, for threads come in another order each time."""
    loss, gradients = learnt(SPEC, threads=1)
    for threads in (2, 3, 4, 2, 3):
        again, others = learnt(SPEC, threads)
        assert torch.equal(loss, again)
        assert all(torch.equal(gradients[name], others[name]) for name in gradients)


def test_two_parameters_may_have_one_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives both addends the same tensor; it must not be added up twice. By hand: the mean of 0 to 10."""
    monkeypatch.setattr(slices, "slice_rows", lambda *_: (slice(0, 4), slice(4, 8), slice(8, 11)))
    network = nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    x = torch.arange(11.0)
    with Slices(network, SPEC, items=11, threads=2) as found:
        found.learn(lambda rows: ((network[0] + network[1]) * x[rows]).mean())
    assert [round(float(parameter.grad), 5) for parameter in network] == [5.0, 5.0]


@pytest.mark.usefixtures("finely")
@pytest.mark.parametrize("threads", [1, 2])
def test_steps_by_shares_are_those_of_one_optimiser(threads: int) -> None:
    """To the bit, with each group's own rate, which may change between steps."""
    found = []
    for is_shared in (True, False):
        network = build_network(SPEC, seed=0)
        generator = torch.Generator().manual_seed(0)
        parameters = list(network.parameters())
        groups = [
            {"params": parameters[::3], "lr": 0.1},
            {"params": [*parameters[1::3], *parameters[2::3]], "lr": 0.01},
        ]
        with Slices(network, SPEC, items=ITEMS, threads=threads) as sliced:
            assert len(sliced.shares) == len(sliced.rows) == 4
            optimiser = sliced.adamw(groups) if is_shared else torch.optim.AdamW(groups, fused=True)
            for step in range(3):
                for parameter in parameters:
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
                for group in optimiser.param_groups:
                    group["lr"] *= 0.5**step
                optimiser.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    assert torch.equal(*found)


def test_slices_follow_from_network_and_batch() -> None:
    """xxs at 64 pixels: 41 to 42 million multiply-adds an image in 15 blocks, so that 6 images are worth a slice."""
    xxs = replace(published("xxs"), resolution=64)
    assert slice_rows(xxs, 64) == (slice(0, 32), slice(32, 64))
    assert slice_rows(xxs, 65) == (slice(0, 21), slice(21, 43), slice(43, 65))
    assert slice_rows(xxs, 12) == (slice(0, 6), slice(6, 12))
    assert slice_rows(xxs, 11) == (slice(0, 11),)
    assert slice_rows(xxs, 1) == (slice(0, 1),)


def test_what_mixes_a_batch_or_draws_is_not_sliced() -> None:
    """BatchNorm, dropout and blocks that run twice."""
    networks = {block: build_network(replace(SPEC, stages=(StageSpec(dim=8, depth=1, block=block),)))
                for block in ("modulation", "mbconv", "van", "focal")}  # fmt: skip
    assert {name for name, network in networks.items() if is_separable(network)} == {"modulation", "focal"}
    assert not is_separable(nn.Sequential(nn.Dropout2d(0.1)))
    networks["focal"].set_grad_checkpointing()  # type: ignore[operator]
    assert not is_separable(networks["focal"])
    with Slices(networks["mbconv"], replace(published("s"), resolution=224), items=64, threads=2) as found:
        assert (found.rows, found.own_threads) == ((slice(0, 64),), 2)
    with Slices(networks["mbconv"], SPEC, items=64, threads=2) as found:
        assert (found.rows, found.own_threads) == ((slice(0, 64),), 1)


@pytest.mark.usefixtures("finely")
@pytest.mark.parametrize("fault", [MemoryError(), ValueError("a fault of ours")])
def test_a_fault_in_a_thread_is_raised_once_all_have_stopped(fault: Exception) -> None:
    others, stopped = threading.Event(), threading.Event()

    def fail(rows: slice) -> Tensor:
        if rows.start == 0:
            assert others.wait(60)
            raise fault
        others.set()
        time.sleep(0.2)
        stopped.set()
        return network(images[rows]).sum()

    network, (images, _) = build_network(SPEC, seed=1).train(), batch()
    before = threading.active_count()
    with Slices(network, SPEC, items=ITEMS, threads=2) as found:
        with pytest.raises(type(fault)):
            found.learn(fail)
        assert stopped.is_set()
        found.learn(lambda rows: network(images[rows]).sum())  # and it goes on
    assert threading.active_count() == before


@pytest.mark.usefixtures("finely")
def test_a_stop_while_threads_work_is_heard() -> None:
    """Ctrl-C reaches the thread that waits for the others, and nothing is left running."""
    network, (images, _) = build_network(SPEC, seed=1).train(), batch()
    before = threading.active_count()

    def interrupted(rows: slice) -> Tensor:
        if rows.start == 0:
            _thread.interrupt_main()
        return network(images[rows]).sum()

    with Slices(network, SPEC, items=ITEMS, threads=2) as found, pytest.raises(KeyboardInterrupt):
        found.learn(interrupted)
    assert threading.active_count() == before


def make_data() -> Dataset:
    rng = np.random.default_rng(0)
    y = np.arange(32, dtype=np.int64) % 2
    x = (rng.integers(0, 128, (32, 16, 16, 3)) + 127 * y[:, None, None, None]).astype(np.uint8)
    return Dataset(
        name="two", class_names=("dark", "bright"), x_train=x, y_train=y, x_val=x, y_val=y, fingerprint="", leaked=0
    )


SETTINGS = ProxySettings(resolution=16, epochs=1, batch_size=8, device="cpu")


@pytest.mark.usefixtures("finely")
def test_only_threads_that_each_do_a_slice_are_spared() -> None:
    """Where several compute one slice together, fewer would round otherwise: the cores do not count."""
    network = build_network(SPEC, seed=1)
    for threads, cores, running in ((4, 2, 2), (4, 1, 0), (2, 8, 2), (8, 2, 4)):
        with Slices(network, SPEC, items=ITEMS, threads=threads, cores=cores) as found:
            assert len(found.rows) == 4
            assert (0 if found._pool is None else found._pool._max_workers) == running


@pytest.mark.usefixtures("finely")
def test_a_proxy_training_has_the_same_score_with_one_thread_and_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, drop path, flips and validation in batches included; and it did learn in slices."""
    monkeypatch.setattr(proxy, "EVAL_BATCH", 10)
    data = prepare(make_data(), SETTINGS)
    one, two = (train_proxy(SPEC, data, replace(SETTINGS, threads=threads), seed=0) for threads in (1, 2))
    assert replace(one, seconds=0) == replace(two, seconds=0)
    shared = train_proxy(SPEC, replace(data, cores=1), replace(SETTINGS, threads=2), seed=0)
    assert replace(shared, seconds=0) == replace(two, seconds=0)
    monkeypatch.setattr(slices, "is_separable", lambda _: False)
    whole = train_proxy(SPEC, data, replace(SETTINGS, threads=1), seed=0)
    assert whole.val_loss == pytest.approx(one.val_loss, rel=1e-4)
    assert replace(whole, seconds=0) != replace(one, seconds=0)


@pytest.mark.usefixtures("finely")
def test_memory_that_ends_in_a_slice_is_the_trials_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "_loss", lambda *_: torch.empty(2**48))
    with pytest.raises(TrialFailed, match="out of memory"):
        train_proxy(SPEC, prepare(make_data(), SETTINGS), replace(SETTINGS, threads=2), seed=0)


@pytest.mark.usefixtures("finely")
def test_a_full_training_in_slices_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Left after three steps of four; in two threads, with mixup, drop path, clipping and the average."""
    spec = replace(SPEC, layer_scale=None)
    straight = make_job(tmp_path, "straight", spec=spec, epochs=1, clip_norm=1.0, threads=2)
    left = make_job(tmp_path, "left", spec=spec, epochs=1, clip_norm=1.0, threads=2, checkpoint_minutes=1e-9)
    for job, steps in ((straight, 0), (left, 3)):
        training = FullTraining(job)
        training.prepare()
        assert training.slices is not None
        assert len(training.slices.rows) == 4
        for _ in range(steps):
            training.advance(0.0)
        if steps:
            training = FullTraining(replace(job, goes_on=True))
            training.prepare()
            assert training.step == 3
        training.advance(1000.0)
    assert (straight.folder / LAST_FILE).read_bytes() == (left.folder / LAST_FILE).read_bytes()


@pytest.mark.usefixtures("finely")
def test_a_full_training_has_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    """torch's own of the task's loss, mixed targets and dropped paths included."""
    training = FullTraining(make_job(tmp_path, spec=SPEC, threads=2))
    training.prepare()
    batch = next(training.task.batches(0, 0))
    state = torch.get_rng_state()
    training.network.train()
    training.task.loss(training.network(batch.images), batch).backward()
    expected = {name: p.grad for name, p in training.network.named_parameters()}
    torch.set_rng_state(state)
    training._learn(batch)
    for name, parameter in training.network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=1e-6)
