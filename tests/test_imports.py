"""The order of the packages, and what training must not know."""

import ast
from collections.abc import Iterator
from pathlib import Path

import visionbench

PACKAGE = Path(visionbench.__file__).parent

# From top to bottom: each package or module may import those below it. `visionbench` is the package's own __init__.py.
ORDER = (
    *("__main__", "cli", "commands", "studies", "visionbench", "estimator", "api", "project"),
    *("report", "figures", "inference"),
    *("arguments", "config", "progress", "training", "guards", "models", "data", "runs", "evaluation"),
    *(
        "surroundings",
        "processes",
        "launch",
        "random_state",
        "interrupts",
        "console",
        "files",
        "decoding",
        "file_kinds",
    ),
    *("pixel_data", "own_model", "text", "classes", "errors"),
)
# A study worker, a notebook and the command line call the same session.
UNKNOWN_TO_TRAINING = {
    "jsonargparse",
    "rich",
    "matplotlib",
    "lightning.pytorch.cli",
    "visionbench.console",
    "visionbench.figures",
}


def names_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of each import, and of each text that may name one, as tables of modules have them.

    Imports in functions and for type checkers count too.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            package, _, rest = node.value.partition(":")[0].partition(".")
            if package == "visionbench" and rest.split(".")[0] in ORDER:
                yield node.lineno, f"{package}.{rest}"


def part_of(name: str) -> str:
    """The package or module in `ORDER` that a dotted name of visionbench belongs to."""
    part = [*name.split("."), ""][1]
    return part if part in ORDER else "visionbench"


def upward_imports(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        importer = part_of(f"visionbench.{name.removesuffix('.py').split('/')[0]}")
        for line, imported in names_of(ast.parse(path.read_text(encoding="utf-8"))):
            if imported.split(".")[0] != "visionbench" or part_of(imported) == importer:
                continue
            if ORDER.index(part_of(imported)) < ORDER.index(importer):
                found.append(f"{name}:{line} imports {imported}, which is above {importer}")
    return found


def test_every_package_has_its_place_in_the_order():
    present = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert sorted(ORDER) == sorted(present - {"__init__"} | {"visionbench"})


def test_packages_import_only_those_below_them():
    assert upward_imports(PACKAGE) == []


def test_imports_in_functions_for_type_checkers_and_in_tables_count(tmp_path):
    (tmp_path / "errors.py").write_text("def fail():\n    from visionbench import data\n")
    (tmp_path / "runs.py").write_text("if TYPE_CHECKING:\n    import visionbench.models.base\n")
    (tmp_path / "data.py").write_text(
        "from visionbench import fit\n\nTABLE = {'run': 'visionbench.commands.fit:run'}\n"
    )
    assert [line.split(", ")[0] for line in upward_imports(tmp_path)] == [
        "data.py:1 imports visionbench.fit",
        "data.py:3 imports visionbench.commands.fit",
        "errors.py:2 imports visionbench.data",
        "runs.py:2 imports visionbench.models.base",
    ]


def test_training_knows_no_parser_no_terminal_no_command_line_and_no_figures():
    for path in sorted((PACKAGE / "training").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for line, name in names_of(ast.parse(text)):
            assert not any(f"{name}.".startswith(f"{unknown}.") for unknown in UNKNOWN_TO_TRAINING), f"{path}:{line}"
        assert "sys.argv" not in text, path
