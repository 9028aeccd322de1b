"""The page of one run."""

import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml

from visionbench.classes import defaults_of
from visionbench.evaluation.intervals import MIN_SAMPLES, wilson_interval
from visionbench.evaluation.measures import class_scores, classes_with, confused_pairs, confusion, mean_scores
from visionbench.evaluation.predictions import SPLIT_TITLES
from visionbench.models.intervals import usual_interval
from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.report.run_contents import ReportedRun, picture_of
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import DATA_ASIDE, result_of
from visionbench.text import as_percent, counted, duration

NOT_A_NUMBER = "not a number"
ABSENT = "\N{EN DASH}"
# Largest number of rows in a table with one row per class; of more classes, those with the lowest score are shown.
MAX_CLASSES = 40

# Accuracies of further evaluations: name and explanation.
EVALUATED = {
    "train_eval": (
        "Training accuracy",
        "In evaluation mode (train_eval): how well the model fits them, no estimate for others.",
    ),
    "augmented_val": ("Augmented validation accuracy", "Validation samples, augmented as training samples are."),
    "before": ("Untrained accuracy", "Validation samples, before training."),
}
# Figures by name (without the split): part of the page, heading and description.
COURSE, SPLIT, NETWORK = "course", "split", "network"
NO_EPOCH_CHOSEN = "Loss and accuracy after each epoch."  # instead of the description that names the dashed line
FIGURES: dict[str, tuple[str, str, str]] = {
    "learning-curves": (
        COURSE,
        "Learning curves",
        "Loss and accuracy after each epoch; dashed: the epoch whose weights are the result.",
    ),
    "step-losses": (COURSE, "Loss of the steps", "Minimized loss against the number of training samples seen."),
    "throughput": (COURSE, "Throughput", "Training samples per second in each epoch."),
    "accuracy": (SPLIT, "Accuracy of each class", "Each with its 95 % interval (Wilson)."),
    "confusion": (SPLIT, "Confusion matrix", "Number of samples by true class (row) and predicted class (column)."),
    "confusion-shares": (SPLIT, "Confusion matrix, in percent", "Each row sums to 100: shares of the true class."),
    "confused-pairs": (SPLIT, "Most confused classes", "The most frequent errors."),
    "scores": (SPLIT, "Scores of each class", "Precision, recall and F1."),
    "reliability": (
        SPLIT,
        "Calibration",
        "Accuracy against confidence; on the diagonal both are equal.",
    ),
    "roc": (SPLIT, "ROC curve", "True positive rate against false positive rate, over all thresholds."),
    "precision-recall": (SPLIT, "Precision and recall", "Over all thresholds."),
    "errors": (SPLIT, "Wrong predictions", "The errors with the highest confidence."),
    "samples": (SPLIT, "Samples", "Spread evenly over the split: green is correct, red is wrong."),
    "network": (NETWORK, "Layers", "Each with its output, its parameters and its operations."),
    "first-filters": (NETWORK, "First filters", "Weights of the first layer."),
    "activations": (NETWORK, "Activations", "Output of some layers for one image."),
    "grad-cam": (NETWORK, "Grad-CAM", "Areas of each image that support the predicted class."),
}


def run_page(run: ReportedRun) -> bytes:
    """Makes the page of one run, a complete HTML file."""
    sections = [
        page.section("result", "Result", *_result(run)),
        page.section("facts", "What was run", _facts(run)),
    ]
    placed = _placed(run)
    if course := list(_course(run, placed)):
        sections.append(page.section("training", "Training", *course))
    main = next((stage for stage in ("test", "val") if stage in run.predictions), None)
    stages = {stage for stage, kind in placed if kind == SPLIT}
    for stage in ("test", "val", "train"):
        if stage == main or stage in stages:
            heading = {"test": "Test", "val": "Validation", "train": "Training samples"}[stage]
            sections.append(page.section(stage, heading, *_split(run, stage, placed)))
    if of_network := placed.get(("", NETWORK)):
        sections.append(page.section("network", "Network", page.figures(of_network)))
    if others := placed.get(("", "")):
        sections.append(page.section("more", "More figures", page.figures(others)))
    sections.append(page.section("config", "Configuration", *_configuration(run)))
    return page.page(run.name, "Run report", tag("p", one_sentence(run)), sections)


