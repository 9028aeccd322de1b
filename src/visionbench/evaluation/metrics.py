"""The metrics of a split: a registry with one row for each metric, computed once, at the end of an epoch.

No metric is computed inside a training step. torchmetrics counts the confusion matrix and runs the metrics that a user
names by import path. The registry's own values are computed here, in double precision, for these reasons (measured with
torchmetrics 1.9):

- torchmetrics divides integer counts in single precision, so that its accuracy has an error of up to 3e-8.
- Its balanced accuracy gives a class without samples the recall 0 if the class is predicted; scikit-learn leaves the
  class out.
- Its AUC is 0 where only one class is present; its kappa, AUC and calibration error have single precision.
- One probability that is NaN, or 1.0000001, makes it apply a softmax to all probabilities without a warning.
- Its calibration bins hold their lower edge; those of scikit-learn and of this package's figures hold their upper edge.

All values agree with scikit-learn, which has no metric named calibration error but has the same bins in
`calibration_curve`. The order of the samples does not change a value of the registry: counts are integers, and sums are
rounded once.
"""

import difflib
import functools
import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from visionbench.errors import MetricFailed, UserError
from visionbench.text import counted, one_line

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

Mode = Literal["min", "max"]
Source = Literal["confusion matrix", "probabilities"]

CLASS_F1 = "f1_"  # followed by the name of a class
EACH_CLASS_F1 = "per_class_f1"  # stands for f1_<class> of every class
BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks", 2017
TOLERANCE = 1e-5  # rounding error of a probability in single precision


@dataclass(frozen=True)
class Outcome:
    """What a model predicted for all samples of a split.

    Attributes:
        labels: True classes, shape (N,), int64.
        counts: Confusion matrix with a row for each true class, shape (C, C), int64.
        probabilities: Probabilities of all classes, shape (N, C), float64; `None` where no metric needs them.
        confidence: Probability of the predicted class, shape (N,), float64; `None` like the probabilities.
        correct: Whether each prediction is correct, shape (N,), bool.
    """

    labels: np.ndarray
    counts: np.ndarray
    probabilities: np.ndarray | None
    confidence: np.ndarray | None
    correct: np.ndarray


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: Name in configurations and after the slash in metrics.csv.
        mode: Whether small (min) or large (max) values are good.
        source: What the metric is computed from. A metric of probabilities is NaN if any probability is NaN or
            infinite.
        compute: Function from the outcome of a split to the value.
        summary: Meaning of the value, in one phrase.
        num_classes: The only number of classes that the metric is defined for; `None` for any number.
        other_names: Usual names elsewhere, from which an error message suggests this metric.
        user_class: Class of a metric of the user; `None` for the registry's own metrics.
    """

    name: str
    mode: Mode
    source: Source
    compute: Callable[[Outcome], float]
    summary: str
    num_classes: int | None = None
    other_names: tuple[str, ...] = ()
    user_class: "type[Metric] | None" = None


def accuracy(outcome: Outcome) -> float:
    """The number of correct predictions divided by the number of samples, rounded once."""
    return int(np.trace(outcome.counts)) / int(outcome.counts.sum())


def balanced_accuracy(outcome: Outcome) -> float:
    """The mean recall of the classes that have samples; a class without samples is left out, as in scikit-learn."""
    recalls = [int(row[label]) / int(row.sum()) for label, row in enumerate(outcome.counts) if row.any()]
    return math.fsum(recalls) / len(recalls)


def class_f1(label: int, outcome: Outcome) -> float:
    """The F1 of one class; 0 for a class that is neither a label nor predicted, as in scikit-learn."""
    total = int(outcome.counts[label].sum()) + int(outcome.counts[:, label].sum())
    return 2 * int(outcome.counts[label, label]) / total if total else 0.0


def macro_f1(outcome: Outcome) -> float:
    """The mean F1 of the classes that are labels or predicted; the other classes are left out, as in scikit-learn."""
    in_use = np.flatnonzero(outcome.counts.sum(axis=0) + outcome.counts.sum(axis=1))
    return math.fsum(class_f1(label, outcome) for label in in_use.tolist()) / len(in_use)


def cohen_kappa(outcome: Outcome) -> float:
    """Cohen's kappa, without weights; NaN where labels and predictions are all of one class, as in scikit-learn."""
    labels, predicted = outcome.counts.sum(axis=1).tolist(), outcome.counts.sum(axis=0).tolist()
    count = sum(labels)
    by_chance = count * count - sum(a * b for a, b in zip(labels, predicted, strict=True))
    wrong = count - int(np.trace(outcome.counts))
    return 1 - wrong * count / by_chance if by_chance else math.nan


