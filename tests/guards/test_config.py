"""Numbers out of range, and options that would have no effect: each is refused by its name."""

import math
from types import SimpleNamespace

import pytest
from lightning.pytorch.accelerators import AcceleratorRegistry

import visionbench
from visionbench.errors import UserError
from visionbench.guards import ConfigContext, ModelContext
from visionbench.guards.config import (
    TRAINER_NUMBERS,
    WITHOUT_EFFECT,
    AvailableAccelerator,
    NumbersOfTrainer,
    OptionsWithoutEffect,
    missing_accelerator,
)
from visionbench.guards.model import OptimizerSettings
from visionbench.training.settings import EarlyStopping


class Options(SimpleNamespace):
    """Options of a group, as the parser gives them."""

    def __getitem__(self, name):
        return getattr(self, name)

    def as_dict(self):
        return vars(self)


def context_of(min_delta=0.0, patience=None, views=None, **trainer):
    defaults = dict.fromkeys([*TRAINER_NUMBERS, *WITHOUT_EFFECT, "max_time", "profiler", "gradient_clip_algorithm"])
    defaults |= {"max_epochs": 10, "max_steps": -1, "sync_batchnorm": False, "accelerator": "auto", "devices": "auto"}
    config = SimpleNamespace(
        trainer=Options(**(defaults | {"overfit_batches": 0.0, "num_nodes": 1} | trainer)),
        early_stopping=Options(min_delta=min_delta, patience=patience),
        model=Options(init_args={"views": views}),
    )
    return ConfigContext(config, {}, False)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("max_epochs", [0, -5, -2], [1, -1]),
        ("min_epochs", [-1], [0, 10]),
        ("max_steps", [0, -2], [1, -1]),
        ("min_steps", [-1], [0, 5]),
        ("limit_train_batches", [0, 0.0, -1, 1.5, -0.5, math.nan], [1, 1.0, 0.5, 7]),
        ("limit_val_batches", [-1, 1.5, -0.5, math.nan], [0, 0.0, 1, 1.0, 0.5]),
        ("limit_test_batches", [-1, 2.0], [0, 3]),
        ("val_check_interval", [0, 0.0, 2.0, -1, math.inf], [1, 0.25, 1.0, 100]),
        ("check_val_every_n_epoch", [0, -1], [1, 3]),
        ("num_sanity_val_steps", [-2], [-1, 0, 2]),
        ("log_every_n_steps", [-1], [0, 50]),
        ("accumulate_grad_batches", [0, -1], [1, 8]),
        ("gradient_clip_val", [0, -1, 0.0, math.inf, math.nan], [1, 0.5]),
        ("reload_dataloaders_every_n_epochs", [-1], [0, 1]),
        ("fast_dev_run", [-1], [0, 3, True]),
    ],
)
def test_a_number_of_the_trainer_is_in_its_range(name, wrong, right):
    for value in wrong:
        sentence = NumbersOfTrainer().refusal(context_of(**{name: value}))
        assert sentence is not None, value
        assert sentence.startswith(f"trainer.{name} is {value}, expected ")
    for value in [*right, None] if name != "max_epochs" else right:
        assert NumbersOfTrainer().refusal(context_of(**{name: value})) is None, value


@pytest.mark.fast
def test_something_ends_a_run():
    refused = NumbersOfTrainer().refusal(context_of(max_epochs=None))
    assert refused.startswith("trainer.max_epochs is null, and neither trainer.max_steps nor trainer.max_time")
    assert NumbersOfTrainer().refusal(context_of(max_epochs=None, max_steps=5)) is None
    assert NumbersOfTrainer().refusal(context_of(max_epochs=None, max_time="00:01:00:00")) is None
    fewer = NumbersOfTrainer().refusal(context_of(min_epochs=11))
    assert fewer.startswith("trainer.min_epochs is 11, but trainer.max_epochs is 10")
    assert NumbersOfTrainer().refusal(context_of(min_epochs=11, max_epochs=-1)) is None


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"default_root_dir": "elsewhere"}, "trainer.default_root_dir is elsewhere, which has no effect here"),
        ({"limit_predict_batches": 1}, "trainer.limit_predict_batches is 1, which has no effect"),
        ({"overfit_batches": 1}, "trainer.overfit_batches is 1, which has no effect"),
        ({"overfit_batches": 0.1}, "--data.train_size"),
        ({"barebones": True}, "trainer.barebones is true, which has no effect"),
        ({"model_registry": "mine"}, "trainer.model_registry is mine"),
        ({"gradient_clip_algorithm": "value"}, "trainer.gradient_clip_algorithm is value, but no gradient is clipped"),
        ({"profiler": "xla"}, "trainer.profiler is xla, expected one of simple, advanced, pytorch"),
        ({"min_delta": 0.1}, "early_stopping.min_delta is 0.1, but training is not ended early"),
        ({"sync_batchnorm": True, "devices": 2, "accelerator": "cpu"}, "trainer.sync_batchnorm is true"),
        ({"views": 3, "devices": 2, "accelerator": "cpu"}, "model.views is 3, but in a run of several processes"),
    ],
)
def test_an_option_without_effect_is_refused(options, sentence):
    assert sentence in OptionsWithoutEffect().refusal(context_of(**options))


