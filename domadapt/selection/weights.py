"""Importance weights between the domains, and target risks from weighted source losses."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def density_ratio(
    train_s: Float[Tensor, "n_s d"], z_t: Float[Tensor, "n_t d"], val_s: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """``w(z) = p_t(z) / p_s(z)`` of held-out source features, from a domain classifier, clipped.

    A logistic regression on features divided by their standard deviation tells `train_s` from
    `z_t`; w is its odds times ``n_s / n_t`` (`domadapt.closed_form.DiscriminatorWeights`). It has
    not seen `val_s`. Weights above sqrt(n) times their mean are set to that value, so that few
    samples cannot carry everything (Ionides, 2008, Journal of Computational and Graphical
    Statistics 17).
    """
    from domadapt.closed_form.discriminator_weights import DiscriminatorWeights

    fitted = DiscriminatorWeights().fit(train_s.numpy(), X_target=z_t.numpy())
    odds = torch.from_numpy(fitted.classifier_.decision_function(val_s.double().numpy()))
    w = len(train_s) / len(z_t) * odds.double().exp()
    return w.clamp(max=float(w.mean()) * math.sqrt(len(w)))


def weighted_risk(w: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> float:
    """``mean_i w_i l_i``: the target's risk under covariate shift."""
    return float((w * loss).mean())


def controlled_risk(w: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> float:
    """``mean(w l) + eta mean(w) - eta``, ``eta = -cov(w l, w) / var(w)``.

    The weights' mean is 1 in expectation; their deviation from it serves as control variate. eta
    is 0 where all weights are equal.
    """
    both = torch.stack([w * loss, w])
    covariance = torch.cov(both) if len(w) > 1 else torch.zeros(2, 2).double()
    variance = float(covariance[1, 1])
    eta = -float(covariance[0, 1]) / variance if variance > 0 else 0.0
    return float(both[0].mean()) + eta * float(w.mean()) - eta


def normalised(w: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Weights divided by their largest, then shifted to a mean of 1: each in (0, 2)."""
    shares = w / w.max()
    return shares - shares.mean() + 1
