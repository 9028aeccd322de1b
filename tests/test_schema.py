"""The JSON Schema of run files says what the parser says."""

import copy
import json
import random
from pathlib import Path

import jsonschema
import pytest
import yaml

from visionbench.config.cli import settings_from
from visionbench.config.schema import RANGES, json_schema
from visionbench.errors import UserError
from visionbench.guards import GUARDS, ModelContext, inspect

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
CONTENTS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in CONFIGS}
# Files with more options than the shipped ones have, so that there is something to break.
CONTENTS["many"] = {
    "seed_everything": 0,
    "threads": 1,
    "metrics": ["macro_f1"],
    "allow": ["double_softmax"],
    "objective": {"metric": "val/acc", "mode": "max"},
    "early_stopping": {"patience": 3, "min_delta": 0.01},
    "checkpoint": {"every_n_steps": 5},
    "trainer": {"max_epochs": 2, "gradient_clip_val": 1.0, "deterministic": True},
    "data": {
        "class_path": "Digits",
        "init_args": {"batch_size": 8, "val_size": 0.2, "augment": ["HorizontalFlip"], "shuffle": True},
    },
    "model": {
        "class_path": "MLP",
        "init_args": {
            "widths": [8],
            "dropout": 0.1,
            "label_smoothing": 0.1,
            "l1": 0.0,
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
            "lr_scheduler": {"class_path": "ReduceLROnPlateau", "init_args": {"patience": 2}},
        },
    },
}


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", CONTENTS)
def test_the_schema_takes_what_the_parser_takes(validator, cli, tmp_path, name):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(CONTENTS[name]))
    printed = cli("fit --config run.yaml --print_config")
    assert printed.status == 0
    assert list(validator.iter_errors(CONTENTS[name])) == []
    # The resolved file has every option, and names classes by their import paths.
    resolved = yaml.safe_load(printed.out)
    for key in ("source", "target"):  # must be given, by an option beside the file
        if resolved["data"]["init_args"].get(key, "") is None:
            del resolved["data"]["init_args"][key]
    assert [error.message for error in validator.iter_errors(resolved)] == []


def leaves(tree, prefix=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def broken(draw):
    """A file with one mistake: in a name, in the type of a value, or in its range."""
    name = draw.choice(sorted(CONTENTS))
    content = copy.deepcopy(CONTENTS[name])
    what = draw.choice(["name", "type", "range"])
    places = [(place, value) for place, value in leaves(content) if place[-1] not in ("class_path", "data", "model")]
    if what == "range":
        known = {option: place for place, _ in places if (option := in_words(place)) in RANGES}
        if not known:
            return broken(draw)
        option = draw.choice(sorted(known))
        place, limits = known[option], RANGES[option]
        above = limits.get("maximum", limits.get("exclusiveMaximum"))
        value = draw.choice([limits["minimum"] - 1, *([] if above is None else [above + 1])])
    else:
        place, value = draw.choice(places)
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    if what == "name":
        del parent[place[-1]]
        parent[place[-1] + draw.choice(["s", "_", "x"])] = value
    elif what == "type":
        parent[place[-1]] = wrong_type(value, draw)
    else:
        parent[place[-1]] = value
    return what, place, content


def in_words(place):
    """Name of an option in RANGES: that of its class, without the classes around it."""
    names = [key for key in place if key != "init_args"]
    return ".".join(names[-2:])


def wrong_type(value, draw):
    if isinstance(value, bool | int | float):
        return draw.choice(["abc", [value], {"a": 1}])
    if isinstance(value, list):
        return draw.choice([5, {"a": 1}])
    return draw.choice([[value], {"a": 1}])


@pytest.mark.slow
def test_both_refuse_what_is_broken_by_name_type_or_range(validator, tmp_path):
    draw = random.Random(0)
    disagree = []
    for number in range(200):
        what, place, content = broken(draw)
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(content))
        refused = ""
        try:
            settings = settings_from(["--config", str(path), "--data.root", str(tmp_path)])
            inspect(GUARDS, "model", ModelContext(settings.model, settings.data))
        except UserError as error:
            refused = str(error)
        if bool(refused) != (not validator.is_valid(content)):
            disagree.append((what, place, refused or "taken", json.dumps(content)))
    assert disagree == [], "\n".join(f"{entry[:3]}"[:250] for entry in disagree)


def test_the_command_writes_the_schema(cli, tmp_path):
    assert cli("schema --output run.schema.json").status == 0
    schema = json.loads((tmp_path / "run.schema.json").read_text())
    assert schema["properties"]["trainer"]["properties"]["max_epochs"]["default"] == 10
    assert json.loads(cli("schema").out) == schema
    assert "--outputs" in cli("schema --outputs x").refusal()
    assert "none/x.json cannot be written" in cli("schema --output none/x.json").refusal()
    assert cli("schema --output run.schema.json").status == 0  # an older schema is replaced, and nothing else
    (tmp_path / "mine.json").write_text("{}")
    assert "mine.json exists and is no JSON Schema" in cli("schema --output mine.json").refusal()
    assert (tmp_path / "mine.json").read_text() == "{}"
