"""Run folders: what lies in one under which name, and how it is read and written."""

import contextlib
import csv
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml
from filelock import FileLock, Timeout

from visionbench.errors import UserError
from visionbench.evaluation.ledger import Ledger, Opening, SealedSamples, opening_in_words
from visionbench.evaluation.predictions import Predictions, read_predictions
from visionbench.files import copy_whole, write_json, write_whole
from visionbench.runs.identity import processor, result_of
from visionbench.text import counted, one_line

# Schema of input.json, and of run.json before it had a status.
SCHEMA = 1
# Schema of run.json.
METADATA_SCHEMA = 2

# Name of the complete configuration of a run.
CONFIG_FILE = "config.yaml"

# Type of step-losses.bin: little-endian float32, one value for each batch.
DTYPE = np.dtype("<f4")

# Separators of columns that spreadsheets write instead of commas.
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}

# How a run ended; only a finished run has a score.
Status = Literal["finished", "diverged", "interrupted", "failed"]
STATUSES: tuple[str, ...] = get_args(Status)


class RunFolder:
    """The folder of one run; each property reads its file again, since the run may be training.

    Args:
        path: Path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def claim(cls, parent: Path) -> "RunFolder":
        """Makes the first free `version_N` in `parent`; two processes that ask at once get different folders.

        Raises:
            UserError: The folder cannot be made.
        """
        try:
            parent.mkdir(parents=True, exist_ok=True)
            used = [int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdecimal()]
            number = max(used, default=-1) + 1
            while True:
                try:
                    (parent / f"version_{number}").mkdir()
                    return cls(parent / f"version_{number}")
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise UserError(
                f"The run folder cannot be made in {parent} ({error.strerror}); give another folder with --log_dir."
            ) from error

    @staticmethod
    def all_in(parent: Path) -> "list[RunFolder]":
        """Every `version_N` in a folder, the newest first."""
        folders = [path for path in parent.glob("version_*") if path.name[8:].isdecimal()]
        return [RunFolder(path) for path in sorted(folders, key=lambda path: int(path.name[8:]), reverse=True)]

    def lock(self) -> FileLock:
        """Locks the run, so that no other process can train it; the lock ends with the process at the latest.

        Raises:
            UserError: Another process holds the lock.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.path} is being trained by another process; wait for it, or start a new run."
            ) from None
        return lock

    @property
    def config_path(self) -> Path:
        """Path of the complete configuration."""
        return self.path / CONFIG_FILE

    @property
    def metadata_path(self) -> Path:
        """Path of the file that says what was run, on what and how it ended; absent before that and in a killed run."""
        return self.path / "run.json"

    @property
    def input_path(self) -> Path:
        """Path of the file that says what the model takes and what its outputs mean."""
        return self.path / "input.json"

    @property
    def metrics_path(self) -> Path:
        """Path of the table of metrics, a row for each epoch."""
        return self.path / "metrics.csv"

    @property
    def losses_path(self) -> Path:
        """Path of the loss of each batch."""
        return self.path / "step-losses.bin"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.path / "figures"

    @property
    def untrained_path(self) -> Path:
        """Path of the metrics before training."""
        return self.path / "before-training.json"

    @property
    def predictions_folder(self) -> Path:
        """Folder of the predictions."""
        return self.path / "predictions"

    @property
    def events(self) -> list[Path]:
        """TensorBoard's event files, in the order of their names."""
        return sorted(self.path.glob("events.out.tfevents.*"))

    def require_run(self) -> None:
        """Checks that this is a run folder.

        Raises:
            UserError: It has no config.yaml.
        """
        if not self.config_path.is_file() and self.metadata_path.is_file():
            raise UserError(
                f"{self.config_path} is missing; restore the file from a copy, or {self._how_to_restart()}."
            )
        if not self.config_path.is_file():
            raise UserError(f"{self.path} is not a run folder ({self._why_no_run()}.")

    def _why_no_run(self) -> str:
        """The end of the sentence that says that this is no run folder: why, and what to give."""
        versions = sorted(path.parent for path in self.path.glob(f"version_*/{CONFIG_FILE}"))
        if versions:
            newest = max(versions, key=lambda path: (len(path.name), path.name))
            return f"it is the folder above its runs); give one of them, such as {newest}"
        example = "lightning_logs/cnn/version_0"
        if self.path.is_file() and (self.path.parent / CONFIG_FILE).is_file():
            return f"it is a file in one); give {self.path.parent}"
        if not self.path.exists():
            return f"there is no such folder); give one like {example}"
        return f"it has no {CONFIG_FILE}); give one like {example}"

    @property
    def has_results(self) -> bool:
        """Whether the run has trained so far that there are metrics or checkpoints."""
        return self.metrics_path.exists() or self.checkpoints.exists()

    @property
    def config(self) -> dict[str, Any]:
        """The complete configuration, in plain types.

        Raises:
            UserError: This is not a run folder, or its config.yaml is damaged.
        """
        self.require_run()
        path = self.config_path
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise _unreadable(path, error, self._how_to_restart()) from error
        parts = ("trainer", "model", "data")
        if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in parts):
            raise UserError(
                f"{path} has no trainer, model and data; restore the file from a copy, or {self._how_to_restart()}."
            )
        if not text.endswith("\n"):
            raise UserError(
                f"{path} is torn: its last line is not complete; restore the file from a copy, or "
                f"{self._how_to_restart()}."
            )
        return _in_todays_form(content)

    def how_to_repeat(self) -> str:
        """Words that say how the run is trained again, for a message about a file that only training writes."""
        with contextlib.suppress(UserError):
            if self.is_finished:
                return f"train the run again with visionbench repeat {shlex.quote(str(self.path))}"
        return f"train the run again with visionbench fit --run_dir null --config {shlex.quote(str(self.config_path))}"

    def _how_to_restart(self) -> str:
        """Words that say how the run is trained again without its configuration."""
        with contextlib.suppress(UserError):
            if self.metadata.get("command"):
                return f"train the run again by its command, which {self.metadata_path} holds"
        return "train the run again with its options"

    @property
    def metadata(self) -> dict[str, Any]:
        """The content of run.json; empty where the file is absent.

        Raises:
            UserError: The file is damaged, or of a newer version of visionbench.
        """
        content = _read_json(
            self.metadata_path,
            f"remove it and write it anew with visionbench fit --resume {shlex.quote(str(self.path))}",
        )
        _check_schema(self.metadata_path, content, SCHEMA, METADATA_SCHEMA)
        return content

    @property
    def status(self) -> Status:
        """How the run ended; a run without run.json was killed, or is being trained: it is interrupted.

        Raises:
            UserError: This is not a run folder, or run.json is damaged or of a newer version of visionbench.
        """
        metadata = self.metadata
        if not metadata:
            self.require_run()
            return "interrupted"
        # Before runs had a status, run.json was written by finished runs only.
        status = metadata.get("status", "finished" if metadata.get("schema", SCHEMA) == SCHEMA else None)
        if status not in STATUSES:
            raise UserError(
                f"{self.metadata_path} has status {status}, expected one of {', '.join(STATUSES)}; restore the file as "
                "the run wrote it."
            )
        known: Status = status
        return known

    @property
    def divergence(self) -> str | None:
        """What was not finite first, and where; `None` where the last losses of the run are numbers.

        Raises:
            UserError: A file of the run is damaged.
        """
        text: str | None = (self.metadata.get("divergence") or {}).get("text")
        return text if text is not None else divergence(self.rows)

    def warning(self) -> str | None:
        """The sentence about a checkpoint that is no result; `None` for a finished run."""
        if self.status == "diverged":
            return f"note: {self.path} has diverged ({self.divergence}); its checkpoints are from before that"
        if self.status in ("interrupted", "failed"):
            why = "is interrupted, or still being trained" if self.status == "interrupted" else "has failed"
            return f"note: {self.path} {why}; its checkpoint is that of the best of the epochs so far, and no result"
        return None

    @property
    def is_finished(self) -> bool:
        """Whether the run has a result; a diverged, interrupted or failed run has none."""
        return self.status == "finished"

    @property
    def test_openings(self) -> int:
        """How often the run's test samples were evaluated; a run of an earlier version counts its own test only.

        Raises:
            UserError: run.json is damaged, or of a newer version of visionbench.
        """
        metadata = self.metadata
        tested = any(name.startswith("test/") for name in metadata.get("metrics") or {})
        return int(metadata.get("test_openings", tested))

    @property
    def opening(self) -> int | None:
        """Number of the last test opening of the run among those of its log folder; `None` where it is not known.

        Raises:
            UserError: run.json is damaged, or of a newer version of visionbench.
        """
        number: int | None = self.metadata.get("opening")
        return number

    @property
    def log_folder(self) -> Path:
        """Folder whose runs share a ledger: the one above the run's name, or above the runs of a study."""
        parent = self.path.absolute().parent
        return parent.parent if self.path.name.startswith("version_") or parent.name == "runs" else parent

    @property
    def provenance(self) -> str:
        """Text that says how the weights of the run were chosen, such as: on val/loss, epoch 17 of 20.

        Raises:
            UserError: run.json is damaged, or of a newer version of visionbench, or this is not a run folder.
        """
        metadata = self.metadata
        return provenance(self.choosing_metric, metadata.get("best_epoch"), metadata.get("epochs"))

    @property
    def choosing_metric(self) -> str | None:
        """Metric that chose the epoch of the result; `None` where the last epoch is the result.

        Raises:
            UserError: run.json is damaged, or of a newer version of visionbench, or this is not a run folder.
        """
        metadata = self.metadata
        if "objective" in metadata:
            metric: str | None = (metadata["objective"] or {}).get("metric")
            return metric if metadata.get("result", "best") == "best" else None
        config = self.config  # the run is not finished
        return (config.get("objective") or {}).get("metric") if result_of(config) == "best" else None

    @property
    def allowed_defects(self) -> list[str]:
        """Names of the guards that have found something which the run allows, and which marks all its numbers.

        Raises:
            UserError: run.json is damaged, or of a newer version of visionbench.
        """
        allowed = self.config.get("allow") or []
        found = [finding.get("guard") for finding in self.metadata.get("findings") or []]
        return [name for name in dict.fromkeys(found) if name in allowed]

    @property
    def input(self) -> dict[str, Any]:
        """The content of input.json; empty where the file is absent.

        Raises:
            UserError: The file is damaged, or of a newer version of visionbench.
        """
        content = _read_json(self.input_path, self.how_to_repeat())
        _check_schema(self.input_path, content, SCHEMA)
        return content

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The complete rows of metrics.csv: numbers by name, `epoch` an integer; a torn last row is left out.

        Raises:
            UserError: The file is damaged.
        """
        return self.metrics_table()[1]

    def metrics_table(self) -> tuple[list[str], list[dict[str, Any]]]:
        """The columns of metrics.csv, and its complete rows as `rows` gives them; both empty where there is no file.

        Raises:
            UserError: The file is damaged.
        """
        path = self.metrics_path
        otherwise = f"restore the file from a copy, or {self.how_to_repeat()}"
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return [], []
        except (OSError, ValueError) as error:
            raise _unreadable(path, error, self.how_to_repeat()) from error
        reader = csv.DictReader(StringIO(text[: text.rfind("\n") + 1]))
        columns, rows = list(reader.fieldnames or []), []
        if columns and "epoch" not in columns:
            separator = next((name for sign, name in SEPARATORS.items() if f"epoch{sign}" in columns[0]), None)
            found = (
                f"has {separator} between its columns, as a spreadsheet writes" if separator else "has no column epoch"
            )
            raise UserError(f"{path} {found}; {otherwise}.")
        try:
            for row in reader:
                numbers: dict[str, Any] = {name: float(value) for name, value in row.items() if value}
                counts = {name: int(row[name]) for name in ("epoch", "step") if name in columns}
                rows.append(numbers | counts)
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise UserError(
                f"{path} is not a table of numbers ({one_line(error).rstrip('.')}, in line {reader.line_num}); "
                f"{otherwise}."
            ) from error
        return columns, rows

    @property
    def step_losses(self) -> np.ndarray:
        """The loss of each batch, shape (batches,), float32; empty where the file is absent."""
        path = self.losses_path
        return np.fromfile(path, dtype=DTYPE) if path.is_file() else np.zeros(0, dtype=DTYPE)

    @property
    def figure_contents(self) -> dict[str, Any]:
        """The content of figures.json, the numbers behind the figures; empty where the file is absent.

        Raises:
            UserError: The file is damaged.
        """
        return _read_json(self.figures / "figures.json", self.how_to_repeat())

    @property
    def untrained_metrics(self) -> dict[str, Any]:
        """The metrics of the model before training, as `val/loss`; empty where they were not computed.

        In the file they are `before/loss` and so on, so that no reader takes them for those of the trained model.
        Earlier versions wrote `before/val/loss` or `val/loss`, into the folder of the figures.

        Raises:
            UserError: The file is damaged.
        """
        again = self.how_to_repeat()
        content = _read_json(self.untrained_path, again) or _read_json(self.figures / self.untrained_path.name, again)
        return {f"val/{name.rpartition('/')[2]}": value for name, value in content.items()}

    def predictions(self, stage: str) -> Predictions | None:
        """The predictions on a split; `None` where the run kept none.

        Args:
            stage: Name of the split, `val` or `test`, or `train_eval`.

        Raises:
            UserError: A file is damaged.
        """
        folder = self.predictions_folder
        try:
            return read_predictions(folder, stage, tuple(self.input.get("class_names", ())))
        except (OSError, ValueError, KeyError, EOFError) as error:
            reason = f"there is no class {error}" if isinstance(error, KeyError) else one_line(error).rstrip(".")
            raise UserError(
                f"{folder / stage}.csv or its probabilities cannot be read ({reason}); restore both files from a copy, "
                f"or {self.how_to_repeat()}."
            ) from error

    def result_checkpoint(self) -> Path:
        """The checkpoint that is the result of the run.

        It is the best one, or the last where `checkpoint.result` is `last` or there was no objective.

        Raises:
            UserError: This is not a run folder, or there is no checkpoint.
        """
        self.require_run()
        best, last = (self.checkpoints / f"{name}.ckpt" for name in ("best", "last"))
        chosen = result_of(self.config) == "best"
        if best.is_file() and chosen:
            return best
        if chosen and self.is_finished and self.choosing_metric is not None and self.metadata.get("result") == "best":
            raise UserError(
                f"{best}, the result of the run, is missing; restore the file from a copy, or {self.how_to_repeat()}."
            )
        if last.is_file():
            return last
        raise UserError(
            f"{self.path} has no checkpoint yet, so there is nothing to evaluate; wait until its first epoch is "
            "finished."
        )

    def write_config(self, text: str) -> None:
        """Writes config.yaml.

        Args:
            text: Complete configuration as YAML.
        """
        write_whole(self.config_path, text.encode())

    def write_input(self, content: Mapping[str, Any]) -> None:
        """Writes input.json.

        Args:
            content: Description of the model's inputs and outputs, in plain types.
        """
        write_json(self.input_path, {"schema": SCHEMA, **content})

    def write_metadata(self, content: Mapping[str, Any]) -> None:
        """Writes run.json, with the name of this machine's processor if the description has none.

        Args:
            content: Description of the run, in plain types, with its `status`.

        Raises:
            ValueError: The status is unknown.
        """
        if content.get("status") not in STATUSES:
            raise ValueError(f"status is {content.get('status')!r}, expected one of {', '.join(STATUSES)}")
        write_json(self.metadata_path, {"processor": processor(), **content, "schema": METADATA_SCHEMA})

    def open_test(self, samples: SealedSamples, purpose: str, checkpoint: Path | None) -> str | None:
        """Records that this run evaluates test samples, in the ledger of the log folder and in run.json.

        Args:
            samples: Test samples.
            purpose: What for: fit, resume, test, predict or export.
            checkpoint: File of the weights; `None` for weights that are in no file.

        Returns:
            A sentence where the opening cannot be recorded, as in the folder of somebody else; otherwise `None`.

        Raises:
            UserError: run.json is damaged, or of a newer version of visionbench.
        """
        folder = self.log_folder
        opening = Opening(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            run=os.path.relpath(self.path.absolute(), folder),
            checkpoint=checkpoint.name if checkpoint is not None else "",
            purpose=purpose,
            data=samples.title,
            samples=samples.count,
            test_digest=samples.digest,
        )
        try:
            number = Ledger(folder).add(opening)
            counts = {"test_openings": self.test_openings + 1, "opening": number}
            self.write_metadata({"status": self.status, **self.metadata, **counts})
        except OSError as error:
            return f"note: this opening of the test {samples.item}s could not be recorded ({error.strerror})"
        return None

    def opening_in_words(self, item: str) -> str | None:
        """Text that says how often the test samples of this run were opened; `None` where they never were.

        Args:
            item: Word for one sample.

        Raises:
            UserError: run.json is damaged, or of a newer version of visionbench.
        """
        return opening_in_words(self.opening, self.test_openings, item) if self.test_openings else None

    def copies_in_words(self, item: str) -> str | None:
        """Text that says how many test samples are also among the training samples; `None` where it is not known.

        Args:
            item: Word for one sample.

        Raises:
            UserError: run.json is damaged, or of a newer version of visionbench.
        """
        copies = (self.metadata.get("copies_of_training") or {}).get("test")
        count = (self.metadata.get("counts") or {}).get("test")
        if copies is None or count is None:
            return None
        return copies_in_words(copies, count, item)

    def copy_unfinished(self, target: Path, without: Sequence[str] = ()) -> None:
        """Copies the run, without the record of its end and what was made of its result, so that it can be resumed.

        Args:
            target: Folder of the copy, which is made.
            without: Patterns of further names that are not copied.
        """
        made = (self.metadata_path, self.figures, self.predictions_folder)
        names = [*(path.name for path in made), "report.html", ".lock", "events.out.*"]
        copy_whole(self.path, target, [*names, *without])

    def reopen(self) -> None:
        """Removes the earlier ending from the folder of a run that is trained further; the test openings are kept."""
        if openings := self.test_openings:
            self.write_metadata({"status": "interrupted", "test_openings": openings, "opening": self.opening})
        else:
            self.metadata_path.unlink(missing_ok=True)


def copies_in_words(copies: int, count: int, item: str) -> str:
    """Text that says how many test samples are also among the training samples.

    Args:
        copies: Number of test samples of which the training split has another one with the same content.
        count: Number of test samples.
        item: Word for one sample.
    """
    have = "has" if copies <= 1 else "have"
    which = f"no test {item}" if not copies else f"{copies:,} of {counted(count, f'test {item}')}"
    return f"{which} {have} the same {'bytes' if item == 'image' else 'values'} as a training {item}"


def today_config(path: Path) -> str | None:
    """A configuration of an older run in today's form, as YAML; `None` for every other file.

    Args:
        path: Path of a config.yaml.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # the parser refuses it
        return None
    if not isinstance(content, dict) or (new := _in_todays_form(content)) is content:
        return None
    text: str = yaml.safe_dump(new, sort_keys=False, allow_unicode=True)
    return text


