"""Where the weights lie in a file: under any wrapper and prefix, the averaged ones before the raw, never by a guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from modscale.errors import CheckpointError
from modscale.models.checkpoint import LoadedWeights, load_weights
from modscale.models.efficientmod import build_network
from modscale.specs.spec import parse_spec

SPEC = parse_spec({"resolution": 32, "num_classes": 5, "stages": [{"dim": 8, "depth": 1}, {"dim": 8, "depth": 1}]})
MBCONV = parse_spec({"resolution": 32, "num_classes": 5, "stages": [{"dim": 8, "depth": 1, "block": "mbconv"}]})
RAW, AVERAGED = (dict(build_network(SPEC, seed=seed).state_dict()) for seed in (1, 2))


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


def load(tmp_path: Path, document: object, spec=SPEC, **options: Any) -> tuple[dict[str, Any], LoadedWeights]:
    """The state of a network after loading, and what is told of it."""
    torch.save(document, tmp_path / "w.pth")
    network = build_network(spec, seed=0)
    loaded = load_weights(network, tmp_path / "w.pth", **options)
    return dict(network.state_dict()), loaded


def assert_equal(state: dict[str, Any], expected: dict[str, Any]) -> None:
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def averaged_model() -> AveragedModel:
    model = AveragedModel(build_network(SPEC, seed=0))
    model.module.load_state_dict(AVERAGED)
    return model


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "net.backbone.encoder.",
        "a.b.c.d.e.",
    ],
)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "network", "net"])
def test_any_prefix_is_found(tmp_path, prefix, wrapper):
    """What stands before every name is dropped, whatever it is, alone or under any wrapper."""
    state = prefixed(prefix, RAW)
    found, loaded = load(tmp_path, state if wrapper is None else {wrapper: state, "epoch": 3})
    assert_equal(found, RAW)
    assert loaded.key == ".".join([*([wrapper] if wrapper else []), prefix.rstrip(".")])
    assert not loaded.averaged


AVERAGES = {
    "model_ema": lambda: {"model": RAW, "model_ema": AVERAGED},
    "ema": lambda: {"model": RAW, "ema": AVERAGED},
    "state_dict_ema": lambda: {"state_dict": RAW, "state_dict_ema": AVERAGED},
    "ema_state_dict": lambda: {"ema_state_dict": AVERAGED, "state_dict": RAW},
    "ema.module": lambda: {"model": RAW, "ema": {"module": AVERAGED, "updates": 5}, "epoch": 3},
    "ema_model": lambda: {"ema_model": AVERAGED, "net": RAW},
    "averaged_model": lambda: {"averaged_model": prefixed("module.", AVERAGED), "net": RAW},
    "modelEMA": lambda: {"trainer": {"modelEMA": AVERAGED, "model": RAW}},
    "shadow": lambda: {"model": RAW, "ema": {"decay": 0.9, "shadow": AVERAGED}},
    "a callback": lambda: {
        "state_dict": prefixed("model.", RAW),
        "callbacks": {"EMACallback{'decay': 0.99}": {"ema_weights": prefixed("model.", AVERAGED)}},
    },
    "swa_utils": lambda: {"model": RAW, "swa_model": averaged_model().state_dict()},
    "swa_utils under a name that says nothing": lambda: {"model": RAW, "second": averaged_model().state_dict()},
    "swa_utils whole": lambda: {"model": RAW, "second": averaged_model()},
    "in one module": lambda: {"state_dict": {**prefixed("model.", RAW), **prefixed("ema_model.module.", AVERAGED)}},
    "beside its online model": lambda: {
        "ema": {**prefixed("online_model.", RAW), **prefixed("ema_model.", AVERAGED), "initted": torch.tensor(True)}
    },
    "a list in the parameters' order": lambda: {
        "model": RAW,
        "ema": {"decay": 0.9, "num_updates": 7,
                "shadow_params": [AVERAGED[name] for name, _ in build_network(SPEC).named_parameters()]},
    },
    "names without dots": lambda: {
        **prefixed("model.", RAW),
        **{f"model_ema.{name.replace('.', '')}": tensor for name, tensor in AVERAGED.items()},
        "model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3),
    },
    "Lightning's WeightAveraging": lambda: {
        "state_dict": AVERAGED, "current_model_state": RAW, "averaging_state": {"n_averaged": torch.tensor(3)}
    },
    "mmengine's hook": lambda: {
        "meta": {"mmengine_version": "0.10.1"}, "state_dict": AVERAGED,
        "ema_state_dict": {**prefixed("module.", RAW), "steps": torch.tensor(9)},
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", AVERAGES)
def test_averaged_weights_win_wherever_they_lie(tmp_path, layout):
    """However an average is kept beside the raw weights, it is what is loaded, and that is told."""
    found, loaded = load(tmp_path, AVERAGES[layout]())
    assert_equal(found, AVERAGED)
    assert loaded.averaged


def test_raw_weights_load_on_request(tmp_path):
    """`--key` names any set of weights; the whole way to it, or its beginning."""
    document = {"model": prefixed("module.", RAW), "ema": {"module": AVERAGED}}
    for key in ("model", "model.module"):
        found, loaded = load(tmp_path, document, key=key)
        assert_equal(found, RAW)
        assert (loaded.key, loaded.averaged) == ("model.module", False)
    with pytest.raises(CheckpointError, match=r"--key: has no weights of this network there; it has them at .*ema"):
        load(tmp_path, document, key="optimizer")


@pytest.mark.parametrize(("one", "other"), [("model", "state_dict"), ("student", "teacher"), ("ema_fast", "ema_slow")])
def test_which_is_meant_is_not_guessed(tmp_path, one, other):
    """Two sets that fit, of which neither or both are averaged, are named with the way to choose."""
    with pytest.raises(CheckpointError, match=f"more than once; --key says which: {one}, {other}"):
        load(tmp_path, {one: RAW, other: AVERAGED})
    assert_equal(load(tmp_path, {one: RAW, other: AVERAGED}, key=other)[0], AVERAGED)
    assert_equal(load(tmp_path, {one: RAW, other: {k: v.clone() for k, v in RAW.items()}})[0], RAW)


def test_an_average_that_does_not_fit_is_no_reason_to_load_the_raw_weights(tmp_path):
    """Neither one that lacks a tensor, nor one whose names are strange, is passed over without a word."""
    lacking = {name: tensor for name, tensor in AVERAGED.items() if name != "norm.bias"}
    with pytest.raises(CheckpointError, match=r"1 missing: norm\.bias"):
        load(tmp_path, {"model": RAW, "ema": lacking})
    strange = {f"t{i}": tensor for i, tensor in enumerate(AVERAGED.values())}
    with pytest.raises(CheckpointError, match=r"averaged weights whose names are not the network's \(ema.t0\)"):
        load(tmp_path, {"model": RAW, "ema": strange})
    assert_equal(load(tmp_path, {"model": RAW, "ema": strange}, key="model")[0], RAW)


def test_an_optimizer_that_keeps_names_is_no_network(tmp_path):
    """Moments by the parameters' names have their shapes, and are not the weights."""
    moments = {"exp_avg": AVERAGED, "exp_avg_sq": AVERAGED}
    assert_equal(load(tmp_path, {"optimizer": moments, "model": RAW})[0], RAW)


