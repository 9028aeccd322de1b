"""The run files are short, complete, and go with every data set."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

from visionbench import data

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = sorted(CONFIGS.glob("*.yaml"))
OVERLAYS = sorted(CONFIGS.glob("trainer/*.yaml"))  # given by --trainer FILE
DATA_SETS = [
    name
    for name in data.__all__
    if issubclass(kind := getattr(data, name), data.VisionDataModule) and not inspect.isabstract(kind)
]


def stem(value):
    return value.stem if isinstance(value, Path) else value


@pytest.mark.parametrize("file", RUNS, ids=stem)
@pytest.mark.parametrize("name", DATA_SETS)
def test_a_run_file_goes_with_every_data_set(cli, file, name):
    shown = cli(f"fit --config {file} --data {name} --print_config")
    assert shown.status == 0
    data = yaml.safe_load(Path(file).read_text())["data"]
    # The size of a batch belongs to the recipe and ImageNet's statistics to the weights, so they are kept, and said;
    # nothing else may outlive its data set.
    kept = {} if isinstance(data, str) else data["init_args"]
    assert set(kept.items()) <= {("batch_size", 256), ("batch_size", 32), ("statistics", "imagenet")}
    replaced = kept and data["class_path"] != name
    dropped = {"statistics"} & set(kept) if name == "Table" else set()  # it speaks of pixels
    kept = {option: value for option, value in kept.items() if option not in dropped}
    words = ", ".join(f"{option}={value}" for option, value in kept.items())
    said = f"kept {words}" if words else ""
    if "statistics" in dropped:
        said = f"{said}; dropped statistics=imagenet".removeprefix("; ")
    assert shown.err == (f"{data['class_path']} was replaced by {name}: {said}\n" if replaced else "")
    expected = yaml.safe_load(cli(f"fit --model MLP --data {name} --print_config").out)["data"]
    expected["init_args"] |= kept
    assert yaml.safe_load(shown.out)["data"] == expected


@pytest.mark.parametrize("file", RUNS, ids=stem)
@pytest.mark.parametrize("overlay", OVERLAYS, ids=stem)
def test_an_overlay_goes_on_top_of_every_run_file(cli, file, overlay):
    shown = cli(f"fit --config {file} --trainer {overlay} --print_config")
    assert (shown.status, shown.err) == (0, "")
    trainer = yaml.safe_load(shown.out)["trainer"]
    alone = yaml.safe_load(cli(f"fit --config {file} --print_config").out)["trainer"]
    assert trainer == alone | yaml.safe_load(overlay.read_text())


@pytest.mark.parametrize("file", RUNS, ids=stem)
def test_a_run_file_is_short_and_begins_with_its_command(file):
    lines = file.read_text().splitlines()
    assert 4 <= len(lines) <= 15
    # What is the user's own - a table's file and its target - stands after it, in capitals.
    assert re.fullmatch(rf"# python -m visionbench fit --config configs/{file.name}( --data\.\w+ [A-Z]+)*", lines[0])


@pytest.mark.parametrize("file", RUNS, ids=stem)
def test_a_run_file_refers_to_no_other_file(file):
    content = yaml.safe_load(file.read_text())
    assert "config" not in content
    assert {"seed_everything", "data", "model", "trainer"} <= set(content)
    assert not [value for value in content.values() if str(value).endswith((".yaml", ".yml"))]
