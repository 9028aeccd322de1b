"""The learning rate of every optimizer step is that of torch's own scheduler, stepped by hand."""

import functools
import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from tests.fakes import Letters, Pairs
from tests.models.test_base import MODELS
from tests.test_fit import report, rows
from visionbench.models import CNN, MLP, FrozenResNet, PatchMLP, WarmupCosineLR

# Lightning's advice on what is meant here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*scheduler is using 'interval'"),
]

BATCHES, EPOCHS, LR = 3, 3, 0.1  # of 30 images

# Small, so that the product of all of them is done soon; a model that is not here has its default size.
ARGUMENTS = {
    MLP: {"widths": [4]},
    PatchMLP: {"patch_size": 7, "width": 4, "blocks": 1, "patch_hidden": 3, "feature_hidden": 3},
    CNN: {"widths": [4], "convs": [1], "dropouts": [0.1], "dense": 4},
    FrozenResNet: {"weights": "none", "min_size": 8, "hidden": 4},
}

LOSSES = [
    ("cross_entropy", Letters),
    ("nll", Letters),
    ("mse", Letters),
    ("cross_entropy", Pairs),
    ("nll", Pairs),
    ("binary_cross_entropy", Pairs),
    ("mse", Pairs),
]

# Ours, and torch's for a run of so many scheduler steps.
SCHEDULERS = {
    "plateau": (
        # Nothing but the first epoch is ever an improvement, so that the rate falls.
        functools.partial(ReduceLROnPlateau, factor=0.5, patience=0, threshold=0.99),
        lambda o, steps: ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.99),
    ),
    "cosine": (functools.partial(CosineAnnealingLR, T_max=4), lambda o, steps: CosineAnnealingLR(o, 4)),
    "one-cycle": (functools.partial(OneCycleLR, max_lr=0.5), lambda o, steps: OneCycleLR(o, 0.5, total_steps=steps)),
    "step": (
        functools.partial(StepLR, step_size=2, gamma=0.3),
        lambda o, steps: StepLR(o, 2, gamma=0.3),
    ),
    "linear": (
        functools.partial(LinearLR, start_factor=0.2, total_iters=2),
        lambda o, steps: LinearLR(o, 0.2, total_iters=2),
    ),
    "cyclic": (
        functools.partial(CyclicLR, base_lr=0.01, max_lr=0.2, step_size_up=2),
        lambda o, steps: CyclicLR(o, 0.01, 0.2, step_size_up=2),
    ),
    "multi-step": (functools.partial(MultiStepLR, milestones=[1, 2]), lambda o, steps: MultiStepLR(o, [1, 2])),
    "exponential": (functools.partial(ExponentialLR, gamma=0.7), lambda o, steps: ExponentialLR(o, 0.7)),
    "warm-up": (functools.partial(WarmupCosineLR, warmup=2, end_factor=0.1), lambda o, steps: warmup(o, 2, steps)),
}

STEPPED = [
    (name, interval) for name in SCHEDULERS for interval in ("epoch", "step") if (name, interval) != ("plateau", "step")
]


def warmup(optimizer, first, steps):
    """What WarmupCosineLR says it is."""
    rise = LinearLR(optimizer, start_factor=0.01, total_iters=first)
    fall = CosineAnnealingLR(optimizer, T_max=steps - first, eta_min=0.1 * optimizer.defaults["lr"])
    return SequentialLR(optimizer, [rise, fall], milestones=[first])


class Rates(Callback):
    """Learning rate and momentum of each optimizer step, and the metric that the scheduler received each epoch."""

    def __init__(self):
        self.used = []
        self.losses = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        (group,) = optimizer.param_groups
        self.used.append((group["lr"], group.get("momentum")))

    def on_validation_end(self, trainer, pl_module):
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


