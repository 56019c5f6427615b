"""Linear CKA: how alike two representations of the same samples are, and two domains in one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from domadapt.errors import DomadaptError


def linear_cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], *, unbiased: bool = True) -> float:
    """Linear centred kernel alignment ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))``.

    ``K = x x'``, ``L = y y'``. 1 where one is a rotation and scaling of the other, 0 where they are
    unrelated. (Kornblith et al., 2019, arXiv:1905.00414).

    Plain, with centred x and y it is ``|y' x|^2 / (|x' x| |y' y|)`` (Frobenius norms), and near 1
    for any two representations of fewer samples than features. With `unbiased`, HSIC is estimated
    without bias (Song et al., 2012, JMLR 13), as proposed for CKA by (Nguyen et al.,
    2021, arXiv:2010.15327); the value may then be slightly below 0.

    Args:
        x: one representation. y: another of the same samples, in the same order.
        unbiased: which of the two.

    Raises:
        DomadaptError: different numbers of samples, or fewer than 4.

    Returns:
        The alignment; NaN where a representation does not vary.
    """
    _check(x, y)
    k, g = _gram(x), _gram(y)
    hsic = _unbiased if unbiased else _plain
    return _ratio(hsic(k, g), hsic(k, k), hsic(g, g))


def domain_cka(
    z_s: Float[Tensor, "n_s d"], z_t: Float[Tensor, "n_t d"], *, unbiased: bool = True
) -> float:
    """How alike the covariances of two domains are in one representation.

    ``tr(C_s C_t) / (|C_s| |C_t|)``, C the covariances of the features. The domains have no samples
    in common, which `linear_cka` would need; this is linear CKA with the features in the place of
    samples, but centred over samples. It is 1 where the domains vary along the same directions in
    the same proportions, and blind to a difference of their means.

    With `unbiased`, ``|C|^2`` is estimated without bias, by the unbiased HSIC of a domain with
    itself; the value may then lie slightly outside [0, 1].

    Args:
        z_s: source features. z_t: target features, of the same layer.
        unbiased: see above.

    Returns:
        The alignment; NaN where a domain does not vary.
    """
    if z_s.shape[1] != z_t.shape[1]:
        raise DomadaptError(
            "Both domains must have the same features; got "
            f"{tuple(z_s.shape)} and {tuple(z_t.shape)}."
        )
    _check(z_s, z_s)
    _check(z_t, z_t)
    a, b = _centred(z_s), _centred(z_t)
    n, m = len(a), len(b)
    cross = float((a @ b.T).square().sum()) / ((n - 1) * (m - 1))
    if unbiased:
        return _ratio(cross, _unbiased(_gram(z_s), _gram(z_s)), _unbiased(_gram(z_t), _gram(z_t)))
    own = [float((c @ c.T).square().sum()) / (len(c) - 1) ** 2 for c in (a, b)]
    return _ratio(cross, own[0], own[1])


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise DomadaptError(
            "CKA compares two representations (n, d) and (n, e) of the same n samples; got "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    if len(x) < 4:
        raise DomadaptError(f"CKA needs at least 4 samples; got {len(x)}.")


def _centred(x: Tensor) -> Tensor:
    wide = x.detach().cpu().double()
    return wide - wide.mean(0)


def _gram(x: Tensor) -> Tensor:
    # Centring changes neither estimate, and keeps large means from eating the digits.
    centred = _centred(x)
    return centred @ centred.T


def _plain(k: Tensor, g: Tensor) -> float:
    """``tr(K H L H) / (n - 1)^2`` of Gram matrices of centred features."""
    return float((k * g).sum()) / (len(k) - 1) ** 2


def _unbiased(k: Tensor, g: Tensor) -> float:
    """The unbiased estimate of HSIC, with the diagonals of both matrices set to 0."""
    n = len(k)
    off = 1 - torch.eye(n, dtype=k.dtype)
    k, g = k * off, g * off
    both = (k * g).sum()
    sums = k.sum() * g.sum() / ((n - 1) * (n - 2))
    mixed = 2 * (k.sum(0) @ g.sum(0)) / (n - 2)
    return float(both + sums - mixed) / (n * (n - 3))


def _ratio(cross: float, a: float, b: float) -> float:
    return cross / (a * b) ** 0.5 if a > 0 and b > 0 else float("nan")