@pytest.mark.fast
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overfit_batches": 0},
        {"barebones": False},
        {"gradient_clip_algorithm": "value", "gradient_clip_val": 1.0},
        {"profiler": "simple"},
        {"min_delta": 0.1, "patience": 2},
        {"sync_batchnorm": True},
        {"views": 3},
        {"views": 0, "devices": 2, "accelerator": "cpu"},
        {"views": "flip", "devices": 2, "accelerator": "cpu"},
    ],
)
def test_an_option_with_an_effect_is_taken(options):
    assert OptionsWithoutEffect().refusal(context_of(**options)) is None


@pytest.mark.fast
@pytest.mark.parametrize("name", ["tpu", "mps", "cuda", "gpu", "hpu", "null", "CPU"])
def test_an_accelerator_that_this_machine_lacks_is_refused(monkeypatch, name):
    for key in ("tpu", "mps", "cuda"):
        monkeypatch.setattr(AcceleratorRegistry[key]["accelerator"], "is_available", lambda: False)
    sentence = AvailableAccelerator().refusal(context_of(accelerator=name))
    assert sentence.startswith(f"trainer.accelerator is {name}, which ")
    assert sentence.endswith("give one that is available here: auto, cpu.")


@pytest.mark.fast
def test_an_accelerator_of_this_machine_is_taken(monkeypatch):
    monkeypatch.setattr(AcceleratorRegistry["cuda"]["accelerator"], "is_available", lambda: True)
    for name in ("auto", "cpu", "cuda", "gpu", object()):
        assert missing_accelerator("accelerator", name) is None


def model_of(optimizer, scheduler=None):
    import torch

    from visionbench.models import CNN, MLP
    from visionbench.models.optimizers import ConvMuon

    kinds = {kind.__name__: kind for kind in (torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, ConvMuon)}
    import functools

    (kind, arguments) = optimizer
    rest = {}
    if scheduler is not None:
        rest = {"lr_scheduler": functools.partial(getattr(torch.optim.lr_scheduler, scheduler[0]), **scheduler[1])}
    network = {"widths": [2, 2, 2], "dense": 2} if kind == "ConvMuon" else {"widths": [2]}
    model = CNN if kind == "ConvMuon" else MLP
    return model(2, (1, 8, 8), **network, optimizer=functools.partial(kinds[kind], **arguments), **rest)


@pytest.mark.parametrize(
    ("optimizer", "part"),
    [
        (("SGD", {"lr": math.inf}), "model.optimizer.lr is inf, expected finite numbers"),
        (("SGD", {"lr": math.nan}), "model.optimizer"),
        (("Adam", {"lr": -1.0}), "learning rate: -1.0"),
        (("Adam", {"weight_decay": -1.0}), "weight_decay value: -1.0"),
        (("Adam", {"weight_decay": math.inf}), "model.optimizer.weight_decay is inf"),
        (("Adam", {"betas": (0.9, 1.5)}), "beta parameter at index 1: 1.5"),
        (("Adam", {"eps": math.inf}), "model.optimizer.eps is inf"),
        (("SGD", {"lr": 0.1, "momentum": 1.5}), "model.optimizer.momentum is 1.5, expected 0 to 1"),
        (("SGD", {"lr": 0.1, "momentum": math.nan}), "model.optimizer.momentum is nan"),
        (("SGD", {"lr": 0.1, "momentum": -0.1}), "momentum value: -0.1"),
        (("RMSprop", {"alpha": math.inf}), "model.optimizer.alpha is inf"),
    ],
)
def test_a_number_of_the_optimizer_is_in_its_range(optimizer, part):
    findings = list(OptimizerSettings().check(ModelContext(model_of(optimizer), SimpleNamespace())))
    assert [finding.severity for finding in findings] == ["refusal"]
    assert part in findings[0].sentence
    assert findings[0].sentence.startswith("model.optimizer")


