"""What the guards of the data refuse or report: each defect as a user would write it, with its innocent twin."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import visionbench
from tests.fakes import write_table
from visionbench.data import Arrays, Digits, Rows, Table, base
from visionbench.data.augment import HorizontalFlip
from visionbench.data.telling import telling_columns
from visionbench.errors import UserError
from visionbench.guards import DataContext, Refused
from visionbench.guards.data import TellingColumns
from visionbench.runs.folder import RunFolder


class Hooked(Digits):
    from_command_line = False  # other tests list the data sets there are


class TrainAsTest(Hooked):
    train_as_test = True


class OwnTrainLoader(Hooked):
    """A validation loader that gives training images, as a copied line does."""

    def val_dataloader(self):
        return self.train_dataloader()


class OwnUnshuffledTrainLoader(Hooked):
    def val_dataloader(self):
        images, labels = self.training_samples(300)
        return DataLoader(TensorDataset(images, labels), batch_size=50)


class OwnValLoader(Hooked):
    def val_dataloader(self):
        images, labels = zip(*super().val_dataloader(), strict=True)
        return DataLoader(TensorDataset(torch.cat(images), torch.cat(labels)), batch_size=50)


class AugmentedValidation(Hooked):
    augmented_validation = True


class Flipping(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        image = self.images[place]
        return (image.flip(-1) if torch.rand(()) < 0.5 else image), self.labels[place]


class OwnAugmentedLoader(Hooked):
    def val_dataloader(self):
        images, labels = zip(*super().val_dataloader(), strict=True)
        return DataLoader(Flipping(torch.cat(images), torch.cat(labels)), batch_size=50)


def fit(data, tmp_path, **options):
    run = tmp_path / "run"
    return visionbench.fit("MLP", data, max_epochs=1, run_dir=run, **{"model.widths": [8], **options})


def make(kind, tmp_path, **arguments):
    return kind(root=str(tmp_path / "data"), **arguments)


def sentences(result):
    return [finding["sentence"] for finding in RunFolder(result.folder).metadata["findings"]]


class OwnTestLoader(Hooked):
    """A test loader that gives training images."""

    def test_dataloader(self):
        return self.predict_dataloader()


class OwnTrainRows(Table):
    from_command_line = False

    def val_dataloader(self):
        return self.train_dataloader()


class Stream(IterableDataset):
    def __init__(self, images, labels):
        self.samples = [*zip(images, labels, strict=True)]

    def __iter__(self):
        return iter(self.samples)


class Named(Flipping):
    def __getitem__(self, place):
        return {"image": self.images[place], "label": self.labels[place]}


@pytest.mark.parametrize("kind", [TrainAsTest, OwnTrainLoader, OwnUnshuffledTrainLoader])
def test_validation_on_training_images_is_refused_and_marked_where_allowed(kind, tmp_path):
    with pytest.raises(Refused, match=r"validation images of Hooked|are also trained on, so that the validation acc"):
        fit(make(kind, tmp_path), tmp_path)
    assert not (tmp_path / "run").exists()
    result = fit(make(kind, tmp_path), tmp_path, allow=["train_as_test"])
    assert RunFolder(result.folder).allowed_defects == ["train_as_test"]


def test_a_validation_loader_of_ones_own_with_validation_images_is_none_of_these(tmp_path):
    assert sentences(fit(make(OwnValLoader, tmp_path), tmp_path)) == []


def test_a_validation_split_that_is_the_training_split_takes_no_size(tmp_path):
    with pytest.raises(UserError, match=r"validates on its training images, but data.val_size is 100; remove it"):
        fit(make(TrainAsTest, tmp_path, val_size=100), tmp_path)


def test_a_test_loader_of_ones_own_with_training_images_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"test images of Digits are also trained on, so that the test accuracy"):
        fit(make(OwnTestLoader, tmp_path), tmp_path)


def test_looking_at_a_loader_does_not_decide_where_the_images_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "free_memory", lambda device: 0 if device.type == "cpu" else 2**40)
    data = make(OwnValLoader, tmp_path)
    data.setup()
    data.trained_on()
    data.augments_validation()
    assert data.residency(torch.device("meta")).resident


def test_a_validation_loader_that_gives_training_rows_is_refused(tmp_path):
    write_table(tmp_path / "table", {"train": 120})
    with pytest.raises(Refused, match=r"validation rows of table are also trained on"):
        fit(make(OwnTrainRows, tmp_path, source=str(tmp_path / "table"), target="kind"), tmp_path)


def test_samples_that_are_flipped_half_of_the_time_are_always_noticed(tmp_path):
    data = make(OwnAugmentedLoader, tmp_path)
    data.setup()
    for seed in range(40):
        torch.manual_seed(seed)
        assert data.augments_validation()


@pytest.mark.parametrize("samples", [Stream, Named])
def test_a_validation_loader_that_cannot_be_asked_twice_is_not_judged(tmp_path, samples):
    class Own(Hooked):
        def val_dataloader(self):
            images, labels = zip(*super().val_dataloader(), strict=True)
            return DataLoader(samples(torch.cat(images), torch.cat(labels)), batch_size=50)

    data = make(Own, tmp_path)
    data.setup()
    assert not data.augments_validation()


@pytest.mark.parametrize("kind", [AugmentedValidation, OwnAugmentedLoader])
def test_augmented_validation_is_refused_and_marked_where_allowed(kind, tmp_path):
    augment = [HorizontalFlip()]
    with pytest.raises(Refused, match=r"The validation images of .* are augmented, so that the validation accuracy"):
        fit(make(kind, tmp_path, augment=augment), tmp_path)
    result = fit(make(kind, tmp_path, augment=augment), tmp_path, allow=["augmented_validation"])
    assert RunFolder(result.folder).allowed_defects == ["augmented_validation"]


def test_augmented_training_images_are_no_augmented_validation(tmp_path):
    assert sentences(fit(make(Hooked, tmp_path, augment=[HorizontalFlip()]), tmp_path)) == []
    data = make(Hooked, tmp_path, augment=[HorizontalFlip(1.0)])
    data.prepare_data()
    data.setup()
    first = [torch.cat([images for images, _ in data.val_dataloader()]) for _ in range(2)]
    plain = make(Hooked, tmp_path)
    plain.setup()
    assert torch.equal(first[0], torch.cat([images for images, _ in plain.val_dataloader()]))


def test_augmented_validation_augments_and_differs_by_image_alone(tmp_path):
    """The same images each time, so that two epochs are compared on the same samples."""
    data = make(AugmentedValidation, tmp_path, augment=[HorizontalFlip()])
    data.prepare_data()
    data.setup()
    once, again = (torch.cat([images for images, _ in data.val_dataloader()]) for _ in range(2))
    plain = make(Hooked, tmp_path)
    plain.setup()
    original = torch.cat([images for images, _ in plain.val_dataloader()])
    assert torch.equal(once, again)
    flipped = (once != original).flatten(1).any(dim=1)
    assert 0.3 < flipped.float().mean() < 0.7
    assert torch.equal(once[flipped], original[flipped].flip(-1))


def test_a_subclass_that_changes_hooks_alone_uses_the_store_of_its_parent(tmp_path):
    class Other(Digits):
        from_command_line = False

        def prepare_settings(self):
            return {}

    assert make(TrainAsTest, tmp_path).store_folder() == make(Digits, tmp_path).store_folder()
    assert make(OwnValLoader, tmp_path).store_folder() == make(Digits, tmp_path).store_folder()
    assert make(Other, tmp_path).store_folder().parent.name == "Other"


def arrays(images, labels, **arguments):
    return Arrays(images, labels, **{"batch_size": 16, "val_size": 12, "test_size": 12, **arguments})


def images_with_copies(copies, of_their_class=False):
    """60 images of noise, of which the last ones are copies of others, by default of the next class."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    labels = np.arange(60) % 3
    for number in range(copies):
        images[59 - number] = images[number]
        labels[59 - number] = labels[number] if of_their_class else (labels[number] + 1) % 3
    return images, labels


