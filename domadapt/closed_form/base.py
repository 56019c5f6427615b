"""What all closed-form methods share: source and target rows, which map each takes, checks."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics.pairwise import euclidean_distances, pairwise_kernels
from sklearn.utils import Tags
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from domadapt.errors import DomadaptError, unknown

Rows = Float[np.ndarray, "n d"]
Square = Float[np.ndarray, "d d"]


class ClosedForm(TransformerMixin, BaseEstimator):
    """A transformer fitted on source and target rows at once.

    A method writes `_fit` and, where its map is not the identity, `_map_source` and `_map_target`.
    Computation is in float64; float32 rows come back as float32.
    """

    #: Whether sparse rows are made dense before the method sees them.
    _dense = True
    #: Whether rows are mapped at all, rather than weighted.
    _moves = True
    #: The fewest rows of a domain that the method can be fitted on.
    _fewest = 2

    def fit(
        self, X: Any, y: Any = None, *, sample_domain: Any = None, X_target: Any = None
    ) -> Self:
        """Fit on source and target rows.

        Args:
            X: source and target rows stacked ``(n, d)``, or, with ``X_target``, the source rows.
            y: labels of the rows of ``X``; those of target rows are never looked at.
            sample_domain: ``(n,)`` numbers, positive for a source row, negative for a target row.
            X_target: the target rows ``(n_t, d)``.

        Raises:
            DomadaptError: neither or both of ``sample_domain`` and ``X_target``; a domain of 0;
                too few rows; a setting that is not allowed; rows that do not fit into memory.
        """
        if (sample_domain is None) == (X_target is None):
            given = "neither" if X_target is None else "both"
            raise DomadaptError(
                f"{type(self).__name__}.fit needs either sample_domain (positive for source rows "
                f"of X, negative for target rows) or X_target (X is then the source); got {given}."
            )
        x = self._validated(X, reset=True)
        source = np.ones(x.shape[0], bool) if sample_domain is None else which(sample_domain, x)
        x_t = x[~source] if X_target is None else self._validated(X_target, reset=False)
        y_s = None
        if y is not None:
            check_consistent_length(x, y)
            y_s = np.asarray(y)[source]
        x_s = x[source]
        for name, rows in (("source", x_s), ("target", x_t)):
            if rows.shape[0] < self._fewest:
                raise DomadaptError(
                    f"{type(self).__name__} needs at least {self._fewest} rows of each domain; got "
                    f"{rows.shape[0]} of the {name} (n_samples = {x.shape[0]} in X). Give more, "
                    "or check the signs of sample_domain."
                )
        self._fit(x_s.astype(np.float64, copy=False), x_t.astype(np.float64, copy=False), y_s)
        return self

    def transform(self, X: Any, sample_domain: Any = None) -> Any:
        """Map each row by its domain's map.

        Args:
            X: rows ``(n, d)``, seen in `fit` or new.
            sample_domain: ``(n,)`` numbers, positive for a source row, negative for a target row.
                None: all are target rows, what is predicted on.

        Raises:
            DomadaptError: a domain of 0, or not one number for each row.
        """
        check_is_fitted(self)
        x = self._validated(X, reset=False)
        source = np.zeros(x.shape[0], bool) if sample_domain is None else which(sample_domain, x)
        return self._mapped(x, source)

    def fit_transform(
        self, X: Any, y: Any = None, *, sample_domain: Any = None, X_target: Any = None
    ) -> Any:
        """Fit, then map each row of ``X`` by its own domain's map.

        Unlike ``fit(...).transform(X)``, which takes all rows for target rows. With ``X_target``
        all rows of ``X`` are source rows. Arguments and errors: see `fit`.
        """
        self.fit(X, y, sample_domain=sample_domain, X_target=X_target)
        x = self._validated(X, reset=False)
        source = np.ones(x.shape[0], bool) if sample_domain is None else which(sample_domain, x)
        return self._mapped(x, source)

    def __sklearn_tags__(self) -> Tags:
        """Sparse input is taken, float32 is kept."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _fit(self, x_s: Any, x_t: Any, y_s: np.ndarray | None) -> None:
        raise DomadaptError(f"{type(self).__name__} must define _fit(x_s, x_t, y_s).")

    def _map_source(self, x: Any) -> Any:
        return x

    def _map_target(self, x: Any) -> Any:
        return x

    def _mapped(self, given: Any, source: Bool[np.ndarray, " n"]) -> Any:
        if not self._moves:
            return given
        x = given.astype(np.float64, copy=False)
        if source.all():
            out = self._map_source(x)
        elif not source.any():
            out = self._map_target(x)
        else:
            mapped_s = self._map_source(x[source])
            out = np.empty((x.shape[0], mapped_s.shape[1]))
            out[source], out[~source] = mapped_s, self._map_target(x[~source])
        return out.astype(given.dtype, copy=False)

    def _validated(self, x: Any, *, reset: bool) -> Any:
        floats = [np.float64, np.float32]
        x = validate_data(self, x, reset=reset, dtype=floats, accept_sparse="csr")
        if self._dense and scipy.sparse.issparse(x):
            require_memory(x.shape, f"{type(self).__name__} works on dense rows, and these rows")
            return x.toarray()
        return x


