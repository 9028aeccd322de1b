"""Answers that need no training come without torch and Lightning, whose import takes seconds."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

HEAVY = ("torch", "lightning", "jsonargparse", "torchvision")
ANSWERS = {
    "usage": ("--help", 0, "usage: visionbench COMMAND"),
    "options": ("fit --help", 0, "--help all"),
    "data sets": ("data list", 0, "FashionMNIST"),
    "report of a run": ("report run", 0, "run/report.html"),
    "reports side by side": ("report run other", 0, "report.html"),
    "comparison": ("compare run other", 0, ""),
    "missing config": ("fit --config missing.yaml", 2, "config: the file missing.yaml does not exist; "),
    "missing config alone": (
        "fit unknown2.yaml",
        2,
        "unknown2.yaml does not exist; did you mean unknown.yaml?",
    ),
    "unknown command": ("fitt", 2, "There is no command fitt; did you mean fit?"),
    "unknown model": ("fit --data Digits --model=MPL", 2, "model.class_path: there is no class MPL; known: CNN, "),
    "unknown data set": ("fit --model MLP --data Digit", 2, "known: BoneBreak, CIFAR10, Digits, FashionMNIST, "),
    "unknown model in a file": ("fit --config unknown.yaml", 2, "there is no class CNM; known: "),
}


@pytest.fixture(scope="module")
def place(cli_in, tmp_path_factory):
    """A folder with a finished run and a config that names an unknown model."""
    folder = tmp_path_factory.mktemp("quick")
    line = "fit --model MLP --model.widths [4] --data Digits --trainer.max_epochs 1 --run_dir run"
    assert cli_in(folder)(line).status == 0
    shutil.copytree(folder / "run", folder / "other")
    (folder / "unknown.yaml").write_text("data: Digits\nmodel: {class_path: CNM, init_args: {widths: [4]}}\n")
    return folder


def run(place, digits_root, line):
    code = (
        "import sys\nfrom visionbench.cli import main\nstatus = main(sys.argv[1:])\n"
        f"print('imported', *[name for name in {HEAVY} if name in sys.modules])\nsys.exit(status)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *shlex.split(line)],
        cwd=place,
        env={**os.environ, "VISIONBENCH_DATA": str(digits_root)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("line", "status", "words"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_needs_neither_torch_nor_lightning(place, digits_root, line, status, words):
    done = run(place, digits_root, line)
    assert done.returncode == status, done
    assert words in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "imported"


def test_the_short_name_of_a_user_s_own_class_is_left_to_the_parser(place, digits_root):
    (place / "own_models.py").write_text("from visionbench.models import MLP\n\n\nclass Own(MLP):\n    pass\n")
    (place / "own.yaml").write_text("data: Digits\nmodel: own_models.Own\n")
    done = run(place, digits_root, "fit --config own.yaml --model Own --print_config")
    assert done.returncode == 0, done.stderr
    assert "class_path: own_models.Own" in done.stdout