def auc(outcome: Outcome) -> float:
    """The area under the ROC curve of the second class; NaN where only one class is present, as in scikit-learn.

    It is the share of pairs of one sample of each class in which the second class's sample has the larger probability,
    where a tie counts as half.
    """
    scores = _present(outcome.probabilities)[:, 1]
    values, rank = np.unique(scores, return_inverse=True)
    positive = np.bincount(rank[outcome.labels == 1], minlength=len(values))
    negative = np.bincount(rank[outcome.labels == 0], minlength=len(values))
    pairs = int(positive.sum()) * int(negative.sum())
    twice_above = int((positive * (2 * np.cumsum(negative) - negative)).sum())
    return twice_above / (2 * pairs) if pairs else math.nan


def log_loss(outcome: Outcome) -> float:
    """The mean negative logarithm of the true class's probability.

    As in scikit-learn, a probability of 0 counts as 2.2e-16, which makes a loss of 36.04, and probabilities that do not
    add up to 1 are not rescaled.
    """
    of_truth = _present(outcome.probabilities)[np.arange(len(outcome.labels)), outcome.labels]
    smallest = float(np.finfo(np.float64).eps)
    losses = -np.log(np.clip(of_truth, smallest, 1 - smallest))
    return math.fsum(losses.tolist()) / len(losses)


def calibration_error(outcome: Outcome) -> float:
    """The expected calibration error: the mean distance of accuracy and confidence over 15 bins of the confidence.

    The confidence is the probability of the predicted class; a bin holds its upper edge. Each bin counts as often as it
    has samples.
    """
    confidence = _present(outcome.confidence)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    surplus = np.where(outcome.correct, 1.0, 0.0) - confidence
    distances = [abs(math.fsum(surplus[bins == number].tolist())) for number in range(BINS)]
    return math.fsum(distances) / len(confidence)


def _present(array: np.ndarray | None) -> np.ndarray:
    if array is None:
        raise ValueError("This metric needs probabilities, but none were passed; see Evaluator.needs_probabilities.")
    return array


METRICS: Mapping[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec(
            "acc", "max", "confusion matrix", accuracy, "share of correct predictions", other_names=("accuracy", "top1")
        ),
        MetricSpec(
            "balanced_accuracy",
            "max",
            "confusion matrix",
            balanced_accuracy,
            "mean recall of the classes",
            other_names=("balanced_acc", "macro_recall", "uar"),
        ),
        MetricSpec(
            "macro_f1", "max", "confusion matrix", macro_f1, "mean F1 of the classes", other_names=("f1", "f1_macro")
        ),
        MetricSpec(
            "cohen_kappa",
            "max",
            "confusion matrix",
            cohen_kappa,
            "agreement beyond chance (Cohen's kappa)",
            other_names=("kappa",),
        ),
        MetricSpec(
            "auc",
            "max",
            "probabilities",
            auc,
            "area under the ROC curve of the second class",
            num_classes=2,
            other_names=("auroc", "roc_auc", "rocauc"),
        ),
        MetricSpec(
            "log_loss",
            "min",
            "probabilities",
            log_loss,
            "mean negative logarithm of the true class's probability",
            other_names=("nll", "cross_entropy"),
        ),
        MetricSpec(
            "calibration_error",
            "min",
            "probabilities",
            calibration_error,
            "expected calibration error, 15 bins",
            other_names=("ece", "expected_calibration_error"),
        ),
    )
}
"""The metrics that have a name of their own; `resolve` adds those of one class and those of the user."""