def which(sample_domain: Any, x: Any) -> Bool[np.ndarray, " n"]:
    """True for source rows, from numbers that are positive for them and negative for the target.

    Raises:
        DomadaptError: not one number for each row of ``x``, or a number that is 0 or NaN.
    """
    d = np.asarray(sample_domain)
    if d.shape != (x.shape[0],) or d.dtype.kind not in "iufb":
        raise DomadaptError(
            f"sample_domain must be one number for each of the {x.shape[0]} rows of X; got "
            f"{d.dtype} values of shape {d.shape}."
        )
    if not ((d > 0) | (d < 0)).all():
        raise DomadaptError(
            "sample_domain must be positive for source rows and negative for target rows; got "
            f"{d[~((d > 0) | (d < 0))][0]}, which is neither. Use 1 and -1."
        )
    return np.asarray(d > 0)


def require_memory(shape: tuple[int, ...], what: str) -> None:
    """Refuse an array of float64 that would take more than half of the machine's memory.

    Raises:
        DomadaptError: it would.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        memory = 2**33
    size = 8.0 * np.prod([float(s) for s in shape])
    if size > memory / 2:
        raise DomadaptError(
            f"{what} would take {size / 2**30:.3g} GiB as an array of shape {tuple(shape)}; "
            f"allowed is half of the memory, {memory / 2**31:.3g} GiB. Reduce the rows or the "
            "features (for example by TruncatedSVD) first."
        )


def covariances(x_s: Rows, x_t: Rows, reg: float, name: str, *, ddof: int) -> tuple[Square, Square]:
    """``C_s + reg I`` and ``C_t + reg I``, each covariance divided by ``n - ddof``.

    Raises:
        DomadaptError: a negative ``reg``, or matrices that do not fit into memory.
    """
    if not reg >= 0:
        raise DomadaptError(f"{name}(reg) must be at least 0; got {reg!r}.")
    d = x_s.shape[1]
    require_memory((d, d), f"A covariance of {d} features, which {name} needs,")
    c_s, c_t = (np.atleast_2d(np.cov(x, rowvar=False, ddof=ddof)) for x in (x_s, x_t))
    return c_s + reg * np.eye(d), c_t + reg * np.eye(d)


def spd_power(c: Square, power: float) -> Square:
    """``c ** power`` of a symmetric positive (semi-)definite matrix, by its eigenvalues.

    Raises:
        DomadaptError: a negative power of a matrix that is singular in float64.
    """
    values, vectors = scipy.linalg.eigh(c)
    values = values.clip(0)
    if power < 0 and values[0] <= len(c) * np.finfo(np.float64).eps * values[-1]:
        raise DomadaptError(
            "The covariance of the source must be invertible, but it is singular (fewer source "
            "rows than features, or features that depend on each other). Raise reg."
        )
    return np.asarray((vectors * values**power) @ vectors.T)


def stacked(x_s: Any, x_t: Any) -> Any:
    """The rows of both domains, source first; sparse if they are."""
    return (scipy.sparse.vstack if scipy.sparse.issparse(x_s) else np.vstack)([x_s, x_t])


def bandwidth(x: Any, kernel: str, gamma: float | None) -> float:
    """``gamma``, or by default 1 over the median of ``|x_i - x_j|^2`` over rows that differ.

    Raises:
        DomadaptError: a kernel other than "linear" and "rbf", a ``gamma`` that is not positive.
    """
    if kernel not in ("linear", "rbf"):
        raise unknown("kernel", str(kernel), ["linear", "rbf"])
    if gamma is not None:
        if not gamma > 0:
            raise DomadaptError(f"gamma must be positive, or None (the median rule); got {gamma}.")
        return float(gamma)
    if kernel == "linear":
        return 1.0
    require_memory((x.shape[0], x.shape[0]), "The distances between all rows")
    squares = euclidean_distances(x, squared=True)
    # Each pair twice, which leaves the median; rounding leaves tiny distances between equal rows.
    squares = squares[squares > 1e-12 * squares.max(initial=0)]
    return 1 / float(np.median(squares)) if squares.size else 1.0


def kernel_between(x: Any, other: Any, kernel: str, gamma: float) -> Float[np.ndarray, "n m"]:
    """``x other^T`` ("linear") or ``exp(-gamma |x_i - other_j|^2)`` ("rbf").

    Raises:
        DomadaptError: the matrix does not fit into memory.
    """
    require_memory((x.shape[0], other.shape[0]), "The kernel between all rows")
    settings = {"gamma": gamma} if kernel == "rbf" else {"dense_output": True}
    return np.asarray(pairwise_kernels(x, other, metric=kernel, **settings))


def n_components_of(given: int | None, most: int, name: str, why: str) -> int:
    """The number of components: ``given``, or 20, or as many as there are.

    Raises:
        DomadaptError: not a whole number from 1 to ``most``.
    """
    if given is None:
        return min(20, most)
    if not (isinstance(given, (int, np.integer)) and 1 <= given <= most):
        raise DomadaptError(
            f"{name}(n_components) must be a whole number from 1 to {most} ({why}), or None; got "
            f"{given!r}."
        )
    return int(given)
