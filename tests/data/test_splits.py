import numpy as np
import pytest

from visionbench.data.base import stratified_holdout
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
