import json

import numpy as np
import pytest

from visionbench.data.splits import groups_of_copies, stratified_fold, stratified_holdout, stratified_part
from visionbench.errors import UserError

EVEN = np.arange(100) % 10
UNEVEN = np.repeat([3, 5, 8, 9], [200, 61, 37, 2])[np.random.RandomState(0).permutation(300)]


@pytest.mark.parametrize("labels", [EVEN, UNEVEN])
@pytest.mark.parametrize("size", [0, 1, 5, 10, 33, 60, 0.1, 0.33])
def test_a_split_is_disjoint_whole_sorted_and_of_the_size_asked_for(labels, size):
    stays, cut = stratified_holdout(labels, size, seed=0)
    assert len(cut) == (round(size * len(labels)) if isinstance(size, float) else size)
    assert (np.diff(stays) > 0).all()
    assert (np.diff(cut) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate([stays, cut])), np.arange(len(labels)))


def test_a_fraction_that_is_not_one_image_is_refused_rather_than_no_validation():
    with pytest.raises(UserError, match="not one image"):
        stratified_holdout(EVEN, 0.004, seed=0)


@pytest.mark.parametrize("labels", [EVEN, UNEVEN])
@pytest.mark.parametrize("size", [1, 5, 10, 33, 60])
def test_each_class_has_its_share_to_within_one_image(labels, size):
    _, cut = stratified_holdout(labels, size, seed=0)
    for label in np.unique(labels):
        exact = size * (labels == label).mean()
        assert abs((labels[cut] == label).sum() - exact) < 1


def test_a_count_that_divides_evenly_takes_the_same_of_every_class():
    _, cut = stratified_holdout(EVEN, 30, seed=0)
    assert np.bincount(EVEN[cut]).tolist() == [3] * 10


def test_fewer_images_than_classes_can_be_cut():
    _, cut = stratified_holdout(EVEN, 5, seed=0)
    assert len(set(EVEN[cut])) == 5


@pytest.mark.parametrize(("count", "fraction"), [(30, 0.1), (99, 0.33), (150, 0.5), (0, 0.0)])
def test_a_count_and_its_fraction_cut_the_same(count, fraction):
    for by_count, by_fraction in zip(
        stratified_holdout(UNEVEN, count, 4), stratified_holdout(UNEVEN, fraction, 4), strict=True
    ):
        np.testing.assert_array_equal(by_count, by_fraction)


def test_the_seed_alone_chooses_which_are_cut():
    np.random.seed(1)
    first = stratified_holdout(EVEN, 20, seed=0)[1]
    np.random.seed(2)
    np.testing.assert_array_equal(first, stratified_holdout(EVEN, 20, seed=0)[1])
    assert first.tolist() != stratified_holdout(EVEN, 20, seed=1)[1].tolist()


def test_a_split_never_changes_between_versions():
    assert stratified_holdout(EVEN, 0.1, seed=0)[1].tolist() == [7, 15, 19, 20, 22, 31, 36, 54, 63, 78]
    assert stratified_holdout(EVEN, 12, seed=7)[1].tolist() == [11, 22, 24, 25, 26, 29, 31, 50, 67, 68, 80, 93]
    assert stratified_holdout(UNEVEN, 9, seed=0)[1].tolist() == [31, 71, 148, 153, 163, 256, 266, 270, 274]


@pytest.mark.parametrize("size", [100, 101, 0.999])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(size):
    with pytest.raises(UserError, match=r"data\.val_size asks for 10. of the 100 training images"):
        stratified_holdout(EVEN, size, seed=0)


def test_a_split_that_takes_a_whole_class_is_refused():
    with pytest.raises(UserError, match="all 2 training images of class 9"):
        stratified_holdout(UNEVEN, 270, seed=0)


def test_a_class_that_would_be_taken_whole_is_told_by_its_name_and_size_by_its_own():
    with pytest.raises(UserError, match=r"data\.test_size 0\.9 would take all 2 training images of class nine"):
        stratified_holdout(UNEVEN, 0.9, 0, name="data.test_size", class_names=[*"012345678", "nine"])


