"""`visionbench new`: a project of a user's own, with a model, a data set, a study and tests."""

import importlib.metadata
import json
import keyword
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from visionbench.arguments import PlainParser
from visionbench.console import plain_console
from visionbench.errors import UserError
from visionbench.project.files import FILES


def run(args: Sequence[str]) -> int:
    """Writes the files of a project into a new folder.

    Args:
        args: Folder of the project, whose last part is its name.

    Returns:
        The exit status.

    Raises:
        UserError: The name is none of a Python package, or the folder exists already.
    """
    parser = PlainParser(
        prog="visionbench new",
        description="Writes a project of your own, which has visionbench as a dependency: a model, a data set, a run "
        "file, a study, tests and a Dockerfile.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder",
        metavar="NAME",
        help="Folder to make; its last part is the name of the package: small letters, digits and underscores.",
    )
    folder = Path(parser.parse_args(args).folder)
    name = folder.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name in sys.stdlib_module_names:
        raise UserError(
            f"The name is {name}, expected small letters, digits and underscores, such as my_project, and no word or "
            "module of Python itself."
        )
    if name == "visionbench":
        raise UserError("The name is visionbench, which is the package that the project depends on; give another name.")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{folder} exists already; give another name.") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror or error}); give another folder.") from error
    try:
        for path, content in FILES.items():
            file = folder / path.replace("NAME", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content.replace("NAME", name).replace("DEPENDENCY", dependency()), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder)
        raise UserError(f"{folder} cannot be written ({error.strerror or error}); give another folder.") from error
    console = plain_console()
    console.print(f"wrote {folder}; train and test with:")
    for line in (f"cd {shlex.quote(str(folder))}", *_commands(FILES["README.md"])):
        console.print(f"  {line}")
    return 0


def _commands(readme: str) -> list[str]:
    return [line for line in readme.splitlines() if line.startswith("python3 -m venv")]


def dependency() -> str:
    """Gives the dependency on visionbench: the folder or the address that it was installed from, or a version."""
    distribution = importlib.metadata.distribution("visionbench")
    text = distribution.read_text("direct_url.json")
    if text is None:
        return f"visionbench>={distribution.version}"
    origin = json.loads(text)
    version_control = origin.get("vcs_info")
    if version_control is None:
        return f"visionbench @ {origin['url']}"
    return f"visionbench @ {version_control['vcs']}+{origin['url']}@{version_control['commit_id']}"
