"""`visionbench report`: one run, or several side by side, as an HTML file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from visionbench.arguments import PlainParser, split_inputs
from visionbench.console import plain_console, quiet_libraries
from visionbench.errors import UserError
from visionbench.files import write_whole
from visionbench.report.comparison_page import COLORS, LETTERS, ONE_SEED, comparison_page, outcomes
from visionbench.report.page import GENERATOR
from visionbench.report.run_contents import read_run
from visionbench.report.run_page import run_page

USAGE = """\
visionbench report RUN_DIR... [options]

Writes one run, or several side by side, as one self-contained HTML file. With several runs, the first run is compared
with each other run."""
FILE_NAME = "report.html"


def run(args: Sequence[str]) -> int:
    """Writes the report of one run, or of several side by side.

    Args:
        args: Run folders and options.

    Returns:
        The exit status: 0.

    Raises:
        UserError: A run does not exist, or the file cannot be written.
    """
    inputs, options = split_inputs(args)
    config = _parse(options)
    if not inputs:
        raise UserError(
            "report needs at least one run folder: visionbench report lightning_logs/cnn/version_0 [RUN_DIR...]."
        )
    if len(inputs) > len(COLORS):
        raise UserError(
            f"report found {len(inputs)} runs; give at most {len(COLORS)}, "
            "since there are no more distinct colors for their curves; the runs of a study are on one page with "
            "visionbench study report STUDY."
        )
    folders = [Path(name) for name in inputs]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"{folder} is given twice; give each run once.")
        seen.add(folder.resolve())
    output = (
        Path(config.output)
        if config.output is not None
        else (folders[0] / FILE_NAME if len(folders) == 1 else Path(FILE_NAME))
    )
    with quiet_libraries():
        reported = [read_run(folder) for folder in folders]
        check_output(output)
        content = run_page(reported[0]) if len(reported) == 1 else comparison_page(reported, config.root)
    try:
        write_whole(output, content)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror or error}); give another --output.") from error
    console = plain_console()
    console.print(f"report      {output} ({_file_size(len(content))})")
    if len(reported) > 1:
        for letter, folder in zip(LETTERS, folders, strict=False):
            console.print(f"{letter:12}{folder}")
        for letters, outcome in outcomes(reported):
            console.print(f"{letters:12}{outcome}")
        console.print(ONE_SEED)
    return 0


def check_output(path: Path) -> None:
    """Checks that the output is a new file or replaces an older report.

    Args:
        path: HTML file to write.

    Raises:
        UserError: The path is a folder or another file, or its folder does not exist.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file with --output.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent} for {path.name}; make the folder, or give another --output.")
    try:
        with path.open("rb") as file:
            head = file.read(2048)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); give another --output.") from error
    if f'<meta name="generator" content="{GENERATOR} '.encode() not in head:
        raise UserError(f"{path} exists and is not a report of visionbench; remove it, or give another --output.")


def _file_size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def _parse(options: Sequence[str]) -> argparse.Namespace:
    parser = PlainParser(
        prog="visionbench report",
        usage=USAGE,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output",
        help="HTML file; default: report.html in the run folder, or in the working directory for several runs.",
    )
    parser.add_argument(
        "--root",
        help="Folder of prepared data sets, for the images with different predictions; default: the first run's.",
    )
    return parser.parse_args(options)