@pytest.mark.parametrize("labels", [EVEN, UNEVEN])
def test_a_smaller_part_to_train_on_lies_within_every_larger_one(labels):
    largest = set(range(len(labels)))
    for size in range(len(labels), 80, -1):
        part = stratified_part(labels, size, seed=3)
        assert len(part) == size
        assert (np.diff(part) > 0).all()
        assert set(part) <= largest
        largest = set(part)


@pytest.mark.parametrize("size", [80, 150, 0.5, 0.9, 1.0])
def test_a_part_to_train_on_has_each_class_by_its_share_to_within_one_image(size):
    part = stratified_part(UNEVEN, size, seed=0)
    count = round(size * 300) if isinstance(size, float) else size
    assert len(part) == count
    for label in np.unique(UNEVEN):
        assert abs((UNEVEN[part] == label).sum() - count * (label == UNEVEN).mean()) < 1


def test_the_seed_alone_chooses_the_part_to_train_on():
    np.random.seed(1)
    first = stratified_part(EVEN, 20, seed=0).tolist()
    np.random.seed(2)
    assert stratified_part(EVEN, 20, seed=0).tolist() == first
    assert stratified_part(EVEN, 20, seed=1).tolist() != first


def test_a_part_to_train_on_never_changes_between_versions():
    assert stratified_part(EVEN, 12, seed=0).tolist() == [7, 15, 19, 20, 22, 31, 36, 51, 54, 63, 78, 80]


def test_a_part_to_train_on_that_leaves_a_class_out_is_refused():
    with pytest.raises(UserError, match=r"data\.train_size 30 leaves no image of class 9"):
        stratified_part(UNEVEN, 30, seed=0)
    with pytest.raises(UserError, match=r"data\.train_size 0\.001 leaves no image of class 0"):
        stratified_part(EVEN, 0.001, seed=0)


@pytest.mark.parametrize("labels", [EVEN, UNEVEN])
@pytest.mark.parametrize("folds", [2, 3, 7, 100, "each"])
def test_folds_hold_every_image_out_once_with_sizes_and_classes_alike(labels, folds):
    folds = len(labels) if folds == "each" else folds
    cuts = [stratified_fold(labels, fold, folds, seed=3) for fold in range(folds)]
    np.testing.assert_array_equal(np.sort(np.concatenate([out for _, out in cuts])), np.arange(len(labels)))
    for stays, out in cuts:
        np.testing.assert_array_equal(np.sort(np.concatenate([stays, out])), np.arange(len(labels)))
        assert (np.diff(stays) > 0).all()
        assert (np.diff(out) > 0).all()
    for counts in [
        [len(out) for _, out in cuts],
        *([(labels[out] == c).sum() for _, out in cuts] for c in set(labels)),
    ]:
        assert max(counts) - min(counts) <= 1


def test_the_seed_alone_chooses_the_folds():
    np.random.seed(1)
    first = stratified_fold(EVEN, 0, 5, seed=0)[1].tolist()
    np.random.seed(2)
    assert stratified_fold(EVEN, 0, 5, seed=0)[1].tolist() == first
    assert stratified_fold(EVEN, 0, 5, seed=1)[1].tolist() != first


def test_folds_never_change_between_versions():
    assert stratified_fold(EVEN, 1, 10, seed=0)[1].tolist() == [13, 24, 26, 29, 32, 51, 80, 85, 88, 97]


def test_folds_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"data\.folds is 101, but there are 100 images"):
        stratified_fold(EVEN, 0, 101, seed=0)
    for fold in range(3):
        stratified_fold(np.array([0, 0, 0, 1]), fold, 4, seed=0)
    with pytest.raises(UserError, match="Fold 3 of 4 would hold out all training images of class b"):
        stratified_fold(np.array([0, 0, 0, 1]), 3, 4, seed=0, class_names="ab")