def _in_todays_form(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration with `allow` at its top, where it was an argument of the data set."""
    data = config.get("data")
    arguments = data.get("init_args") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(arguments, dict) or "allow" not in arguments:
        return config
    allow = [*(config.get("allow") or []), *(arguments["allow"] or [])]
    kept = {name: value for name, value in arguments.items() if name != "allow"}
    return {**config, "allow": allow, "data": {**data, "init_args": kept}}


def folder_argument(command: str, args: Sequence[str]) -> tuple[RunFolder, list[str]]:
    """The run folder that a command's arguments start with, and the arguments after it.

    Args:
        command: Name of the command, for the message.
        args: Arguments of the command.

    Raises:
        UserError: The arguments do not start with a folder.
    """
    if not args or args[0].startswith("-"):
        raise UserError(
            f"{command} needs a run folder first: visionbench {command} lightning_logs/cnn/version_0 [options]."
        )
    return RunFolder(Path(args[0])), list(args[1:])


def provenance(metric: str | None, best_epoch: int | None, epochs: int | None) -> str:
    """Text that says how the weights of a run were chosen.

    Args:
        metric: Metric that chose the epoch; `None` where the last epoch is the result.
        best_epoch: Number of the epoch of the result, from 0; `None` where it is not known.
        epochs: Number of epochs.
    """
    if best_epoch is None or epochs is None:
        return "epoch not recorded"
    if metric is None:
        return f"the last epoch, {best_epoch + 1} of {epochs}; nothing was chosen"
    return f"on {metric}, epoch {best_epoch + 1} of {epochs}"


def divergence(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Which losses stopped being numbers, and in which epoch; `None` where those of the last epoch are numbers.

    Args:
        rows: Metrics of each epoch, as `RunFolder.rows` gives them.
    """
    places = []
    for name, word in (("train/loss", "training"), ("val/loss", "validation")):
        epochs = [row["epoch"] + 1 for row in rows if not math.isfinite(row.get(name, 0.0))]
        if epochs and not math.isfinite(rows[-1].get(name, 0.0)):
            places.append(f"the {word} loss first in epoch {epochs[0]}")
    return f"not a number: {', '.join(places)}" if places else None


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    """The content of a JSON file; empty where there is none.

    Args:
        path: Path of the file.
        otherwise: Words that say what to do where no copy of a damaged file is left.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, otherwise) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no names with values; restore the file from a copy, or {otherwise}.")
    return content


def _check_schema(path: Path, content: dict[str, Any], *known: int) -> None:
    """Refuses a file of a version that is not known; without a number, it is the first one."""
    if (schema := content.get("schema", SCHEMA)) not in known:
        raise UserError(
            f"{path} has schema {schema}, expected {' or '.join(map(str, known))}; use the version of visionbench that "
            "wrote it."
        )


def _unreadable(path: Path, error: Exception, otherwise: str) -> UserError:
    reason = "it is empty" if path.is_file() and not path.stat().st_size else one_line(error).rstrip(".")
    return UserError(f"{path} cannot be read ({reason}); restore the file from a copy, or {otherwise}.")
