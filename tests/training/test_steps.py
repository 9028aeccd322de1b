import math
from types import SimpleNamespace

import torch

from visionbench.progress import Progress
from visionbench.training.callbacks import RunCheckpoints, StepLosses, Throughput
from visionbench.training.steps import Steps, StepwiseCallback, steps_of

MODEL = SimpleNamespace(device=torch.device("cpu"))
BATCH = (torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64))


def test_a_step_has_its_loss_samples_and_batches():
    steps = steps_of(MODEL, {"loss": torch.tensor(0.5)}, BATCH)
    assert (steps.losses.tolist(), steps.samples, steps.batches) == ([0.5], 5, 1)


def test_a_skipped_batch_has_no_loss_but_is_counted():
    for outputs in (None, {}):
        steps = steps_of(MODEL, outputs, BATCH)
        assert math.isnan(steps.losses.item())
        assert (steps.losses.shape, steps.samples, steps.batches) == ((1,), 5, 1)


class Records(StepwiseCallback):
    def __init__(self):
        self.records = []

    def on_steps(self, trainer, model, steps):
        self.records.append(steps)


def test_callbacks_of_one_step_share_its_record_and_the_next_step_has_another():
    callbacks = [Records(), Records()]
    fewer = tuple(part[:2] for part in BATCH)
    calls = [({"loss": torch.tensor(1.0)}, BATCH), ({"loss": torch.tensor(1.0)}, fewer), ({}, BATCH), ({}, fewer)]
    for index, (outputs, batch) in enumerate(calls):
        for callback in callbacks:
            callback.on_train_batch_end(None, MODEL, outputs, batch, index)
    first, second = (callback.records for callback in callbacks)
    assert [steps.samples for steps in first] == [steps.samples for steps in second] == [5, 2, 5, 2]
    assert first[0] is second[0]
    assert first[1] is second[1]


def test_whoever_follows_steps_follows_these():
    for kind in (StepLosses, Progress, Throughput, RunCheckpoints):
        assert kind.on_train_batch_end is StepwiseCallback.on_train_batch_end
        assert kind.on_steps is not StepwiseCallback.on_steps


def test_a_call_of_several_steps_writes_the_loss_of_each(tmp_path):
    losses = StepLosses(tmp_path / "losses.bin")
    trainer = SimpleNamespace(is_global_zero=True, world_size=1)
    for values in ([1.0, 2.0, 3.0], [math.nan]):
        losses.on_steps(trainer, MODEL, Steps(torch.tensor(values), 5 * len(values), len(values)))
    losses.write()
    assert str(torch.frombuffer(bytearray(losses.path.read_bytes()), dtype=torch.float32).tolist()) == str(
        [1.0, 2.0, 3.0, math.nan]
    )
