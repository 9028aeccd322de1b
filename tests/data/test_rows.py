import numpy as np
import pytest
import torch

import visionbench
from tests.fakes import write_table
from visionbench.data import Rows, Table
from visionbench.data.rows import standardized
from visionbench.errors import UserError
from visionbench.models import MLP

ROWS = np.random.RandomState(0).normal(5, 3, (90, 4))
LABELS = np.arange(90) % 3


def set_up(*args, **kwargs):
    data = Rows(*args, **kwargs)
    data.prepare_data()
    data.setup()
    return data


def test_each_feature_is_standardized_on_the_training_split():
    data = set_up(ROWS * [1, 10, 1e3, 1e6], LABELS)
    assert data.sizes() == {"train": 65, "val": 7, "test": 18}
    train, test = data.encoded["train"], data.encoded["test"]
    assert np.allclose(train.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(train.std(axis=0), 1, atol=1e-6)
    expected = (ROWS[data.splits["test"].index] - ROWS[data.train_index].mean(axis=0)) / ROWS[data.train_index].std(
        axis=0
    )
    assert np.allclose(test, expected, atol=1e-5)
    batches = list(data.test_dataloader())
    assert torch.equal(torch.cat([rows for rows, _ in batches]), torch.tensor(test))
    assert torch.cat([labels for _, labels in batches]).tolist() == LABELS[data.splits["test"].index].tolist()


def test_without_scaling_the_numbers_stay():
    data = set_up(ROWS, LABELS, scaling="none")
    assert np.array_equal(data.encoded["train"], ROWS[data.train_index].astype(np.float32))


def test_a_feature_that_is_constant_in_training_becomes_0():
    data = set_up(np.array([[0.1, n] for n in range(10)]), np.arange(10) % 2, val_size=0, test_size=0)
    assert (data.encoded["train"][:, 0] == 0).all()
    assert np.allclose(data.encoded["train"].std(axis=0), [0, 1])
    assert standardized(np.array([[7.0, 4.5]]), np.array(data.mean), np.array(data.std)).tolist() == [[0, 0]]


def test_a_later_change_of_the_caller_s_array_changes_nothing():
    rows = ROWS.copy()
    data = Rows(rows, LABELS)
    rows[:] = 0
    data.setup()
    assert data.data_digest() == set_up(ROWS, LABELS).data_digest()
    assert set_up(rows, LABELS).data_digest() != data.data_digest()


def test_a_model_for_rows_is_trained_and_tested(tmp_path):
    rows = ROWS + LABELS[:, None] * 9
    result = visionbench.fit("MLP", Rows(rows, LABELS, batch_size=8), max_epochs=5, run_dir=tmp_path / "run")
    assert result.counts == {"train": 65, "val": 7, "test": 18}
    assert result.metrics["test/acc"] > 0.8


class Peeking(MLP):
    """Looks at the test rows in training."""

    from_command_line = False  # other tests list the models there are

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.trainer.datamodule.test_dataloader()


def test_the_test_rows_are_sealed_in_training(tmp_path):
    table = Table(str(write_table(tmp_path / "table", {"train": 90, "test": 12})), "kind", root=str(tmp_path))
    for data in (Rows(ROWS, LABELS), table):
        with pytest.raises(UserError, match=rf"The test rows of {data.title} were asked for during training"):
            visionbench.fit(Peeking, data, max_epochs=1, run_dir=tmp_path / f"run-{data.title}")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (None, "The rows of Rows are missing, expected a NumPy array"),
        (ROWS[0], r"of shape \(4,\), expected numbers of shape \(N, F\)"),
        (ROWS.astype(str), "expected numbers"),
        (np.where(ROWS > 9, np.nan, ROWS), "hold a number that is not finite"),
    ],
)
def test_what_is_no_matrix_of_finite_numbers_is_refused(rows, sentence):
    with pytest.raises(UserError, match=sentence):
        Rows(rows, LABELS)


def test_numbers_and_labels_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"Feature 0 of row 0 is .*, which cannot be standardized"):
        set_up(ROWS * 1e300, LABELS)
    with pytest.raises(UserError, match=r"The labels of Rows have the shape \(89,\), .* one label per row"):
        Rows(ROWS, LABELS[1:])
    with pytest.raises(UserError, match="no row has the label 1"):
        Rows(ROWS, LABELS * 2)
    with pytest.raises(UserError, match=r"data\.scaling is minmax, expected standard or none"):
        Rows(ROWS, LABELS, scaling="minmax")
