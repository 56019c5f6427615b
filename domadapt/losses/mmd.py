"""Maximum mean discrepancy: the distance between two samples' means in a kernel's feature space."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32, full_precision


def mmd(
    z_s: Float[Tensor, "n_s d"],
    z_t: Float[Tensor, "n_t d"],
    *,
    estimator: Literal["biased", "unbiased"] = "unbiased",
    kernels: int = 5,
    scale: float | None = None,
) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy with a mixture of Gaussian kernels.

    ``k(x, y) = 1/m sum_u exp(-|x - y|^2 / (2^u g))`` over `kernels` consecutive integers u around
    0 (-2..2 for five); g is the median squared distance between different members of the pooled
    sample, taken as a constant: no gradient passes through it. So the value does not change when
    all features are multiplied by a number, and its gradient never fades with their size.

    ``biased``: ``mean k(s, s') + mean k(t, t') - 2 mean k(s, t)`` over all pairs, in [0, 2], 0 for
    equal samples. ``unbiased``: the first two means leave out each sample paired with itself. Its
    mean over draws is the distance of the two distributions; **on one batch it may be negative**,
    and for equal distributions it is so about half of the time.

    Sources: Gretton et al. (2012), Journal of Machine Learning Research 13, equations 3 and 5;
    Long et al. (2015), arXiv:1502.02791, equations 2 and 3. Departures from the latter: every
    kernel weighs the same, where the paper finds weights by a quadratic programme; all pairs
    enter, where it draws disjoint ones for speed (its equation 5); 5 bandwidths instead of 33.

    Args:
        z_s: source features. z_t: target features; the two numbers of samples may differ.
        estimator: which of the two estimators.
        kernels: the number of bandwidths, at least 1.
        scale: g, in squared units of the features; None takes the median.

    Raises:
        DomadaptError: fewer than two samples of a domain with the unbiased estimator; no kernel;
            a scale that is not positive.
    """
    _check(len(z_s), len(z_t), estimator, kernels, scale)
    with full_precision(z_s):
        z = _centred(z_s, z_t)
        weights = _pair_weights(z, len(z_s), estimator)
        value: Tensor = _WeightedKernelSum.apply(z, weights, kernels, scale)
        return value


def joint_mmd(
    z_s: Float[Tensor, "n_s d"],
    z_t: Float[Tensor, "n_t d"],
    p_s: Float[Tensor, "n_s c"],
    p_t: Float[Tensor, "n_t c"],
    *,
    estimator: Literal["biased", "unbiased"] = "unbiased",
    kernels: int = 5,
    scale: float | None = None,
    label_scale: float = 1.68,
) -> Float[Tensor, ""]:
    """Squared MMD of the joint distributions of features and class probabilities.

    `mmd` with the kernel ``k(z, z') l(p, p')``, where k is the mixture of `mmd` and
    ``l(p, p') = exp(-|p - p'|^2 / label_scale)``. Two samples are alike only where both their
    features and their predictions are, so the value also sees classes that lie in the other
    domain's places. With equal probabilities throughout it is `mmd`. Gradients reach features and
    probabilities. The features' size does not matter (k's bandwidth is their median distance);
    probabilities have a size of their own, so l's bandwidth is fixed.

    The ``unbiased`` estimate leaves out each sample paired with itself; its mean over draws is 0
    for equal distributions, and on one batch it may be negative.

    Source: Long et al. (2017), arXiv:1605.06636. Departures: the paper defines it by the biased
    estimate and trains with one in linear time, here every pair enters; k is the mean of the
    kernels, where the authors' code adds them up. 1.68 is the label_scale of their code.

    Args:
        z_s: source features. z_t: target features; the two numbers of samples may differ.
        p_s: class probabilities of the source samples. p_t: those of the target samples.
        estimator: which of the two estimators.
        kernels: the number of bandwidths of k, at least 1.
        scale: k's central bandwidth, in squared units of the features; None takes the median.
        label_scale: l's bandwidth; probabilities of two sure and different classes are 2 apart.

    Raises:
        DomadaptError: fewer than two samples of a domain with the unbiased estimator; no kernel;
            a scale that is not positive.
    """
    _check(len(z_s), len(z_t), estimator, kernels, scale)
    if not label_scale > 0:
        raise DomadaptError(f"label_scale must be positive; got {label_scale}.")
    with full_precision(z_s):
        z, p = _centred(z_s, z_t), _centred(p_s, p_t)
        labels = (squared_distances(p) / -label_scale).exp()
        weights = _pair_weights(z, len(z_s), estimator) * labels
        value: Tensor = _WeightedKernelSum.apply(z, weights, kernels, scale)
        return value


