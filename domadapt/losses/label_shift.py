"""Label shift: the classes are as frequent as they like in the target, and look as in the source.

``p_t(x | y) = p_s(x | y)`` while ``p_t(y) != p_s(y)``. No function here is a loss; they turn
predictions into class proportions and back, and need no gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from domadapt.errors import DomadaptError


def confusion_matrix(p: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> Float[Tensor, "c c"]:
    """Joint shares of predictions and labels: entry ``(i, j)`` is ``mean_n p_ni [y_n = j]``.

    Its columns sum to the shares of the labels, its rows to those of the predictions. With one-hot
    rows of `p` it counts decisions ("hard"), with probabilities it adds them up ("soft"). float64.
    """
    truth = torch.nn.functional.one_hot(y.long(), p.shape[1]).double()
    return p.double().T @ truth / len(p)


def bbse_weights(
    confusion: Float[Tensor, "c c"], predicted: Float[Tensor, " c"], tolerance: float = 1e-2
) -> Float[Tensor, " c"]:
    """Black-box shift estimation: how many times as frequent each class is in the target.

    Under label shift the mean prediction on the target is ``mu = C w`` with ``w_c = p_t(c) /
    p_s(c)``, whatever the predictor. Solved for w, clipped at 0, and scaled so that the implied
    target shares ``p_s(c) w_c`` sum to 1.

    Where C is singular the predictor does not tell some classes apart. Of all solutions it then
    takes the least shift, ``sum_c p_s(c) (w_c - 1)^2`` being smallest: such classes share one
    weight, and one without a held-out sample keeps weight 1 (before the scaling). With r and s
    the sums of C's rows and columns and ``A = diag(r)^-1/2 C diag(s)^-1/2``, whose singular
    values lie in [0, 1] and do not depend on how rare a class is,
    ``w = 1 + diag(s)^-1/2 pinv(A) diag(r)^-1/2 (mu - r)``; singular values below `tolerance`
    count as 0. For a well-conditioned C that is ``C^-1 mu``.

    Source: Lipton et al. (2018), arXiv:1802.03916. The paper solves the plain system;
    estimating ``w - 1`` instead follows Azizzadenesheli et al. (2019), arXiv:1903.09734.

    Args:
        confusion: `confusion_matrix` of held-out source samples.
        predicted: mean prediction on the target, made by the same predictor, hard or soft alike.
        tolerance: singular values of A below it are not trusted.

    Returns:
        The weights in float64.

    Raises:
        DomadaptError: a negative entry, or shares that do not sum to 1.
    """
    c, mu = confusion.double(), predicted.double()
    for what, shares in (("confusion", c), ("predicted", mu)):
        if bool((shares < 0).any()) or abs(float(shares.sum()) - 1.0) > 1e-3:
            raise DomadaptError(
                f"`{what}` must hold shares of all samples, at least 0 and summing to 1; they sum "
                f"to {float(shares.sum()):.4g} and the least is {float(shares.min()):.4g}."
            )
    row, column = c.sum(1), c.sum(0)
    left = torch.where(row > 0, row, torch.inf).rsqrt()
    right = torch.where(column > 0, column, torch.inf).rsqrt()
    known = torch.linalg.pinv(left[:, None] * c * right, rtol=tolerance)
    w = (1.0 + right * (known @ (left * (mu - row)))).clamp_min(0.0)
    implied = float((column * w).sum())
    # Nothing is left where a truncated solution was negative throughout: no shift is claimed then.
    return w / implied if implied > 0 else torch.ones_like(w)


def corrected(
    p: Float[Tensor, "n c"], prior_s: Float[Tensor, " c"], prior_t: Float[Tensor, " c"]
) -> Float[Tensor, "n c"]:
    """Predictions of a classifier for source proportions, corrected to target proportions.

    ``p_t(c | x) = p_s(c | x) prior_t(c) / prior_s(c)``, divided by its sum over c: Bayes' rule
    under label shift. A row that lies wholly in classes which the target lacks stays as it is.

    Source: Saerens et al. (2002), doi:10.1162/089976602753284446.

    Raises:
        DomadaptError: a source class of share 0, of which no classifier can know.
    """
    if not bool((prior_s > 0).all()):
        raise DomadaptError(
            "Every class needs a positive share in prior_s; "
            f"class {int((prior_s <= 0).nonzero()[0])} has none."
        )
    scaled = p * (prior_t / prior_s)
    total = scaled.sum(1, keepdim=True)
    return torch.where(total > 0, scaled / total.clamp_min(torch.finfo(total.dtype).tiny), p)


def em_prior(
    p: Float[Tensor, "n c"],
    prior_s: Float[Tensor, " c"],
    steps: int = 1000,
    tolerance: float = 1e-8,
) -> Float[Tensor, " c"]:
    """The target's class proportions by expectation maximisation, from calibrated predictions.

    Beginning with ``q = prior_s``, repeats ``q <- mean_n corrected(p, prior_s, q)_n`` until no
    share moves by more than `tolerance`, at most `steps` times. Each repetition raises the
    likelihood of the target samples, ``mean_n log sum_c p_nc q_c / prior_s_c``, which is concave
    in q: it goes towards the one maximum. Over-confident predictions bias it; calibrate first.

    Source: Saerens et al. (2002), doi:10.1162/089976602753284446.

    Args:
        p: predictions on the target by a classifier trained on the source.
        prior_s: class proportions of the source, all positive.
        steps: the most repetitions.
        tolerance: the change of a share at which it ends.

    Returns:
        The proportions in float64.

    Raises:
        DomadaptError: as `corrected`.
    """
    p, prior_s = p.double(), prior_s.double()
    q = prior_s / prior_s.sum()
    for _ in range(steps):
        before, q = q, corrected(p, prior_s, q).mean(0)
        if float((q - before).abs().max()) <= tolerance:
            break
    return q
