"""`visionbench export`: a run's model as a file that needs neither visionbench nor Lightning."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from visionbench.arguments import PlainParser, add_data_options, make_data
from visionbench.config.parser import Parser
from visionbench.config.patches import watched_parsing
from visionbench.console import plain_console, quiet_libraries
from visionbench.data.base import VisionDataModule
from visionbench.data.store import SPLITS
from visionbench.errors import UserError
from visionbench.inference.export import SUFFIXES, Export, Format, check_packages, export_model
from visionbench.inference.inputs import Sample, check_folders, check_inputs, samples
from visionbench.inference.predict import check_output
from visionbench.inference.tables import InputTables, refuse_tables
from visionbench.inference.trained import TrainedRun, open_run
from visionbench.runs.folder import RunFolder, folder_argument
from visionbench.text import counted

DEFAULT_CHECK = "test"
USAGE = """\
visionbench export RUN_DIR --format onnx|torch_export|safetensors [options]

Where the file is checked on a split of the run's data set, the options of the data set are also accepted, such as
--data.root DIR."""


def run(args: Sequence[str]) -> int:
    """Writes a run's model to a file, opens the file and compares its predictions with those of the checkpoint.

    Args:
        args: Arguments of the command: the run folder, then options.

    Returns:
        The exit status: 0.

    Raises:
        UserError: The run does not exist, a package is missing, or there is no sample for the check.
        RunFailed: The model cannot be exported, or the predictions of the file differ from those of the checkpoint; no
            file is kept.
    """
    parser = _parser()
    if args and args[0] in ("-h", "--help"):
        parser.print_help()
        return 0
    run_folder, options = folder_argument("export", args)
    console = plain_console()
    with quiet_libraries():
        run_folder.result_checkpoint()
        run_config = run_folder.config
        # A run on arrays of Python has no data set that a command can make, but may be checked on files.
        needs_data = _check_of(options) in SPLITS or any(option.startswith("--data") for option in options)
        data_options = add_data_options(parser, run_config) if needs_data else []
        with watched_parsing(console.print):
            config = parser.parse_args([*data_options, *options])
        if config.format is None:
            raise UserError(f"No format is given; give one with --format {'|'.join(get_args(Format))}.")
        if config.samples < 1:
            raise UserError(f"samples is {config.samples}, expected 1 or more.")
        check_inputs([config.check])
        suffix = SUFFIXES[config.format]
        check_output(
            config.output, [config.check], lambda file: file.suffix == suffix, f"model (its name lacks {suffix})"
        )
        check_packages(config.format)
        trained = open_run(run_folder.path)
        if (warning := run_folder.warning()) is not None:
            console.print(warning)
        tables = InputTables([config.check], trained.table) if trained.table is not None else None
        if tables is None:
            refuse_tables([config.check])
            check_folders([config.check])
        data = None
        if config.check in SPLITS:
            data = make_data(parser, config, run_config)
            trained.set_up(data)
            if config.check == "test":
                note = run_folder.open_test(data.sealed_samples(), "export", trained.checkpoint)
                if note is not None:
                    console.print(note)
        stream = tables.samples(data) if tables is not None else _images(trained, config.check, data)
        usable = (sample.values for sample in stream if sample.values is not None)
        chosen = list(itertools.islice(usable, config.samples))
        if not chosen:
            raise UserError(f"{config.check} holds no {trained.item} to check the file on; give another --check.")
        output = Path(config.output) if config.output is not None else _default_output(run_folder, config.format)
        exported = export_model(trained, config.format, output, np.stack(chosen))
        for line in _closing_lines(trained, exported, config.check):
            console.print(line)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="visionbench export",
        usage=USAGE,
        description="Write a run's model as a file for other programs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--format",
        type=Format | None,
        default=None,
        help="Format of the file: onnx and torch_export turn raw pixels, or raw rows of a table, into probabilities "
        "and classes; safetensors holds the weights alone.",
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="File to write; default: exports/model.* in the run folder."
    )
    parser.add_argument(
        "--check",
        type=str,
        default=DEFAULT_CHECK,
        help="Images or rows for the check of the file: a split of the run's data set, a folder, a file, or - for a "
        "list of files on standard input.",
    )
    parser.add_argument("--samples", type=int, default=1000, help="Largest number of samples for the check.")
    return parser


def _check_of(options: Sequence[str]) -> str:
    """The value of --check, before it is known whether the options of a data set are among the others."""
    parser = PlainParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--check", default=DEFAULT_CHECK)
    return str(parser.parse_known_args(options)[0].check)


def _images(run: TrainedRun, check: str, data: VisionDataModule | None) -> Iterator[Sample]:
    return samples([check], run.image_recipe, run.class_names, data)


def _default_output(run_folder: RunFolder, format: Format) -> Path:
    return run_folder.path / "exports" / f"model{SUFFIXES[format]}"


def _closing_lines(run: TrainedRun, exported: Export, checked_on: str) -> Iterator[str]:
    yield (f"checked    on {counted(exported.samples, 'sample')} of {checked_on}: the same classes as {run.checkpoint}")
    yield f"difference {exported.difference:.3g} at most between two probabilities"
    if exported.other_classes is not None:
        others = counted(exported.other_classes, "sample")
        yield f"precision  32 bits; in {run.precision}, the precision of the run, the class differs for {others}"
    if exported.format == "safetensors":
        inputs = "pixels" if run.table is None else "columns"
        yield f"contents   weights by name; the metadata describe the {inputs} and the outputs"
    else:
        if run.table is not None:
            columns = counted(len(run.table.schema.columns), "column")
            yield f"inputs     rows: float64, any number x {columns} (numbers, and codes of categories)"
        else:
            channels, height, width = run.input_shape
            yield f"inputs     images: uint8, any number x {height} x {width} x {channels} (height, width, channels)"
        yield f"outputs    probabilities: float32, {len(run.class_names)} per sample; classes: int64, one per sample"
    if exported.description is not None:
        yield f"columns    {exported.description}"
    yield f"file       {exported.file} ({exported.file.stat().st_size / 2**20:,.1f} MB)"
