"""What a network is expected to reach after full training: what is known on paper, and what a short training adds.

A short training alone ranks networks worse than their params do, for it measures what starts fast. So the two are put
together, on the scale of the paper's networks (ImageNet-1K, 300 epochs, no distillation):

    log-odds of top-1 = intercept + size x ln(P S / F^0.2) + trust(ln(anchor's loss / the network's loss))

P and F are params and FLOPs, each over those of s_conv, and S is the share of the image that the network can see. That
S counts like params is set, not fitted: what never sees most of the image is as good as not there. The exponent of F is
kept below half of what least squares gives, for few networks speak for it: of two networks of one size the one that
spends more FLOPs a weight was not the better one, but it is isotropic networks and other kinds of block that say so.
They speak for 109 to 251 FLOPs a weight, where all of them lie, and not for less: a search that is paid for few FLOPs
would put all weights in the last stage, or lower the resolution. So F counts as if it were 109 a weight there at least,
and `lean` takes off 0.1 for each unit of the logarithm below, which is what other networks of the paper's Table 1 say
(`benchmarks/proxy.md`), with an error as large.

The training is believed where it speaks loudly against a network. A lead over the anchor, or falling behind it a
little, may be a matter of who starts fast: that weighs little (0.1), for more cost order among networks of one size
than it brought elsewhere. How far a network falls behind by more than `tolerance` (two standard deviations of the
family of s_conv on the generated images) weighs what least squares gives on those images (0.7): one that hardly learns
is no good, whatever its size. Beyond 0.25 either way no network was seen, and nothing more is added.

The loss is that of held-out images after the short training; the anchor is one network that is trained in the same way
on the same data, so that neither the number of classes nor how hard they are moves the estimate. A full-width training
at 32 px (`train`) tells nothing of the rank (tau +0.04), and weighs nothing. `benchmarks/proxy_weights.py` makes all of
these figures, also of networks that had no part in choosing the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, hypot, log

from modscale.specs.counts import count_model
from modscale.specs.receptive_field import share_seen
from modscale.specs.spec import ModelSpec

ANCHOR = "xxs"
"""The published network to whose loss the others' are compared."""
CENTRE_PARAMS, CENTRE_FLOPS = 12_872_336, 1_478_400_776
"""Of s_conv, where the fit is centred."""
FITTED_PARAMS = (4_102_088, 13_057_808)
"""The fewest and the most of a network of the fit."""
FITTED_FLOPS_PER_PARAM = (109.27, 250.6)
"""The fewest and the most FLOPs for each param of a network of the fit."""
FLOPS_EXPONENT = 0.2
"""Of F above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The fit, in log-odds of top-1."""

    intercept: float
    """Of a network of s_conv's params that sees the whole image and learns like the anchor."""
    size: float
    """By the logarithm of P S / F^0.2."""
    evidence: Mapping[str, float]
    """By the logarithm of the anchor's loss over the network's, for each method of training."""
    behind: Mapping[str, float]
    """In its place, by that of it which lies below `-tolerance`."""
    tolerance: float
    """How far behind the anchor a network may fall only because it starts slowly."""
    largest: float
    """Evidence that was seen at most, either way; what lies further out counts like it."""
    residual: float
    """What a fit misses of kinds of networks that had no part in it, root mean square."""
    size_error: float
    """By how much `size` differs where a kind of networks is left out of the fit."""
    lean: float
    """By the logarithm of the FLOPs a param, as far as there are fewer than any network of the fit has."""
    range_error: float
    """By that logarithm, as far as there are fewer or more: what is not known of such networks."""


WEIGHTS = Weights(
    intercept=1.370,
    size=0.3,
    evidence={"thin": 0.1, "train": 0.0},
    behind={"thin": 0.7, "train": 0.0},
    tolerance=0.05,
    largest=0.25,
    residual=0.09,
    size_error=0.04,
    lean=0.1,
    range_error=0.1,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The top-1 that a network is expected to reach."""

    accuracy: float
    """A fraction, 0 to 1."""
    standard_error: float
    """Of the estimate, as a fraction: of what size and training leave open, and of the training's own noise."""
    noise: float
    """The part of it that one more training with another seed would show, as far as the held-out images tell."""


def evidence_of(loss: float, anchor_loss: float) -> float:
    """What a training says for a network: above 0 where its held-out loss is below the anchor's."""
    tiny = 1e-6
    return log(max(anchor_loss, tiny) / max(loss, tiny))


def trust(evidence: float, method: str, weights: Weights = WEIGHTS) -> tuple[float, float]:
    """What evidence adds to the log-odds, and its slope there: how much an error of the evidence would.

    By hand, with 0.1 down to -0.05 and 0.7 from there to -0.25: evidence of -0.15 adds -(0.005 + 0.07).
    """
    near, behind = weights.evidence[method], weights.behind[method]
    kept = min(max(evidence, -weights.largest), weights.largest)
    beyond = min(kept + weights.tolerance, 0.0)
    slope = 0.0 if kept != evidence else behind if beyond else near
    return near * (kept - beyond) + behind * beyond, slope


def size_of(spec: ModelSpec) -> float:
    """What is known of a network without training it: ln(P S / F^0.2), see above; 0 for s_conv.

    Of a network with fewer FLOPs a param than any of the fit, as if it had the fewest that one has.
    """
    count = count_model(spec)
    flops = max(count.flops, FITTED_FLOPS_PER_PARAM[0] * count.params)
    return log(count.params * share_seen(spec) / CENTRE_PARAMS) - FLOPS_EXPONENT * log(flops / CENTRE_FLOPS)


def out_of_range(spec: ModelSpec) -> float:
    """How far a network's FLOPs a param lie beyond those of the fit, as a logarithm: below 0 for fewer, 0 within."""
    count = count_model(spec)
    fewest, most = (log(count.flops / count.params / limit) for limit in FITTED_FLOPS_PER_PARAM)
    return min(fewest, 0.0) + max(most, 0.0)


def estimate_accuracy(
    spec: ModelSpec, *, method: str, evidence: float, evidence_error: float = 0.0, weights: Weights = WEIGHTS
) -> Estimate:
    """The expected top-1 of a network; `spec` at its full width and resolution.

    `evidence` is `evidence_of` its training by `method`, with its standard error over the held-out images.
    """
    size, beyond = size_of(spec), out_of_range(spec)
    trusted, weight = trust(evidence, method, weights)
    odds = weights.intercept + weights.size * size + weights.lean * min(beyond, 0.0) + trusted
    accuracy = 1 / (1 + exp(-odds))
    slope = accuracy * (1 - accuracy)
    noise = weight * evidence_error
    return Estimate(
        accuracy=accuracy,
        standard_error=slope * hypot(weights.residual, weights.size_error * size, weights.range_error * beyond, noise),
        noise=slope * noise,
    )
