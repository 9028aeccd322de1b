"""Training as a scikit-learn estimator, for its searches, its cross-validation and its pipelines."""

import contextlib
import difflib
import inspect
import io
import math
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_X_y, validate_data

from visionbench import api, models
from visionbench.classes import class_of
from visionbench.console import quiet_libraries
from visionbench.data.arrays import Arrays
from visionbench.data.base import VisionDataModule
from visionbench.data.rows import Rows, standardized
from visionbench.errors import RunFailed, UserError
from visionbench.inference.trained import Normalize
from visionbench.models.base import Classifier, check_input_shape
from visionbench.processes import unchanged_process
from visionbench.runs.folder import RunFolder
from visionbench.training.device import threads_for
from visionbench.training.result import RunResult

# Options of `visionbench.fit` without a dot in their names that an estimator takes besides its parameters.
UNDOTTED = frozenset(
    {"allow", "evaluate", "evaluate_every", "metrics", "name", "predictions"}
    | {"figures", "figure_layers", "figure_channels"}
)
# Options that are parameters under another name, with that name.
PARAMETERS = {
    "trainer.max_epochs": "max_epochs",
    "seed_everything": "seed",
    "data.batch_size": "batch_size",
    "data.val_size": "val_size",
}
# Arguments of the data that `fit` is given, or that concern no data in memory; and those that hold samples back from
# training.
NOT_OPTIONS = frozenset({"images", "rows", "labels", "test_images", "test_labels", "class_names", "root"})
HELD_BACK = frozenset({"test_size", "folds", "fold", "fold_is"})
# Arguments that a class of data has no use for.
FIXED: dict[type[VisionDataModule], frozenset[str]] = {
    Arrays: frozenset({"memory_budget", "workers", "offline"}),
    Rows: frozenset({"memory_budget", "workers", "offline", "augment", "statistics", "mean", "std"}),
}
# Attributes that hold the trained model, and those that it is made from again.
OF_MODEL = frozenset({"model_", "_network"})
OF_FIT = OF_MODEL | {"_checkpoint", "feature_names_in_"}
# What of a checkpoint the trained model is made from: its weights and its arguments.
OF_CHECKPOINT = ("state_dict", "hyper_parameters", "hparams_name", "hparams_type", "pytorch-lightning_version")

# A run changes its whole process (signal handlers, warning filters, threads) and puts it back, so that two of them at
# once, as in joblib's threading backend, would put back each other's changes.
_ONE_AT_A_TIME = threading.RLock()


class EstimatorError(UserError, ValueError, TypeError):
    """Parameters or data that cannot be used; scikit-learn's own code expects one of the two Python types."""


class TrainingDiverged(RunFailed):
    """A loss or a weight was not finite, so that the run has no result and no score."""


class VisionClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A model that is trained as `visionbench.fit` trains it, with the interface of a scikit-learn classifier.

    `GridSearchCV`, `cross_val_score`, `clone`, pipelines and pickling work. Nothing is printed, and no file is left
    unless `run_dir` or `log_dir` says where. A run that diverges raises `TrainingDiverged`, so that a search counts it
    as failed.

    Besides its parameters, an estimator takes options of `visionbench fit` by their dotted names, such as
    `VisionClassifier("CNN", options={"model.dense": 32})`. A search sets each of them by its name:
    `GridSearchCV(estimator, {"model.dense": [32, 64]})`. Options of `data` are those of `Arrays`, or of `Rows`.

    - Images: uint8, shape (N, H, W), or (N, H, W, C) with 1 or 3 channels. They are normalized as in every run.
    - Rows: finite numbers, shape (N, F), for models that take rows, such as MLP. They are standardized.
    - Labels: numbers or strings, shape (N,); at least two classes.

    Args:
        model: Name of a model, or its class.
        max_epochs: Number of epochs.
        batch_size: Number of samples in a batch, in training and in prediction.
        val_size: Number of samples to cut from those of `fit` for validation, or their fraction (below 1), so that the
            objective chooses the epoch; 0 for none, so that the last epoch is the result.
        seed: Seed of the starting weights, of the order of the samples and of everything that is drawn.
        threads: Threads of the processor; 0 for as many as `visionbench fit` would take. With one thread, results do
            not depend on how many jobs a search runs at once.
        run_dir: Run folder to keep, which must be new or empty, so that it is for a single call of `fit`.
        log_dir: Folder that keeps the run folder of each call of `fit`, as LOG_DIR/NAME/version_N.
        options: Values of further options by their dotted names.

    Attributes:
        classes_: Sorted labels, shape (K,); column k of `predict_proba` is of classes_[k].
        n_features_in_: Number of features of a row, or of values of an image.
        feature_names_in_: Names of the features; only where X is a data frame whose columns have names.
        input_shape_: Shape of one input: channels, height and width of an image, or the number of features of a row.
        model_: Trained model, in evaluation mode.
        metrics_: Metrics of the result, such as `train/acc`, and `val/acc` where there is a validation.
        n_iter_: Number of epochs that were trained.
        best_epoch_: Epoch of the result, from 0.
        weights_digest_: The sha256 of the weights, the same as that of `visionbench.fit` on the same data.
        findings_: What the guards found in this run, a sentence each.
        run_dir_: Run folder; None where none was kept.
    """

    def __init__(
        self,
        model: str | type[Classifier] = "MLP",
        *,
        max_epochs: int = 10,
        batch_size: int = 64,
        val_size: int | float = 0,
        seed: int = 0,
        threads: int = 1,
        run_dir: str | Path | None = None,
        log_dir: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.val_size = val_size
        self.seed = seed
        self.threads = threads
        self.run_dir = run_dir
        self.log_dir = log_dir
        self.options = options

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name.

        Args:
            deep: Whether each of the options is listed by its own name, too.
        """
        parameters: dict[str, Any] = super().get_params(deep=False)
        return {**self._given(), **parameters} if deep else parameters

    def set_params(self, **params: Any) -> Self:
        """Sets parameters, and options by their own names, such as `model.dropout`.

        Args:
            params: Values by name; an option that is None is set to null, as in a run file.

        Raises:
            ValueError: There is no such parameter, and it is no name of an option.
        """
        options = {name: value for name, value in params.items() if "." in name or name in UNDOTTED}
        super().set_params(**{name: value for name, value in params.items() if name not in options})
        if options:
            self.options = {**self._given(), **options}  # a new one, since the caller's may be used elsewhere
        return self

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Trains the model anew.

        Args:
            X: Images, uint8, shape (N, H, W) or (N, H, W, C), or rows of numbers, shape (N, F).
            y: Labels, shape (N,).

        Returns:
            This estimator.

        Raises:
            EstimatorError: A parameter or the data are refused.
            TrainingDiverged: A loss or a weight was not finite.
            RunFailed: The run could not be written.
        """
        try:
            with _in_its_own_errors(), _ONE_AT_A_TIME:
                self._fit(X, y)
        except Exception as error:
            error.add_note(f"This was the fit of {self._described()}.")  # a search's warning shows it
            raise
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predicts the label of each sample.

        Args:
            X: Images or rows, as in `fit`.

        Returns:
            Labels, shape (N,).
        """
        check_is_fitted(self)
        labels: np.ndarray = self.classes_[self._outputs(X)[1]]
        return labels

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Predicts the probability of each class.

        Args:
            X: Images or rows, as in `fit`.

        Returns:
            Probabilities, shape (N, K), float32, in the order of `classes_`.
        """
        check_is_fitted(self)
        return self._outputs(X)[0]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # The model is made again from `_checkpoint`: it refers to functions of the parser, which cannot be pickled.
        return {name: value for name, value in super().__getstate__().items() if name not in OF_MODEL}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(dict(state))
        if "_checkpoint" in state:
            self._load()

    # Parameters

    def _given(self) -> dict[str, Any]:
        return dict(self.options) if isinstance(self.options, Mapping) else {}

    def _check_options(self) -> None:
        """Refuses options that are parameters, or that do not belong to an estimator."""
        if self.options is not None and not isinstance(self.options, Mapping):
            raise EstimatorError(
                f"options is {self.options!r}, expected values by dotted names, such as {{'model.dropout': 0.5}}."
            )
        for name in self._given():
            if name in PARAMETERS:
                raise EstimatorError(f"{name} is the parameter {PARAMETERS[name]} of VisionClassifier; give that one.")
            part, _, rest = name.partition(".") if isinstance(name, str) else ("", "", "")
            if part == "data" and rest in HELD_BACK:
                raise EstimatorError(
                    f"VisionClassifier has no {name}, since it tests nothing; hold samples back from fit, as "
                    "cross_val_score does."
                )
            if not rest and name not in UNDOTTED:
                raise EstimatorError(
                    f"VisionClassifier has no option {name}, expected a dotted name, such as model.dropout, or one of "
                    f"{', '.join(sorted(UNDOTTED))}."
                )

    def _described(self) -> str:
        """The estimator with what is not at its default, on one line."""
        defaults = {**type(self)().get_params(), "model": None}
        given = {**self.get_params(deep=False), "options": None, **self._given()}
        changed = {name: value for name, value in given.items() if repr(defaults.get(name, self)) != repr(value)}
        return f"VisionClassifier({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    # Data

    def _checked_for_fit(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        if not _are_images(X):
            samples, labels = validate_data(self, X, y, dtype=np.float64)
        else:
            samples, labels = check_X_y(_checked_images(X), y, allow_nd=True, dtype=None, estimator=self)
            self.n_features_in_ = math.prod(samples.shape[1:])
        check_classification_targets(labels)
        return samples, labels

    def _checked_for_prediction(self, X: Any) -> np.ndarray:
        if len(self.input_shape_) == 1:
            rows: np.ndarray = validate_data(self, X, dtype=np.float64, reset=False)
            return rows
        images = _checked_images(X)
        channels, height, width = self.input_shape_
        if images.shape[1:] != (height, width, channels):
            raise EstimatorError(
                f"X has images of height, width and channels {images.shape[1:]}, but VisionClassifier was fitted on "
                f"{(height, width, channels)}; pass images of that shape."
            )
        return images

    def _data(self, samples: np.ndarray, labels: np.ndarray, names: list[str]) -> VisionDataModule:
        options = {name[5:]: value for name, value in self._given().items() if name.startswith("data.")}
        given = {"batch_size": self.batch_size, "val_size": self.val_size, **options}
        arguments = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        for name, kinds in (("batch_size", int), ("val_size", int | float)):
            if not isinstance(arguments[name], kinds) or isinstance(arguments[name], bool):
                raise EstimatorError(f"{name} is {arguments[name]!r}, expected a number.")
        kind = Arrays if samples.ndim == 4 else Rows
        known = _options_of(kind)
        if unknown := sorted(set(options) - known):
            close = difflib.get_close_matches(unknown[0], known, n=1)
            raise EstimatorError(
                f"There is no option data.{unknown[0]} for {'images' if kind is Arrays else 'rows of numbers'}"
                + (f"; did you mean data.{close[0]}?" if close else f", expected one of {', '.join(sorted(known))}.")
            )
        return kind(samples, labels, class_names=names, test_size=0, **arguments)

    def _check_model(self, data: VisionDataModule) -> None:
        kind = getattr(models, self.model, None) if isinstance(self.model, str) else self.model
        if isinstance(kind, type) and issubclass(kind, Classifier):
            check_input_shape(kind, data.input_shape)
        elif not isinstance(self.model, str):  # a name may be that of a class of the user's own
            found = type(self.model).__name__
            raise EstimatorError(
                f"model is of type {found}, expected the name of a model, such as MLP, or a subclass of Classifier; a "
                "model that is made already would be trained on from call to call."
            )

    # Training

    def _fit(self, X: Any, y: Any) -> None:
        for name in OF_FIT:  # a fit that fails must not leave the model of the one before
            self.__dict__.pop(name, None)
        self._check_options()
        samples, labels = self._checked_for_fit(X, y)
        classes, encoded = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise EstimatorError("y has 1 class, expected 2 or more; pass samples of each class.")
        data = self._data(samples, encoded, [str(label) for label in classes])
        self._check_model(data)
        if self.run_dir is None and self.log_dir is None:
            with tempfile.TemporaryDirectory(prefix="visionbench-") as folder:
                unread = {"predictions": False, "figures": "none", "trainer.logger": False}
                self._take_over(self._train(data, Path(folder) / "run", unread), data)
            self.run_dir_ = None
        else:
            result = self._train(data, self.run_dir, {})
            self._take_over(result, data)
            self.run_dir_ = str(result.folder)
        self.classes_ = classes

    def _train(self, data: VisionDataModule, run_dir: str | Path | None, fixed: Mapping[str, Any]) -> RunResult:
        options = {name: value for name, value in self._given().items() if not name.startswith("data.")}
        if self.log_dir is not None:
            options["log_dir"] = str(self.log_dir)
        lines: list[str] = []
        result = api.fit(
            self.model,
            data,
            seed=self.seed,
            max_epochs=self.max_epochs,
            run_dir=run_dir,
            say=lines.append,
            **{"figures": "none", "threads": self.threads, **options, **fixed},
        )
        if result.status == "diverged":
            said = next((line.removeprefix("diverged").strip() for line in lines if line.startswith("diverged")), "")
            where = said.partition("; the run is not tested")[0].partition(", on ")[0]  # names of samples are left out
            raise TrainingDiverged(
                f"The training diverged ({where}), so that it has no result; a lower learning rate may help."
            )
        if result.status == "interrupted":
            # A search must end, too, instead of going on with the next candidate.
            if result.signal in (None, signal.SIGINT):
                raise KeyboardInterrupt
            raise SystemExit(128 + result.signal)
        return result

    def _take_over(self, result: RunResult, data: VisionDataModule) -> None:
        """Takes all that a fitted estimator knows from the run folder, which may be removed afterwards."""
        if result.folder is None or not RunFolder(result.folder).checkpoints.is_dir():
            unkept = "trainer.fast_dev_run" if result.folder is None else "trainer.enable_checkpointing"
            raise EstimatorError(f"{unkept} is set so that no weights are kept to predict with; remove it.")
        run = RunFolder(result.folder)
        config, described = run.config, run.input
        content = torch.load(run.result_checkpoint(), map_location="cpu", weights_only=True)
        memory = io.BytesIO()
        torch.save({name: content[name] for name in OF_CHECKPOINT if name in content}, memory)
        self._checkpoint = memory.getvalue()
        self._class_path = str(config["model"]["class_path"])
        self._precision, self._accelerator = config["trainer"]["precision"], config["trainer"]["accelerator"]
        self._mean, self._std = np.array(described["mean"]), np.array(described["std"])
        self.input_shape_ = tuple(data.input_shape)
        self.metrics_ = dict(result.metrics)
        self.n_iter_ = result.epochs
        self.best_epoch_ = result.best_epoch
        self.weights_digest_ = result.weights_digest
        self.findings_ = [finding["sentence"] for finding in run.metadata["findings"]]
        self._load()

    # Prediction

    def _load(self) -> None:
        """Makes the trained model from its checkpoint in memory."""
        kind: Any = class_of({"class_path": self._class_path})
        with _ONE_AT_A_TIME, unchanged_process(), quiet_libraries():
            model = kind.load_from_checkpoint(io.BytesIO(self._checkpoint), map_location="cpu", weights_only=True)
            self.model_: Classifier = model.eval()
            fabric = Fabric(accelerator=self._accelerator, devices=1, precision=self._precision)
            self._network = fabric.setup_module(self.model_).eval()

    def _outputs(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities, shape (N, K), float32, and the places of the predicted labels in `classes_`, shape (N,)."""
        with _in_its_own_errors():
            samples = self._checked_for_prediction(X)
            if is_rows := samples.ndim == 2:
                samples = standardized(samples, self._mean, self._std)
        device = self.model_.device
        normalize = None if is_rows else Normalize(self._mean.tolist(), self._std.tolist()).to(device)
        probabilities, classes = [], []
        with _ONE_AT_A_TIME, unchanged_process(), quiet_libraries(), torch.inference_mode():
            torch.set_num_threads(self.threads or threads_for(self.model_, self.batch_size, torch.get_num_threads()))
            for start in range(0, len(samples), self.batch_size):
                batch = torch.tensor(samples[start : start + self.batch_size], device=device)
                outputs = self._network(batch if normalize is None else normalize(batch))
                probabilities.append(self.model_.probabilities(outputs).cpu().numpy())
                classes.append(self.model_.predict(outputs).cpu().numpy())
        return np.concatenate(probabilities), np.concatenate(classes)