def test_a_fold_is_tested_once_and_said(cli):
    done = cli("fit --model MLP --data Digits --data.folds 5 --data.fold 4 --trainer.max_epochs 1 --name run")
    assert done.status == 0
    assert "Digits: 1,035 train, 115 validation, 287 test images" in done.out


def test_official_test_images_are_watched_only_where_that_is_allowed_and_then_there_is_no_test(cli, tmp_path):
    line = "fit --model MLP --data Digits --trainer.max_epochs 2 --name run --allow [test_as_validation]"
    done = cli(line)
    assert done.status == 0
    assert "1,437 train, 360 validation (the official test images), 0 test images" in done.out
    assert "test        none: the official test images are the validation split" in done.out
    assert "Digits test accuracy" not in done.out
    assert "tested" not in done.out
    metrics = json.loads((tmp_path / "lightning_logs/run/version_0/run.json").read_text())["metrics"]
    assert {"val/acc", "val/loss"} <= set(metrics)
    assert not [name for name in metrics if name.startswith("test/")]
    assert "the official ones are the validation split" in cli("test lightning_logs/run/version_0").refusal()
    assert cli("validate lightning_logs/run/version_0").status == 0


def test_a_run_without_test_images_is_trained_and_never_tested(cli):
    done = cli("fit --model MLP --data Digits --data.test_size 0 --trainer.max_epochs 1 --name run")
    assert done.status == 0
    assert "0 test images" in done.out
    assert "test accuracy" not in done.out
    assert cli("validate lightning_logs/run/version_0").status == 0
    assert "has no test images (data.test_size is 0)" in cli("test lightning_logs/run/version_0").refusal()


def test_what_is_cut_is_what_the_run_says(cli):
    done = cli(
        "fit --model MLP --data Digits --data.test_size 0.3 --data.train_size 100 --trainer.max_epochs 1 --name run"
    )
    assert done.status == 0
    assert "Digits: 100 train, 101 validation, 431 test images" in done.out
    assert "431 images)" in done.out


# Copies of a sample


SOME_COPIES = np.random.RandomState(1).randint(0, 70, 100)


@pytest.mark.parametrize("labels", [EVEN, np.zeros(100, dtype=int)])
def test_samples_of_one_class_with_one_digest_are_a_group(labels):
    groups = groups_of_copies(labels, SOME_COPIES)
    same = (labels[:, None] == labels) & (SOME_COPIES[:, None] == SOME_COPIES)
    np.testing.assert_array_equal(groups, same.argmax(axis=1))
    assert groups_of_copies(np.arange(100), np.zeros(100, dtype=np.uint64)) is None


@pytest.mark.parametrize("size", [1, 10, 33, 60])
@pytest.mark.parametrize("labels", [EVEN, np.arange(100) % 3])
def test_a_cut_gets_all_copies_or_none_and_as_many_samples_as_asked_for(labels, size):
    groups = groups_of_copies(labels, SOME_COPIES)
    stays, cut = stratified_holdout(labels, size, seed=0, copies=groups)
    assert not set(groups[stays]) & set(groups[cut])
    np.testing.assert_array_equal(np.sort(np.concatenate([stays, cut])), np.arange(100))
    assert len(cut) == size  # most samples have no copy, so that one fits


def test_a_class_of_copies_alone_cannot_be_cut():
    labels = np.repeat([0, 1], [30, 6])
    groups = groups_of_copies(labels, np.append(np.arange(30), np.full(6, 99)))
    said = r"All 6 training images of class dog are copies of one, so that data.val_size 12 cannot select some of them"
    with pytest.raises(UserError, match=said):
        stratified_holdout(labels, 12, seed=0, class_names=["cat", "dog"], copies=groups)


