"""What `visionbench export` does: writes a run's model in a form that needs neither visionbench nor Lightning."""

import contextlib
import importlib.util
import io
import itertools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from visionbench.config.parser import Parser, watched_parsing
from visionbench.console import plain_console, quiet_libraries
from visionbench.data.store import SPLITS
from visionbench.errors import RunFailed, UserError
from visionbench.inference.inputs import add_data_options, check_words, make_data, samples
from visionbench.inference.trained import Normalise, Predictor, TrainedRun, open_run
from visionbench.models.base import Classifier
from visionbench.runs.folder import folder_argument, result_checkpoint
from visionbench.runs.identity import versions, weights_digest
from visionbench.text import one_line

Format = Literal["onnx", "torch_export", "safetensors"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch_export": (),
    "safetensors": ("safetensors",),
}
# By how much a probability may differ: other kernels add in another order.
TOLERANCE = 1e-4

# Gives probabilities, (B, num_classes), and classes, (B,), of pixels, (B, H, W, C) uint8.
Answers = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

USAGE = """\
visionbench export RUN_DIR --format onnx|torch_export|safetensors [options]

With the run's data set as what is checked on, its options are taken too: --data.root DIR."""


class FromPixels(nn.Module):
    """A trained model with all that stands between an image's bytes and an answer: what is exported.

    Args:
        model: The model, in 32 bits.
        mean: Subtracted from pixels in [0, 1], one a channel.
        std: Then divided by, one a channel.
    """

    def __init__(self, model: Classifier, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Says of each image which class it is of.

        Args:
            images: Shape (B, H, W, C), uint8.

        Returns:
            Probabilities, (B, num_classes), float32, and classes, (B,), int64.
        """
        outputs = self.model(self.normalise(images))
        return self.model.probabilities(outputs), self.model.predict(outputs)


def export(args: Sequence[str]) -> int:
    """Writes a run's model to a file, opens that again and compares its answers with the checkpoint's.

    Args:
        args: The run's folder and options.

    Returns:
        The exit status: 0.

    Raises:
        UserError: There is no such run, a package is missing, or there is nothing to check on.
        RunFailed: The model cannot be exported, or the file answers otherwise than the checkpoint; there is no file.
    """
    parser = _parser()
    if args and args[0] in ("-h", "--help"):
        parser.print_help()
        return 0
    folder, options = folder_argument("export", args)
    console = plain_console()
    with quiet_libraries():
        result_checkpoint(folder)
        given = add_data_options(parser, yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        with watched_parsing(console.print):
            config = parser.parse_args([*given, *options])
        if config.format is None:
            raise UserError(f"No format is given; name one with --format {'|'.join(get_args(Format))}.")
        if config.samples < 1:
            raise UserError(f"samples is {config.samples}, expected 1 or more.")
        check_words([config.check])
        _need(config.format)
        run = open_run(folder)
        data = make_data(parser, config, run) if config.check in SPLITS else None
        stream = samples([config.check], run.recipe, run.class_names, data)
        usable = (sample for sample in stream if sample.pixels is not None)
        chosen = [sample.pixels for sample in itertools.islice(usable, config.samples)]
        if not chosen:
            raise UserError(f"{config.check} holds no image to check the file on; give another --check.")
        pixels = np.stack([image for image in chosen if image is not None])
        output = Path(config.output) if config.output is not None else _default_output(folder, config.format)
        for line in _export(run, config.format, output, pixels, config.check):
            console.print(line)
    return 0


def _export(run: TrainedRun, format: Format, output: Path, pixels: np.ndarray, checked_on: str) -> Iterator[str]:
    in_own_precision = None
    if run.precision != "32-true":
        _, in_own_precision = _answers(Predictor(run, accelerator="cpu"), pixels, run.batch_size)
    exported = FromPixels(run.model.cpu().float(), run.mean, run.std).eval()
    checkpoint = _eager(exported)
    expected, classes = _answers(checkpoint, pixels, run.batch_size)
    expected_alone, class_alone = checkpoint(pixels[:1])
    said = {name: json.dumps(value, ensure_ascii=False) for name, value in _said(run, format).items()}
    temporary = output.with_name(f".{output.stem}.{os.getpid()}{SUFFIXES[format]}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with _quiet_exporters():
            reopen = _write(format, exported, temporary, said, run)
            answers = reopen(temporary)
        # Whole batches, what is left, and a batch of one: the file must take any number.
        given, given_classes = _answers(answers, pixels, run.batch_size)
        given_alone, given_class_alone = answers(pixels[:1])
        difference = max(np.abs(given - expected).max(), np.abs(given_alone - expected_alone).max())
        others = int((given_classes != classes).sum() + (given_class_alone != class_alone).sum())
        if not difference <= TOLERANCE or others:
            raise RunFailed(
                f"The {format} file answers otherwise than the checkpoint: the largest difference of a probability is "
                f"{difference:.3g} (up to {TOLERANCE:g} is right), and of {len(pixels):,} samples {others:,} are given "
                "another class; nothing was kept."
            )
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(output)
    except OSError as error:
        raise RunFailed(f"{output} could not be written ({error}); give another --output.") from error
    finally:
        temporary.unlink(missing_ok=True)
    yield f"checked    on {len(pixels):,} samples of {checked_on}: the same classes as {run.checkpoint}"
    yield f"difference {difference:.3g} at most, of a probability"
    if in_own_precision is not None:
        others = int((in_own_precision != classes).sum())
        yield f"precision  32 bits; in {run.precision}, which the run was trained in, {others:,} get another class"
    if format == "safetensors":
        yield "contents   weights alone, by name; what the pixels and the outputs mean is in its metadata"
    else:
        shape = " x ".join(map(str, (*run.recipe.size, run.input_shape[0])))
        yield f"takes      images: uint8, any number x {shape} (height, width, channels)"
        yield f"gives      probabilities: float32, {len(run.class_names)} a sample; classes: int64, one a sample"
    yield f"file       {output} ({output.stat().st_size / 2**20:,.1f} MB)"


def _said(run: TrainedRun, format: Format) -> dict[str, Any]:
    """What a file says of itself: classes, preprocessing, and where it comes from."""
    height, width = run.recipe.size
    weights = format == "safetensors"
    init_args = {k: v for k, v in run.config["model"]["init_args"].items() if k not in ("optimizer", "lr_scheduler")}
    return {
        "class_names": list(run.class_names),
        "preprocessing": {
            "images": {"layout": "NHWC", "dtype": "uint8", "shape": [None, height, width, run.input_shape[0]]},
            "from_file": vars(run.recipe),
            "normalise": {"divide_by": 255, "mean": run.mean, "std": run.std, "then_layout": "NCHW"},
            "normalise_is_inside": not weights,
        },
        "model": {"class_path": run.config["model"]["class_path"], "init_args": init_args},
        "weights_digest": weights_digest(run.model.state_dict()),
        "data": {name: run.described[name] for name in ("data", "title")},
        "versions": versions(),
    }


def _write(
    format: Format, exported: FromPixels, file: Path, said: Mapping[str, str], run: TrainedRun
) -> Callable[[Path], Answers]:
    """Writes the file; gives what opens it again and looks whether it says of itself what it should."""
    if format == "safetensors":
        from safetensors.torch import save

        weights = {name: weight.contiguous() for name, weight in run.model.state_dict().items()}
        file.write_bytes(save(weights, metadata=dict(said)))
        return lambda path: _reopened_safetensors(path, exported, said)
    height, width = run.recipe.size
    example = torch.zeros(2, height, width, run.input_shape[0], dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        program = torch.export.export(exported, (example,), dynamic_shapes=shapes)
        if format == "torch_export":
            torch.export.save(program, file, extra_files=dict(said))
            return lambda path: _reopened_program(path, said)
        onnx: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["probabilities", "classes"],
            dynamic_shapes=shapes,
        )
        onnx.model.metadata_props.update(said)
        onnx.save(file, external_data=False)
    except OSError:
        raise
    except Exception as error:  # a network that torch cannot follow makes it stumble in many ways
        raise RunFailed(
            f"torch cannot export {type(run.model).__name__} ({type(error).__name__}: {one_line(error).rstrip('.')}); "
            "its network branches on the values of its inputs, or does what the format does not know."
        ) from error
    return lambda path: _reopened_onnx(path, said)


def _reopened_onnx(file: Path, said: Mapping[str, str]) -> Answers:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    _must_say(session.get_modelmeta().custom_metadata_map, said)

    def answers(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, classes = session.run(["probabilities", "classes"], {"images": pixels})
        return probabilities, classes

    return answers


def _reopened_program(file: Path, said: Mapping[str, str]) -> Answers:
    read = dict.fromkeys(said, "")
    module = torch.export.load(file, extra_files=read).module()
    _must_say(read, said)
    return _eager(module)


def _reopened_safetensors(file: Path, exported: FromPixels, said: Mapping[str, str]) -> Answers:
    """The model with the file's weights in the place of the checkpoint's."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        _must_say(opened.metadata(), said)
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dictionary
    if json.dumps(weights_digest(weights)) != said["weights_digest"]:
        raise RunFailed("The weights in the file are not those of the checkpoint; nothing was kept.")
    exported.model.load_state_dict(weights)
    return _eager(exported)


def _must_say(found: Mapping[str, str], said: Mapping[str, str]) -> None:
    if lost := [name for name, text in said.items() if found.get(name) != text]:
        raise RunFailed(f"The file has lost what it is to say of {', '.join(lost)}; nothing was kept.")


def _eager(module: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Answers:
    @torch.no_grad()
    def answers(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, classes = module(torch.from_numpy(pixels))
        return probabilities.numpy(), classes.numpy()

    return answers


def _answers(answers: Answers, pixels: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all pixels, a batch after the other."""
    parts = [answers(pixels[start : start + batch_size]) for start in range(0, len(pixels), batch_size)]
    return np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts])


def _need(format: Format) -> None:
    missing = [name for name in PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format {format} needs {' and '.join(missing)}, not installed here; pip install 'visionbench[export]'."
        )


def _default_output(folder: Path, format: Format) -> Path:
    return folder / "exports" / f"model{SUFFIXES[format]}"


@contextlib.contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Keeps the exporters' notes to their developers off the screen."""
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


def _parser() -> Parser:
    parser = Parser(
        prog="visionbench export", usage=USAGE, description="Write a run's model for use elsewhere.", allow_abbrev=False
    )
    parser.add_argument(
        "--format",
        type=Format | None,
        default=None,
        help="onnx and torch_export take raw pixels and give probabilities and classes; safetensors holds weights.",
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="The file; default: exports/model.* in the run's folder."
    )
    parser.add_argument(
        "--check",
        type=str,
        default="test",
        help="What the file is checked on: a split of the run's data set, a folder, a file, or - for a list of files.",
    )
    parser.add_argument("--samples", type=int, default=1000, help="How many of them, at most.")
    return parser