@contextlib.contextmanager
def _in_its_own_errors() -> Iterator[None]:
    """Makes a sentence about parameters or data one of the types that scikit-learn's own code expects."""
    try:
        yield
    except (EstimatorError, RunFailed):
        raise
    except UserError as error:
        raise EstimatorError(str(error)) from error


def _options_of(kind: type[VisionDataModule]) -> frozenset[str]:
    """The arguments of a data set in memory that are options of `VisionClassifier`."""
    names = {*inspect.signature(kind).parameters, *inspect.signature(VisionDataModule.__init__).parameters}
    return frozenset(names - {"self", "kwargs"} - NOT_OPTIONS - HELD_BACK - FIXED[kind])


def _are_images(X: Any) -> bool:
    """Whether X has more axes than a matrix of features; what is no array at all is left to scikit-learn's checks."""
    try:
        return int(X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim) > 2
    except ValueError:  # lists of several lengths
        return False


def _checked_images(X: Any) -> np.ndarray:
    """Images of shape (N, H, W, C), uint8.

    Raises:
        EstimatorError: X has another type or shape.
    """
    images = np.asarray(X)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise EstimatorError(
            f"X is {images.dtype} of shape {images.shape}, expected images as uint8 from 0 to 255, of shape (N, H, W) "
            "or (N, H, W, C), or rows of numbers, of shape (N, F); convert images such as (255 * X).round() as uint8."
        )
    if images.ndim == 3:
        images = images[..., None]
    return images
