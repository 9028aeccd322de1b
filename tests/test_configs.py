"""The run files are short, complete, and go with every data set."""

import functools
import inspect
import re
from pathlib import Path

import pytest
import yaml

from visionbench import data
from visionbench.data.rows import EncodedRows

pytestmark = pytest.mark.fast

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = sorted(CONFIGS.glob("*.yaml"))
OVERLAYS = sorted(CONFIGS.glob("trainer/*.yaml"))  # given by --trainer FILE
DATA_SETS = [
    name
    for name in data.__all__
    if issubclass(kind := getattr(data, name), data.VisionDataModule) and not inspect.isabstract(kind)
]
TABLES = [name for name in DATA_SETS if issubclass(getattr(data, name), EncodedRows)]


def stem(value):
    return value.stem if isinstance(value, Path) else value


@pytest.fixture(scope="module")
def printed(cli_in, tmp_path_factory):
    """Gives what `fit` prints as the configuration of some words, which are resolved once."""
    cli = cli_in(tmp_path_factory.mktemp("printed"))
    return functools.cache(lambda words: cli(f"fit {words} --print_config"))


@pytest.mark.parametrize("file", RUNS, ids=stem)
@pytest.mark.parametrize("name", DATA_SETS)
def test_a_run_file_goes_with_every_data_set(printed, file, name):
    shown = printed(f"--config {file} --data {name}")
    assert shown.status == 0
    data = yaml.safe_load(Path(file).read_text())["data"]
    given = {} if isinstance(data, str) else data["init_args"]
    replaced = bool(given) and data["class_path"] != name
    # What does not change a shoe's class may change a digit's; a table has no pixels.
    gone = {"augment", "statistics"} if name in TABLES else {"augment"}
    kept = {option: value for option, value in given.items() if not (replaced and option in gone)}
    if replaced:
        # The size of a batch belongs to the recipe and ImageNet's statistics to the weights, so they are kept, and
        # said; nothing else may outlive its data set.
        assert set(kept.items()) <= {*(("batch_size", size) for size in (32, 128, 2000)), ("statistics", "imagenet")}
    parts = []
    for verb, options in (("kept", kept), ("dropped", {o: v for o, v in given.items() if o not in kept})):
        words = ", ".join(f"{option}={value}" for option, value in options.items()).replace("'", "")
        parts += [f"{verb} {words}"] if words else []
    said = f"{data['class_path']} was replaced by {name}: {'; '.join(parts)}\n" if replaced else ""
    assert shown.err == said
    expected = yaml.safe_load(printed(f"--model MLP --data {name}").out)["data"]
    resolved = yaml.safe_load(shown.out)["data"]
    for option, value in kept.items():
        if option != "augment":  # its classes are written out
            expected["init_args"][option] = value
        else:
            assert [spec["class_path"].rpartition(".")[2] for spec in resolved["init_args"].pop(option)] == value
            del expected["init_args"][option]
    assert resolved == expected


@pytest.mark.parametrize("file", RUNS, ids=stem)
@pytest.mark.parametrize("overlay", OVERLAYS, ids=stem)
def test_an_overlay_goes_on_top_of_every_run_file(printed, file, overlay):
    shown = printed(f"--config {file} --trainer {overlay}")
    assert (shown.status, shown.err) == (0, "")
    trainer = yaml.safe_load(shown.out)["trainer"]
    alone = yaml.safe_load(printed(f"--config {file}").out)["trainer"]
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
