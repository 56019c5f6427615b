"""The scikit-learn front: a classifier for pipelines and searches, and scores without labels.

Rows of source and target are stacked, and ``sample_domain`` tells them apart, so that whatever
slices or transforms rows (pipelines, searches) treats both alike::

    x, d = np.vstack([x_s, x_t]), np.repeat([1, -1], [len(x_s), len(x_t)])
    y = np.concatenate([y_s, np.full(len(x_t), -1)])  # labels of target rows are never read
    model = make_pipeline(StandardScaler(), DomainAdaptationClassifier("mcc"))
    model.fit(x, y, domainadaptationclassifier__sample_domain=d)
    model.predict(x_t_new)

A search needs a score that reads no target label, `label_free_scorer`. There are two ways to it.

1. As scikit-learn is by default, a search hands ``sample_domain`` to ``fit`` but not to the
   scorer. The rows that are scored must then be target rows alone, as `target_folds` makes them::

       search = GridSearchCV(model, grid, scoring=label_free_scorer(), cv=target_folds(d))
       search.fit(x, y, domainadaptationclassifier__sample_domain=d)

2. With metadata routing the scorer is told as well and chooses the target rows itself, so that
   any splitter will do. The classifier and the scorer ask for ``sample_domain`` of themselves; a
   transformer that takes it must be told to ask::

       with sklearn.config_context(enable_metadata_routing=True):
           GridSearchCV(model, grid, scoring=label_free_scorer(), cv=3).fit(x, y, sample_domain=d)

Importing this module changes no setting of scikit-learn. A search without ``scoring`` calls
`DomainAdaptationClassifier.score`, which reads the labels it is given: with true target labels
that is oracle selection, and with placeholders such as -1 it is refused.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags, check_array, check_random_state, column_or_1d
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from torch import Tensor, nn

from domadapt.closed_form.base import which
from domadapt.curves import History
from domadapt.data import from_arrays, from_texts
from domadapt.data.views import Views
from domadapt.defaults import training_for
from domadapt.devices import make_accelerator
from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.inference import outputs_of
from domadapt.label_free import sliceable, target_rows, texts_of
from domadapt.methods import is_source_free, method_class, method_parts
from domadapt.network import Network
from domadapt.runs.candidate import Progress, train_candidate
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.runs.saved import whole
from domadapt.selection import scores
from domadapt.task import Domain, Kind, Task, canonical
from domadapt.training import Training


class DomainAdaptationClassifier(ClassifierMixin, BaseEstimator):
    """A network that is adapted to unlabelled target rows, as a scikit-learn classifier.

    It trains as `domadapt.adapt` does, with the same defaults, but one model only and without a
    report; a source-free method goes on from a ``source_only`` network that is trained first. The
    last step is kept. Rows are vectors ``(n, d)`` (arrays, data frames, sparse matrices), series,
    images or texts ``(n,)`` (a list, an array or a column of strings), which need an encoder as
    backbone, ``"hf:NAME"`` or ``"hf:FOLDER"``. For counts of words, backbone ``"features"`` with
    augment ``"features"`` fits.

    A fitted classifier can be pickled; a backbone given as a module must then be picklable too.

    Args:
        method: a method's name, a combination such as ``"dann+mcc"``, or ``"path.py"``.
        backbone: a backbone's name, ``"path.py:function"``, a module that returns features, or a
            `Network`; a module given is copied, never changed. None takes the default of the kind
            of data: ``mlp`` for vectors.
        settings: the method's settings by name; of a combination as ``"part.setting"``.
        training: settings of `Training` that differ from the default of the kind of backbone, such
            as ``{"steps": 300}``.
        weights: pre-trained weights of a named backbone: a file, or ``"DEFAULT"`` from a hub.
        freeze: adapt on features that the backbone computes once.
        bottleneck: width of the layer between backbone and head; 0 for none.
        kind: "vector", "series", "image" or "text"; None guesses by the number of dimensions, and
            takes strings for texts.
        image_size: side that images are brought to.
        max_length: where texts are cut, in tokens; None takes 128, or the model's limit.
        pooling: of an encoder of Hugging Face; see `ModelSpec`.
        augment: the augmentation (`domadapt.data.views.make_views`); None takes the kind's.
        val_fraction: share of the source rows of each class kept from training, for methods and
            scores that need them.
        random_state: seed of splits, weights, order and augmentation. None or a `RandomState`
            draws one for each fit.
        device: "auto", "cpu" or "cuda", to train and to predict on.
        verbose: print losses and the time left.

    Attributes:
        classes_: the classes of the source rows, sorted.
        network_: the adapted `Network`, on the CPU and in evaluation mode.
        history_: learning curves by name.
        warnings_: what the training gave reason to doubt, in words; each is also a `UserWarning`.
        source_val_accuracy_: share of the held-out source rows that are classified rightly.
        n_features_in_: columns of ``X``; of images and series, values of a row; of texts 1.
        feature_names_in_: names of the columns, where ``X`` was a data frame.
    """

    # Asked for wherever metadata are routed. X_target is no part of X, so nothing could slice it.
    __metadata_request__fit = {"sample_domain": True, "X_target": UNUSED}
    __metadata_request__score = {"sample_domain": True}

    classes_: np.ndarray
    network_: Network
    history_: History
    warnings_: tuple[str, ...]
    source_val_accuracy_: float
    n_features_in_: int

    def __init__(
        self,
        method: str = "mcc",
        *,
        backbone: str | nn.Module | None = None,
        settings: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        weights: str | None = None,
        freeze: bool = False,
        bottleneck: int | None = None,
        kind: Kind | None = None,
        image_size: int | None = None,
        max_length: int | None = None,
        pooling: str | None = None,
        augment: str | None = None,
        val_fraction: float = 0.2,
        random_state: int | np.random.RandomState | None = 0,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.backbone = backbone
        self.settings = settings
        self.training = training
        self.weights = weights
        self.freeze = freeze
        self.bottleneck = bottleneck
        self.kind = kind
        self.image_size = image_size
        self.max_length = max_length
        self.pooling = pooling
        self.augment = augment
        self.val_fraction = val_fraction
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any, *, sample_domain: Any = None, X_target: Any = None) -> Self:
        """Train on labelled source rows and unlabelled target rows.

        Args:
            X: source and target rows stacked ``(n, ...)``, or, with ``X_target``, the source rows.
            y: ``(n,)`` labels, numbers or strings. Those of target rows are never looked at:
                anything may stand there.
            sample_domain: ``(n,)`` numbers, positive for a source row, negative for a target row.
                Different positive numbers are different source domains; all negative ones are the
                one target.
            X_target: the target rows, the short form outside pipelines.

        ``fit(X, y)`` alone is for methods that see no target, such as ``source_only``. Of others it
        is refused: a model that was not adapted because ``sample_domain`` got lost on its way is
        worse than an error.

        Raises:
            DomadaptError: neither or both of ``sample_domain`` and ``X_target``; a domain of 0, or
                no row of one domain; a source row without a label, or a single class; rows,
                settings or a training that cannot be used.
        """
        x = self._checked(X, reset=True)
        if y is None:
            raise DomadaptError(
                f"{type(self).__name__} requires y to be passed, but the target y is None: give a "
                "label for each source row; those of target rows are not looked at."
            )
        check_consistent_length(x, y)
        labels = column_or_1d(y, warn=True)
        source, numbers = self._sources(x, sample_domain, X_target)
        ids = self._class_ids(labels[source])
        task = self._task(x, ids, source, numbers, X_target)
        seed = self._seed()
        # The global state of torch is left as it was found.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            self._train(task(seed), seed)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities ``(n, classes)``, float32, in the order of ``classes_``.

        Raises:
            DomadaptError: rows that do not fit those of `fit`.
        """
        p: np.ndarray = self._outputs(X).logits.softmax(1).numpy()
        return p

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row ``(n,)``.

        Raises:
            DomadaptError: rows that do not fit those of `fit`.
        """
        top = self._outputs(X).logits.argmax(1)
        return self.classes_[top.numpy()]

    def score(
        self, X: Any, y: Any, sample_weight: Any = None, *, sample_domain: Any = None
    ) -> float:
        """Accuracy against labels that are given; to choose a model, see `label_free_scorer`.

        Args:
            X: rows ``(n, ...)``.
            y: their true labels ``(n,)``.
            sample_weight: ``(n,)`` weights of the rows.
            sample_domain: as in `fit`; only target rows are then scored. None scores all rows.

        Raises:
            DomadaptError: no target row, or no label of a row that is scored is a class of the
                source, as when target rows bear a placeholder.
        """
        check_is_fitted(self)
        x, true = sliceable(X), column_or_1d(y)
        check_consistent_length(x, true)
        weight = None if sample_weight is None else np.asarray(sample_weight)
        if sample_domain is not None:
            rows = target_rows(sample_domain, x)
            x, true = x[rows], true[rows]
            weight = None if weight is None else weight[rows]
        known = {canonical(c) for c in self.classes_}
        if not any(canonical(label) in known for label in true):
            raise DomadaptError(
                "score needs true labels, and none of the rows to score has a label of the "
                f"source's classes; the first has {true[0]!r}. Without target labels, choose by "
                "scoring=domadapt.label_free.label_free_scorer()."
            )
        return float(accuracy_score(true, self.predict(x), sample_weight=weight))

    def __sklearn_tags__(self) -> Tags:
        """Sparse rows are taken, and rows of several dimensions."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.three_d_array = True
        return tags

    def _checked(self, given: Any, *, reset: bool) -> Any:
        """Finite numbers ``(n, ...)``; columns by number and name, as scikit-learn checks them.

        Texts leave as an array of strings ``(n,)``.
        """
        texts = texts_of(given)
        if reset:
            self._of_texts = texts is not None
        elif self._of_texts != (texts is not None):
            was, now = ("texts", "none") if self._of_texts else ("numbers", "texts")
            raise DomadaptError(
                f"The rows that {type(self).__name__} is fitted on are {was}, and these are {now}; "
                f"give rows of the same kind{', one string each' if self._of_texts else ''}."
            )
        if texts is not None:
            if reset:
                self.n_features_in_ = 1
            return texts
        given = sliceable(given)
        if not reset and getattr(given, "ndim", 2) > 2:
            # Images may be of another size; what the network takes is checked where it is told.
            return check_array(given, allow_nd=True)
        x = validate_data(self, given, reset=reset, accept_sparse="csr", allow_nd=True)
        if reset and x.ndim > 2:
            self.n_features_in_ = math.prod(x.shape[1:])
        return x

    def _sources(self, x: Any, sample_domain: Any, X_target: Any) -> tuple[np.ndarray, np.ndarray]:
        """Which rows are of the source, and the number of the domain of each of these."""
        name = type(self).__name__
        needs = [p for p in method_parts(self.method) if method_class(p).needs_target]
        if (sample_domain is None) == (X_target is None) and (needs or X_target is not None):
            given = "neither" if X_target is None else "both"
            raise DomadaptError(
                f"{name}.fit needs either sample_domain (positive for source rows of X, negative "
                f"for target rows) or X_target (X is then the source); got {given}. Without a "
                "target there is only method='source_only'."
            )
        if sample_domain is None:
            return np.ones(x.shape[0], bool), np.ones(x.shape[0], int)
        source = which(sample_domain, x)
        for kind, rows in (("source", source), ("target", ~source)):
            if not rows.any():
                raise DomadaptError(
                    f"{name}.fit needs rows of both domains, and sample_domain names no {kind} row "
                    f"(n_samples = {len(rows)}). Source rows have positive numbers, target rows "
                    "negative ones."
                )
        return source, np.asarray(sample_domain)[source]

    def _class_ids(self, labels: np.ndarray) -> np.ndarray:
        """The source's labels as positions in `classes_`, which it sets."""
        missing = [i for i, label in enumerate(labels) if canonical(label) is None]
        if missing:
            raise DomadaptError(
                f"Every source row needs a label; {len(missing)} have none (None, NaN or ''), the "
                f"first is source row {missing[0]}. Drop them, or make them target rows."
            )
        if labels.dtype == object and not isinstance(labels[0], str):
            # Numbers, among labels of target rows that are none.
            labels = np.array(labels.tolist())
        check_classification_targets(labels)
        self.classes_, ids = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DomadaptError(
                "A classifier needs source rows of at least 2 classes; got one class, "
                f"{self.classes_[0]!r}."
            )
        return np.asarray(ids)

    def _task(
        self, x: Any, ids: np.ndarray, source: np.ndarray, numbers: np.ndarray, X_target: Any
    ) -> Any:
        """The task as a function of the seed of its splits."""
        names = [str(i) for i in range(len(self.classes_))]

        def domain(name: str, rows: Any, y: Any = None, kind: Kind | None = None) -> Domain:
            return self._domain(rows, y, name, kind, None if y is None else names)

        kind, sources = self.kind, []
        x_s = x if source.all() else x[source]
        for number in np.unique(numbers):
            mine = numbers == number
            rows, of = (x_s, "source") if mine.all() else (x_s[mine], f"source {number}")
            sources.append(domain(of, rows, ids[mine], kind))
            kind = sources[0].kind
        if X_target is not None:
            target = domain("target", self._checked(X_target, reset=False), kind=kind)
        elif source.all():
            # Nobody looks at it: the method sees no target, and a task must have one.
            target = domain("target", x_s, kind=kind)
        else:
            target = domain("target", x[~source], kind=kind)
        return lambda seed: Task(
            sources, target, val_fraction=self.val_fraction, split_seed=seed, name="source->target"
        )

    def _domain(
        self,
        rows: Any,
        y: Any = None,
        name: str = "X",
        kind: Kind | None = None,
        names: list[str] | None = None,
    ) -> Domain:
        """Rows as `_checked` gives them as a domain; `names` are those of the classes."""
        if texts_of(rows) is not None:
            if kind not in (None, "text"):
                raise DomadaptError(f"These rows are texts; got kind={kind!r}. Leave it out.")
            return from_texts(rows, y, name=name, class_names=names)
        return from_arrays(rows, y, name=name, kind=kind, augment=self.augment, class_names=names)

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _train(self, task: Task, seed: int) -> None:
        given = dict(self.training or {})
        for key, own in (("seed", "random_state"), ("device", "device")):
            if key in given:
                raise DomadaptError(
                    f"{key} of training is given as {own} of {type(self).__name__}; take it out "
                    "of training."
                )
        name = self.backbone if isinstance(self.backbone, str) else None
        module = self.backbone if isinstance(self.backbone, nn.Module) else None
        if name is None and module is None and self.backbone is not None:
            raise DomadaptError(
                "backbone must be a name, 'path.py:function', a torch.nn.Module or None; got "
                f"{type(self.backbone).__name__}."
            )
        device = self._place()
        spec = ModelSpec(
            name,
            weights=self.weights,
            freeze=self.freeze,
            bottleneck=self.bottleneck,
            image_size=self.image_size,
            max_length=self.max_length,
            pooling=self.pooling,
            augment=self.augment,
        )
        plan = make_plan(task, spec, module, device=device)
        how = training_for(plan.kind, {**given, "seed": seed, "device": self.device})
        progress = _lines() if self.verbose else None
        start = None
        if is_source_free(self.method):
            start = train_candidate(plan, "source_only", {}, how, progress=progress).network
        trained = train_candidate(
            plan, self.method, dict(self.settings or {}), how, progress=progress, start=start
        )
        source_val = outputs_of(
            trained.network.to(device), plan.task.source_val, plan.views, device=device
        )
        self.source_val_accuracy_ = scores.source_val_accuracy(source_val)
        self.network_ = plan.compose(trained.network.cpu()).eval()
        self.history_ = trained.history
        self.warnings_ = trained.warnings
        self._views: Views = plan.input_views
        self._kind = task.kind
        self._input = None if isinstance(plan.example, dict) else tuple(plan.example.shape[1:])
        for sentence in self.warnings_:
            warnings.warn(f"{self.method}: {sentence}", UserWarning, stacklevel=3)

    def _place(self) -> torch.device:
        return make_accelerator(Training(device=self.device)).device

    def _outputs(self, given: Any) -> Outputs:
        check_is_fitted(self)
        split = whole(self._domain(self._checked(given, reset=False), kind=self._kind))
        first = self._views.evaluation(split.fetch([0]))
        if isinstance(first, Tensor) and tuple(first.shape[1:]) != self._input:
            raise DomadaptError(
                f"{type(self).__name__} was fitted on rows of shape {self._input}; got "
                f"{tuple(first.shape[1:])}. Give rows of the same shape."
            )
        device = self._place()
        # A pickle of it must open where there is no such device.
        outputs = outputs_of(self.network_.to(device), split, self._views, device=device)
        self.network_.cpu()
        return outputs


def _lines() -> Progress:
    from domadapt.progress import Lines

    return Lines(sys.stderr)