class Evaluator:
    """Computes the metrics of a split from the predictions for all its samples.

    Args:
        names: Names of metrics: keys of `METRICS`, `f1_<class>`, `per_class_f1` (for `f1_<class>` of every class), or
            import paths of `torchmetrics.Metric` classes. A repeated name counts once.
        class_names: Names of the classes, in the order of the labels.

    Raises:
        UserError: A name is unknown, or its metric cannot be used for these classes.
    """

    def __init__(self, names: Sequence[str], class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.specs = {name: resolve(name, class_names) for name in expand(names, class_names)}

    @property
    def modes(self) -> dict[str, Mode]:
        """Whether small or large values are good, for each name."""
        return {name: spec.mode for name, spec in self.specs.items()}

    @property
    def needs_probabilities(self) -> bool:
        """Whether any metric is computed from probabilities."""
        return any(spec.source == "probabilities" for spec in self.specs.values())

    def compute(self, labels: "Tensor", predicted: "Tensor", probabilities: "Tensor | None" = None) -> dict[str, float]:
        """Computes every metric, on the CPU.

        The tensors hold all samples of the split. With several processes, the caller gathers the samples of all
        processes first, without those that a sampler repeated to make the parts equal; nothing is exchanged between
        processes here, so that one process alone may call this method.

        Args:
            labels: True classes, shape (N,), integers.
            predicted: Predicted classes, shape (N,), integers.
            probabilities: Probabilities of the classes, shape (N, C); may be left out if `needs_probabilities` is
                false.

        Returns:
            The value for each name. A metric of probabilities is NaN if any probability is NaN or infinite, because
            a number from the other samples alone would hide the failure; metrics of the confusion matrix are not
            affected.

        Raises:
            ValueError: The shapes do not match, there are no samples, a class is out of range, a probability is outside
                0 to 1, or the probabilities are needed and missing.
            MetricFailed: A metric of the user failed.
        """
        outcome = self._outcome(labels, predicted, probabilities)
        valid = outcome.probabilities is None or bool(np.isfinite(outcome.probabilities).all())
        return {
            name: math.nan if spec.source == "probabilities" and not valid else spec.compute(outcome)
            for name, spec in self.specs.items()
        }

    def _outcome(self, labels: "Tensor", predicted: "Tensor", probabilities: "Tensor | None") -> Outcome:
        import torch
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        count, num_classes = len(labels), len(self.class_names)
        if not count:
            raise ValueError("The split has no samples, so its metrics are not defined.")
        for title, classes in (("labels", labels), ("predicted classes", predicted)):
            if classes.shape != (count,) or classes.is_floating_point() or classes.is_complex():
                raise ValueError(
                    f"The {title} have shape {tuple(classes.shape)} and type {classes.dtype}, expected integers of "
                    f"shape ({count},)."
                )
            if int(classes.min()) < 0 or int(classes.max()) >= num_classes:
                raise ValueError(
                    f"The {title} go from {int(classes.min())} to {int(classes.max())}, expected 0 to "
                    f"{num_classes - 1}."
                )
        labels, predicted = labels.detach().cpu().long(), predicted.detach().cpu().long()
        counts = multiclass_confusion_matrix(predicted, labels, num_classes, validate_args=False)
        truth, guesses = labels.numpy(), predicted.numpy()
        if not self.needs_probabilities:
            return Outcome(truth, counts.numpy(), None, None, truth == guesses)
        if probabilities is None:
            raise ValueError("The metrics need probabilities, but none were passed; see Evaluator.needs_probabilities.")
        if probabilities.shape != (count, num_classes):
            raise ValueError(
                f"The probabilities have shape {tuple(probabilities.shape)}, expected ({count}, {num_classes})."
            )
        array = probabilities.detach().cpu().to(torch.float64).numpy()
        finite = array[np.isfinite(array)]
        if finite.size and (finite.min() < -TOLERANCE or finite.max() > 1 + TOLERANCE):
            raise ValueError(
                f"The probabilities go from {finite.min():.6g} to {finite.max():.6g}, expected 0 to 1; pass "
                "probabilities, not logits."
            )
        array = np.clip(array, 0.0, 1.0, where=np.isfinite(array), out=array.copy())
        return Outcome(truth, counts.numpy(), array, array[np.arange(count), guesses], truth == guesses)


def expand(names: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """The names of single metrics, each once: `per_class_f1` becomes `f1_<class>` of every class."""
    single: dict[str, None] = {}
    for name in names:
        single |= dict.fromkeys([CLASS_F1 + one for one in class_names] if name == EACH_CLASS_F1 else [name])
    return list(single)


def resolve(name: str, class_names: Sequence[str]) -> MetricSpec:
    """The metric of a name.

    A metric of the user is tried out on one sample of each class, so that a metric that cannot be used is refused
    before training.

    Args:
        name: Key of `METRICS`, `f1_<class>`, or import path of a `torchmetrics.Metric` that takes no argument or
            `num_classes`, and whose `update` takes probabilities, shape (N, C), and labels, shape (N,).
        class_names: Names of the classes, in the order of the labels.

    Raises:
        UserError: There is no such metric, it is not defined for this number of classes, or a metric of the user cannot
            be imported, built or computed.
    """
    if name in METRICS:
        spec = METRICS[name]
        if spec.num_classes not in (None, len(class_names)):
            raise UserError(
                f"The metric {name} is defined for {spec.num_classes} classes, but the data set has "
                f"{_classes(len(class_names))}; remove {name} from the metrics."
            )
        return spec
    class_name = name.removeprefix(CLASS_F1)
    if name.startswith(CLASS_F1) and class_name in class_names:
        label = list(class_names).index(class_name)
        function = functools.partial(class_f1, label)
        return MetricSpec(name, "max", "confusion matrix", function, f"F1 of the class {class_name}")
    if not _is_import_path(name):
        raise _unknown(name, class_names)
    kind = _import_metric(name)
    mode = _user_mode(name, kind)
    arguments = _arguments(name, kind, len(class_names))
    function = functools.partial(_user_value, kind, arguments)
    _try_out(name, function, len(class_names))
    compute = functools.partial(_compute_user, name, function)
    return MetricSpec(name, mode, "probabilities", compute, f"{name}, by user", user_class=kind)


def mode_of(name: str, class_names: Sequence[str] | None = None) -> Mode:
    """Whether small (min) or large (max) values of a metric are good.

    Args:
        name: Name of a single metric, as for `resolve`.
        class_names: Names of the classes; `None` where the data set is not known yet, and any `f1_<class>` is accepted.

    Raises:
        UserError: There is no such metric, or a metric of the user does not state its mode.
    """
    if name in METRICS:
        return METRICS[name].mode
    if name.startswith(CLASS_F1) and len(name) > len(CLASS_F1):
        if class_names is not None:
            is_class = name.removeprefix(CLASS_F1) in class_names
        else:  # a class may have a dot in its name, as in 001.Black_footed_Albatross
            is_class = not _is_import_path(name) or importlib.util.find_spec(name.partition(".")[0]) is None
        if is_class:
            return "max"
    if not _is_import_path(name):
        raise _unknown(name, class_names or ())
    return _user_mode(name, _import_metric(name))


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count:,} classes"


def _is_import_path(name: str) -> bool:
    return "." in name and all(part.isidentifier() for part in name.split("."))


def _unknown(name: str, class_names: Sequence[str]) -> UserError:
    if name == EACH_CLASS_F1:
        example = class_names[0] if class_names else "<class>"
        return UserError(f"{EACH_CLASS_F1} is one metric for each class; name one of them, such as f1_{example}.")
    meant = {spelling: spec.name for spec in METRICS.values() for spelling in (spec.name, *spec.other_names)}
    meant |= {(CLASS_F1 + one).casefold(): CLASS_F1 + one for one in class_names} | {EACH_CLASS_F1: EACH_CLASS_F1}
    close = difflib.get_close_matches(name.casefold().replace("-", "_"), meant, n=1)
    close = close or difflib.get_close_matches(name.casefold(), meant, n=1)  # a class name may hold a hyphen
    return UserError(
        f"There is no metric {name!r}; "
        + (f"did you mean {meant[close[0]]}? " if close else "")
        + f"The metrics are {', '.join(METRICS)}, {CLASS_F1}<class>, {EACH_CLASS_F1}, and import paths of "
        "torchmetrics.Metric classes."
    )


def _import_metric(name: str) -> "type[Metric]":
    from torchmetrics import Metric

    module_name, _, class_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            reason = f"there is no module {missing}; check the path, and start in the folder that holds the module."
        else:
            reason = f"its module {module_name} failed with {type(error).__name__}: {one_line(error)}"
        raise UserError(f"The metric {name} cannot be imported: {reason}") from error
    kind = getattr(module, class_name, None)
    if kind is None:
        names = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Metric)]
        close = difflib.get_close_matches(class_name, names, n=1)
        hint = f"did you mean {module_name}.{close[0]}?" if close else "check the path."
        raise UserError(f"The metric {name} cannot be imported: {module_name} has no class {class_name}; {hint}")
    if not (isinstance(kind, type) and issubclass(kind, Metric)):
        raise UserError(f"{name} is no torchmetrics.Metric class; give the import path of a subclass.")
    return kind


