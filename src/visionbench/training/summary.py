"""What is run and what came out, in words."""

import inspect
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from visionbench.classes import class_of
from visionbench.data.base import VisionDataModule
from visionbench.evaluation.intervals import MIN_SAMPLES, accuracy_text
from visionbench.evaluation.measures import confused_pairs, confusion
from visionbench.evaluation.predictions import Predictions
from visionbench.models.base import Classifier
from visionbench.models.schedulers import wants_total_steps
from visionbench.runs.folder import RunFolder
from visionbench.runs.resume import Resumption
from visionbench.text import as_percent, counted, duration, shown
from visionbench.training.device import device_name
from visionbench.training.result import RunResult
from visionbench.training.settings import Settings

STAGE_NAMES = {"val": "validation", "test": "test"}
# Further evaluations, with what they are of; none is an estimate for other samples.
EVALUATED = {
    "train_eval": "of training, in evaluation mode",
    "augmented_val": "of validation, augmented as training is",
    "before": "of validation, before training",
}
# Pairs of classes that the screen names.
MOST_CONFUSED = 3


def opening_lines(
    settings: Settings, trainer: Trainer, run_folder: Path | None = None, resumption: Resumption | None = None
) -> Iterator[str]:
    """What will be run, on what and where, a line each."""
    model, data, sizes = settings.model, settings.data, settings.data.sizes()
    watched = f" (the official test {data.item}s)" if data.test_is_watched else ""
    yield (
        f"data       {data.title}: {sizes['train']:,} train, {sizes['val']:,} validation{watched}, "
        f"{sizes['test']:,} test {data.item}s of {data.shape_in_words}, {data.num_classes} classes"
    )
    if left_out := data.left_out(trainer.world_size):
        few = "batch norm needs two" if trainer.world_size == 1 else "each process needs enough of them"
        yield f"left out   the last {counted(left_out, data.item)} of each epoch, since {few}"
    residency = data.residency(trainer.strategy.root_device, trainer.num_devices)
    if not residency.resident:
        threads = f"{residency.workers} threads read ahead" if residency.workers else "no thread reads ahead"
        yield f"memory     images are read through the memory map, since {residency.reason}; {threads}"
    parameters, trained = parameter_count(model), parameter_count(model, trainable=True)
    frozen = f", of which {trained:,} are trained" if trained < parameters else ""
    yield f"model      {type(model).__name__}, {parameters:,} parameters{frozen}"
    if model.start.file is not None:
        layer = model.start.reinitialized_layer
        yield f"start      {model.start.file}{f'; {layer} is reinitialized' if layer is not None else ''}"
    yield f"training   {training_plan(model)}; max_epochs {trainer.max_epochs}, batch_size {data.batch_size}"
    yield f"device     {device_name(trainer)}, precision {trainer.precision} ({settings.precision_reason})"
    if settings.has_objective:
        aside = "" if settings.chooses_epoch else ", which chooses nothing: the last epoch is the result"
        yield f"objective  {model.objective.mode} {model.objective.metric}{aside}"
    else:
        yield "objective  none, since there is no validation; the last epoch is the result"
    if run_folder is not None:
        yield f"run        {run_folder}"
    if resumption is not None and resumption.state is not None:
        batches = resumption.state["batches"]
        within = f" and {counted(batches, 'batch', 'batches')}" if batches else ""
        yield f"resumed    after {counted(resumption.epochs, 'epoch')}{within}, from {resumption.file}"


def closing_lines(settings: Settings, result: RunResult) -> Iterator[str]:
    """What came out, a line each."""
    data, metrics = settings.data, result.metrics
    yield ""
    if result.status == "diverged":  # which has no score
        yield from result.figure_lines
        yield f"run         {result.folder}"
        return
    run = RunFolder(result.folder) if result.folder is not None else None
    if "test/acc" in metrics:
        yield from metric_lines("test", data, metrics, result.counts["test"])
        yield from error_lines(run.predictions("test") if run is not None else None, data)
    if "val/acc" in metrics:
        share = _share(metrics["val/acc"], result.counts.get("val", data.sizes()["val"]), data.item)
        kept = "the one that was kept" if settings.keeps_checkpoints else "the last one"
        kept += " and tested" * ("test/acc" in metrics) + ", without a checkpoint" * (not settings.keeps_checkpoints)
        which = f"epoch {(result.best_epoch or 0) + 1} of {result.epochs}"
        yield f"validation  {share} in {which}, {kept}"
        yield from additional_lines("val", metrics)
        if "test/acc" not in metrics:
            yield from error_lines(run.predictions("val") if run is not None else None, data)
    for stage, words in EVALUATED.items():
        if f"{stage}/acc" in metrics:
            yield f"{stage:<10}  {_share(metrics[f'{stage}/acc'], result.counts.get(stage), data.item)} {words}"
            yield from additional_lines(stage, metrics)
    if run is not None:
        yield from provenance_lines(run, data.item if "test/acc" in metrics else None)
    if data.test_is_watched:
        yield f"test        none: the official test {data.item}s are the validation split (--allow)"
    yield f"parameters  {parameter_count(settings.model):,}"
    yield f"time        {duration(result.seconds)} of training"
    yield from result.figure_lines
    yield f"run         {result.folder}"
    if run is not None and run.events:
        # Beside the other runs of its log folder, wherever that is now.
        yield f"curves      tensorboard --logdir {shlex.quote(os.path.relpath(run.log_folder))}"


