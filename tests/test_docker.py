"""The image, as far as its files tell: what is installed, what gets in, who runs and where runs are kept."""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from visionbench.data import Digits
from visionbench.data.fashion_mnist import ORIGIN

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SUPPORTED = SpecifierSet(PYPROJECT["project"]["requires-python"])
PYTHONS = [f"3.{minor}" for minor in range(99) if f"3.{minor}" in SUPPORTED]


def logical_lines(name):
    """The lines of a file without comments and with continued ones joined."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def pins():
    """Every requirement of the image, and its options."""
    for line in logical_lines("requirements.txt"):
        requirement, *options = line.split(" --")
        yield Requirement(requirement), options


def instructions(name):
    """The arguments of every such instruction of the Dockerfile, in order."""
    split = [line.split(maxsplit=1) for line in logical_lines("Dockerfile")]
    return [" ".join(argument.split()) for instruction, argument in split if instruction == name]


def test_every_requirement_is_one_version_with_its_hashes():
    for requirement, options in pins():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert options, requirement
        assert all(re.fullmatch(r"hash=sha256:[0-9a-f]{64}\s*", option) for option in options), requirement


def test_the_requirements_name_no_index():
    assert "//" not in (ROOT / "requirements.txt").read_text()


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("needed", PYPROJECT["project"]["dependencies"] + PYPROJECT["build-system"]["requires"])
def test_the_requirements_have_what_pyproject_asks_for(needed, python):
    needed = Requirement(needed)
    linux = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    versions = [
        str(pin.specifier).removeprefix("==")
        for pin, _ in pins()
        if canonicalize_name(pin.name) == canonicalize_name(needed.name)
        and (pin.marker is None or pin.marker.evaluate(linux))
    ]
    assert len(versions) == 1
    assert versions[0] in needed.specifier


def test_nothing_is_installed_without_a_hash():
    installed = [words for run in instructions("RUN") for words in run.split(" && ") if "pip install" in words]
    assert len(installed) == 2
    assert "--require-hashes --only-binary :all: -r requirements.txt" in installed[0]
    assert {"--no-deps", "--no-build-isolation", "."} <= set(installed[1].split())


def test_everything_installed_is_compiled():
    installed = [words for run in instructions("RUN") for words in run.split(" && ") if "pip install" in words]
    assert all("--compile" in words.split() for words in installed)


def test_the_base_is_an_argument_and_gets_fashion_mnist():
    argument, base, *_ = logical_lines("Dockerfile")
    assert re.fullmatch(r"ARG BASE_IMAGE=[^:]+:.+", argument)
    assert base == "FROM ${BASE_IMAGE}"
    assert len(instructions("FROM")) == 1
    assert ORIGIN.debian_package in " ".join(instructions("RUN")).split()


def test_the_user_is_not_root():
    (user,) = instructions("USER")
    assert all(int(number) > 0 for number in user.split(":"))


def test_the_gpus_are_asked_for():
    environment = dict(word.split("=", 1) for line in instructions("ENV") for word in line.split())
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_the_volumes_are_where_runs_write(cli, monkeypatch):
    monkeypatch.delenv("VISIONBENCH_DATA", raising=False)
    (folder,), (volumes,) = instructions("WORKDIR"), instructions("VOLUME")
    log_dir = yaml.safe_load(cli("fit --model MLP --data Digits --print_config").out)["log_dir"]
    assert json.loads(volumes) == [f"{folder}/{Digits().root}", f"{folder}/{log_dir}"]


def gets_in(path):
    """Whether `.dockerignore` lets a path into the image: the last pattern on it or a folder above decides."""
    path = PurePosixPath(path)
    result = True
    for line in logical_lines(".dockerignore"):
        pattern = line.removeprefix("!").removeprefix("**/")
        candidates = [folder.name if "**/" in line else str(folder) for folder in (path, *path.parents[:-1])]
        if any(fnmatch(candidate, pattern) for candidate in candidates):
            result = line.startswith("!")
    return result


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "data/digits/train-images.npy",
        "lightning_logs/cnn/version_0/run.json",
        "src/visionbench/data/__pycache__/base.cpython-311.pyc",
        ".env",
        "uv.lock",
    ],
)
def test_what_is_not_the_projects_stays_out_of_the_image(path):
    assert not gets_in(path)


def test_the_package_and_the_run_files_get_into_the_image():
    files = [path for folder in ("src", "configs") for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    files = [str(path.relative_to(ROOT)) for path in files if path.suffix in (".py", ".typed", ".yaml")]
    assert "src/visionbench/data/base.py" in files
    project = PYPROJECT["project"]
    files += ["pyproject.toml", "requirements.txt", project["readme"], *project["license-files"]]
    assert [path for path in files if not gets_in(path)] == []
