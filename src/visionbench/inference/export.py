"""Exports: a run's model as a file that needs neither visionbench nor Lightning."""

import contextlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from visionbench.errors import RunFailed, UserError
from visionbench.files import replacing, write_json
from visionbench.inference.trained import Predictor, TrainedRun
from visionbench.models.base import Classifier
from visionbench.runs.identity import versions, weights_digest
from visionbench.text import one_line

Format = Literal["onnx", "torch_export", "safetensors"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch_export": (),
    "safetensors": ("safetensors",),
}
# Largest allowed difference of a probability: other kernels add in another order.
TOLERANCE = 1e-4

# Turns raw samples - pixels, (B, H, W, C) uint8, or rows, (B, columns) float64 - into probabilities, (B, num_classes),
# and labels, (B,).
Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class FromRaw(nn.Module):
    """The exported module: a trained model with its preprocessing, from raw samples to probabilities and classes.

    Args:
        model: Trained model, in 32 bits.
        preprocess: Module that turns raw samples into inputs of the model.
    """

    def __init__(self, model: Classifier, preprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.model = model

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts a batch.

        Args:
            raw: Pixels, shape (B, H, W, C), uint8, or rows, shape (B, columns), float64.

        Returns:
            Probabilities, shape (B, num_classes), float32, and predicted labels, shape (B,), int64.
        """
        outputs = self.model(self.preprocess(raw))
        return self.model.probabilities(outputs), self.model.predict(outputs)


@dataclass(frozen=True)
class Export:
    """A checked file.

    Attributes:
        file: Path of the file.
        description: Path of the JSON file beside it, which describes the columns of a table; `None` for images.
        format: Format of the file.
        samples: Number of samples of the check.
        difference: Largest difference between a probability of the file and one of the checkpoint.
        other_classes: Number of samples whose class in the run's own precision differs from the class in 32 bits;
            `None` for a run in 32 bits.
    """

    file: Path
    description: Path | None
    format: Format
    samples: int
    difference: float
    other_classes: int | None


def export_model(run: TrainedRun, format: Format, output: Path, raw: np.ndarray) -> Export:
    """Writes a run's model to a file, opens the file and compares its predictions with those of the checkpoint.

    Of a run on a table, a JSON file beside it describes the columns.

    Args:
        run: Trained run, whose model is moved to the processor and to 32 bits.
        format: Format of the file.
        output: File to write; it appears when it is checked.
        raw: Samples for the check: pixels, shape (N, H, W, C), uint8, or rows, shape (N, columns), float64.

    Raises:
        RunFailed: The model cannot be exported, the file cannot be written, or its predictions differ from those of the
            checkpoint; no file is kept.
    """
    own_classes = None
    if run.precision != "32-true":
        _, own_classes = _predict_all(Predictor(run, accelerator="cpu"), raw, run.batch_size)
    exported = FromRaw(run.model.cpu().float(), run.preprocessing()).eval()
    checkpoint = _eager(exported)
    expected, expected_classes = _predict_all(checkpoint, raw, run.batch_size)
    expected_single, expected_single_class = checkpoint(raw[:1])
    content = _metadata(run, format)
    metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in content.items()}
    description = output.with_name(f"{output.name}.json") if run.table is not None else None
    temporary = output.with_name(f".{output.stem}.{os.getpid()}{SUFFIXES[format]}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output, temporary):
            with _quiet_exporters():
                reopen = _write(format, exported, temporary, metadata, run)
                predict = reopen(temporary)
            # Whole batches, a smaller last batch, and a batch of one: the file must accept any number of samples.
            probabilities, classes = _predict_all(predict, raw, run.batch_size)
            single, single_class = predict(raw[:1])
            difference = max(np.abs(probabilities - expected).max(), np.abs(single - expected_single).max())
            changed = int((classes != expected_classes).sum() + (single_class != expected_single_class).sum())
            if not difference <= TOLERANCE or changed:
                raise RunFailed(
                    f"The predictions of the {format} file differ from those of the checkpoint: the largest difference "
                    f"of a probability is {difference:.3g} (at most {TOLERANCE:g} is allowed), and the class differs "
                    f"in {changed:,} of {len(raw) + 1:,} predictions; no file was kept."
                )
            if description is not None:
                write_json(description, content)
    except OSError as error:
        raise RunFailed(f"{output} could not be written ({error}); give another --output.") from error
    return Export(
        output,
        description,
        format,
        len(raw),
        float(difference),
        int((own_classes != expected_classes).sum()) if own_classes is not None else None,
    )


def _metadata(run: TrainedRun, format: Format) -> dict[str, Any]:
    """The metadata of a file: classes, preprocessing, and the model and data that it comes from."""
    init_args = {k: v for k, v in run.config["model"]["init_args"].items() if k not in ("optimizer", "lr_scheduler")}
    return {
        "class_names": list(run.class_names),
        "preprocessing": _preprocessing(run, is_inside=format != "safetensors"),
        "model": {"class_path": run.config["model"]["class_path"], "init_args": init_args},
        "weights_digest": weights_digest(run.model.state_dict()),
        "data": {name: run.described[name] for name in ("data", "title")},
        "versions": versions(),
    }


def _preprocessing(run: TrainedRun, is_inside: bool) -> dict[str, Any]:
    if run.table is not None:
        return {**run.table.described(), "encoding_is_inside": is_inside}
    channels, height, width = run.input_shape
    return {
        "images": {"layout": "NHWC", "dtype": "uint8", "shape": [None, height, width, channels]},
        "from_file": vars(run.image_recipe),
        # These two keys keep their spelling for programs that read files of earlier exports.
        "normalise": {"divide_by": 255, "mean": run.mean, "std": run.std, "then_layout": "NCHW"},
        "normalise_is_inside": is_inside,
    }


def _write(
    format: Format, exported: FromRaw, file: Path, metadata: Mapping[str, str], run: TrainedRun
) -> Callable[[Path], Predict]:
    """Writes the file; gives a function that opens the file and checks its metadata."""
    if format == "safetensors":
        from safetensors.torch import save

        weights = {name: weight.contiguous() for name, weight in run.model.state_dict().items()}
        file.write_bytes(save(weights, metadata=dict(metadata)))
        return lambda path: _reopened_safetensors(path, exported, metadata)
    example, name = _example(run)
    # A named size is refused by torch 2.11 for a condition that always holds (PatchMLP); the name is given below.
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    try:
        program = torch.export.export(exported, (example,), dynamic_shapes=shapes)
        if format == "torch_export":
            content = io.BytesIO()  # torch ends the process where it cannot write a file
            torch.export.save(program, content, extra_files=dict(metadata))
            file.write_bytes(content.getvalue())
            return lambda path: _reopened_program(path, metadata)
        onnx: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[name],
            output_names=["probabilities", "classes"],
            dynamic_shapes=({0: "batch"},),
        )
        onnx.model.metadata_props.update(metadata)
        onnx.save(file, external_data=False)
    except OSError:
        raise
    except Exception as error:  # torch raises many types for a network that it cannot trace
        raise RunFailed(
            f"torch cannot export {type(run.model).__name__} ({type(error).__name__}: {one_line(error).rstrip('.')}); "
            "its network branches on the values of its inputs, or uses an operation that the format does not have."
        ) from error
    return lambda path: _reopened_onnx(path, name, metadata)


def _example(run: TrainedRun) -> tuple[Tensor, str]:
    """A raw batch of two samples, and the name of the input."""
    if run.table is not None:
        return torch.zeros(2, len(run.table.schema.columns), dtype=torch.float64), "rows"
    channels, height, width = run.input_shape
    return torch.zeros(2, height, width, channels, dtype=torch.uint8), "images"


def _reopened_onnx(file: Path, name: str, metadata: Mapping[str, str]) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    _check_metadata(session.get_modelmeta().custom_metadata_map, metadata)

    def predict(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, classes = session.run(["probabilities", "classes"], {name: raw})
        return probabilities, classes

    return predict


def _reopened_program(file: Path, metadata: Mapping[str, str]) -> Predict:
    read = dict.fromkeys(metadata, "")
    module = torch.export.load(file, extra_files=read).module()
    _check_metadata(read, metadata)
    return _eager(module)


def _reopened_safetensors(file: Path, exported: FromRaw, metadata: Mapping[str, str]) -> Predict:
    """The exported module with the weights of the file in place of the checkpoint's."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        _check_metadata(opened.metadata(), metadata)
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dictionary
    if json.dumps(weights_digest(weights)) != metadata["weights_digest"]:
        raise RunFailed("The weights in the file differ from those of the checkpoint; no file was kept.")
    exported.model.load_state_dict(weights)
    return _eager(exported)


def _check_metadata(read: Mapping[str, str], written: Mapping[str, str]) -> None:
    if lost := [name for name, text in written.items() if read.get(name) != text]:
        raise RunFailed(f"The file has lost its metadata {', '.join(lost)}; no file was kept.")


def _eager(module: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Predict:
    @torch.no_grad()
    def predict(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, classes = module(torch.from_numpy(raw))
        return probabilities.numpy(), classes.numpy()

    return predict


def _predict_all(predict: Predict, raw: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicts all samples, batch by batch."""
    parts = [predict(raw[start : start + batch_size]) for start in range(0, len(raw), batch_size)]
    return np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts])


def check_packages(format: Format) -> None:
    """Checks that the packages of a format are installed.

    Args:
        format: Format of the file.

    Raises:
        UserError: A package is missing.
    """
    missing = [name for name in PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"--format {format} needs {' and '.join(missing)}, which {are} not installed; run "
            "pip install 'visionbench[export]'."
        )


@contextlib.contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Silences the notes of the exporters, which are for their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # where torch prints whole graphs
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
