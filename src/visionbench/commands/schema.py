"""`visionbench schema`: a JSON Schema of run files."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from visionbench.arguments import PlainParser
from visionbench.errors import UserError
from visionbench.files import write_whole


def run(args: Sequence[str]) -> int:
    """Prints the schema, or writes it to a file.

    Args:
        args: Options.

    Returns:
        The exit status, 0.

    Raises:
        UserError: There is no such option, or the file cannot be written.
    """
    parser = PlainParser(
        prog="visionbench schema",
        description="Prints a JSON Schema of run files, from which an editor completes options and marks mistakes.\n"
        "Name the schema in the first line of a run file:\n"
        "# yaml-language-server: $schema=visionbench.schema.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, help="JSON file to write instead, such as visionbench.schema.json")
    options = parser.parse_args(args)
    # Here, since torch and Lightning come with it, for which --help need not wait.
    from visionbench.config.schema import json_schema

    text = json.dumps(json_schema(), indent=1) + "\n"
    if options.output is None:
        print(text, end="")
        return 0
    _check_output(options.output)
    try:
        write_whole(options.output, text.encode())
    except OSError as error:
        raise UserError(f"{options.output} cannot be written ({error.strerror}); give another --output.") from error
    return 0


def _check_output(path: Path) -> None:
    """Refuses an output that would replace a file which is no JSON Schema."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(200)
    if head and b'"$schema"' not in head:
        raise UserError(f"{path} exists and is no JSON Schema; remove it, or give another --output.")
