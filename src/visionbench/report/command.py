"""What `visionbench report` does: reads runs, writes the page and says where it is."""

from collections.abc import Sequence
from pathlib import Path

from visionbench.config.parser import Parser
from visionbench.console import plain_console, quiet_libraries
from visionbench.errors import UserError
from visionbench.figures.comparison import COLORS
from visionbench.files import write_whole
from visionbench.inference.predict import split_words
from visionbench.report.comparison_page import page_of_several
from visionbench.report.page import GENERATOR
from visionbench.report.run_contents import read_run
from visionbench.report.run_page import page_of_one

USAGE = """\
visionbench report RUN_DIR... [options]

One run, or several side by side, as one HTML file that needs nothing beside it. Of several the first is compared with
each of the others."""
NAME = "report.html"


def report(args: Sequence[str]) -> int:
    """Writes the report of one run, or of several side by side.

    Args:
        args: The runs' folders and options.

    Returns:
        The exit status: 0.

    Raises:
        UserError: There is no such run, or the file cannot be written.
    """
    parser = _parser()
    words, options = split_words(args)
    config = parser.parse_args(options)
    if not words:
        raise UserError(
            "report needs the folder of a run, or of several: visionbench report lightning_logs/cnn/version_0 "
            "[RUN_DIR...]."
        )
    if len(words) > len(COLORS):
        raise UserError(
            f"report found {len(words)} runs; give at most {len(COLORS)}, or their curves cannot be told apart."
        )
    folders = [Path(word) for word in words]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"{folder} is given twice; give each run once.")
        seen.add(folder.resolve())
    output = (
        Path(config.output) if config.output is not None else (folders[0] / NAME if len(folders) == 1 else Path(NAME))
    )
    with quiet_libraries():
        reported = [read_run(folder) for folder in folders]
        check_output(output)
        content = page_of_one(reported[0]) if len(reported) == 1 else page_of_several(reported, config.root)
    try:
        write_whole(output, content)
    except OSError as error:
        raise UserError(
            f"{output} cannot be written ({error.strerror or error}); give another place with --output."
        ) from error
    plain_console().print(f"report      {output} ({_in_words(len(content))})")
    return 0


def check_output(path: Path) -> None:
    """Makes sure that nothing but an older report is written over.

    Raises:
        UserError: Something else is there, or there is no folder for it.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file with --output.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent} to write {path.name} into; make it, or give another.")
    try:
        with path.open("rb") as file:
            head = file.read(2048)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); give another place with --output."
        ) from error
    if f'<meta name="generator" content="{GENERATOR} '.encode() not in head:
        raise UserError(
            f"{path} is there already and is no report of visionbench; take it away, or give another with --output."
        )


def _in_words(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def _parser() -> Parser:
    parser = Parser(
        prog="visionbench report", usage=USAGE, description="A run, or several, as one HTML file.", allow_abbrev=False
    )
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="The HTML file; default: report.html in the run's folder, or here for several.",
    )
    parser.add_argument(
        "--root",
        type=str | None,
        default=None,
        help="Where prepared data sets lie, for the images on which runs part; default: where the first run had them.",
    )
    return parser