def _user_mode(name: str, kind: "type[Metric]") -> Mode:
    if not isinstance(kind.higher_is_better, bool):
        raise UserError(
            f"The metric {name} does not state whether large values are good: its higher_is_better is "
            f"{kind.higher_is_better!r}; set higher_is_better to True or False in the class."
        )
    return "max" if kind.higher_is_better else "min"


def _arguments(name: str, kind: "type[Metric]", num_classes: int) -> dict[str, int]:
    """The arguments that a metric of the user is built with."""
    parameters = inspect.signature(kind).parameters
    required = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and key != "num_classes"
    ]
    if required:
        raise UserError(
            f"The metric {name} needs {counted(len(required), 'argument')} ({', '.join(required)}), but a metric may "
            "need num_classes alone; write a subclass that sets the others."
        )
    return {"num_classes": num_classes} if "num_classes" in parameters else {}


def _user_value(kind: "type[Metric]", arguments: dict[str, int], outcome: Outcome) -> Any:
    """What a metric of the user gives, in double precision where its states allow it."""
    import torch
    from torchmetrics import Metric

    metric = kind(**arguments)  # a new object each time: nothing is left of an earlier epoch
    metric.set_dtype(torch.float64)
    for module in metric.modules():
        if isinstance(module, Metric):
            module.distributed_available_fn = _no_other_process
    with torch.no_grad():
        metric.update(torch.from_numpy(_present(outcome.probabilities).copy()), torch.from_numpy(outcome.labels.copy()))
        return metric.compute()


