from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("numba", reason="numba is not installed")

from modscale.models.by_kernels import KERNEL_FORMS, use_kernels
from modscale.models.efficientmod import build_network
from modscale.specs.spec import ModelSpec, StageSpec
from modscale.training.slices import Slices

SHAPES = {
    "the paper's": {},
    "two kernels": {"kernel_size": (3, 7)},
    "no conv": {"context": ("f", "g")},
    "conv alone": {"context": ("conv",)},
    "f and conv": {"context": ("f", "conv")},
    "a sum": {"fusion": "sum"},
    "no multiple of 8": {"dim": 20},
    "fewer than 8": {"dim": 6},
}


def tiny(layer_scale=0.1, drop_path_rate=0.0, **changes):
    first = replace(StageSpec(dim=16, depth=2, mlp_ratios=(1, 3)), **changes)
    stages = (first, StageSpec(dim=24, depth=1, mlp_ratios=(2,), attention_depth=1))
    return ModelSpec(
        stages=stages, resolution=32, num_classes=5, layer_scale=layer_scale, drop_path_rate=drop_path_rate
    )


def awake(spec):
    """A network whose every parameter matters."""
    network = build_network(spec, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        deviation = 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.data += deviation * torch.randn(parameter.shape, generator=generator)
    return network.train()


def batch(items=6):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(items, 3, 32, 32, generator=generator), torch.arange(items) % 5


def learnt(network, images, labels):
    """The logits, and the gradients by their names."""
    torch.manual_seed(3)  # the paths that are dropped
    logits = network(images)
    network.zero_grad()
    F.cross_entropy(logits, labels).backward()
    return logits.detach(), {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("layer_scale", [0.1, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_gradients_are_those_of_torch_in_double(shape, layer_scale):
    network = awake(tiny(layer_scale, **SHAPES[shape]))
    exact = deepcopy(network).double()
    use_kernels(network)
    images, labels = batch()
    logits, gradients = learnt(network, images, labels)
    expected, wanted = learnt(exact, images.double(), labels)
    assert torch.allclose(logits.double(), expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        assert (gradient - wanted[name]).norm() <= 1e-4 * wanted[name].norm(), name


def test_images_of_either_layout_learn_the_same():
    network = awake(tiny())
    use_kernels(network)
    images, labels = batch()
    _, one = learnt(network, images, labels)
    _, other = learnt(network, images.contiguous(memory_format=torch.channels_last), labels)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_paths_are_dropped():
    network = awake(tiny(drop_path_rate=0.5))
    plain = deepcopy(network)
    use_kernels(network)
    images, labels = batch(16)
    logits, gradients = learnt(network, images, labels)
    expected, wanted = learnt(plain, images, labels)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.allclose(gradients[name], wanted[name], rtol=1e-3, atol=1e-5) for name in wanted)


def test_evaluation_is_as_ever():
    network = awake(tiny())
    by_kernels = deepcopy(network)
    use_kernels(by_kernels)
    assert {type(module) for module in by_kernels.modules()} > set(KERNEL_FORMS.values())
    images, _ = batch()
    assert torch.equal(network.eval()(images), by_kernels.eval()(images))


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr("modscale.training.slices.WORTH_MACS", 1)
    images, labels = batch(8)
    found = []
    for threads in (1, 2):
        network = awake(tiny(drop_path_rate=0.2))
        use_kernels(network)
        with Slices(network, tiny(), items=8, threads=threads) as slices:
            assert len(slices.rows) == 2
            torch.manual_seed(3)
            optimiser = slices.adamw([{"params": list(network.parameters()), "lr": 1e-2}])
            for _ in range(3):
                slices.learn(lambda rows, network=network: F.cross_entropy(network(images[rows]), labels[rows]))
                optimiser.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    assert torch.equal(*found)


def test_a_graph_is_run_backward_twice():
    network = awake(tiny())
    use_kernels(network)
    images, labels = batch()
    loss = F.cross_entropy(network(images), labels)
    network(images.flip(0))  # takes the same scratch memory
    parameters = list(network.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, parameters)))