def one_sentence(run: ReportedRun) -> str:
    """Sentence that names the model and the data."""
    return f"{short_class(run.config['model'])} on {title_of_data(run)}" + ("" if run.finished else f", {run.status}")


def title_of_data(run: ReportedRun) -> str:
    """Name of the run's data set."""
    return str(run.input_description.get("title") or short_class(run.config["data"]))


def short_class(spec: Mapping[str, Any]) -> str:
    """Name of a class without its module."""
    return str(spec.get("class_path", "")).rpartition(".")[2]


def percent(share: float | None) -> str:
    """Text of a share with two digits, or more near 0 and 100; `None` stands for not a number."""
    return NOT_A_NUMBER if share is None else as_percent(share)


def share_of(run: ReportedRun, stage: str) -> str:
    """Accuracy on a split; of few samples, the number of correct ones."""
    interval = accuracy_interval(run, stage)
    if interval is not None and interval[1] < MIN_SAMPLES:
        return f"{interval[0]} of {interval[1]}"
    return percent(run.metrics.get(f"{stage}/acc"))


def number(value: float | None) -> str:
    """Text of a loss with four digits; `None` stands for not a number."""
    return NOT_A_NUMBER if value is None else f"{value:.4f}"


def accuracy_interval(run: ReportedRun, stage: str) -> tuple[int, int, float, float] | None:
    """Correct samples, all samples and the Wilson interval of the accuracy; `None` if these are not known."""
    accuracy, count = run.metrics.get(f"{stage}/acc"), run.count(stage)
    if accuracy is None or not count:
        return None
    correct = round(accuracy * count)
    return correct, count, *wilson_interval(correct, count)


def additional_metrics(run: ReportedRun) -> list[str]:
    """The names of the validation and test metrics besides loss and accuracy, those of the test first."""
    usual = {f"{stage}/{metric}" for stage in ("test", "val") for metric in ("loss", "acc")}
    return [name for stage in ("test/", "val/") for name in run.metrics if name.startswith(stage) and name not in usual]


def epoch_kept(run: ReportedRun) -> tuple[str, str]:
    """Epoch whose weights are the result, and the reason."""
    epoch, epochs = run.report.get("best_epoch"), run.report.get("epochs")
    number = f"{epoch + 1} of {epochs}" if epoch is not None else f"the last of {epochs}"
    metric = run.choosing_metric
    if metric is None:
        validated = any(name.startswith("val/") for name in run.metrics)
        reason = "as the run was told to; nothing was chosen" if validated else "since there was no validation"
        aim = str((run.report.get("objective") or {}).get("metric") or "")
        values = [row.get(aim, math.nan) for row in run.rows]
        if aim and values and not any(map(math.isfinite, values)) and result_of(run.config) == "best":
            reason = f"since {aim} was not a number after any epoch; nothing was chosen"
        return number, f"The last epoch, {reason}."
    objective = run.config.get("objective") or {}
    mode = objective.get("mode") or {"val/loss": "min", "val/acc": "max"}.get(metric)
    best = {"min": "the lowest", "max": "the highest"}.get(str(mode), "the best")
    return number, f"The epoch with {best} {metric}."


def _result(run: ReportedRun) -> Iterator[Html]:
    if run.status in ("interrupted", "failed"):
        command = f"visionbench fit --resume {shlex.quote(str(run.folder))}"
        reason = f" ({run.report['error']})" if run.report.get("error") else ""
        done = f"This run is {run.status}{reason}, with {counted(len(run.rows), 'finished epoch')}; "
        yield page.note(tag("p", done, tag("code", command), " resumes it."), kind="warn")
    if run.divergence is not None or run.status == "diverged":
        reason = f"; {run.divergence}." if run.divergence is not None else "."
        yield page.note(tag("p", "The run has diverged", reason), kind="warn")
    for finding in run.report.get("findings") or []:
        yield page.note(tag("p", finding["sentence"]), kind="warn")
    yield tag("dl", *(_value(*entry) for entry in _values(run)), class_="result")
    test = run.predictions.get("test")
    if test is not None and np.array_equal(test.predicted, test.labels):
        yield page.note(tag("p", f"No wrong prediction among the {len(test):,} test {run.item}s."))
    if run.missing:
        yield page.note(tag("p", "Not in this report:"), tag("ul", *(tag("li", sentence) for sentence in run.missing)))


