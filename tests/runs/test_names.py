"""Which code may name the files of a run folder, and which may rename a file into its place."""

import ast
from pathlib import Path

import visionbench

PACKAGE = Path(visionbench.__file__).parent
FILES = ("run.json", "config.yaml", "metrics.csv", "checkpoints")
# torch.hub keeps downloaded weights in a folder of this name.
OTHERS_WITH_SUCH_A_NAME = {("models/transfer.py", "checkpoints")}
# Files and folders that are complete already, and get another name.
OTHERS_THAT_RENAME = {"runs/checkpoints.py", "data/store.py"}


def sources():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def named_files(tree):
    """The files of a run folder that code names: a whole text, or the end of a path."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {name for text in texts for name in FILES if text == name or (" " not in text and text.endswith(f"/{name}"))}


def renames(tree):
    """Whether code renames a file; `str.replace` has two arguments, `dataclasses.replace` has keywords."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return any(
        call.func.attr == "rename"
        or (call.func.attr == "replace" and len(call.args) == 1 and not call.keywords)
        or (ast.unparse(call.func) == "os.replace")
        for call in calls
    )


def test_only_the_run_folder_names_the_files_of_a_run():
    found = {(path, name) for path, tree in sources() for name in named_files(tree)}
    assert found - OTHERS_WITH_SUCH_A_NAME == {("runs/folder.py", name) for name in FILES}


def test_only_one_function_renames_what_was_written():
    assert {path for path, tree in sources() if renames(tree)} - OTHERS_THAT_RENAME == {"files.py"}


def test_names_and_renames_are_found():
    assert named_files(ast.parse('run / "run.json"; f"{run}/config.yaml"; "see run.json"; x = "a/checkpoints"')) == {
        "run.json",
        "config.yaml",
        "checkpoints",
    }
    for code in ("part.replace(path)", "part.rename(path)", "os.replace(part, path)"):
        assert renames(ast.parse(code))
    for code in ('text.replace("a", "b")', "dataclasses.replace(recipe, size=3)", "replace(recipe, size=3)"):
        assert not renames(ast.parse(code))