def test_an_average_of_parameters_alone(tmp_path):
    """BatchNorm's statistics come from the raw weights beside it, and that is told."""
    raw, average = (build_network(MBCONV, seed=seed) for seed in (1, 2))
    raw(torch.randn(2, 3, 32, 32))  # moves the running statistics
    parameters = dict(average.named_parameters())
    found, loaded = load(tmp_path, {"model": raw.state_dict(), "ema": parameters}, MBCONV)
    assert_equal(found, {**raw.state_dict(), **parameters})
    assert (loaded.averaged, loaded.buffers_from) == (True, "model")


def test_bookkeeping_is_passed_over_and_told(tmp_path):
    """Numbers that averages, counters of operations and trainers leave are no weights; any other tensor is refused."""
    thop = {"total_ops": torch.zeros(1), "layers.0.total_params": torch.zeros(1)}
    assert load(tmp_path, {**RAW, **thop})[1].passed_over == tuple(thop)
    found, loaded = load(tmp_path, averaged_model().state_dict())
    assert_equal(found, AVERAGED)
    assert (loaded.key, loaded.averaged, loaded.passed_over) == ("module", True, ("n_averaged",))
    beside = {**prefixed("model.", RAW), "criterion.weight": torch.ones(5)}
    assert load(tmp_path, {"state_dict": beside})[1].passed_over == ("state_dict.criterion.weight",)
    with pytest.raises(CheckpointError, match=r"1 extra: layers\.9\.bias"):
        load(tmp_path, {"net": {**RAW, **thop, "layers.9.bias": torch.zeros(1)}})


def test_another_network_is_refused(tmp_path):
    """Tensors of other names are no weights of this one."""
    with pytest.raises(
        CheckpointError, match=r"holds 1 tensors, none by a name of the network, got 'state_dict.conv1.kernel'"
    ):
        load(tmp_path, {"state_dict": {"conv1.kernel": torch.zeros(3)}})


def test_a_head_of_another_size(tmp_path):
    """The line says what to write in the spec; on request the rest is loaded and the head starts fresh."""
    seven = {**RAW, "head.weight": torch.ones(7, 8), "head.bias": torch.ones(7)}
    with pytest.raises(
        CheckpointError, match=r"write `num_classes: 7` in the spec, or load the rest with --fresh-head"
    ):
        load(tmp_path, {"model": seven})
    found, loaded = load(tmp_path, {"model": seven}, fresh_head=True)
    fresh = {name: tensor for name, tensor in build_network(SPEC, seed=0).state_dict().items() if "head" in name}
    assert_equal(found, {**RAW, **fresh})
    assert loaded.fresh == ("head.weight", "head.bias")
    headless = {name: tensor for name, tensor in RAW.items() if "head" not in name}
    with pytest.raises(CheckpointError, match="It has no head: --fresh-head loads the rest"):
        load(tmp_path, headless)
    assert_equal(load(tmp_path, headless, fresh_head=True)[0], {**RAW, **fresh})


def test_a_stem_of_other_channels(tmp_path):
    """The line says what to write in the spec."""
    with pytest.raises(CheckpointError, match=r"Its stem takes 1 channels: write `in_chans: 1` in the spec"):
        load(tmp_path, {**RAW, "patch_embed.proj.weight": torch.ones(8, 1, 7, 7)})