def test_copies_of_training_images_are_counted_and_shown_with_the_result(tmp_path):
    data = arrays(*images_with_copies(20))
    result = fit(data, tmp_path)
    train = {image.tobytes() for image in data.store.arrays["train-images"][data.splits["train"].index]}
    expected = {
        stage: sum(image.tobytes() in train for image in data.store.arrays["train-images"][data.splits[stage].index])
        for stage in ("val", "test")
    }
    run = RunFolder(result.folder)
    assert run.metadata["copies_of_training"] == expected
    assert expected["test"] > 1
    said = f"{expected['test']} of 12 test images have the same bytes as a training image"
    assert run.copies_in_words("image") == said
    assert any(f"{expected['test']} of 12 test images (" in sentence for sentence in sentences(result))


@pytest.mark.parametrize("copies", [0, 20])
@pytest.mark.parametrize("fold", [None, 1])
def test_copies_of_a_class_stay_on_one_side_of_each_cut(tmp_path, copies, fold):
    images, labels = images_with_copies(copies, of_their_class=True)
    folds = {} if fold is None else {"test_size": None, "folds": 4, "fold": fold}
    result = fit(arrays(images, labels, **folds), tmp_path)
    assert sentences(result) == []
    assert RunFolder(result.folder).copies_in_words("image") == "no test image has the same bytes as a training image"


