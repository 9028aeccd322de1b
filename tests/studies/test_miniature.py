"""Each study in miniature: its file, its runs and its measures, on a hundredth of the data and for one epoch."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from tests.fakes import write_heart, write_idx, write_images
from visionbench.data import CIFAR10, MNIST, FashionMNIST, fashion_mnist, mnist
from visionbench.studies.expand import set_option
from visionbench.studies.figure_words import CONFUSION
from visionbench.studies.runner import Options, Runner
from visionbench.studies.spec import GUARD_WORDS, NOT_GIVEN, load_study
from visionbench.studies.tables import measure_study

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "configs" / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# The data sets have a hundredth of their images, and so have the splits that study files give in images.
SHARE = 100
SIZES = ("train_size", "val_size", "test_size")
FOLDS = 2
# Side of the X-rays in pixels.
SIDE = 64
# The validation images are augmented in an evaluation of their own, so that no guard finds them augmented.
NOT_FOUND = {"augmented_validation"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with a hundredth of the data sets that are fetched: noise, prepared from files of their own formats."""
    root = tmp_path_factory.mktemp("root")
    files = tmp_path_factory.mktemp("files")
    sizes = {"train": 60_000 // SHARE, "test": 10_000 // SHARE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "ORIGIN", write_idx(files / "mnist", **sizes))
        patch.setattr(fashion_mnist, "ORIGIN", write_idx(files / "fashion", **sizes))
        for kind in (MNIST, FashionMNIST):
            kind(root=str(root), offline=True).prepare_data()
    return root


@pytest.fixture
def words(root, tmp_path, monkeypatch):
    """Makes the options of a study's command line; what a user brings is written to `tmp_path`."""

    def make(name):
        options = ["--data.root", str(root), "--data.offline", "true"]
        source = None
        if name == "heart-mlp":
            source = write_heart(tmp_path / "heart", {"train": 120, "test": 40})
        elif name == "fracture-transfer":
            for seed, (split, count) in enumerate((("train", 7), ("test", 1))):
                counts = {f"fracture {number}": count for number in range(10)}
                write_images(tmp_path / "bones" / split, counts, size=(SIDE, SIDE), seed=seed)
            source = tmp_path / "bones"
            write_imagenet_weights(tmp_path / "torch", monkeypatch)
        elif name == "cifar-mlp-depth-activation":
            counts = dict.fromkeys(CIFAR10.class_names, 5_000 // SHARE)
            source = write_images(tmp_path / "cifar" / "train", counts, size=(32, 32)).parent
        elif name == "greek-transfer":
            source = write_images(tmp_path / "letters", dict.fromkeys(("alpha", "beta", "gamma"), 9), size=(133, 133))
        return options if source is None else [*options, "--data.source", str(source)]

    return make


def write_imagenet_weights(folder, monkeypatch):
    """Writes random weights to where torch keeps those of ImageNet once they are downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    checkpoints = folder / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    file = get_model_weights("resnet18").DEFAULT.url.rpartition("/")[2]
    torch.save(get_model("resnet18", weights=None).state_dict(), checkpoints / file)


def miniature(study):
    """The study with one seed, two folds, a hundredth of each split, and cells that have each label at least once."""
    base = shrunk(study.base)
    if base["data"]["class_path"] == "BoneBreak":
        set_option(base, "data.size", SIDE)
    return replace(
        study,
        seeds=study.seeds[:1],
        base=base,
        grid={axis: {label: shrunk(what) for label, what in labels.items()} for axis, labels in study.grid.items()},
        protocols={name: replace(entry, set=shrunk(entry.set)) for name, entry in study.protocols.items()},
        stages={
            name: replace(
                stage,
                cells=covering(stage.cells),
                set=shrunk(stage.set),
                seeds=stage.seeds[:1],
                more_seeds=(),
                folds=None if stage.folds is None else FOLDS,
            )
            for name, stage in study.stages.items()
        },
        published={
            stage: tuple(
                row if row.epoch is None else replace(row, epoch=min(row.epoch, epochs_of(study, stage)))
                for row in rows
            )
            for stage, rows in study.published.items()
        },
    )


def shrunk(options):
    """Options whose numbers of images are a hundredth."""
    if not isinstance(options, dict):
        return options
    return {
        name: value // SHARE if name.rpartition(".")[2] in SIZES and isinstance(value, int) else shrunk(value)
        for name, value in options.items()
    }


def covering(cells):
    """Few of the cells, which have each label of each axis: each time the one with the most missing labels."""
    missing = {label for cell in cells for label in cell.items()}
    chosen = list(cells[:1]) if not missing else []
    while missing:
        chosen.append(max(cells, key=lambda cell: len(missing & set(cell.items()))))
        missing -= set(chosen[-1].items())
    return tuple(chosen)


def epochs_of(study, stage):
    """Number of epochs of a stage in miniature: one, and one more for each stage that it resumes."""
    parent = study.stages[stage].continues
    return 1 if parent is None else 1 + epochs_of(study, parent)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_in_miniature_has_all_that_its_file_asks_for(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = miniature(load_study(FOLDER / f"{name}.yaml"))
    runner = Runner(study, Options(studies=tmp_path / "studies", words=words(name), epochs=1))
    runner.run()

    rows = [row for store in runner.stores.values() for row in store.rows.values()]
    assert {(row.stage, *row.cell.values()): row.error for row in rows if not row.is_finished} == {}
    assert runner.is_complete()
    assert runner.notes == []
    assert_each_run_is_measured(runner.plan, runner.store.rows)
    assert_each_run_has_the_defects_of_its_protocol(study, runner.store.rows)
    assert_each_published_value_has_its_counterpart(runner.plan, runner.store.rows)
    assert {need.study for need in study.needs.values()} == {run.study.id for run in runner.plan.foreign.values()}
    for run in runner.plan.foreign.values():
        assert runner.stores[run.study.id].run(run.id).config["data"]["init_args"]["source"] is None


def assert_each_run_is_measured(plan, rows):
    """Each stage has its runs, each run its epochs, and the values and matrices that tables and figures show."""
    for stage in plan.study.stages.values():
        splits = {request.split for request in plan.study.figures.get(stage.name, ()) if request.kind == CONFUSION}
        for protocol in stage.protocols:
            places = list(plan.using(protocol, stage.name))
            assert {use.fold for use, _ in places} == ({None} if stage.folds is None else set(range(FOLDS)))
            assert [cell for cell in stage.cells if cell not in [use.cell for use, _ in places]] == []
            for _, run in places:
                row = rows[run.id]
                assert row.epochs == epochs_of(plan.study, stage.name)
                assert [c for c in columns(plan.study, stage, protocol) if row.value(*c) is None] == []
                assert splits <= row.confusion.keys()


def columns(study, stage, protocol):
    """Measures that each run of a stage in a protocol must have, with their epochs."""
    published = study.published.get(stage.name, ())
    choosing = [other.by for other in study.stages.values() if other.best_of == stage.name]
    is_tested = stage.test and "test_as_validation" not in study.protocols[protocol].defects
    return [
        *((measure, row.epoch) for row in published for measure in row.values),
        *((measure, None) for measure in [*choosing, *(["test/acc"] if is_tested else [])]),
    ]


def assert_each_run_has_the_defects_of_its_protocol(study, rows):
    """The guards find each defect that they know in the runs of its protocol, and nothing that is allowed elsewhere."""
    for row in rows.values():
        defects = {word for name in row.protocols for word in study.protocols[name].defects}
        assert set(row.findings) == defects & GUARD_WORDS - NOT_FOUND


def assert_each_published_value_has_its_counterpart(plan, rows):
    study = plan.study
    expected = {
        (stage, tuple(row.cell.items()), row.epoch, measure)
        for stage, published in study.published.items()
        for row in published
        for measure, printed in row.values.items()
        if printed != NOT_GIVEN and row.cell in [use.cell for use, _ in plan.using(study.published_protocol, stage)]
    }
    compared = [entry for entry in measure_study(plan, rows) if entry.compared and entry.rows]
    assert Counter((e.stage, tuple(e.cell.items()), e.epoch, e.measure) for e in compared) == Counter(expected)
    for entry in compared:
        assert set(entry.values) == set(study.stages[entry.stage].seeds)
        is_judged = entry.measure in study.judged.get(entry.stage, ()) and entry.epoch != 0
        assert (entry.verdict is not None) == is_judged
    assert any(entry.verdict is not None for entry in compared)