def _share(accuracy: float, count: int | None, item: str) -> str:
    """Accuracy with the number of its samples; of few samples, the number of correct ones."""
    if count is None:
        return as_percent(accuracy)
    share = as_percent(accuracy) if count >= MIN_SAMPLES else f"{round(accuracy * count)}"
    return f"{share} of {counted(count, item)}"


def provenance_lines(run: RunFolder, tested: str | None, is_split_of_run: bool = True) -> Iterator[str]:
    """Where the metrics of a run come from: how its weights were chosen, what it allows, how often it was tested.

    Args:
        run: Run folder.
        tested: Word for one test sample; `None` where the metrics are not those of a test.
        is_split_of_run: Whether the splits are those that the run recorded.
    """
    yield f"{'result' if run.choosing_metric is None else 'chosen':<10}  {run.provenance}"
    if marks := run.allowed_defects:
        yield f"allowed     {', '.join(marks)}: these numbers are those of a run with this defect"
    if tested is not None and (opening := run.opening_in_words(tested)) is not None:
        yield f"openings    {opening}"
    if tested is not None and is_split_of_run and (copies := run.copies_in_words(tested)) is not None:
        yield f"copies      {copies}"


def training_plan(model: Classifier) -> str:
    """Loss, optimizer, learning rate, and what the scheduler does when, in words."""
    optimizer, scheduler = model.hparams.get("optimizer"), model.hparams.get("lr_scheduler")
    if optimizer is None:  # a model that takes none has its own or the default
        return type(model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])).__name__
    loss = str(model.hparams.get("loss", "")).replace("_", " ")
    plan = f"{loss}, {optimizer['class_path'].rpartition('.')[2]}, lr {optimizer['init_args'].get('lr')}"
    if scheduler is None:
        return plan
    kind = class_of(scheduler)
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    own = {name: value for name, value in scheduler["init_args"].items() if value != defaults.get(name)}
    if model.make_lr_scheduler is not None and wants_total_steps(model.make_lr_scheduler):
        own["total_steps"] = "the run's"
    arguments = f" ({', '.join(f'{name} {value}' for name, value in own.items())})" if own else ""
    after = "epoch" if model.lr_interval == "epoch" else "optimizer step"
    if issubclass(kind, ReduceLROnPlateau):
        after = f"epoch, by {model.objective.metric}"
    return f"{plan}, {kind.__name__}{arguments} after each {after}"


def metric_lines(stage: str, data: VisionDataModule, metrics: dict[str, float], count: int) -> Iterator[str]:
    """Accuracy with its interval, loss, and the other metrics."""
    correct = round(metrics[f"{stage}/acc"] * count)
    name = STAGE_NAMES[stage]
    yield f"{data.title} {name} accuracy {accuracy_text(correct, count, counted(count, data.item))}"
    yield f"{name} loss   {metrics[f'{stage}/loss']:.4f}"
    yield from additional_lines(stage, metrics)


def error_lines(predictions: Predictions | None, data: VisionDataModule) -> Iterator[str]:
    """The accuracy of always predicting the most frequent class, and the classes that are confused most often.

    Args:
        predictions: Predictions on the split; `None` where there are none.
        data: Data of the run.
    """
    if predictions is None or not len(predictions):
        return
    names = data.class_names
    counts = confusion(predictions.labels, predictions.predicted, len(names))
    sizes = counts.sum(axis=1)
    largest = int(sizes.argmax())
    which = "the same class" if sizes.min() == sizes.max() else shown(names[largest])
    share = _share(sizes[largest] / len(predictions), len(predictions), data.item)
    yield f"baseline    {share}, by always predicting {which}"
    pairs = (
        f"{shown(names[true])} as {shown(names[predicted])} ({count:,} of {sizes[true]:,})"
        for true, predicted, count in confused_pairs(counts)[:MOST_CONFUSED]
    )
    if listed := "; ".join(pairs):
        yield f"confused    {listed}"


def additional_lines(stage: str, metrics: Mapping[str, float]) -> Iterator[str]:
    """The metrics of a split besides loss and accuracy, a line each."""
    for metric, value in metrics.items():
        split, _, name = metric.partition("/")
        if split == stage and name not in ("loss", "acc"):
            yield f"{STAGE_NAMES.get(stage, stage)} {name}  {value:.4f}"


def parameter_count(model: torch.nn.Module, trainable: bool = False) -> int:
    """How many parameters there are, or how many of them are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
