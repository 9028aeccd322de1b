"""Lightning's private names still exist, behave as visionbench relies on, and are used in two files alone."""

import ast
import functools
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

import visionbench
from visionbench.data import Digits
from visionbench.models import MLP
from visionbench.training import epoch_loop, lightning_private
from visionbench.training.lightning_private import (
    end_fit_restart,
    forget_writer,
    is_resumable_after_batch,
    open_writer,
    restore_callback_metrics,
)

SOURCE = Path(visionbench.__file__).parent
# _trainer is Lightning's too: models, which training/ imports, ask by it whether they have a Trainer.
# _actions and _typehint are the parser's, which the test of the schema would miss.
ALLOWED = {"_parameters", "_mmap", "_actions", "_exit", "_trainer", "_typehint"}


def trainer(**arguments):
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **arguments,
    )


def test_restored_metrics_are_those_that_callbacks_read():
    restored = trainer()
    restore_callback_metrics(restored, {"val/loss": torch.tensor(0.25)})
    assert restored.callback_metrics == {"val/loss": torch.tensor(0.25)}


@pytest.mark.parametrize("limit", [{"max_epochs": 2}, {"max_steps": 9}])
def test_the_fit_loops_restart_ends_and_that_of_batches_does_not(limit):
    loop = trainer(**limit).fit_loop
    loop.epoch_progress.current.ready = 1  # an epoch that is not finished
    loop.restarting = True
    assert (loop.restarting, loop.epoch_loop.restarting) == (True, True)
    end_fit_restart(loop.trainer)
    assert (loop.restarting, loop.epoch_loop.restarting) == (False, True)


def test_a_model_without_a_trainer_has_none():
    assert LightningModule()._trainer is None


class Resumable(Callback):
    def __init__(self):
        self.after = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if is_resumable_after_batch(trainer):
            self.after.append(batch_idx)


@pytest.mark.parametrize(
    ("arguments", "resumable"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"val_check_interval": 2}, [0, 2, 4]),
        ({"accumulate_grad_batches": 2}, [1, 3]),
        ({"max_steps": 3}, [0, 1]),
    ],
    ids=str,
)
def test_training_is_resumable_between_batches_alone(digits_root, arguments, resumable):
    """Six batches: the last ends the epoch, and its validation comes next."""
    callback = Resumable()
    arguments = {"max_epochs": 1, "limit_train_batches": 6, "limit_val_batches": 1, "callbacks": [callback]} | arguments
    model = MLP(num_classes=10, input_shape=(1, 28, 28), widths=[4])
    trainer(**arguments).fit(model, datamodule=Digits(root=str(digits_root), seed=0))
    assert callback.after == resumable


def test_a_logger_has_a_writer_once_something_is_written(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    assert open_writer(logger) is None
    logger.log_metrics({"loss": 1.0}, 0)
    writer = open_writer(logger)
    assert writer is logger.experiment
    writer.close()
    forget_writer(logger)
    assert open_writer(logger) is None


def is_private(name):
    return name.startswith("_") and not name.endswith("__") and name != "_"


def private_names(tree):
    """The private names that a module defines, and those that it reads or sets on objects, with their lines."""
    defined, used, lightnings = set(), [], of_lightning()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self":
                defined |= {node.attr} - lightnings
            used.append((node.attr, node.lineno))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            name = getattr(node.args[1], "value", "")
            if isinstance(name, str) and is_private(name):
                used.append((name, node.lineno))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("lightning", "pytorch_lightning")):
            path = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            used += [(name, node.lineno) for name in path if is_private(name)]
    return defined, used


@functools.cache
def of_lightning():
    """Private names of Lightning's objects, which a subclass does not define by setting them."""
    fit_loop = trainer().fit_loop
    objects = [fit_loop.trainer, fit_loop, fit_loop.epoch_loop, TensorBoardLogger("."), Callback(), LightningModule()]
    return {name for value in objects for name in dir(value) if is_private(name)}


def strangers(files):
    """Uses of private names that none of the files defines."""
    parsed = {file: private_names(ast.parse(file.read_text(encoding="utf-8"))) for file in files}
    ours = set().union(*(defined for defined, _ in parsed.values())) | ALLOWED
    return [
        f"{file.name}:{line} {name}" for file, (_, used) in parsed.items() for name, line in used if name not in ours
    ]


def test_no_other_file_uses_private_names_of_others():
    files = set(SOURCE.rglob("*.py")) - {Path(module.__file__) for module in (lightning_private, epoch_loop)}
    assert strangers(files) == []


def test_a_private_name_of_others_is_noticed(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "from lightning.pytorch.trainer.call import _call_callback_hooks\n"
        "trainer.fit_loop._data_fetcher\n"
        "self._experiment = None\n"
        "getattr(trainer, '_logger_connector')\n"
        "def _own(): ...\n"
        "module._own()\n"
    )
    names = {line.split()[1] for line in strangers([file])}
    assert names == {"_call_callback_hooks", "_data_fetcher", "_experiment", "_logger_connector"}


def test_every_function_here_uses_a_private_name_and_says_why():
    tree = ast.parse(Path(lightning_private.__file__).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions
    for function in functions:
        assert ast.get_docstring(function)
        assert any(isinstance(node, ast.Attribute) and is_private(node.attr) for node in ast.walk(function))
