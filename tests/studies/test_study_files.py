"""The study files: their published values, the sizes of their networks, their runs, and the defects beside them."""

import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from tests.fakes import write_cifar10, write_images
from visionbench.config.cli import settings_from
from visionbench.data import CIFAR10, cifar10
from visionbench.errors import UserError
from visionbench.guards import GUARDS
from visionbench.models import CNN
from visionbench.studies.expand import configure, plan
from visionbench.studies.spec import GUARD_WORDS, NOT_GIVEN, load_study

FOLDER = Path(__file__).parents[2] / "configs" / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def study_modules():
    """Makes the modules beside the studies importable, as a study's runs have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def source(tmp_path):
    """Makes a tiny source of a data set that a user has to bring; `None` for the others."""

    def make(name):
        if name == "heart-mlp":
            return write_heart(tmp_path / "heart")
        if name == "fracture-transfer":
            for place, (split, count) in enumerate((("train", 6), ("test", 1))):
                write_images(tmp_path / "bones" / split, {f"fracture {n}": count for n in range(10)}, seed=place)
            return tmp_path / "bones"
        if name == "greek-transfer":
            return write_images(tmp_path / "letters", dict.fromkeys(("alpha", "beta", "gamma"), 9), size=(133, 133))
        return None

    return make


def write_heart(folder):
    """Writes train.csv and test.csv with the columns of the heart failure table."""
    folder.mkdir()
    names = "Age,Sex,ChestPainType,RestingBP,Cholesterol,FastingBS,RestingECG,MaxHR,ExerciseAngina,Oldpeak,ST_Slope"
    for split, first in (("train", 0), ("test", 48)):
        lines = [f"{names},HeartDisease"]
        for number in range(first, first + 48):
            pain, ecg = ("ASY", "ATA", "NAP", "TA")[number % 4], ("LVH", "Normal", "ST")[number % 3]
            cells = [
                30 + number,
                "MF"[number % 2],
                pain,
                90 + number,
                12 * (number % 50),
                number % 2,
                ecg,
                100 + number,
            ]
            cells += ["NY"[number % 2], number % 7 / 2, ("Down", "Flat", "Up")[number % 3], number // 3 % 2]
            lines.append(",".join(map(str, cells)))
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def read(name):
    return load_study(FOLDER / f"{name}.yaml")


def cell_file(tmp_path, name, stage, cell=None, protocol="reported"):
    """The run file of a cell, with the weights of another study left out."""
    study = read(name)
    config = configure(study, study.protocols[protocol], [study.stages[stage]], cell or {})
    config["model"]["init_args"].pop("start_from", None)
    path = tmp_path / f"{protocol}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_the_ten_studies():
    assert set(STUDIES) == set(COUNTS)
    assert len(STUDIES) == 10


# Number of published values of each stage, counted by hand in the reports' tables.
COUNTS = {
    "cifar-mlp-depth-activation": {"networks": 9 * 2},  # test and train accuracy of nine networks
    "fashion-cnn-dropout": {"candidates": 18, "final": 1},  # 18 of 27 cells are legible
    "fashion-cnn-grid": {"base": 1, "base-20": 20 * 4 + 1},  # a log of 20 epochs, and the largest accuracy
    "fashion-mlp-regularization": {"candidates": 8 * 4, "final": 4},
    "fashion-patch-mlp": {"network": 3 + 4},  # after the first epoch, and after the last one with the best
    "fashion-train-ratio": {"ratios": 1 + 5},  # read off a figure
    "fracture-transfer": {"head": 4},
    "greek-transfer": {"letters": 3 * 2, "short": 2 * 2},
    "heart-mlp": {"networks": 1 + 3 + 3},  # a smallest loss, three losses of single batches, and 48 for each network
    "mnist-cnn": {"more": 9 * 2},
}


@pytest.mark.parametrize("name", STUDIES)
def test_each_published_value_is_there(name):
    counts = {
        stage: sum(value != NOT_GIVEN for row in rows for value in row.values.values())
        for stage, rows in read(name).published.items()
    }
    assert counts == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "stage", "cell", "epoch", "measure", "printed"),
    [
        ("mnist-cnn", "more", {}, 5, "val/acc", "97.80"),
        ("mnist-cnn", "more", {}, 0, "val/acc", "9.24"),
        ("mnist-cnn", "more", {}, 1, "val/loss", "0.1870"),
        ("heart-mlp", "networks", {"network": "11-10-1", "epochs": "20"}, None, "test/acc", "48"),
        ("heart-mlp", "networks", {"network": "11-10-1", "epochs": "20"}, None, "step train/loss", "0.255010"),
        ("greek-transfer", "letters", {}, 169, "val/loss", "0.1337"),
        ("greek-transfer", "short", {"epochs": "10"}, None, "val/acc", "96"),
        ("fashion-train-ratio", "ratios", {"ratio": "0.2"}, 2, "val/acc", "84.5"),
        ("fashion-train-ratio", "ratios", {"ratio": "1.0"}, 30, "val/acc", "89"),
        (
            *("fashion-mlp-regularization", "candidates", {"optimizer": "Adam", "regularization": "dropout"}, None),
            *("seconds", "64.70"),
        ),
        (
            *("fashion-mlp-regularization", "candidates", {"optimizer": "RMSprop", "regularization": "batch norm"}),
            *(None, "minimized", "1.5"),
        ),
        (
            *("fashion-mlp-regularization", "final", {"optimizer": "RMSprop", "regularization": "batch norm"}, None),
            *("test/acc", "87.33"),
        ),
        ("fracture-transfer", "head", {}, None, "train/acc", "27.60"),
        ("fashion-cnn-grid", "base", {}, None, "test/acc", "89.81"),
        ("fashion-cnn-grid", "base-20", {}, 7, "train/acc", "90.00"),
        ("fashion-cnn-grid", "base-20", {}, 20, "max val/acc", "90.19"),
        ("fashion-patch-mlp", "network", {"batch size": "256"}, 40, "max val/acc", "89.84"),
        (
            *("cifar-mlp-depth-activation", "networks", {"hidden layers": "1", "activation": "ReLU"}, None),
            *("test/acc", "49.30"),
        ),
        (
            *("cifar-mlp-depth-activation", "networks", {"hidden layers": "2", "activation": "ReLU"}, None),
            *("train_eval/acc", "64.80"),
        ),
        (
            *("fashion-cnn-dropout", "candidates", {"p1": "0", "p2": "0.3", "p3": "0.3"}, None),
            *("augmented_val/acc", "92.50"),
        ),
        (
            *("fashion-cnn-dropout", "candidates", {"p1": "0.3", "p2": "0.2", "p3": "0.3"}, None),
            *("augmented_val/acc", "92"),
        ),
    ],
)
def test_values_are_kept_as_they_are_printed(name, stage, cell, epoch, measure, printed):
    (row,) = [row for row in read(name).published[stage] if (row.cell, row.epoch) == (cell, epoch)]
    assert row.values[measure] == printed


# Sums of the printed digits of the long tables, taken from the reports.
SUMS = {
    ("mnist-cnn", "more"): {"val/acc": "785.94", "val/loss": "3.0536"},
    ("fashion-cnn-grid", "base-20"): {
        "train/loss": "5.3366",
        "train/acc": "1802.87",
        "val/loss": "6.3187",
        "val/acc": "1771.11",
        "max val/acc": "90.19",
    },
    ("fashion-cnn-dropout", "candidates"): {"augmented_val/acc": "1658.37"},
    ("fashion-mlp-regularization", "candidates"): {
        "seconds": "552.85",
        "train/acc": "723.08",
        "val/acc": "692.09",
        "minimized": "12.38",
    },
    ("cifar-mlp-depth-activation", "networks"): {"test/acc": "411.87", "train_eval/acc": "483.33"},
}


@pytest.mark.parametrize(("name", "stage"), SUMS)
def test_the_columns_of_the_long_tables_add_up(name, stage):
    sums: Counter[str] = Counter()
    for row in read(name).published[stage]:
        for measure, value in row.values.items():
            sums[measure] += Decimal(value) if value != NOT_GIVEN else 0
    assert {measure: str(total) for measure, total in sums.items()} == SUMS[name, stage]


def test_the_candidates_of_the_search_are_balanced():
    """Each label of an axis stands in equally many of the 12 candidates, and the base network is one of them."""
    study = read("fashion-cnn-grid")
    cells = study.stages["search"].cells
    assert len({tuple(cell.items()) for cell in cells}) == 12
    for axis, labels in study.grid.items():
        assert Counter(cell[axis] for cell in cells) == dict.fromkeys(labels, 12 // len(labels))
    assert dict(zip(study.grid, ("2", "3", "16", "128", "0.1", "2", "relu"), strict=True)) in cells


# Number of runs of each protocol; what a result chooses is not known before and not counted.
RUNS = {
    "cifar-mlp-depth-activation": {"reported": 9 + 2 * 4, "corrected": 9 + 2 * 4},  # two cells have five seeds
    "fashion-cnn-dropout": {"reported": 18 + 2 * 4 + 1, "corrected": 18 + 2 * 4},  # the same trainings
    "fashion-cnn-grid": {"reported": 5 + 5, "corrected": 12 * 3},
    "fashion-mlp-regularization": {"reported": 8 * 5 + 5, "corrected": 8 * 5},
    "fashion-patch-mlp": {"reported": 4, "corrected": 4 + 1},  # one training of the grid is the reported network
    "fashion-train-ratio": {"reported": 5 * 5, "corrected": 5 * 5},  # the same trainings
    "fracture-transfer": {"reported": 5, "corrected": 5 + 5 * 5, "random-weights": 5 + 5 * 5},
    "greek-transfer": {"reported": 5 + 2 * 5, "corrected": 27 * 5},
    "heart-mlp": {"reported": 3 * 5, "corrected": 3 * 5},
    "mnist-cnn": {"reported": 5 + 5, "corrected": 5 + 5},
}
SHARED = {"fashion-cnn-dropout": 18 + 2 * 4, "fashion-train-ratio": 5 * 5}


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_has_its_runs(name):
    runs = plan(read(name), {}).runs.values()
    counts = Counter(protocol for run in runs for protocol in run.protocols)
    assert dict(counts) == RUNS[name]
    assert sum(len(run.protocols) > 1 for run in runs) == SHARED.get(name, 0)


@pytest.mark.parametrize("name", STUDIES)
def test_a_published_value_is_one_that_a_run_has(name):
    """Each published row names a cell, or an epoch, that the runs of its stage have."""
    study = read(name)
    for run in plan(study, {}).runs.values():
        epochs = run.config["trainer"]["max_epochs"]
        for use in run.uses:
            for row in study.published.get(use.stage, ()):
                assert row.epoch is None or row.epoch <= epochs
    known = {(use.stage, tuple(use.cell.items())) for run in plan(study, {}).runs.values() for use in run.uses}
    for stage, rows in study.published.items():
        assert {(stage, tuple(row.cell.items())) for row in rows} <= known


OTHER_PROTOCOLS = {"fracture-transfer": {"random-weights"}}  # a control


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_says_its_source_its_choices_and_has_both_protocols(name):
    study = read(name)
    assert list(study.protocols)[:2] == ["reported", "corrected"]
    assert set(study.protocols) - {"reported", "corrected"} == OTHER_PROTOCOLS.get(name, set())
    assert study.protocols["corrected"].defects == {}
    assert study.published_protocol == "reported"
    assert study.choices
    assert any(study.judged.values())
    assert study.source.startswith(("CSCI 5922", "CS 6140", "ECS659P", "Fashion-MNIST CNN coursework"))
    assert set(study.figures) <= set(study.stages)


@pytest.mark.parametrize(
    ("name", "stage", "cell", "total", "trained"),
    [
        ("fashion-mlp-regularization", "candidates", {"regularization": "none"}, 242_762, 242_762),
        ("fashion-mlp-regularization", "candidates", {"regularization": "dropout"}, 242_762, 242_762),
        ("fashion-mlp-regularization", "candidates", {"regularization": "batch norm"}, 243_658, 243_658),
        ("fracture-transfer", "head", {}, 11_310_410, 133_898),
        ("mnist-cnn", "first", {}, 21_840, 21_840),
        ("fashion-cnn-grid", "base", {}, 55_098, 55_098),
        ("fashion-cnn-dropout", "candidates", {"p1": "0", "p2": "0", "p3": "0.3"}, 315_148, 315_148),
        # 3,072 x 1,024 + 1,024, twice 1,024 x 1,024 + 1,024, and 1,024 x 10 + 10.
        ("cifar-mlp-depth-activation", "networks", {"hidden layers": "3"}, 5_256_202, 5_256_202),
        ("fashion-train-ratio", "ratios", {"ratio": "0.2"}, 269_322, 269_322),  # 784-256-256-10
        ("heart-mlp", "networks", {"network": "11-10-1"}, 131, 131),
        ("heart-mlp", "networks", {"network": "11-15-20-30-40-1"}, 2_411, 2_411),
        ("greek-transfer", "letters", {}, 21_840 - 7 * 51, 153),  # 3 outputs instead of 10
    ],
)
def test_networks_have_the_published_sizes(name, stage, cell, total, trained, source, tmp_path):
    words = ["--config", str(cell_file(tmp_path, name, stage, cell)), "--data.root", str(tmp_path / "root")]
    if (folder := source(name)) is not None:
        words += ["--data.source", str(folder)]
    model = settings_from(words).model
    model.prepare_start(load=False)
    sizes = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert (sum(parameter.numel() for parameter in model.parameters()), sum(sizes)) == (total, trained)


@pytest.mark.parametrize(
    ("name", "stage", "fair_stage", "options"),
    [
        ("heart-mlp", "networks", "networks", ""),
        ("greek-transfer", "letters", "leave-one-out", ""),
        pytest.param(
            *("fracture-transfer", "head", "head", "--model.weights none --data.size 64"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_reported_defect_is_refused_unless_it_is_allowed(name, stage, fair_stage, options, source, tmp_path, cli):
    words = sorted(read(name).protocols["reported"].defects.keys() & GUARD_WORDS)
    options = f"--data.source {source(name)} --data.root {tmp_path / 'root'} {options}"
    reported = f"check {cell_file(tmp_path, name, stage)} {options}"
    refused = cli(reported)
    assert refused.status == 1, refused
    allowed = cli(f"{reported} --allow [{','.join(words)}]")
    assert allowed.status == 0, allowed
    for word in words:
        assert word in allowed.out  # what is allowed is reported, so that the defect is there
    fair = cli(f"check {cell_file(tmp_path, name, fair_stage, protocol='corrected')} {options}")
    assert fair.status == 0, fair
    assert not [word for word in words if word in fair.out]


def test_the_words_of_defects_are_those_of_guards():
    assert {guard.name for guard in GUARDS if guard.name} == GUARD_WORDS


def test_the_softmax_of_the_report_has_its_floor():
    from fashion_mlp_regularization import SoftmaxMLP

    model = SoftmaxMLP(10, (1, 28, 28), widths=[8])
    outputs = model(torch.randn(5, 1, 28, 28))
    assert torch.allclose(outputs.sum(dim=1), torch.ones(5))
    assert torch.equal(model.probabilities(outputs), outputs)
    perfect = F.one_hot(torch.arange(10)).float()
    assert model.loss(perfect, torch.arange(10)).item() == pytest.approx(1.4612, abs=5e-5)


def test_the_double_softmax_is_refused_unless_it_is_allowed(cli):
    line = "check --model fashion_mlp_regularization.SoftmaxMLP --model.widths [8] --data Digits"
    assert cli(line).status == 1
    allowed = cli(f"{line} --allow [double_softmax]")
    assert (allowed.status, "double_softmax" in allowed.out) == (0, True), allowed


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_the_loss_of_the_heart_report_compares_each_row_with_all_labels():
    from heart_mlp import OneColumnMLP

    model = OneColumnMLP(2, (11,), widths=[10], loss="mse")
    outputs, labels = torch.randn(4, 1), torch.tensor([0, 1, 1, 0])
    expected = sum((o.sigmoid() - label) ** 2 for o in outputs[:, 0] for label in labels) / 16
    assert model.loss(outputs, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert model.predict(torch.randn(6, 1)).tolist() == [0] * 6
    # The best output is the mean label, whatever the row.
    constant = torch.zeros(4, 1).requires_grad_()
    model.loss(constant, labels).backward()
    assert constant.grad.abs().max() == 0


def test_the_networks_of_the_grids_are_cnns_of_their_lists():
    from fashion_cnn_dropout import DropoutCNN
    from fashion_cnn_grid import GridCNN

    grid = GridCNN(10, (1, 28, 28), n_conv_layers=3, n_conv_filters=32, dense_dropout=0.3, activation="tanh")
    lists = {"widths": [32] * 3, "convs": [1] * 3, "dropouts": [0.0] * 3, "dense": 128, "batch_norm": False}
    assert repr(grid.network) == repr(CNN(10, (1, 28, 28), **lists, dense_dropout=0.3, activation="tanh").network)
    dropout = DropoutCNN(10, (1, 28, 28), p1=0.2, p2=0, p3=0.3)
    assert repr(dropout.network) == repr(CNN(10, (1, 28, 28), dropouts=[0.2, 0, 0.3]).network)


def test_the_folds_of_the_search_are_cut_from_the_images_that_the_winner_is_trained_on(tmp_path):
    """The images that the search sets aside are the validation images of the stage that follows."""
    import numpy as np

    from visionbench.data import Arrays

    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
    search = Arrays(images, np.arange(100) % 4, test_size=20, folds=3, fold=0, fold_is="val")
    final = Arrays(images, np.arange(100) % 4, test_size=0, val_size=20)
    for data in (search, final):
        data.prepare_data()
        data.setup()
    assert np.array_equal(search.splits["test"].index, final.splits["val"].index)


def test_the_cifar_study_takes_the_archive_or_a_copy_as_files(tmp_path, monkeypatch):
    from cifar_mlp_depth_activation import CIFAR10OrCopy

    monkeypatch.setattr(cifar10, "ORIGIN", write_cifar10(tmp_path / "archive"))
    official, known = (kind(str(tmp_path / "archive"), root=str(tmp_path)) for kind in (CIFAR10OrCopy, CIFAR10))
    for data in (official, known):
        data.prepare_data()
        data.setup()
    for name, array in known.store.arrays.items():
        np.testing.assert_array_equal(official.store.arrays[name], array)
    folder = write_images(tmp_path / "copy" / "train", dict.fromkeys(CIFAR10.class_names, 4), size=(32, 32)).parent
    copy = CIFAR10OrCopy(str(folder), root=str(tmp_path), test_size=10)
    copy.prepare_data()
    copy.setup()
    assert copy.sizes() == {"train": 27, "val": 3, "test": 10}
    with Image.open(folder / "train" / "ship" / "02.png") as image:
        place = 4 * CIFAR10.class_names.index("ship") + 2
        np.testing.assert_array_equal(copy.store.arrays["train-images"][place], np.asarray(image))
    write_images(folder / "train", {"ship": 5}, size=(30, 32))
    with pytest.raises(UserError, match=r"00\.png has 30 x 32 pixels, expected 32 x 32\."):
        CIFAR10OrCopy(str(folder), root=str(tmp_path)).prepare_data()
