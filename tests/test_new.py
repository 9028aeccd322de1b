"""A project of a user's own: what `visionbench new` writes works, without anything from this repository."""

import os
import subprocess
import sys

import pytest

from visionbench.commands.new import dependency
from visionbench.studies.spec import load_study


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("my-nets", "The name is my-nets, expected small letters, digits and underscores"),
        ("json", "such as my_project, and no word or module of Python itself."),
        ("visionbench", "which is the package that the project depends on"),
        ("there", "there exists already; give another name."),
    ],
)
def test_each_mistake_is_one_sentence(cli, tmp_path, name, sentence):
    (tmp_path / "there").mkdir()
    assert sentence in cli(f"new {name}").refusal()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_dependency_is_where_visionbench_came_from(monkeypatch):
    class Installed:
        version = "1.2"

        def __init__(self, text):
            self.text = text

        def read_text(self, name):
            return self.text

    for text, expected in (
        (None, "visionbench>=1.2"),
        ('{"url": "file:///a/b", "dir_info": {"editable": true}}', "visionbench @ file:///a/b"),
        (
            '{"url": "https://host/v.git", "vcs_info": {"vcs": "git", "commit_id": "0a1"}}',
            "visionbench @ git+https://host/v.git@0a1",
        ),
    ):
        monkeypatch.setattr("importlib.metadata.distribution", lambda name, text=text: Installed(text))
        assert dependency() == expected


def test_a_new_project_trains_and_has_a_study(cli, tmp_path, monkeypatch):
    printed = cli("new projects/my_nets").out
    assert "  cd projects/my_nets\n" in printed
    assert "visionbench fit --config configs/net.yaml\n" in printed
    project = tmp_path / "projects/my_nets"
    study = load_study(project / "configs/studies/net-width.yaml")
    assert study.title
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    environment.pop("VISIONBENCH_DATA", None)
    fit = [sys.executable, "-m", "visionbench", "fit", "--config", "configs/net.yaml", "--figures", "none"]
    done = subprocess.run(fit, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Bars test accuracy" in done.stdout
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(tests, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_a_new_project_comes_to_its_verdicts(cli, tmp_path):
    assert cli("new my_nets").status == 0
    project = tmp_path / "my_nets"
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    environment.pop("VISIONBENCH_DATA", None)
    for words in (("run", "net-width", "--save"), ("report", "net-width")):
        line = [sys.executable, "-m", "visionbench", "study", *words]
        done = subprocess.run(line, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "both judged values are reproduced" in done.stdout
    assert (project / "docs/results/net-width/verdicts.csv").is_file()
