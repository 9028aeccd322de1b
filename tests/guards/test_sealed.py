"""The test set chooses nothing: each way in which a user would watch it, with its innocent twin."""

import numpy as np
import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from visionbench.api import train
from visionbench.config.cli import settings_from
from visionbench.data import Arrays
from visionbench.errors import UserError
from visionbench.models import MLP
from visionbench.runs.folder import RunFolder

LINE = "fit --model MLP --model.widths [4] --data Digits --trainer.max_epochs 1 --name x"


class SmallData(Arrays):
    def __init__(self, **arguments):
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (60, 8, 8), dtype=np.uint8)
        super().__init__(images, np.arange(60) % 3, val_size=12, test_size=12, batch_size=16, **arguments)


class Net(MLP):
    from_command_line = False


def fit(tmp_path, kind=Net, data=None, callbacks=()):
    model = kind(3, (1, 8, 8), widths=[8])
    settings = settings_from(["--trainer.max_epochs=1"], model=model, data=data or SmallData())
    settings.run_dir = str(tmp_path / "run")
    settings.trainer["callbacks"] = list(callbacks)
    return train(settings)


def refusal(tmp_path, *args, **kwargs):
    with pytest.raises(UserError) as error:
        fit(tmp_path, *args, **kwargs)
    assert not (tmp_path / "run").exists()
    return str(error.value)


@pytest.mark.parametrize("metric", ["test/loss", "test/anything"])
def test_a_callback_of_the_configuration_may_not_watch_the_test_set(cli, tmp_path, metric):
    callback = f"--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor={metric}"
    sentence = cli(f"{LINE} {callback}").refusal()
    assert f"trainer.callbacks.0.monitor is {metric}, but the test set may choose nothing" in sentence
    assert not (tmp_path / "lightning_logs").exists()


def test_a_callback_of_the_configuration_may_watch_the_validation(cli):
    callback = "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss"
    assert cli(f"{LINE} {callback}").status == 0


def test_the_objective_may_not_be_a_metric_of_the_test_set(cli):
    assert "which nothing may be chosen on" in cli(f"{LINE} --objective.metric test/acc").refusal()


class PlateauOf(Net):
    watched = "test/loss"

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        scheduler = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": self.watched}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class PlateauOfValidation(PlateauOf):
    watched = "val/loss"


def test_a_scheduler_that_code_makes_may_not_watch_the_test_set(tmp_path):
    sentence = refusal(tmp_path, PlateauOf)
    assert "The scheduler ReduceLROnPlateau watches test/loss, but the test set may choose nothing" in sentence
    assert fit(tmp_path, PlateauOfValidation).status == "finished"


def test_a_callback_that_code_makes_may_not_watch_the_test_set(tmp_path):
    assert "EarlyStopping watches test/acc" in refusal(tmp_path, callbacks=[EarlyStopping("test/acc", mode="max")])
    assert fit(tmp_path, callbacks=[EarlyStopping("val/acc", mode="max")]).status == "finished"


class LogsInTraining(Net):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("test/loss", loss)
        return loss


class LogsInValidation(Net):
    def validation_step(self, batch, batch_idx):
        self.log_dict({"test/acc": 1.0})
        return super().validation_step(batch, batch_idx)


class LogsAtEpochEnd(Net):
    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self.log("test/acc", 1.0)


class LogsInTest(Net):
    def on_test_epoch_end(self):
        super().on_test_epoch_end()
        self.log("test/more", 1.0)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (LogsInTraining, "training_step logs test/loss"),
        (LogsInValidation, "logs test/acc"),
    ],
)
def test_a_step_of_training_may_not_log_under_a_name_of_the_test(tmp_path, kind, found):
    assert found in refusal(tmp_path, kind)


def test_a_hook_of_training_may_not_log_under_a_name_of_the_test(tmp_path):
    with pytest.raises(UserError, match="LogsAtEpochEnd logs test/acc during training"):
        fit(tmp_path, LogsAtEpochEnd)
    assert RunFolder(tmp_path / "run").status == "failed"


def test_the_test_may_log_what_it_measures(tmp_path):
    assert fit(tmp_path, LogsInTest).metrics["test/more"] == 1.0


class TestAsValidation(SmallData):
    __test__ = False

    def val_dataloader(self):
        return self.test_dataloader()


class OwnTestLoader(SmallData):
    def test_dataloader(self):
        return super().test_dataloader()


class LooksAtTest(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        trainer.datamodule.test_dataloader()


class LooksAfterwards(Callback):
    def on_test_end(self, trainer, pl_module):
        assert len(trainer.datamodule.test_dataloader()) > 0


def test_the_test_loader_is_not_given_during_training(tmp_path):
    found = "The test images of Arrays were asked for during training"
    assert found in refusal(tmp_path, data=TestAsValidation())
    assert found in refusal(tmp_path, callbacks=[LooksAtTest()])
    assert found in refusal(tmp_path, data=OwnTestLoader(), callbacks=[LooksAtTest()])
    assert fit(tmp_path, data=OwnTestLoader(), callbacks=[LooksAfterwards()]).status == "finished"
