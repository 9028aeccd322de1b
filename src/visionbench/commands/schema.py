"""`visionbench schema`: a JSON Schema of run files."""

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
        description="Print a JSON Schema of run files, from which an editor completes and marks mistakes. Name it in "
        "the first line of a file: # yaml-language-server: $schema=visionbench.schema.json",
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, help="file to write instead, such as visionbench.schema.json")
    options = parser.parse_args(args)
    # Here, since torch and Lightning come with it, for which --help need not wait.
    from visionbench.config.schema import json_schema

    text = json.dumps(json_schema(), indent=1) + "\n"
    if options.output is None:
        print(text, end="")
        return 0
    try:
        write_whole(options.output, text.encode())
    except OSError as error:
        raise UserError(f"--output: {options.output} cannot be written ({error.strerror}).") from error
    return 0