FIVE_OFTEN = np.append(np.arange(100) // 20, np.arange(100, 200))
"""Class 0 has 20 copies of each of 5 images, class 1 has 100 images that differ."""


@pytest.mark.parametrize("sizes", [(0.2, 0.1), (20, 20), (2, 2), (110, 20)])
def test_a_class_of_a_few_images_with_many_copies_is_in_every_split(sizes):
    labels = np.repeat([0, 1], 100)
    groups = groups_of_copies(labels, FIVE_OFTEN)
    rest, test = stratified_holdout(labels, sizes[0], seed=0, copies=groups)
    stays, cut = stratified_holdout(labels[rest], sizes[1], seed=0, copies=groups[rest])
    for split in (test, rest[cut], rest[stays]):
        assert set(labels[split]) == {0, 1}


def test_a_group_that_is_too_large_takes_nothing_from_the_next_class():
    labels = np.repeat([0, 1], 100)
    _, cut = stratified_holdout(labels, 16, seed=0, copies=groups_of_copies(labels, FIVE_OFTEN))
    assert np.bincount(labels[cut]).tolist() == [20, 8]


def test_the_next_class_makes_up_for_a_group_that_does_not_fit():
    labels = np.repeat([0, 1], 100)
    stays, cut = stratified_holdout(labels, 70, seed=0, copies=groups_of_copies(labels, FIVE_OFTEN))
    assert np.bincount(labels[cut]).tolist() == [20, 50]
    assert np.bincount(labels[stays]).tolist() == [80, 50]


def test_the_seed_chooses_among_groups_that_are_all_too_large():
    labels = np.repeat([0, 1], 100)
    groups = groups_of_copies(labels, FIVE_OFTEN)
    cuts = [stratified_holdout(labels, 4, seed, copies=groups)[1] for seed in range(20)]
    assert {int(groups[cut[0]]) for cut in cuts} == {0, 20, 40, 60, 80}


@pytest.mark.parametrize("folds", [2, 5])
def test_all_copies_are_in_one_fold(folds):
    groups = groups_of_copies(EVEN, SOME_COPIES)
    cuts = [stratified_fold(EVEN, fold, folds, seed=3, copies=groups) for fold in range(folds)]
    np.testing.assert_array_equal(np.sort(np.concatenate([out for _, out in cuts])), np.arange(100))
    for stays, out in cuts:
        assert not set(groups[stays]) & set(groups[out])
    counts = [len(set(groups[out])) for _, out in cuts]
    assert max(counts) - min(counts) <= 1


def test_a_fold_that_would_hold_out_a_class_of_copies_says_what_they_are():
    labels = np.repeat([0, 1], [30, 6])
    groups = groups_of_copies(labels, np.append(np.arange(30), np.full(6, 99)))
    # The 30 others go to the folds in turn, so that the 31st group is in the first fold.
    with pytest.raises(UserError, match=r"Fold 0 of 3 .* images of class 1, which are copies of one; give that class"):
        stratified_fold(labels, 0, 3, seed=0, copies=groups)
    _, out = stratified_fold(labels, 1, 3, seed=0, copies=groups)
    assert (labels[out] == 0).all()


def test_leave_one_out_leaves_all_copies_of_one_out():
    labels, copies = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 2, 3, 4])
    with pytest.raises(UserError, match=r"there are 5 images to split, of which 4 differ; give 4 for leave-one-out"):
        stratified_fold(labels, 0, 5, seed=0, copies=copies)
    out = {tuple(stratified_fold(labels, fold, 4, seed=0, copies=copies)[1].tolist()) for fold in range(4)}
    assert out == {(0, 1), (2,), (3,), (4,)}


def test_groups_of_one_sample_change_nothing():
    alone = np.arange(300)
    for size in (9, 33, 0.1):
        for with_groups, without in zip(
            stratified_holdout(UNEVEN, size, 4, copies=alone), stratified_holdout(UNEVEN, size, 4), strict=True
        ):
            np.testing.assert_array_equal(with_groups, without)
    for fold in range(3):
        np.testing.assert_array_equal(
            stratified_fold(UNEVEN, fold, 3, 4, copies=alone)[1], stratified_fold(UNEVEN, fold, 3, 4)[1]
        )
