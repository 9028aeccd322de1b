"""The page of one run."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml

from visionbench.classes import defaults_of
from visionbench.evaluation.intervals import wilson_interval
from visionbench.evaluation.measures import class_scores, confused_pairs, confusion
from visionbench.evaluation.predictions import WORDS
from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.report.run_contents import ReportedRun, picture_of
from visionbench.runs.folder import RunFolder, divergence
from visionbench.runs.identity import DATA_ASIDE
from visionbench.text import counted, duration

NOT_A_NUMBER = "not a number"
# Rows of a table that has one for each class; of more classes it shows those with the lowest score.
CLASSES = 40

# Figures by the ends of their names: where they stand, what they are called and what is seen on them.
COURSE, SPLIT, NETWORK = "course", "split", "network"
KNOWN: dict[str, tuple[str, str, str]] = {
    "learning-curves": (
        COURSE,
        "Learning curves",
        "Loss and accuracy after each epoch; dashed: the epoch that was kept.",
    ),
    "step-losses": (COURSE, "Loss of the steps", "What was minimized, against the training samples seen."),
    "throughput": (COURSE, "Throughput", "Samples a second in each epoch's training."),
    "accuracy": (SPLIT, "Accuracy of each class", "Each with its 95 % interval (Wilson)."),
    "confusion": (SPLIT, "Confusion matrix", "How often each true class (row) was taken for each class (column)."),
    "confusion-shares": (SPLIT, "Confusion matrix, in percent", "Each row sums to 100: shares of the true class."),
    "confused-pairs": (SPLIT, "Most confused classes", "The mistakes that came most often."),
    "scores": (SPLIT, "Scores of each class", "Precision, recall and F1."),
    "reliability": (
        SPLIT,
        "Calibration",
        "How often the model is right where it is how sure; on the diagonal both agree.",
    ),
    "roc": (SPLIT, "ROC curve", "True against false positives, over all thresholds."),
    "precision-recall": (SPLIT, "Precision and recall", "Over all thresholds."),
    "errors": (SPLIT, "Wrong predictions", "Those that the model was most sure of."),
    "samples": (SPLIT, "Samples", "Spread evenly over the split: green is right, red is wrong."),
    "network": (NETWORK, "Layers", "Each with its output, its parameters and its operations."),
    "first-filters": (NETWORK, "First filters", "What the first layer looks for."),
    "activations": (NETWORK, "Activations", "What some layers make of one image."),
    "grad-cam": (NETWORK, "Grad-CAM", "Where in an image the predicted class is seen."),
}


def page_of_one(run: ReportedRun) -> bytes:
    """The whole file."""
    sections = [
        page.section("result", "Result", *_result(run)),
        page.section("facts", "What was run", _facts(run)),
    ]
    placed = _placed(run)
    if course := list(_course(run, placed)):
        sections.append(page.section("training", "Course of training", *course))
    main = next((stage for stage in ("test", "val") if stage in run.predictions), None)
    stages = {stage for stage, kind in placed if kind == SPLIT}
    for stage in ("test", "val", "train"):
        if stage == main or stage in stages:
            words = {"test": "Test", "val": "Validation", "train": "Training samples"}[stage]
            sections.append(page.section(stage, words, *_split(run, stage, placed)))
    if of_network := placed.get(("", NETWORK)):
        sections.append(page.section("network", "Network", page.figures(of_network)))
    if others := placed.get(("", "")):
        sections.append(page.section("more", "More figures", page.figures(others)))
    sections.append(page.section("config", "Configuration", *_configuration(run)))
    return page.page(run.name, "Run report", tag("p", in_a_sentence(run)), sections)


def in_a_sentence(run: ReportedRun) -> str:
    """Which model was trained on which data."""
    return f"{short_class(run.config['model'])} on {title_of_data(run)}" + ("" if run.finished else f", {run.status}")


def title_of_data(run: ReportedRun) -> str:
    """The data set's name."""
    return str(run.input_description.get("title") or short_class(run.config["data"]))


def short_class(spec: Mapping[str, Any]) -> str:
    """The name of a class without its module."""
    return str(spec.get("class_path", "")).rpartition(".")[2]


def percent(share: float | None) -> str:
    """A share with two digits; `None` is not a number."""
    return NOT_A_NUMBER if share is None else f"{100 * share:.2f} %"