def _value(name: str, value: str, explanation: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", explanation, class_="words"))


def _values(run: ReportedRun) -> Iterator[tuple[str, str, str]]:
    """Name, value and explanation of each result, the most important first."""
    metrics = run.metrics
    if not run.finished:
        last = run.rows[-1] if run.rows else {}
        for name, word in (("val/acc", "Validation accuracy"), ("train/acc", "Training accuracy")):
            if name in last:
                yield word, percent(last[name]), f"After epoch {last['epoch'] + 1}, the last one that is finished."
        if not run.rows:
            yield "Result", "none", "No epoch is finished."
        return
    if "test/acc" in metrics:
        yield "Test accuracy", share_of(run, "test"), " ".join((_interval_in_words(run), *_provenance(run)))
        if "test/loss" in metrics:
            yield "Test loss", number(metrics["test/loss"]), ""
    else:
        yield "Test accuracy", "none", _why_no_test(run)
    if "val/acc" in metrics:
        count = run.count("val")
        samples = f"On {counted(count, run.item)}. " if count else ""
        optimistic = "Slightly too optimistic, since the epoch was selected on validation."
        explanation = samples + (optimistic if run.chosen_on_validation else "No epoch was selected on validation.")
        yield "Validation accuracy", share_of(run, "val"), " ".join((explanation, *_allowed(run)))
    for stage, (word, explanation) in EVALUATED.items():
        if f"{stage}/acc" in metrics:
            count = run.count(stage)
            samples = f"On {counted(count, run.item)}. " if count else ""
            yield word, share_of(run, stage), samples + explanation
    for name in additional_metrics(run):
        stage, _, metric = name.partition("/")
        yield f"{'Test' if stage == 'test' else 'Validation'} {metric}", number(metrics[name]), ""
    yield "Epoch kept", *epoch_kept(run)
    yield "Training time", duration(run.report.get("seconds") or 0), f"On {run.report.get('device')}."


def _interval_in_words(run: ReportedRun) -> str:
    interval = accuracy_interval(run, "test")
    if interval is None:
        return "No interval, since the number of test samples is not known without predictions."
    correct, count, low, high = interval
    if count < MIN_SAMPLES:
        return "Too few samples for a percentage and an interval."
    return (
        f"95 % interval {100 * low:.2f} to {100 * high:.2f} % (Wilson); {correct:,} of "
        f"{counted(count, f'test {run.item}')} {'are' if correct != 1 else 'is'} correct."
    )


def _provenance(run: ReportedRun) -> Iterator[str]:
    """How the weights were chosen that were tested, how often the test was opened, and what the run allows."""
    yield f"{'The result is' if run.choosing_metric is None else 'Chosen'} {run.provenance}."
    if run.openings is not None:
        yield f"{run.openings[0].upper()}{run.openings[1:]}."
    if run.copies is not None:
        yield f"{run.copies[0].upper()}{run.copies[1:]}."
    yield from _allowed(run)


def _allowed(run: ReportedRun) -> Iterator[str]:
    if run.allowed_defects:
        yield f"Allowed: {', '.join(run.allowed_defects)}."


def _why_no_test(run: ReportedRun) -> str:
    if "test_as_validation" in (run.config.get("allow") or []):
        return f"The official test {run.item}s were the validation split (allow), so there is no test split."
    command = f"visionbench test {shlex.quote(str(run.folder))}"
    if run.openings is not None:
        return (
            f"The run itself tested nothing, and a later test leaves no number in its folder: {run.openings}. "
            f"{command} shows the number, and opens them once more."
        )
    if run.init_args("data").get("test_size") == 0:
        return "The run has no test split (data.test_size is 0)."
    return f"The run was not tested; {command} tests it."


def _facts(run: ReportedRun) -> Html:
    return tag("div", page.table((), [(name, value) for name, value in _all_facts(run) if value]), class_="facts")


def _all_facts(run: ReportedRun) -> Iterator[tuple[str, Any]]:
    report = run.report
    shape = " x ".join(map(str, run.input_description.get("input_shape", ())))
    classes = f", {len(run.class_names)} classes" if run.class_names else ""
    inputs = f": {f'{run.item}s of {shape}' if run.has_images else f'{shape} features'}" if shape else ""
    yield "Data", title_of_data(run) + inputs + classes
    excluded = DATA_ASIDE | {"batch_size"}
    defaults = defaults_of("visionbench.data.base.VisionDataModule")
    chosen = {
        name: value
        for name, value in run.init_args("data").items()
        if name not in excluded and value not in (None, [], defaults.get(name))
    }
    yield "Data settings", ", ".join(f"{name} {_value_text(value)}" for name, value in chosen.items())
    yield "Model", short_class(run.config["model"])
    if "parameters" in report:
        trainable = report.get("trainable", report["parameters"])
        frozen = f", of which {trainable:,} are trainable" if trainable < report["parameters"] else ""
        yield "Parameters", f"{report['parameters']:,}{frozen}"
    if (operations := run.figure_numbers.get("operations_an_input")) is not None:
        yield (
            "Operations",
            f"{operations:,} floating-point operations per input (a multiplication with its addition counts as two)",
        )
    if (start := report.get("start")) is not None:
        yield "Started from", start.get("file")
    yield "Training", _plan(run)
    yield "Device", ", ".join(str(report[name]) for name in ("device",) if report.get(name))
    yield "Precision", report.get("precision") or run.config["trainer"].get("precision")
    yield "Seed", str(run.config.get("seed_everything"))
    if "seconds" in report:
        yield "Training time", f"{report['seconds']:,.1f} s for {counted(report.get('epochs') or 0, 'epoch')}"
    if resumed := report.get("resumed"):
        yield "Resumed", counted(len(resumed), "time")
    if nondeterministic := report.get("nondeterministic"):
        yield "Nondeterministic", "; ".join(map(str, nondeterministic))
    if (git := report.get("git")) is not None:
        yield "Commit", f"{git['commit'][:12]}{', with uncommitted changes' if git.get('changed') else ''}"
    digests = {"configuration": "config_digest", "data": "data_digest", "code": "code", "weights": "weights_digest"}
    yield f"Test {run.item}s", run.openings
    yield "Digests", ", ".join(f"{word} {report[name][:12]}" for word, name in digests.items() if report.get(name))
    yield "Versions", ", ".join(f"{name} {version}" for name, version in (report.get("versions") or {}).items())
    if command := report.get("command"):
        yield "Command", tag("code", shlex.join(map(str, command)))
    yield "Folder", tag("code", str(run.folder))


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        return short_class(value)
    return ", ".join(map(_value_text, value)) if isinstance(value, list) else str(value)


def _plan(run: ReportedRun) -> str:
    """Loss, optimizer, learning rate, schedule, epochs and batch size, as far as the configuration states them."""
    model, trainer = run.init_args("model"), run.config["trainer"]
    optimizer, scheduler = model.get("optimizer"), model.get("lr_scheduler")
    parts = []
    if model.get("loss"):
        parts.append(str(model["loss"]).replace("_", " "))
    if optimizer:
        parts += [short_class(optimizer), f"lr {(optimizer.get('init_args') or {}).get('lr')}"]
    if scheduler:
        chosen = _not_defaults(scheduler)
        arguments = f" ({', '.join(f'{name} {value}' for name, value in chosen.items())})" if chosen else ""
        interval = model.get("lr_interval") or usual_interval(short_class(scheduler))
        after = "optimizer step" if interval == "step" else "epoch"
        parts.append(f"{short_class(scheduler)}{arguments} after each {after}")
    if trainer.get("max_epochs") is not None:
        parts.append(f"at most {counted(trainer['max_epochs'], 'epoch')}")
    if (size := run.init_args("data").get("batch_size")) is not None:
        parts.append(f"batches of {size}")
    return ", ".join(parts)


def _not_defaults(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a scheduler; for a class of torch, without those that equal its defaults."""
    arguments = dict(scheduler.get("init_args") or {})
    if not str(scheduler.get("class_path")).startswith("torch.optim."):
        return arguments  # a user's module is not imported for its defaults
    defaults = defaults_of(str(scheduler["class_path"]))
    return {name: value for name, value in arguments.items() if value != defaults.get(name)}


def _placed(run: ReportedRun) -> dict[tuple[str, str], list[Html]]:
    """Figures by split and part of the page, in their order."""
    placed: dict[tuple[str, str], list[Html]] = {}
    for picture in run.pictures:
        stage, _, kind = picture.name.partition("-")
        if stage in SPLIT_TITLES and kind in FIGURES and FIGURES[kind][0] == SPLIT:
            part, heading, description = FIGURES[kind]
        elif picture.name in FIGURES and FIGURES[picture.name][0] != SPLIT:
            stage, (part, heading, description) = "", FIGURES[picture.name]
            if picture.name == "learning-curves" and run.choosing_metric is None:
                description = NO_EPOCH_CHOSEN
        else:
            stage, part, heading, description = "", "", picture.name.replace("-", " ").capitalize(), ""
        placed.setdefault((stage, part), []).append(page.figure(picture, heading, description))
    return placed


def _course(run: ReportedRun, placed: Mapping[tuple[str, str], list[Html]]) -> Iterator[Html]:
    shown = list(placed.get(("", COURSE), ()))
    if run.rows and not any(picture.name == "learning-curves" for picture in run.pictures):
        best = run.report.get("best_epoch") if run.choosing_metric is not None else None
        from visionbench.figures.curves import draw_learning_curves  # here, since matplotlib comes with it

        curves = picture_of(draw_learning_curves(run.rows, best, run.untrained))
        _, heading, description = FIGURES["learning-curves"]
        shown.insert(0, page.figure(curves, heading, description if best is not None else NO_EPOCH_CHOSEN))
    if shown:
        yield page.figures(shown)


def _split(run: ReportedRun, stage: str, placed: Mapping[tuple[str, str], list[Html]]) -> Iterator[Html]:
    if stage == "val" and run.chosen_on_validation:
        yield tag(
            "p", "The epoch was selected on these samples, so that the results on them are slightly too optimistic."
        )
    if stage == "train":
        yield tag(
            "p",
            "Training samples in evaluation mode (train_eval): how well the model fits them, no estimate for others.",
        )
    if shown := placed.get((stage, SPLIT)):
        yield page.figures(shown)
    if stage in run.predictions:
        yield from _scores(run, stage)


def _scores(run: ReportedRun, stage: str) -> Iterator[Html]:
    """Table with one row per class."""
    predictions, names = run.predictions[stage], run.class_names
    counts = confusion(predictions.labels, predictions.predicted, len(names))
    scores, has = class_scores(counts), classes_with(counts)
    confused_with: dict[int, tuple[int, int]] = {}
    for true, other, count in confused_pairs(counts):  # in descending order of frequency
        confused_with.setdefault(true, (other, count))
    lowest = np.argsort(np.where(has["f1"], scores["f1"], np.nan), kind="stable")  # those without an F1 are the last
    shown = sorted(lowest[:MAX_CLASSES].tolist())
    rows = []
    for n in shown:
        support = int(scores["support"][n])
        measures = (f"{scores[name][n]:.3f}" if present[n] else ABSENT for name, present in has.items())
        most = f"{names[confused_with[n][0]]} ({confused_with[n][1]:,})" if n in confused_with else "no error"
        rows.append((names[n], f"{support:,}", f"{int(counts[n, n]):,}", *measures, most if support else "no sample"))
    means = (f"{mean:.3f}" for mean in mean_scores(counts).values())
    total = ("all (means)", f"{len(predictions):,}", f"{int(np.trace(counts)):,}", *means, "")
    which = f" The {MAX_CLASSES} with the lowest F1 of {len(names)}." if len(names) > len(shown) else ""
    yield tag("h3", "Scores by class")
    of = "the classes" if scores["support"].all() else "the classes that have the score"
    yield tag("p", f"Each class, and the mean over {of}, {SPLIT_TITLES[stage]}.{which}", class_="same")
    head = ("class", f"{run.item}s", "correct", "precision", "recall", "F1", "most frequent error: predicted as")
    yield page.table(head, [*rows, total], range(1, 6))


def _configuration(run: ReportedRun) -> Iterator[Html]:
    text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    yield tag(
        "p",
        tag("code", f"visionbench fit --config {shlex.quote(str(RunFolder(run.folder).config_path))}"),
        " starts the same run again.",
    )
    yield page.fold("Every setting", tag("pre", tag("code", text)))