def test_copies_among_the_rows_of_a_table_are_counted(tmp_path):
    rows = [f"{number % 40},{number % 7},{'ab'[number % 2]}" for number in range(100)]
    (tmp_path / "train.csv").write_text("\n".join(["x,y,target", *rows]))
    (tmp_path / "test.csv").write_text("\n".join(["x,y,target", *rows[:3], "900,1,a", "901,2,b"]))
    data = Table(str(tmp_path), "target", root=str(tmp_path / "data"), val_size=0)
    data.prepare_data()
    data.setup()
    assert data.copies_of_training() == {"test": 3}


def write_rows(folder, rows, *, names="x,y,leak,kind"):
    folder.mkdir()
    (folder / "train.csv").write_text("\n".join([names, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(folder)


LEAKS = {
    "codes of the target": lambda number, kind: {"a": 7, "b": 3, "c": 5}[kind],
    "another text of the target": lambda number, kind: f"kind-{kind}",
    "finer texts": lambda number, kind: f"{kind}{number % 4}",
    "row numbers of a sorted file": lambda number, kind: 1000 * "abc".index(kind) + number,
    "missing where the class is c": lambda number, kind: "" if kind == "c" else 1 + "ab".index(kind) + number / 1000,
}
NO_LEAKS = {
    "noise": lambda number, kind: (number * 7919) % 997,
    "a name of each row": lambda number, kind: f"n{number}",
    "one row is an exception": lambda number, kind: "abc".index("a" if number == 8 else kind),
    "one class of three is told": lambda number, kind: int(kind == "a"),
    "constant": lambda number, kind: 1,
}


@pytest.mark.parametrize("name", [*LEAKS, *NO_LEAKS])
def test_a_column_that_alone_tells_the_class_is_reported(tmp_path, name):
    random = np.random.RandomState(0)
    rows = []
    for number in range(90):
        kind = "abc"[number % 3]
        rows.append((random.rand(), random.randint(4), (LEAKS | NO_LEAKS)[name](number, kind), kind))
    source = write_rows(tmp_path / "table", rows)
    declared = ["leak"] if name == "a name of each row" else []
    data = Table(source, "kind", categorical=declared, root=str(tmp_path / "data"), val_size=0, test_size=0)
    data.prepare_data()
    data.setup()
    assert data.telling_columns() == (["leak"] if name in LEAKS else [])
    assert [finding.sentence for finding in TellingColumns().check(DataContext(data))] == (
        [
            "Column 'leak' alone tells the class of all 90 training rows, as a copy of the target would, or row "
            "numbers of a file that is sorted by class; add it to data.ignore, unless its value is known before the "
            "class of a new row is."
        ]
        if name in LEAKS
        else []
    )


def test_few_rows_that_a_column_tells_by_chance_are_not_reported():
    """Of columns of random numbers, some tell the classes of six rows; 200 such tables have no finding."""
    random, told = np.random.RandomState(0), 0
    for _ in range(200):
        columns, labels = random.rand(30, 6), np.array([0, 0, 0, 1, 1, 1])
        told += sum(len(set(labels[np.argsort(values)][:3].tolist())) == 1 for values in columns)
        assert telling_columns(columns, labels) == []
    assert told > 100


def test_rows_of_python_name_the_columns_by_number(tmp_path):
    random = np.random.RandomState(0)
    labels = random.randint(2, size=60)
    rows = np.stack([random.rand(60), labels * 2.0, random.rand(60), -labels + random.rand(60) / 2], axis=1)
    data = Rows(rows, labels, val_size=10, test_size=10)
    result = fit(data, tmp_path)
    assert any(
        sentence.startswith("Columns '1' and '3' alone each tell the class of all 40 training rows")
        and "; remove them, unless their values are known" in sentence
        for sentence in sentences(result)
    )


def test_a_fixed_order_is_the_same_each_epoch_and_is_said(tmp_path):
    data = make(Hooked, tmp_path, shuffle=False)
    result = fit(data, tmp_path)
    assert sentences(result) == [
        "The training images have the same order in every epoch (data.shuffle false), which usually makes the result "
        "worse."
    ]
    labels = torch.cat([batch for _, batch in data.train_dataloader()])
    expected = data.store.arrays["train-labels"][data.train_index][: len(labels)]
    assert labels.tolist() == expected.tolist()


def test_statistics_see_training_samples_alone(tmp_path):
    """Bright validation and test images leave the mean as it was: they can have no part in it."""
    images = np.random.default_rng(0).integers(0, 100, (60, 8, 8), dtype=np.uint8)
    data = arrays(images, np.arange(60) % 3)
    data.prepare_data()
    data.setup()
    others = np.concatenate([data.splits[stage].index for stage in ("val", "test")])
    images[others] += 150
    bright = arrays(images, np.arange(60) % 3)
    bright.prepare_data()
    bright.setup()
    assert np.allclose(data.mean, bright.mean)