def trained(model, data, folder, **limits):
    """Trains on the CPU and returns the callback that watched."""
    rates = Rates()
    trainer = Trainer(
        **{"max_epochs": EPOCHS, **limits},
        accelerator="cpu",
        callbacks=[rates],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    torch.manual_seed(0)
    trainer.fit(model, datamodule=data)
    rates.trainer = trainer
    return rates


def by_hand(make, interval, losses, epochs=EPOCHS, steps_an_epoch=BATCHES):
    """The rates of torch's own scheduler over a dummy parameter."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.8)
    scheduler = make(optimizer, epochs if interval == "epoch" else epochs * steps_an_epoch)
    used = []
    for epoch in range(epochs):
        for _ in range(steps_an_epoch):
            used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            optimizer.step()
            if interval == "step":
                scheduler.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(losses[epoch])
        elif interval == "epoch":
            scheduler.step()
    return used


def same_rates(kind, loss, data_kind, name, interval, root, tmp_path):
    ours, theirs = SCHEDULERS[name]
    torch.manual_seed(0)
    data = data_kind(root=str(root), batch_size=10)
    model = kind(
        data.num_classes,
        data.input_shape,
        **ARGUMENTS.get(kind, {}),
        loss=loss,
        optimizer=functools.partial(SGD, lr=LR, momentum=0.8),
        lr_scheduler=ours,
        lr_interval=interval,
    )
    rates = trained(model, data, tmp_path)
    expected = by_hand(theirs, interval, rates.losses)
    assert len({rate for rate, _ in expected}) > 1  # a rate that never moves would say nothing
    if name == "warm-up":  # the same curve, by another formula
        assert rates.used == [pytest.approx(pair, rel=1e-9) for pair in expected]
    else:
        assert rates.used == expected


@pytest.mark.parametrize(("name", "interval"), STEPPED)
def test_the_learning_rate_is_torch_s_at_every_step(digits_root, tmp_path, name, interval):
    same_rates(MLP, "cross_entropy", Letters, name, interval, digits_root, tmp_path)


@pytest.mark.parametrize(("loss", "data_kind"), LOSSES)
@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind is not FrozenResNet])
def test_every_model_takes_every_loss(digits_root, tmp_path, kind, loss, data_kind):
    same_rates(kind, loss, data_kind, "one-cycle", "step", digits_root, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "interval"), STEPPED)
@pytest.mark.parametrize(("loss", "data_kind"), LOSSES)
@pytest.mark.parametrize("kind", MODELS)
def test_every_model_takes_every_loss_and_every_scheduler(digits_root, tmp_path, kind, loss, data_kind, name, interval):
    same_rates(kind, loss, data_kind, name, interval, digits_root, tmp_path)


def test_warm_up_begins_at_its_share_reaches_the_rate_and_ends_at_its_share():
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = WarmupCosineLR(optimizer, warmup=4, total_steps=14, start_factor=0.5, end_factor=0.25)
    rates = []
    for _ in range(17):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:5] == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4])
    assert rates[9] == pytest.approx((0.4 + 0.1) / 2)
    assert rates[14:] == pytest.approx([0.1] * 3)  # and stays there


def test_no_warm_up_is_the_cosine_alone():
    optimizers = [SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4) for _ in range(2)]
    pair = WarmupCosineLR(optimizers[0], warmup=0, total_steps=7), CosineAnnealingLR(optimizers[1], 7)
    for _ in range(7):
        ours, theirs = (optimizer.param_groups[0]["lr"] for optimizer in optimizers)
        assert ours == pytest.approx(theirs, rel=1e-9)
        for optimizer, scheduler in zip(optimizers, pair, strict=True):
            optimizer.step()
            scheduler.step()


LENGTHS = {
    "epochs": ({"max_epochs": 4}, "epoch", 4),
    "steps": ({"max_epochs": 4}, "step", 12),
    "steps of several batches": ({"max_epochs": 4, "accumulate_grad_batches": 2}, "step", 8),
    "epochs of several batches a step": ({"max_epochs": 4, "accumulate_grad_batches": 2}, "epoch", 4),
    "a limit of steps": ({"max_epochs": 4, "max_steps": 7}, "step", 7),
    "a limit of steps alone": ({"max_epochs": -1, "max_steps": 7}, "step", 7),
    "epochs under a limit of steps": ({"max_epochs": 4, "max_steps": 7}, "epoch", 3),
    "a limit of batches": ({"max_epochs": 4, "limit_train_batches": 2}, "step", 8),
    "a share of the batches": ({"max_epochs": 4, "limit_train_batches": 0.7}, "step", 8),
}


@pytest.mark.parametrize(("limits", "interval", "expected"), LENGTHS.values(), ids=list(LENGTHS))
@pytest.mark.parametrize("scheduler", [OneCycleLR, WarmupCosineLR])
def test_the_length_of_the_run_is_filled_in(digits_root, tmp_path, scheduler, limits, interval, expected):
    arguments = {"max_lr": 0.5} if scheduler is OneCycleLR else {"warmup": 1}
    data = Letters(root=str(digits_root), batch_size=10)
    make = functools.partial(scheduler, **arguments)
    model = MLP(3, data.input_shape, widths=[4], optimizer=sgd, lr_scheduler=make, lr_interval=interval)
    rates = trained(model, data, tmp_path, **limits)
    (config,) = rates.trainer.lr_scheduler_configs
    assert config.scheduler.total_steps == expected
    # The last rate is the one that the curve ends with, so the run is as long as it was said to be.
    last = (
        0.5 / 25 / 1e4 if scheduler is OneCycleLR else 0.05 * (1 + math.cos(math.pi * (expected - 2) / (expected - 1)))
    )
    assert rates.used[-1][0] == pytest.approx(last)


def sgd(parameters):
    return SGD(parameters, lr=LR, momentum=0.8)


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        (functools.partial(OneCycleLR, max_lr=0.2), None),
        (functools.partial(OneCycleLR, max_lr=0.2, total_steps=50), 50),
        (functools.partial(OneCycleLR, max_lr=0.2, epochs=3, steps_per_epoch=20), 60),
        (functools.partial(WarmupCosineLR, warmup=2), None),
        (functools.partial(StepLR, step_size=3, gamma=0.5), None),
        (functools.partial(ReduceLROnPlateau, patience=3), None),
    ],
)
def test_a_model_built_in_python_with_a_partial_has_a_loadable_checkpoint(digits_root, tmp_path, scheduler, rates):
    optimizer = functools.partial(AdamW, lr=0.05, weight_decay=0.3)
    data = Letters(root=str(digits_root), batch_size=10)
    model = MLP(3, data.input_shape, widths=[4], optimizer=optimizer, lr_scheduler=scheduler, lr_interval="epoch")
    trainer = trained(model, data, tmp_path).trainer
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["lr_scheduler"]["class_path"].endswith(f".{scheduler.func.__name__}")
    loaded = MLP.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True, map_location="cpu")
    again = trained(loaded, Letters(root=str(digits_root), batch_size=10), tmp_path, max_epochs=5).trainer
    (config,) = again.lr_scheduler_configs
    assert type(config.scheduler) is scheduler.func
    assert (again.optimizers[0].defaults["lr"], again.optimizers[0].defaults["weight_decay"]) == (0.05, 0.3)
    for name, value in scheduler.keywords.items():
        if hasattr(config.scheduler, name):
            assert getattr(config.scheduler, name) == value
    if hasattr(config.scheduler, "total_steps"):
        assert config.scheduler.total_steps == (rates or 5)  # of the run that it is in, unless it was said


FIT = "fit --model MLP --model.widths [4] --data tests.fakes.Letters --data.batch_size 10 --trainer.max_epochs 3"
ONE_CYCLE = "--model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 0.1"
WARMUP = "--model.lr_scheduler WarmupCosineLR --model.lr_scheduler.warmup"

REFUSED = {
    "a cycle that ends too early": (
        f"{ONE_CYCLE} --model.lr_scheduler.total_steps 5 --model.lr_interval step",
        "OneCycleLR ends after 5 optimizer steps, but the run has 9",
        "remove total_steps",
    ),
    "a cycle of epochs that ends too early": (
        f"{ONE_CYCLE} --model.lr_scheduler.total_steps 2 --model.lr_interval epoch",
        "OneCycleLR ends after 2 epochs, but the run has 3",
    ),
    "a cycle of too few epochs times steps": (
        f"{ONE_CYCLE} --model.lr_scheduler.epochs 2 --model.lr_scheduler.steps_per_epoch 3 --model.lr_interval step",
        "OneCycleLR ends after 6 optimizer steps, but the run has 9",
    ),
    "a run without an end": (f"{ONE_CYCLE} --trainer.max_epochs=-1", "nothing ends the run", "trainer.max_epochs"),
    "a warm-up without an end": (f"{WARMUP} 1 --trainer.max_epochs=-1", "nothing ends the run", "trainer.max_epochs"),
    "a warm-up longer than the run": (f"{WARMUP} 3", "a run of 3 epochs", "warmup of 3, expected 0 to 2 steps"),
    "a warm-up longer than the run's steps": (
        f"{WARMUP} 9 --model.lr_interval step",
        "a run of 9 optimizer steps",
        "warmup of 9",
    ),
    "a cycle that divides by nothing": (
        f"{ONE_CYCLE} --model.lr_scheduler.pct_start 0.5 --trainer.max_epochs 2 --model.lr_interval epoch",
        "a run of 2 epochs",
        "division by zero",
    ),
}


@pytest.mark.parametrize(("options", "parts"), [(line, parts) for line, *parts in REFUSED.values()], ids=list(REFUSED))
def test_a_scheduler_that_does_not_fit_the_run_is_refused_and_nothing_is_kept(cli, tmp_path, options, parts):
    sentence = cli(f"{FIT} {options}").refusal()
    for part in parts:
        assert part in sentence
    assert not (tmp_path / "lightning_logs").exists()


BEFORE_DATA = {
    "momentum cycled in an optimizer without": (f"--model.optimizer ASGD {ONE_CYCLE}", "must support momentum"),
    "cyclic momentum without": (
        "--model.optimizer ASGD --model.lr_scheduler CyclicLR --model.lr_scheduler.base_lr 0.01 "
        "--model.lr_scheduler.max_lr 0.1",
        "must support momentum",
    ),
    "a share above one": (f"{ONE_CYCLE} --model.lr_scheduler.pct_start 1.5", "pct_start"),
    "a warm-up below zero": (f"{WARMUP}=-1", "model.lr_scheduler.warmup is -1, expected 0 or more"),
    "a share that is none": (f"{WARMUP} 1 --model.lr_scheduler.start_factor 0", "start_factor above 0"),
    "no length of a cosine": ("--model.lr_scheduler CosineAnnealingLR", "T_max"),
    "no warm-up": ("--model.lr_scheduler WarmupCosineLR", "warmup"),
    "an unknown scheduler": ("--model.lr_scheduler WarmupCosine", "did you mean WarmupCosineLR?"),
}


@pytest.mark.parametrize(("options", "part"), BEFORE_DATA.values(), ids=list(BEFORE_DATA))
def test_what_no_run_could_have_is_refused_before_data_are_touched(cli, tmp_path, options, part):
    sentence = cli(f"{FIT} --data.root root {options}").refusal()
    assert part in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_cycle_without_momentum_takes_an_optimizer_without(cli, tmp_path):
    assert cli(f"{FIT} --model.optimizer ASGD {ONE_CYCLE} --model.lr_scheduler.cycle_momentum false").status == 0
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    assert [float(row["lr"]) for row in rows(run)][-1] == pytest.approx(0.1 / 25 / 1e4)


OPTIMIZERS = {
    "Adam": ("betas", "[0.5,0.6]", [0.5, 0.6]),
    "AdamW": ("weight_decay", "0.25", 0.25),
    "RMSprop": ("momentum", "0.7", 0.7),
    "SGD": ("nesterov", "true --model.optimizer.momentum 0.9", True),
    "ASGD": ("lambd", "0.03", 0.03),
}


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS.items(), ids=list(OPTIMIZERS))
def test_optimizers_train_by_short_name_with_arguments_of_their_own(cli, tmp_path, name, options):
    argument, value, expected = options
    line = f"{FIT} --model.optimizer {name} --model.optimizer.lr 0.02 --model.optimizer.{argument} {value}"
    result = cli(line)
    assert (result.status, result.err) == (0, "")
    assert f"training   cross entropy, {name}, lr 0.02; max_epochs 3" in result.out
    last = torch.load(tmp_path / "lightning_logs/mlp/version_0/checkpoints/last.ckpt", weights_only=True)
    (group,) = last["optimizer_states"][0]["param_groups"]
    assert group["lr"] == 0.02
    assert list(group[argument]) == expected if isinstance(expected, list) else group[argument] == expected
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "lightning_logs" / "mlp" / "version_0")]
    assert len(set(losses)) == 3


PLANS = {
    "one-cycle a step": (
        f"{ONE_CYCLE} --model.lr_interval step",
        "Adam, lr 0.001, OneCycleLR (max_lr 0.1, total_steps the run's) after each optimizer step; ",
    ),
    "one-cycle that is told": (
        f"{ONE_CYCLE} --model.lr_scheduler.total_steps 9",
        "OneCycleLR (max_lr 0.1, total_steps 9) after each optimizer step; ",
    ),
    "warm-up": (f"{WARMUP} 2", "WarmupCosineLR (warmup 2, total_steps the run's) after each epoch; "),
    "cosine": (
        "--model.lr_scheduler CosineAnnealingLR --model.lr_scheduler.T_max 3",
        "CosineAnnealingLR (T_max 3) after each epoch; ",
    ),
    "step": (
        "--model.lr_scheduler StepLR --model.lr_scheduler.step_size 4 --model.lr_interval step",
        "StepLR (step_size 4) after each optimizer step; ",
    ),
    "linear": ("--model.lr_scheduler LinearLR", "LinearLR after each epoch; "),
    "plateau": (
        "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 2 --objective.metric val/acc",
        "ReduceLROnPlateau (patience 2) after each epoch, by val/acc; ",
    ),
    "nothing": ("--model.loss nll", "training   nll, Adam, lr 0.001; "),
}


@pytest.mark.parametrize(("options", "plan"), PLANS.values(), ids=list(PLANS))
def test_the_opening_lines_say_what_is_stepped_when(cli, options, plan):
    result = cli(f"{FIT} {options} --trainer.fast_dev_run true")
    assert (result.status, result.err) == (0, "")
    (line,) = [line for line in result.out.splitlines() if line.startswith("training ")]
    assert plan in line


def test_a_warm_up_may_be_as_long_as_a_long_run_allows(cli):
    result = cli(f"{FIT} {WARMUP} 5000 --model.lr_interval step --trainer.fast_dev_run true")
    assert (result.status, result.err) == (0, "")


def test_the_rates_of_a_run_are_in_its_metrics(cli, tmp_path):
    assert cli(f"{FIT} {WARMUP} 1 --model.lr_scheduler.start_factor 0.5").status == 0
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    assert [float(row["lr"]) for row in rows(run)] == pytest.approx([0.0005, 0.001, 0.0005])
    assert report(run)["epochs"] == 3