def number(value: float | None) -> str:
    """A loss with four digits; `None` is not a number."""
    return NOT_A_NUMBER if value is None else f"{value:.4f}"


def interval_of(run: ReportedRun, stage: str) -> tuple[int, int, float, float] | None:
    """Correct samples, all samples and the Wilson interval of the accuracy; `None` where these are not known."""
    accuracy, count = run.metrics.get(f"{stage}/acc"), run.count(stage)
    if accuracy is None or not count:
        return None
    correct = round(accuracy * count)
    return correct, count, *wilson_interval(correct, count)


def additional_metrics(run: ReportedRun) -> list[str]:
    """The names of the validation and test metrics besides loss and accuracy, those of the test first."""
    usual = {f"{stage}/{metric}" for stage in ("test", "val") for metric in ("loss", "acc")}
    return [name for stage in ("test/", "val/") for name in run.metrics if name.startswith(stage) and name not in usual]


def kept_epoch(run: ReportedRun) -> tuple[str, str]:
    """Which epoch's weights are the result, and why."""
    epoch, epochs = run.report.get("best_epoch"), run.report.get("epochs")
    which = f"{epoch + 1} of {epochs}" if epoch is not None else f"the last of {epochs}"
    objective = run.config.get("objective") or {}
    metric = objective.get("metric") if isinstance(objective, dict) else None
    if not any(name.startswith("val/") for name in run.metrics) or metric is None:
        return which, "The last one; nothing was validated."
    mode = objective.get("mode") or {"val/loss": "min", "val/acc": "max"}.get(metric)
    best = {"min": "the lowest", "max": "the highest"}.get(str(mode), "the best")
    return which, f"The one with {best} {metric}."


def _result(run: ReportedRun) -> Iterator[Html]:
    if run.status in ("interrupted", "failed"):
        command = f"visionbench fit --resume {shlex.quote(str(run.folder))}"
        reason = f" ({run.report['error']})" if run.report.get("error") else ""
        done = f"This run is {run.status}{reason}, with {counted(len(run.rows), 'finished epoch')}; "
        yield page.note(tag("p", done, tag("code", command), " resumes it."), kind="warn")
    if (diverged := divergence(run.rows)) is not None or run.status == "diverged":
        yield page.note(tag("p", "The run has diverged", f"; {diverged}." if diverged else "."), kind="warn")
    yield tag("dl", *(_value(*entry) for entry in _values(run)), class_="result")
    test = run.predictions.get("test")
    if test is not None and np.array_equal(test.predicted, test.labels):
        yield page.note(tag("p", f"No wrong prediction among the {len(test):,} test {run.item}s."))
    if run.missing:
        yield page.note(tag("p", "Not in this report:"), tag("ul", *(tag("li", words) for words in run.missing)))


