"""README and guides: no link leads nowhere, and their commands run, on small data."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from tests.fakes import write_cifar10, write_heart, write_idx, write_images
from visionbench.data import CIFAR10, MNIST, FashionMNIST, cifar10, fashion_mnist, mnist
from visionbench.studies.expand import plan
from visionbench.studies.spec import load_study

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Pages whose commands are tried, in this order: a later one uses the runs of those before.
TRIED = [
    *("README.md", "docs/first-run.md", "docs/data.md", "docs/tables.md", "docs/models.md", "docs/predict.md"),
    *("docs/metrics.md", "docs/guards.md", "docs/studies.md", "docs/scaling.md"),
]
# Commands that are not tried here, and why not, by their beginnings.
NOT_TRIED = {
    "python3 -m venv .venv && .venv/bin/pip install uv && .venv/bin/uv run pytest": "runs this test too",
    "tensorboard": "serves until it is stopped",
    "visionbench study slurm my-study --tasks 8 --gpus 1 --submit": "needs SLURM; tests/studies has a stand-in",
    "pip install": "changes the environment",
    "visionbench study run my-study --executor ray": "needs a cluster; tests/studies starts one",
    "torchrun": "needs two machines; tests/exactness starts two processes",
    "srun": "needs SLURM; tests/exactness has a stand-in",
    "visionbench fit --config configs/cnn.yaml --trainer.devices 4": "needs four devices",
    "visionbench fit --config configs/cnn.yaml --trainer configs/trainer/gpu.yaml": "needs a GPU",
    "visionbench study repeat": "needs the data of the recorded runs; tests/studies repeats a run",
    "visionbench data verify FashionMNIST": "the small data set is not the official one, as it says",
}
INSTALL = "python3 -m venv .venv && .venv/bin/pip install uv && .venv/bin/uv run "
WORDS = {"FOLDER": "heart", "COLUMN": "HeartDisease"}


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES)
def test_no_link_leads_nowhere(page):
    text = re.sub(r"(?ms)^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", file.read_text(encoding="utf-8"))
            names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in names, target


@pytest.mark.fast
def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500


def commands(page: str) -> Iterator[str]:
    """The commands in the code blocks of a page, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [block for language, block in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text) if not language]
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    lines += re.findall(r"(?m)^    (visionbench .*)$", re.sub(r"(?ms)^```.*?^```", "", text))
    for line in lines:
        command = line.split("  # ")[0].partition("   #")[0].strip()
        if command and not command.startswith("--"):
            yield command.removeprefix(INSTALL) if not command.endswith("pytest") else command


@pytest.mark.fast
def test_each_command_that_is_not_tried_is_there():
    present = [command for page in TRIED for command in commands(page)]
    assert [reason for reason in NOT_TRIED if not any(command.startswith(reason) for command in present)] == []


@pytest.mark.fast
def test_the_comparison_of_models_is_a_study(tmp_path):
    section = (ROOT / "docs/studies.md").read_text(encoding="utf-8").partition("\n## Comparing models\n")[2]
    path = tmp_path / "photos.yaml"
    path.write_text(re.findall(r"(?ms)^```yaml\n(.*?)^```", section)[0])
    places = plan(load_study(path), {}).runs.values()
    assert len(places) == 2 * 5 * 5
    assert {run.config["data"]["init_args"]["fold_is"] for run in places} == {"test"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like a clone, with small data sets in the places that the guides name."""
    folder = tmp_path_factory.mktemp("clone")
    files = tmp_path_factory.mktemp("files")
    for name in ("configs", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "gallery"))
    root = str(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "ORIGIN", write_idx(files / "mnist", train=300, test=60))
        patch.setattr(fashion_mnist, "ORIGIN", write_idx(files / "fashion", train=300, test=60))
        patch.setattr(cifar10, "ORIGIN", write_cifar10(files / "cifar", images=40))
        for kind in (MNIST, FashionMNIST, CIFAR10):
            kind(root=root, offline=True).prepare_data()
    bones = {f"{split}/kind {n}": count for split, count in (("train", 8), ("test", 2)) for n in range(10)}
    write_images(folder / "bones", bones, size=(64, 64))
    photos = {f"{split}/{name}": n for split, n in (("train", 30), ("test", 5)) for name in ("cat", "dog")}
    write_images(folder / "photos", photos, size=(70, 64))
    write_images(folder / "new_photos", {"cat": 3, "dog": 3}, size=(70, 64))
    write_images(folder / "greek", dict.fromkeys(("alpha", "beta", "gamma"), 9), size=(133, 133))
    write_heart(folder / "heart", {"train": 120, "test": 40})
    shutil.copy(folder / "heart" / "test.csv", folder / "new.csv")
    (folder / "mine.yaml").write_text("trainer: {max_epochs: 2}\n")
    weights = folder / "torch" / "hub" / "checkpoints"
    weights.mkdir(parents=True)
    file = get_model_weights("resnet18").DEFAULT.url.rpartition("/")[2]
    torch.save(get_model("resnet18", weights=None).state_dict(), weights / file)
    return folder


@pytest.mark.slow
def test_every_command_does_what_it_says(place, cli_in, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(place / "torch"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("VISIONBENCH_DATA", str(place / "data"))  # also of processes that commands start
    cli = cli_in(place, root=place / "data")
    failed, tried = [], set()
    for page in TRIED:
        for command in commands(page):
            if command in tried or any(command.startswith(beginning) for beginning in NOT_TRIED):
                continue
            tried.add(command)
            words = {**WORDS, "FOLDER": "bones"} if "BoneBreak" in command else WORDS
            line = " ".join(words.get(word, word) for word in command.split())
            if "--resume lightning_logs/cnn/version_0" in line:  # as a run that was killed after its last epoch
                (place / "lightning_logs/cnn/version_0/run.json").unlink()
            if line.startswith("visionbench new "):  # tests/test_new.py trains and tests what it writes
                shutil.rmtree(place.parent / "my_nets", ignore_errors=True)
            if "study new" in line:  # in two guides
                (place / "configs/studies/my-study.yaml").unlink(missing_ok=True)
            if line.startswith("visionbench fit ") and not re.search("help|print_config|resume", line):
                line += " --trainer.max_epochs 1"
            if not line.startswith("visionbench "):
                done = subprocess.run(["bash", "-c", line], cwd=place, capture_output=True, text=True, check=False)
                status, err = done.returncode, done.stderr
            else:
                result = cli(shlex.join(shlex.split(line)[1:]))
                status, err = result.status, result.err
            if "study new" in line:
                study = place / "configs/studies/my-study.yaml"
                text = study.read_text().replace("[0, 1, 2, 3, 4]", "[0]")
                study.write_text(re.sub("max_epochs: [58]", "max_epochs: 1", text))
            if status:
                failed.append(f"{page}: {line}: {status}: {err}")
    assert not failed, "\n".join(failed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first_run", "study_results"])
def test_a_notebook_runs_from_its_first_cell_to_its_last(name, digits_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISIONBENCH_DATA", str(digits_root))
    monkeypatch.setenv("MPLBACKEND", "agg")
    if name == "study_results":
        shutil.copytree(ROOT / "docs/results", tmp_path / "docs/results")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / f"docs/notebooks/{name}.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])  # what a notebook shows is not kept in git
    variables: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), variables)
    printed = capsys.readouterr().out
    assert {"first_run": "digits are wrong", "study_results": "98.17 was printed"}[name] in printed