def _no_other_process() -> bool:
    """Keeps torchmetrics from gathering again what the caller has gathered from all processes."""
    return False


def _try_out(name: str, function: Callable[[Outcome], Any], num_classes: int) -> None:
    labels = np.arange(num_classes)
    probabilities = np.full((num_classes, num_classes), 0.5 / num_classes) + np.eye(num_classes) * 0.5
    counts = np.eye(num_classes, dtype=np.int64)
    outcome = Outcome(labels, counts, probabilities, probabilities.diagonal(), labels == labels)
    try:
        value = function(outcome)
    except Exception as error:
        raise UserError(
            f"The metric {name} cannot be computed for {_classes(num_classes)}: {type(error).__name__}: "
            f"{one_line(error)} Its update takes probabilities, shape (N, {num_classes}), and labels, shape (N,)."
        ) from error
    if _as_number(value) is None:
        shape = f"a tensor of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise UserError(f"The metric {name} gives {shape}, expected one number; reduce it to one in its compute().")


def _as_number(value: Any) -> float | None:
    """A result as a float; `None` where it is not one number."""
    if getattr(value, "shape", ()) not in ((), (1,)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _compute_user(name: str, function: Callable[[Outcome], Any], outcome: Outcome) -> float:
    try:
        number = _as_number(function(outcome))
    except Exception as error:
        raise MetricFailed(
            f"The metric {name} failed on {counted(len(outcome.labels), 'sample')}: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error
    if number is None:
        raise MetricFailed(f"The metric {name} did not give one number; reduce its result to one in its compute().")
    return number