def _value(name: str, value: str, words: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", words, class_="words"))


def _values(run: ReportedRun) -> Iterator[tuple[str, str, str]]:
    """Name, value and explanation of what came out, the most important first."""
    metrics = run.metrics
    if not run.finished:
        last = run.rows[-1] if run.rows else {}
        for name, word in (("val/acc", "Validation accuracy"), ("train/acc", "Training accuracy")):
            if name in last:
                yield word, percent(last[name]), f"After epoch {last['epoch'] + 1}, the last that is finished."
        if not run.rows:
            yield "Result", "none", "No epoch is finished."
        return
    if "test/acc" in metrics:
        yield "Test accuracy", percent(metrics["test/acc"]), _interval_in_words(run)
        if "test/loss" in metrics:
            yield "Test loss", number(metrics["test/loss"]), ""
    else:
        yield "Test accuracy", "none", _why_no_test(run)
    if "val/acc" in metrics:
        count = run.count("val")
        of = (
            f"Of {count:,} {run.item}s, by which the epoch was chosen: " if count else "By which the epoch was chosen: "
        )
        yield "Validation accuracy", percent(metrics["val/acc"]), f"{of}it flatters a little."
    for name in additional_metrics(run):
        stage, _, metric = name.partition("/")
        yield f"{'Test' if stage == 'test' else 'Validation'} {metric}", number(metrics[name]), ""
    yield "Epoch kept", *kept_epoch(run)
    yield "Training time", duration(run.report.get("seconds") or 0), f"On {run.report.get('device')}."


def _interval_in_words(run: ReportedRun) -> str:
    interval = interval_of(run, "test")
    if interval is None:
        return "Without the number of test samples, which the predictions tell, there is no interval."
    correct, count, low, high = interval
    return (
        f"95 % interval {100 * low:.2f} to {100 * high:.2f} % (Wilson); {correct:,} of {count:,} test {run.item}s are "
        "right."
    )


def _why_no_test(run: ReportedRun) -> str:
    if "test_as_validation" in (run.config.get("allow") or []):
        return f"The official test {run.item}s were the validation split (allow), so that nothing is left to test on."
    return f"The run was not tested; visionbench test {shlex.quote(str(run.folder))} tests it."


def _facts(run: ReportedRun) -> Html:
    return tag("div", page.table((), [(name, value) for name, value in _all_facts(run) if value]), class_="facts")


def _all_facts(run: ReportedRun) -> Iterator[tuple[str, Any]]:
    report = run.report
    shape = " x ".join(map(str, run.input_description.get("input_shape", ())))
    classes = f", {len(run.class_names)} classes" if run.class_names else ""
    inputs = f": {f'{run.item}s of {shape}' if run.has_images else f'{shape} features'}" if shape else ""
    yield "Data", title_of_data(run) + inputs + classes
    aside = DATA_ASIDE | {"batch_size"}
    usual = defaults_of("visionbench.data.base.VisionDataModule")
    own = {
        name: value
        for name, value in run.init_args("data").items()
        if name not in aside and value not in (None, [], usual.get(name))
    }
    yield "Data settings", ", ".join(f"{name} {_in_words(value)}" for name, value in own.items())
    yield "Model", short_class(run.config["model"])
    if "parameters" in report:
        trained = report.get("trainable", report["parameters"])
        frozen = f", of which {trained:,} are trained" if trained < report["parameters"] else ""
        yield "Parameters", f"{report['parameters']:,}{frozen}"
    if (operations := run.figure_numbers.get("operations_an_input")) is not None:
        yield (
            "Operations",
            f"{operations:,} floating-point operations an input, two for each multiplication with its sum",
        )
    if (start := report.get("start")) is not None:
        yield "Started from", start.get("file")
    yield "Training", _plan(run)
    yield "Device", ", ".join(str(report[name]) for name in ("device",) if report.get(name))
    yield "Precision", report.get("precision") or run.config["trainer"].get("precision")
    yield "Seed", str(run.config.get("seed_everything"))
    if "seconds" in report:
        yield "Training time", f"{report['seconds']:,.1f} s for {report.get('epochs')} epochs"
    if resumed := report.get("resumed"):
        yield "Resumed", f"{len(resumed)} time{'s' * (len(resumed) != 1)}"
    if nondeterministic := report.get("nondeterministic"):
        yield "Not repeatable", "; ".join(map(str, nondeterministic))
    if (git := report.get("git")) is not None:
        yield "Commit", f"{git['commit'][:12]}{', with changes that are not committed' if git.get('changed') else ''}"
    digests = {"configuration": "config_digest", "data": "data_digest", "code": "code", "weights": "weights_digest"}
    if run.test_openings:
        yield f"Test {run.item}s", f"opened {counted(run.test_openings, 'time')} by this run"
    yield "Digests", ", ".join(f"{word} {report[name][:12]}" for word, name in digests.items() if report.get(name))
    yield "Versions", ", ".join(f"{name} {version}" for name, version in (report.get("versions") or {}).items())
    if command := report.get("command"):
        yield "Command", tag("code", shlex.join(map(str, command)))
    yield "Folder", tag("code", str(run.folder))


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        return short_class(value)
    return ", ".join(map(_in_words, value)) if isinstance(value, list) else str(value)


def _plan(run: ReportedRun) -> str:
    """Loss, optimizer, learning rate, schedule, epochs and size of a batch, as far as the configuration says them."""
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
        after = "optimizer step" if model.get("lr_interval") == "step" else "epoch"
        parts.append(f"{short_class(scheduler)}{arguments} after each {after}")
    if trainer.get("max_epochs") is not None:
        parts.append(f"at most {trainer['max_epochs']} epochs")
    if (size := run.init_args("data").get("batch_size")) is not None:
        parts.append(f"batches of {size}")
    return ", ".join(parts)


def _not_defaults(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's arguments, without those of torch's that have their default."""
    arguments = dict(scheduler.get("init_args") or {})
    if not str(scheduler.get("class_path")).startswith("torch.optim."):
        return arguments  # a user's own module is not imported for it
    defaults = defaults_of(str(scheduler["class_path"]))
    return {name: value for name, value in arguments.items() if value != defaults.get(name)}


def _placed(run: ReportedRun) -> dict[tuple[str, str], list[Html]]:
    """The figures by split and kind, in their order."""
    placed: dict[tuple[str, str], list[Html]] = {}
    for picture in run.pictures:
        stage, _, kind = picture.name.partition("-")
        if stage in WORDS and kind in KNOWN and KNOWN[kind][0] == SPLIT:
            where, heading, words = KNOWN[kind]
        elif picture.name in KNOWN and KNOWN[picture.name][0] != SPLIT:
            stage, (where, heading, words) = "", KNOWN[picture.name]
        else:
            stage, where, heading, words = "", "", picture.name.replace("-", " ").capitalize(), ""
        placed.setdefault((stage, where), []).append(page.figure(picture, heading, words))
    return placed


def _course(run: ReportedRun, placed: Mapping[tuple[str, str], list[Html]]) -> Iterator[Html]:
    shown = list(placed.get(("", COURSE), ()))
    if run.rows and not any(picture.name == "learning-curves" for picture in run.pictures):
        best = run.report.get("best_epoch") if "val/acc" in run.metrics else None
        from visionbench.figures.curves import draw_learning_curves  # here, since matplotlib comes with it

        curves = picture_of(draw_learning_curves(run.rows, best, run.untrained))
        _, heading, words = KNOWN["learning-curves"]
        shown.insert(0, page.figure(curves, heading, words if best is not None else "After each epoch."))
    if shown:
        yield page.figures(shown)


def _split(run: ReportedRun, stage: str, placed: Mapping[tuple[str, str], list[Html]]) -> Iterator[Html]:
    if stage == "val":
        yield tag("p", "The epoch was chosen by these samples, so that what they say of it flatters a little.")
    if stage == "train":
        yield tag(
            "p", "What the model says of the samples that it was trained on: how well it has learned them by heart."
        )
    if shown := placed.get((stage, SPLIT)):
        yield page.figures(shown)
    if stage in run.predictions:
        yield from _scores(run, stage)


def _scores(run: ReportedRun, stage: str) -> Iterator[Html]:
    """A table with a row for each class."""
    predictions, names = run.predictions[stage], run.class_names
    counts = confusion(predictions.labels, predictions.predicted, len(names))
    scores = class_scores(counts)
    confused_with: dict[int, tuple[int, int]] = {}
    for true, other, count in confused_pairs(counts):  # the most frequent first
        confused_with.setdefault(true, (other, count))
    shown = sorted(np.argsort(scores["f1"], kind="stable")[:CLASSES].tolist())
    rows = []
    for n in shown:
        support = int(scores["support"][n])
        measures = (f"{scores[name][n]:.3f}" for name in ("precision", "recall", "f1"))
        most = f"{names[confused_with[n][0]]} ({confused_with[n][1]:,})" if n in confused_with else "nothing else"
        rows.append((names[n], f"{support:,}", f"{int(counts[n, n]):,}", *measures, most if support else "no sample"))
    means = (f"{scores[name].mean():.3f}" for name in ("precision", "recall", "f1"))
    total = ("all (means)", f"{len(predictions):,}", f"{int(np.trace(counts)):,}", *means, "")
    which = f" The {CLASSES} with the lowest F1 of {len(names)}." if len(names) > len(shown) else ""
    yield tag("h3", "Scores by class")
    yield tag("p", f"Each class by itself, and the mean over the classes, {WORDS[stage]}.{which}", class_="same")
    head = ("class", f"{run.item}s", "right", "precision", "recall", "F1", "most often taken for")
    yield page.table(head, [*rows, total], range(1, 6))


def _configuration(run: ReportedRun) -> Iterator[Html]:
    text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    yield tag(
        "p",
        tag("code", f"visionbench fit --config {shlex.quote(str(RunFolder(run.folder).config_path))}"),
        " runs it again.",
    )
    yield page.fold("Every setting", tag("pre", tag("code", text)))
