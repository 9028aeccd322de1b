"""Rows of a study: one for each run, as they are kept in a CSV file and read from run folders."""

import csv
import dataclasses
import json
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from visionbench.errors import RunFailed, UserError, is_disk_error
from visionbench.evaluation.measures import confusion
from visionbench.files import write_whole
from visionbench.runs.folder import RunFolder
from visionbench.studies.spec import MINIMIZED, SECONDS, Cell
from visionbench.text import quoted

# Columns that differ between two trainings of one run, and therefore are the last ones.
TIMES = ("seconds", "cpu_seconds", "date")
# Significant digits of metrics: more than float32 has.
DIGITS = 9
# Those of curves, which are most of a row: an accuracy on a million samples is told from the next one.
CURVE_DIGITS = 6


@dataclass(frozen=True)
class Row:
    """One run of a study.

    Attributes:
        id: Digest of what determines the run, 16 hexadecimal digits.
        protocols: Names of the protocols that share the run.
        stage: Stage of the run; of several that share it, the first.
        cell: Label of each axis.
        seed: Seed.
        fold: Fold that is held out; `None` without folds.
        status: Ending: finished, diverged or failed.
        metrics: Metrics of the result; shares are between 0 and 1.
        counts: Number of samples of each split that is evaluated.
        epochs: Number of epochs trained.
        best_epoch: Epoch of the result, from 0.
        curves: Value after each epoch, by metric.
        losses: Loss of the last 16 full batches, the last one at the end.
        confusion: Confusion matrix of each split, one row per true class.
        classes: Names of the classes.
        weights_digest: Digest of the weights of the result.
        data_digest: Digest of data, splits and normalization.
        code: Digest of the code that makes numbers.
        parameters: Number of parameters.
        trainable: Number of parameters that are trained.
        processor: Processor, or GPU.
        threads: Number of threads.
        precision: Precision.
        versions: Versions of Python and of the packages.
        findings: Words of the defects that the run allows and has.
        evaluations: Names of the evaluations that were asked for, besides that of the validation samples.
        error: Message of a failed run, on one line.
        seconds: Seconds of training.
        cpu_seconds: Processor seconds.
        date: Day on which the run ended, such as 2026-11-29, in UTC.
    """

    id: str
    protocols: tuple[str, ...]
    stage: str
    cell: Cell
    seed: int
    fold: int | None
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    epochs: int = 0
    best_epoch: int | None = None
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    weights_digest: str = ""
    data_digest: str = ""
    code: str = ""
    parameters: int = 0
    trainable: int = 0
    processor: str = ""
    threads: int = 1
    precision: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    evaluations: tuple[str, ...] = ()
    error: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    date: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether the run has a score."""
        return self.status == "finished"

    def value(self, measure: str, epoch: int | None = None) -> float | None:
        """Gives a measured value; `None` where the run has none.

        Args:
            measure: Metric such as `val/acc`; after `max ` or `min `, its extreme over the epochs; after `step `, the
                value of the last full batch; or `minimized` or `seconds`.
            epoch: Number of epochs after which the value is taken, 0 before training; `None` for the result. Of the
                seconds and the last batch, only those of the whole training are known.
        """
        if not self.is_finished:
            return None
        if epoch not in (None, self.epochs) and (measure == SECONDS or measure.startswith("step ")):
            return None
        if measure == SECONDS:
            return self.seconds
        if measure == MINIMIZED:
            own = self.value("train/minimized", epoch)  # left out where the loss is all that is minimized
            return own if own is not None else self.value("train/loss", epoch)
        word, _, metric = measure.rpartition(" ")
        if word in ("max", "min"):
            values = [value for value in self.curves.get(metric, ())[:epoch] if value is not None]
            return (max(values) if word == "max" else min(values)) if values else None
        if word == "step":
            return self.losses[-1] if self.losses else None
        if epoch is None:
            return self.metrics.get(measure)
        if epoch == 0:  # before training, the validation samples are measured and no others
            split, _, name = measure.partition("/")
            return self.metrics.get(f"before/{name}") if split == "val" else None
        curve = self.curves.get(measure, [])
        return curve[epoch - 1] if epoch <= len(curve) else None


FIELDS = tuple(field.name for field in dataclasses.fields(Row))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as CSV; nested values as JSON.

    Args:
        path: File, which is replaced in one step.
        rows: Rows, in the order that they are written in.

    Raises:
        UserError: The file cannot be written; `RunFailed` where the disk is full or fails.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in rows:
        writer.writerow([_as_text(getattr(row, name)) for name in FIELDS])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.getvalue().encode())
    except OSError as error:
        refusal = RunFailed if is_disk_error(error) else UserError
        raise refusal(
            f"{path} cannot be written ({error.strerror or error}). Free space there or make it writable, and run the "
            "same command again: finished runs are kept."
        ) from error


def read_rows(path: Path) -> list[Row]:
    """Reads rows; none where there is no file.

    Args:
        path: File that `write_rows` has written.

    Raises:
        UserError: The file is damaged, or of a newer version of visionbench.
    """
    if not path.exists():
        return []
    hints = get_type_hints(Row)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            csv.field_size_limit(2**27)
            reader = csv.DictReader(file)
            # The columns are the version of the format: one that is not known may change what the others mean.
            if unknown := [name for name in reader.fieldnames or () if name not in hints]:
                raise UserError(
                    f"{path} has the column {quoted(unknown[0])}, which this version of visionbench does not know; use "
                    "the version that wrote the file, or remove the column if you added it."
                )
            return [Row(**{name: _from_text(value, hints[name]) for name, value in entry.items()}) for entry in reader]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or delete it to train its runs again.") from error


def row_of(
    folder: RunFolder, id: str, protocols: Sequence[str], stage: str, cell: Cell, seed: int, fold: int | None
) -> Row:
    """Reads what a run left in its folder.

    Args:
        folder: Run folder.
        id: Id of the run.
        protocols: Names of the protocols that share the run.
        stage: Stage.
        cell: Cell.
        seed: Seed.
        fold: Fold that is held out.

    Raises:
        UserError: A file of the run is damaged.
    """
    metadata, status = folder.metadata, folder.status
    finished = status == "finished"
    names = tuple(folder.input.get("class_names") or ())
    rows = folder.rows if folder.metrics_path.exists() else []
    measured = {name: _rounded(value) for name, value in (metadata.get("metrics") or {}).items()}
    metrics = {name: value for name, value in measured.items() if value is not None}
    curves = {
        name: [_rounded(row.get(name), CURVE_DIGITS) for row in rows]
        for name in dict.fromkeys(name for row in rows for name in row)
        if "/" in name
    }
    matrices = {}
    for split in ("val", "test", "train_eval"):
        predictions = folder.predictions(split) if finished else None
        if predictions is not None:
            matrices[split] = confusion(predictions.labels, predictions.predicted, len(names)).tolist()
    losses = _full_batches(folder, metadata)[-16:] if finished else np.zeros(0)
    return Row(
        id=id,
        protocols=tuple(protocols),
        stage=stage,
        cell=dict(cell),
        seed=seed,
        fold=fold,
        status=status,
        metrics=metrics if finished else {},
        counts=dict(metadata.get("counts") or {}),
        epochs=int(metadata.get("epochs") or 0),
        best_epoch=metadata.get("best_epoch"),
        curves=curves,
        losses=[float(f"{value:.{DIGITS}g}") for value in losses],
        confusion=matrices,
        classes=names,
        weights_digest=metadata.get("weights_digest") or "",
        data_digest=metadata.get("data_digest") or "",
        code=metadata.get("code") or "",
        parameters=int(metadata.get("parameters") or 0),
        trainable=int(metadata.get("trainable") or 0),
        processor=_processor(metadata),
        threads=int(metadata.get("threads") or 1),
        precision=str(metadata.get("precision") or ""),
        versions=dict(metadata.get("versions") or {}),
        findings=tuple(folder.allowed_defects) if finished else (),
        evaluations=evaluations_of(folder.config) if finished else (),
        error=str(metadata.get("error") or (metadata.get("divergence") or {}).get("text") or ""),
        seconds=float(metadata.get("seconds") or 0.0),
        cpu_seconds=float(metadata.get("cpu_seconds") or 0.0),
        date=_date(folder, metadata),
    )


def _date(folder: RunFolder, metadata: Mapping[str, Any]) -> str:
    """The day on which a run ended; of a run of an earlier version, that on which its file was written."""
    ended = metadata.get("ended") or datetime.fromtimestamp(folder.metadata_path.stat().st_mtime, UTC).isoformat()
    return str(ended)[:10]


def _full_batches(folder: RunFolder, metadata: Mapping[str, Any]) -> Any:
    """Losses of the batches, without that of a smaller last batch."""
    losses = folder.step_losses
    batch_size = ((folder.config.get("data") or {}).get("init_args") or {}).get("batch_size")
    count = (metadata.get("counts") or {}).get("train")
    return losses[:-1] if batch_size and count and count % batch_size else losses


def evaluations_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of what a run measures besides loss and accuracy of the validation samples, which its id does not tell.

    Args:
        config: Run file, or complete configuration.
    """
    tested = ["test"] if config.get("test_after_fit") else []
    evaluate = list(config.get("evaluate") or ())
    each_epoch = [f"{name} each epoch" for name in evaluate] if config.get("evaluate_every") == "epoch" else []
    return (*tested, *evaluate, *each_epoch, *map(str, config.get("metrics") or ()))


def _processor(metadata: Mapping[str, Any]) -> str:
    device = str(metadata.get("device") or "")
    return str(metadata.get("processor") or device) if "cpu" in device else device


def _rounded(value: Any, digits: int = DIGITS) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return str(value)


def _from_text(text: str, hint: Any) -> Any:
    if get_origin(hint) is types.UnionType:
        if text == "":
            return None
        hint = get_args(hint)[0]
    origin = get_origin(hint) or hint
    if origin is tuple:
        return tuple(json.loads(text))
    return json.loads(text) if origin in (dict, list) else origin(text)