def _check(n_s: int, n_t: int, estimator: str, kernels: int, scale: float | None) -> None:
    if estimator not in ("biased", "unbiased"):
        raise DomadaptError(f"estimator must be 'biased' or 'unbiased'; got {estimator!r}.")
    fewest = 2 if estimator == "unbiased" else 1
    if min(n_s, n_t) < fewest:
        raise DomadaptError(
            f"The {estimator} estimate of MMD needs at least {fewest} samples of each domain in a "
            f"batch; got {n_s} source and {n_t} target. Raise the batch size."
        )
    if kernels < 1:
        raise DomadaptError(f"kernels must be at least 1; got {kernels}.")
    if scale is not None and not scale > 0:
        raise DomadaptError(f"scale must be positive; got {scale}.")


def _centred(s: Float[Tensor, "n_s d"], t: Float[Tensor, "n_t d"]) -> Float[Tensor, "n d"]:
    """Both samples as one, around the origin.

    Moving all samples together changes no distance, and keeps the products of `squared_distances`
    free of cancellation where they lie far from the origin.
    """
    z = torch.cat([at_least_float32(s), at_least_float32(t)])
    return z - z.detach().mean(0)


class _WeightedKernelSum(torch.autograd.Function):
    """``sum_ij w_ij k(z_i, z_j)`` for symmetric weights, with its gradient in closed form.

    ``d/dz_i = 4 sum_j s_ij (z_i - z_j)`` with ``s_ij = w_ij dk/d|z_i - z_j|^2``: one matrix
    product, and one matrix to keep, instead of a pass back through every kernel. Where the
    weights need a gradient (those of `joint_mmd`), ``d/dw_ij = k(z_i, z_j)`` is kept as well.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, weights: Tensor, kernels: int, scale: float | None) -> Tensor:
        distances = squared_distances(z)
        g = median_distance(distances) if scale is None else scale
        widest = 2.0 ** (kernels // 2) * g
        # From the widest kernel to the narrowest each is the square of the one before.
        kernel = distances.div_(-widest).exp_()
        total, slope = torch.zeros_like(kernel), torch.zeros_like(kernel)
        for i in range(kernels):
            if i:
                kernel.mul_(kernel)
            total.add_(kernel)
            slope.add_(kernel, alpha=2.0**i)
        total.div_(kernels)
        kept = [z, slope.mul_(weights).div_(-widest * kernels)]
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(*kept, total)
            return (total * weights).sum()
        ctx.save_for_backward(*kept)
        return total.mul_(weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor | None, None, None]:
        z, slope, *kernel = ctx.saved_tensors
        pulled = slope.sum(1, keepdim=True) * z - slope @ z
        return 4.0 * grads[0] * pulled, grads[0] * kernel[0] if kernel else None, None, None


def _pair_weights(
    z: Float[Tensor, "n d"], n_s: int, estimator: Literal["biased", "unbiased"]
) -> Float[Tensor, "n n"]:
    """What each pair counts in the estimate."""
    n_t = len(z) - n_s
    less = 1 if estimator == "unbiased" else 0
    weights = z.new_full((len(z), len(z)), -1.0 / (n_s * n_t))
    weights[:n_s, :n_s] = 1.0 / (n_s * (n_s - less))
    weights[n_s:, n_s:] = 1.0 / (n_t * (n_t - less))
    return weights.fill_diagonal_(0.0) if less else weights


def squared_distances(z: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """All pairs' squared distances through one matrix product; `z` should be centred."""
    squares = z.square().sum(1)
    distances = torch.addmm(squares, z, z.T, alpha=-2.0).add_(squares[:, None]).clamp_min_(0.0)
    return distances.fill_diagonal_(0.0)


def median_distance(distances: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """The median over pairs of different samples; their mean where most of them coincide."""
    n = len(distances)
    # The n zeros of the diagonal are the smallest entries, and each pair stands twice.
    middle = n + (n * (n - 1) + 1) // 2
    median = distances.flatten().kthvalue(middle).values
    mean = distances.sum() / (n * (n - 1))
    # Coinciding samples are apart by no more than the rounding of the product.
    median = torch.where(median > 1e-5 * mean, median, mean)
    return torch.where(median > 0, median, torch.ones_like(median))