@pytest.mark.parametrize(
    ("scheduler", "part"),
    [
        (("ReduceLROnPlateau", {"factor": 1.0}), "Factor should be < 1.0"),
        (("ReduceLROnPlateau", {"factor": -0.1}), "model.lr_scheduler.factor is -0.1, expected 0 or more"),
        (("ReduceLROnPlateau", {"patience": -1}), "model.lr_scheduler.patience is -1, expected 0 or more"),
        (("ReduceLROnPlateau", {"cooldown": -1}), "model.lr_scheduler.cooldown is -1"),
        (("ReduceLROnPlateau", {"min_lr": -1.0}), "model.lr_scheduler.min_lr is -1.0"),
        (("StepLR", {"step_size": 0}), "model.lr_scheduler.step_size is 0, expected 1 or more"),
        (("StepLR", {"step_size": 1, "gamma": math.inf}), "model.lr_scheduler.gamma is inf"),
        (("ExponentialLR", {"gamma": -1.0}), "a learning rate of -0.001"),
        (("MultiStepLR", {"milestones": [0, 3]}), "model.lr_scheduler.milestones is [0, 3]"),
        (("CosineAnnealingLR", {"T_max": 0}), "model.lr_scheduler.T_max is 0"),
        (("CosineAnnealingLR", {"T_max": 5, "eta_min": -1.0}), "model.lr_scheduler.eta_min is -1.0"),
        (("OneCycleLR", {"max_lr": math.inf, "total_steps": 9}), "model.lr_scheduler.max_lr is inf"),
        (("OneCycleLR", {"max_lr": -1.0, "total_steps": 9}), "a learning rate of -"),
        (("LinearLR", {"start_factor": 2.0}), "model.lr_scheduler does not take these settings"),
        (("PolynomialLR", {"power": math.nan}), "model.lr_scheduler.power is nan"),
    ],
)
def test_a_number_of_the_scheduler_is_in_its_range(scheduler, part):
    model = model_of(("Adam", {"lr": 0.001}), scheduler)
    findings = list(OptimizerSettings().check(ModelContext(model, SimpleNamespace())))
    assert [finding.severity for finding in findings] == ["refusal"]
    assert part in findings[0].sentence
    assert findings[0].sentence.startswith("model.lr_scheduler")


@pytest.mark.parametrize(
    "scheduler",
    [
        ("ReduceLROnPlateau", {"patience": 0}),
        ("StepLR", {"step_size": 1}),
        ("MultiStepLR", {"milestones": [1, 3]}),
        ("CosineAnnealingLR", {"T_max": 5}),
        ("OneCycleLR", {"max_lr": 0.1, "cycle_momentum": False}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "cycle_momentum": False}),
        ("LinearLR", {}),
    ],
)
def test_what_torch_offers_is_taken(scheduler):
    model = model_of(("SGD", {"lr": 0.1, "momentum": 0.9}), scheduler)
    assert list(OptimizerSettings().check(ModelContext(model, SimpleNamespace()))) == []


@pytest.mark.fast
@pytest.mark.parametrize(
    ("model", "options", "part"),
    [
        ("MLP", {"widths": [-1]}, "model.widths is [-1], expected numbers, each 1 or more."),
        ("MLP", {"widths": [16, 0]}, "model.widths is [16, 0]"),
        ("MLP", {"dropout": 1.5}, "model.dropout is 1.5, expected 0 to 1"),
        ("MLP", {"dropout": math.nan}, "model.dropout is nan"),
        ("MLP", {"l1": math.inf}, "model.l1 is inf"),
        ("MLP", {"label_smoothing": -1.0}, "model.label_smoothing is -1.0"),
        ("CNN", {"widths": [8, 0, 8]}, "model.widths is [8, 0, 8]"),
        ("CNN", {"convs": [0, 1, 1]}, "model.convs is [0, 1, 1]"),
        ("CNN", {"filter_size": 0}, "model.filter_size is 0, expected 1 or more."),
        ("CNN", {"pool": -2}, "model.pool is -2"),
        ("CNN", {"dense": -1}, "model.dense is -1, expected 0 or more."),
        ("MLP", {"widths": [8, 10**20]}, "model.widths is [8, 1"),
        ("CNN", {"dense": 10**20}, "model.dense is 100000000000000000000, expected 0 to 2147483647."),
        ("CNN", {"dropouts": [0.0, 2.0, 0.0]}, "model.dropouts is [0.0, 2.0, 0.0]"),
        ("PatchMLP", {"width": 0}, "model.width is 0"),
        ("PatchMLP", {"blocks": -1}, "model.blocks is -1"),
        ("FrozenResNet", {"hidden": 0, "weights": "none"}, "model.hidden is 0"),
        ("FrozenResNet", {"min_size": 0, "weights": "none"}, "model.min_size is 0"),
    ],
)
def test_a_number_of_the_model_is_in_its_range(model, options, part):
    from visionbench import models

    with pytest.raises(UserError) as error:
        getattr(models, model)(10, (1, 28, 28), **options)
    assert part in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize("min_delta", [-1.0, math.nan, math.inf])
