import csv
import shutil

import numpy as np
import pytest
import torch
from sklearn.preprocessing import LabelEncoder

from tests.fakes import write_heart
from visionbench.data import HeartFailure

CATEGORIES = ("Sex", "ChestPainType", "RestingECG", "ExerciseAngina", "ST_Slope")


@pytest.fixture
def source(tmp_path):
    return write_heart(tmp_path / "table", {"train": 60, "test": 20})


@pytest.fixture
def ready(tmp_path):
    def make(**arguments):
        data = HeartFailure(**{"root": str(tmp_path / "root"), "val_size": 0} | arguments)
        data.prepare_data()
        data.setup()
        return data

    return make


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_zeros_are_missing_numbers_are_scaled_and_categories_are_vectors(source, ready):
    data = ready(source=str(source))
    assert (data.title, data.class_names) == ("Heart failure", ("0", "1"))
    assert data.sizes() == {"train": 60, "val": 0, "test": 20}
    # Six numbers, two marks of missing values, and a feature for each category.
    assert len(data.feature_names) == 6 + 2 + 2 + 4 + 3 + 2 + 3
    assert {"Cholesterol missing", "RestingBP missing", "ST_Slope=Up"} <= set(data.feature_names)
    cholesterol = np.array([float(row["Cholesterol"]) for row in rows(source / "train.csv")])
    filled = np.where(cholesterol == 0, np.median(cholesterol[cholesterol > 0]), cholesterol)
    place = data.feature_names.index("Cholesterol")
    train = data.encoded["train"]
    np.testing.assert_allclose(train[:, place], (filled - filled.mean()) / filled.std(), rtol=1e-5)
    np.testing.assert_array_equal(train[:, place + 1], cholesterol == 0)
    assert data.feature_names[place + 1] == "Cholesterol missing"


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_study_may_take_the_table_as_it_is_written(source, ready, nothing):
    data = ready(
        source=str(source),
        missing=nothing,
        encoding="label",
        scaling="none",
        shuffle=False,
        batch_size=10,
        test_size=None,
    )
    table = rows(source / "train.csv")
    names = [name for name in table[0] if name != "HeartDisease"]
    assert data.feature_names == names
    columns = [
        LabelEncoder().fit_transform([row[name] for row in table])
        if name in CATEGORIES
        else [float(row[name]) for row in table]
        for name in names
    ]
    features, labels = next(iter(data.train_dataloader()))
    torch.testing.assert_close(features, torch.tensor(np.stack(columns, axis=1)[:10], dtype=torch.float32))
    assert labels.tolist() == [int(row["HeartDisease"]) for row in table[:10]]


def test_without_a_source_the_prepared_table_is_used_with_any_settings(source, ready):
    first = ready(source=str(source))
    assert ready().data_digest() == first.data_digest()
    raw = ready(missing=None)
    assert "Cholesterol missing" not in raw.feature_names
    shutil.rmtree(source)
    assert ready().data_digest() == first.data_digest()
    assert ready(missing=None).data_digest() == raw.data_digest()


def test_the_published_file_alone_is_split_here(source, ready, tmp_path):
    data = ready(source=str((source / "train.csv").rename(tmp_path / "heart.csv")), test_size=12)
    assert data.sizes() == {"train": 48, "val": 0, "test": 12}
    assert ready(test_size=12).data_digest() == data.data_digest()


def test_a_run_switches_the_missing_values_off_by_a_flag(cli, source):
    assert cli(f"data prepare HeartFailure --data.source {source} --data.root new").status == 0
    fit = "fit --data HeartFailure --data.root new --model MLP --model.widths [4] --trainer.max_epochs 1 --run_dir"
    assert "20 test rows of 22 features, 2 classes" in cli(f"{fit} run").out
    # Not scaled, which a run otherwise refuses or notes.
    raw = "--data.missing null --data.encoding label --data.scaling none --allow [unscaled_inputs]"
    assert "20 test rows of 11 features, 2 classes" in cli(f"{fit} other {raw}").out
