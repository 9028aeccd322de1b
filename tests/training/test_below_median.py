"""Trials that are ended below the median of earlier ones."""

from types import SimpleNamespace

import pytest

from visionbench.training.callbacks import EndBelowMedian


@pytest.mark.parametrize(
    ("mode", "values", "thresholds", "epochs"),
    [
        ("max", [0.5, 0.4, 0.9], [None, 0.5, 0.5], 3),  # the best so far counts, not the last
        ("max", [0.5, 0.4, 0.9], [None, 0.6, 0.5], 2),
        ("min", [0.5, 0.6, 0.7], [None, 0.4], 2),
        ("min", [0.5, 0.3, 0.7], [None, 0.4], 3),
        ("max", [0.5, 2 / 3, 0.7], [None, 0.666667], 3),  # six digits: an equal value is not worse
    ],
)
def test_a_run_is_ended_by_its_best_value_so_far(mode, values, thresholds, epochs):
    callback = EndBelowMedian("val/acc", mode, thresholds, 6)
    for epoch, value in enumerate(values):
        trainer = SimpleNamespace(
            sanity_checking=False, callback_metrics={"val/acc": value}, current_epoch=epoch, should_stop=False
        )
        resumed = EndBelowMedian("val/acc", mode, thresholds, 6)
        resumed.load_state_dict(callback.state_dict())
        callback = resumed
        callback.on_validation_end(trainer, None)
        if trainer.should_stop:
            break
    assert epoch + 1 == epochs