def test_the_smallest_improvement_is_a_finite_number(min_delta):
    with pytest.raises(UserError, match=r"^early_stopping\.min_delta is"):
        EarlyStopping(patience=1, min_delta=min_delta)


FILES = {
    "trainer: {gradient_clip_val: -1}": "trainer.gradient_clip_val is -1, expected",
    "trainer: {limit_train_batches: 0}": "trainer.limit_train_batches is 0, expected",
    "trainer: {default_root_dir: elsewhere}": "trainer.default_root_dir is elsewhere, which has no effect",
    "early_stopping: {patience: -1}": "early_stopping.patience is -1",
    "model: {class_path: MLP, init_args: {optimizer: {class_path: SGD, init_args: {lr: .inf}}}}": "optimizer.lr is inf",
    "model: {class_path: MLP, init_args: {widths: [-1]}}": "model.widths is [-1]",
    "data: {class_path: Digits, init_args: {batch_size: 0}}": "data.batch_size is 0",
    "figure_channels: [-1]": "figure_channels is [-1]",
}


@pytest.mark.parametrize(("text", "part"), FILES.items(), ids=list(FILES))
def test_numbers_in_a_file_are_refused_as_those_on_the_command_line_are(cli, tmp_path, text, part):
    (tmp_path / "run.yaml").write_text(text + "\n")
    assert part in cli("fit --model MLP --data Digits --config run.yaml").refusal()
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"max_epochs": 0}, "trainer.max_epochs is 0"),
        ({"max_epochs": -5}, "trainer.max_epochs is -5"),
        ({"trainer.accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches is 0"),
        ({"trainer.val_check_interval": 2.0}, "trainer.val_check_interval is 2.0"),
        ({"model.widths": [-1]}, "model.widths is [-1]"),
        ({"model.optimizer.lr": math.inf}, "model.optimizer.lr is inf"),
        ({"trainer.accelerator": "tpu"}, "trainer.accelerator is tpu"),
    ],
)
def test_numbers_given_in_python_are_refused_too(tmp_path, monkeypatch, options, part):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        visionbench.fit("MLP", "Digits", **options)
    assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "expected"),
    [
        (
            *(("SGD", {"lr": 0.5}), ("OneCycleLR", {"max_lr": 0.1})),
            "model.optimizer.lr is 0.5, which has no effect, since OneCycleLR sets the learning rate of each step; set "
            "model.lr_scheduler.max_lr instead.",
        ),
        (
            *(("Adam", {"lr": 0.5}), ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "cycle_momentum": False})),
            "model.optimizer.lr is 0.5, which has no effect, since CyclicLR sets the learning rate of each step; set "
            "model.lr_scheduler.base_lr or model.lr_scheduler.max_lr instead.",
        ),
        (
            *(("SGD", {"lr": 0.1, "momentum": 0.9}), ("OneCycleLR", {"max_lr": 0.1})),
            "model.optimizer.momentum is 0.9, which has no effect, since OneCycleLR sets the momentum of each step; "
            "set model.lr_scheduler.cycle_momentum or model.lr_scheduler.base_momentum or "
            "model.lr_scheduler.max_momentum instead.",
        ),
        (("SGD", {"lr": 0.0}), None, "model.optimizer.lr is 0, so that no weight is trained; give a larger one."),
        (("SGD", {"lr": 0.1}), None, None),
        (("Adam", {"lr": 0.5, "betas": (0.8, 0.99)}), ("CosineAnnealingLR", {"T_max": 5}), None),
        (("SGD", {"lr": 0.5, "momentum": 0.9}), ("ReduceLROnPlateau", {}), None),
        (("Adam", {}), ("OneCycleLR", {"max_lr": 0.1}), None),
        (("Adam", {"lr": 0.1}), ("OneCycleLR", {"max_lr": 0.1}), None),
        (("ConvMuon", {"lr": 0.3}), ("LinearLR", {}), None),
    ],
)
def test_a_setting_of_the_optimizer_that_the_scheduler_replaces_is_reported(optimizer, scheduler, expected):
    findings = list(OptimizerSettings().check(ModelContext(model_of(optimizer, scheduler), SimpleNamespace())))
    assert [finding.sentence for finding in findings] == ([expected] if expected else [])
    assert [finding.severity for finding in findings] == (
        ["refusal" if "sets the learning rate" in expected else "warning"] if expected else []
    )
