"""The page of several runs side by side: the first against each of the others."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visionbench.evaluation.measures import confusion
from visionbench.evaluation.paired import SOURCES, Paired, disagreements, in_order_of, pair
from visionbench.evaluation.predictions import WORDS, Predictions
from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.report.run_contents import ReportedRun, find_images, picture_of
from visionbench.report.run_page import additional_metrics, interval_of, number, percent, short_class, title_of_data
from visionbench.runs.compare import circumstances
from visionbench.runs.folder import divergence
from visionbench.runs.identity import comparable, flat
from visionbench.text import MINUS, counted, duration

if TYPE_CHECKING:
    from visionbench.figures.images import Images

# Colors of the runs: matplotlib's own ten.
COLORS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)
LETTERS = "ABCDEFGHIJ"
# Rows of a table of samples.
LISTED = 100
ABSENT = "\N{EN DASH}"
LEVEL = 0.05


def page_of_several(reported: Sequence[ReportedRun], root: str | None) -> bytes:
    """The whole file.

    Args:
        reported: The runs; the first is compared with each other.
        root: Where prepared data sets lie; by default where the runs had them.
    """
    marks = [page.swatch(letter, color) for letter, color in zip(LETTERS, COLORS, strict=True)][: len(reported)]
    sections = [
        page.section("result", "Side by side", *_summary(reported, marks)),
        page.section("curves", "Learning curves", *_curves(reported)),
        page.section("differences", "What differs", *_differences(reported, marks)),
    ]
    for place in range(1, len(reported)):
        letters = (LETTERS[0], LETTERS[place])
        heading = f"{letters[0]} against {letters[1]}"
        parts = _against(reported[0], reported[place], letters, (COLORS[0], COLORS[place]), len(reported) - 1, root)
        sections.append(page.section(f"{letters[0]}-{letters[1]}", heading, *parts))
    title = " and ".join(run.name for run in reported) if len(reported) == 2 else f"{len(reported)} runs side by side"
    below = [
        tag("p", mark, f" {run.name}: {short_class(run.config['model'])} on {title_of_data(run)}")
        for mark, run in zip(marks, reported, strict=True)
    ]
    return page.page(title, "Run report", page.join(below), sections)


def _called(reported: Sequence[ReportedRun]) -> list[str]:
    return [f"{letter}  {run.name}" for letter, run in zip(LETTERS, reported, strict=False)]


def _summary(reported: Sequence[ReportedRun], marks: Sequence[Html]) -> Iterator[Html]:
    for letter, run in zip(LETTERS, reported, strict=False):
        if not run.finished and run.status != "diverged":
            yield page.note(tag("p", f"{letter} is {run.status}."), kind="warn")
        if (diverged := divergence(run.rows)) is not None or run.status == "diverged":
            yield page.note(tag("p", f"{letter} has diverged", f"; {diverged}." if diverged else "."), kind="warn")
    names = [name for run in reported for name in additional_metrics(run) if name.startswith("test/")]
    names = list(dict.fromkeys(names))
    additional = [name.replace("/", " ", 1) for name in names]
    head = ["run", "test accuracy", "95 % interval", "samples", "test loss", *additional]
    head += ["validation accuracy", "epoch kept"]
    rows = [
        (tag("span", mark, " ", run.name), *_numbers(run, names)) for mark, run in zip(marks, reported, strict=True)
    ]
    more = ("parameters", "training", "seed")
    yield page.table((*head, *more), rows, range(1, len(head) + len(more)))
    accuracies = {
        name: (interval[0] / interval[1], interval[2], interval[3])
        for name, run in zip(_called(reported), reported, strict=True)
        if (interval := interval_of(run, "test")) is not None
    }
    if len(accuracies) > 1:
        colors = [color for run, color in zip(reported, COLORS, strict=False) if interval_of(run, "test") is not None]
        from visionbench.figures.comparison import draw_intervals  # here, since matplotlib comes with it

        figure = draw_intervals("Test accuracy with its 95 % interval (Wilson)", accuracies, colors)
        words = "Each interval is of one run. Of runs on the same samples the paired test below says more."
        yield page.figures([page.figure(picture_of(figure), "Test accuracy", words, alone=True)])
    absent = [
        tag("li", f"{letter}: {words}") for letter, run in zip(LETTERS, reported, strict=False) for words in run.missing
    ]
    if absent:
        yield page.note(tag("p", "Not in this report:"), tag("ul", *absent))


def _numbers(run: ReportedRun, names: Sequence[str]) -> Iterator[Any]:
    metrics, report = run.metrics, run.report
    interval = interval_of(run, "test")
    yield percent(metrics["test/acc"]) if "test/acc" in metrics else ABSENT
    yield f"{100 * interval[2]:.2f} to {100 * interval[3]:.2f}" if interval is not None else ABSENT
    yield f"{interval[1]:,}" if interval is not None else ABSENT
    yield number(metrics["test/loss"]) if "test/loss" in metrics else ABSENT
    for name in names:
        yield number(metrics[name]) if name in metrics else ABSENT
    yield percent(metrics["val/acc"]) if "val/acc" in metrics else ABSENT
    epoch = report.get("best_epoch")
    yield f"{epoch + 1} of {report.get('epochs')}" if epoch is not None else ABSENT
    yield f"{report['parameters']:,}" if "parameters" in report else ABSENT
    yield duration(report["seconds"]) if "seconds" in report else ABSENT
    yield str(run.config.get("seed_everything"))


def _curves(reported: Sequence[ReportedRun]) -> Iterator[Html]:
    chosen = [(name, run.rows, color) for name, run, color in zip(_called(reported), reported, COLORS, strict=False)]
    shown = [entry for entry in chosen if entry[1]]
    if not shown:
        yield tag("p", "No epoch of any run is finished.")
        return
    yield tag("p", "Solid: validation; dashed: training, which dropout and augmentation make harder.")
    cards = []
    for metric, words in (("loss", "Loss"), ("acc", "Accuracy")):
        from visionbench.figures.comparison import draw_overlaid  # here, since matplotlib comes with it

        figure = draw_overlaid(metric, {name: rows for name, rows, _ in shown}, [color for *_, color in shown])
        cards.append(page.figure(picture_of(figure), words, "After each epoch, of all runs."))
    yield page.figures(cards)


def _differences(reported: Sequence[ReportedRun], marks: Sequence[Html]) -> Iterator[Html]:
    tables = {
        "configuration": [flat(comparable(run.config)) for run in reported],
        "circumstances": [{**circumstances(run.report), "seed": None} for run in reported],
        "versions": [run.report.get("versions") or {} for run in reported],
    }
    same = []
    for title, settings in tables.items():
        names = sorted(set().union(*settings))
        differing = [name for name in names if any(one.get(name) != settings[0].get(name) for one in settings)]
        if not differing:
            same.append(title)
            continue
        rows = [(name.replace(".init_args", ""), *(_setting(one, name) for one in settings)) for name in differing]
        yield tag("h3", title.capitalize())
        yield page.table(("", *marks), rows)
    if same:
        yield tag("p", f"The same in all: {', '.join(same)}.", class_="same")


def _setting(settings: dict[str, Any], name: str) -> str:
    if name not in settings:
        return ABSENT
    text = str(settings[name])
    return text if len(text) <= 64 else f"{text[:12]}..."


def _against(
    first: ReportedRun,
    other: ReportedRun,
    letters: tuple[str, str],
    colors: tuple[str, str],
    tests: int,
    root: str | None,
) -> Iterator[Html]:
    """The first run against another: the paired test, what differs in confusion, and the samples where they part."""
    stage = next((s for s in ("test", "val") if s in first.predictions and s in other.predictions), None)
    if stage is None:
        yield tag("p", "There is no split of which both runs have predictions, so that there is no paired test.")
        return
    one, two = first.predictions[stage], other.predictions[stage]
    if stage == "val":
        yield page.note(
            tag(
                "p",
                "Not both have test predictions, so that these are the validation's. The epochs were chosen by them: "
                "what they say flatters, and not both runs equally.",
            )
        )
    if first.class_names != other.class_names:
        yield tag(
            "p", "The runs have different classes, so that there is no paired test and no common confusion matrix."
        )
        return
    same_data = first.input_description.get("data") == other.input_description.get("data")
    matched = in_order_of(one, two) if same_data else None
    if matched is None:
        yield tag(
            "p",
            f"The runs were given different {WORDS[stage]} samples (other data, names or labels), so that there is no "
            "paired test; the confusion matrices are compared by their shares.",
        )
    else:
        yield from _test(pair(one, matched), letters, WORDS[stage], first.item, tests)
    classes = len(first.class_names)
    counts = tuple(confusion(predictions.labels, predictions.predicted, classes) for predictions in (one, two))
    from visionbench.figures.comparison import draw_confusion_difference  # here, since matplotlib comes with it

    figure = draw_confusion_difference(
        stage, (counts[0], counts[1]), first.class_names, letters, colors, of_rows=matched is None
    )
    words = (
        f"{letters[1]} less {letters[0]}, a row for each true class. On the diagonal more is better, elsewhere less; a "
        "cell has the color of the run that does better there."
    )
    yield page.figures([page.figure(picture_of(figure), "Difference of the confusion matrices", words, alone=True)])
    if matched is not None:
        yield from _samples((first, other), (one, matched), letters, root)


def _test(paired: Paired, letters: tuple[str, str], stage: str, item: str, tests: int) -> Iterator[Html]:
    first, other = letters
    low, high = paired.interval()
    yield tag("h3", "Paired test")
    head = ("", f"{other} right", f"{other} wrong")
    rows = [
        (f"{first} right", f"{paired.both:,}", f"{paired.only_first:,}"),
        (f"{first} wrong", f"{paired.only_second:,}", f"{paired.neither:,}"),
    ]
    p = paired.p_value
    facts = [
        (
            "Accuracy",
            f"{first} {_share(paired.both + paired.only_first, paired)}, {other} "
            f"{_share(paired.both + paired.only_second, paired)}, of the same {paired.samples:,} {stage} {item}s",
        ),
        (
            "Difference",
            f"{other} less {first}: {_points(paired.difference)} points "
            f"(95 % interval {_points(low)} to {_points(high)})",
        ),
        ("McNemar, exact", f"p = {_p(p)}, two-sided"),
    ]
    yield tag("div", page.table(head, rows, (1, 2)), class_="square")
    yield tag("div", page.table((), facts), class_="facts")
    yield tag("p", _meaning(paired, letters, item))
    note = f"{tests} such tests stand on this page, and p is not corrected for that. " if tests > 1 else ""
    yield tag(
        "p",
        f"{note}The test speaks of these two trained models on these {stage} {item}s, not of the methods behind them: "
        "another seed gives another model. To compare methods, train each with several seeds.",
    )
    yield tag("p", f"Sources: {'; '.join(SOURCES)}.", class_="source")


def _share(count: int, paired: Paired) -> str:
    return f"{100 * count / paired.samples:.2f} %"


def _points(share: float) -> str:
    value = round(100 * share, 2)
    return f"{'+' if value > 0 else MINUS if value < 0 else ''}{abs(value):.2f}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.2g}"


def _meaning(paired: Paired, letters: tuple[str, str], item: str) -> str:
    """The test's outcome in words."""
    first, other = letters
    discordant = paired.only_first + paired.only_second
    if not discordant:
        return f"Both are right and wrong on the same {item}s: there is nothing that could tell them apart."
    better, worse = (first, other) if paired.only_first > paired.only_second else (other, first)
    counts = f"{first} alone is right on {counted(paired.only_first, item)}, {other} alone on {paired.only_second:,}. "
    chance = (
        f"If both were right equally often on {item}s like these, a split at least as uneven would come in "
        f"{_often(paired.p_value)}"
    )
    if paired.p_value < LEVEL:
        return f"{counts}{chance}: that {better} does better than {worse} here is hardly chance."
    return f"{counts}{chance}: these {item}s do not tell the two apart, which does not show that they are equally good."


def _often(p: float) -> str:
    if p >= 0.995:
        return "every case"
    if p >= 0.01:
        return f"{100 * p:.0f} of 100 cases"
    return f"{1000 * p:.1f} of 1,000 cases" if p >= 0.0001 else "fewer than one of 10,000 cases"


def _samples(
    both: tuple[ReportedRun, ReportedRun],
    predictions: tuple[Predictions, Predictions],
    letters: tuple[str, str],
    root: str | None,
) -> Iterator[Html]:
    """What the one gets right and the other wrong, and the other way round."""
    directions = [
        (predictions[0], predictions[1], (letters[0], letters[1]), disagreements(predictions[0], predictions[1])),
        (predictions[1], predictions[0], (letters[1], letters[0]), disagreements(predictions[1], predictions[0])),
    ]
    images: Images | None = None
    if both[0].has_images and any(len(places) for *_, places in directions):
        images, reason = find_images(both[0], predictions[0], root)
        if images is None:
            yield page.note(
                tag(
                    "p", f"The images are left out, since the data cannot be had here: {reason}. The samples are named."
                )
            )
    for correct, wrong, (one, other), places in directions:
        heading = f"{one} right, {other} wrong"
        if not len(places):
            yield tag("h3", heading)
            yield tag("p", f"No {both[0].item}.", class_="same")
            continue
        listed = _listed(correct, wrong, (one, other), places, both[0].class_names)
        if images is None:
            yield tag("h3", f"{heading}: {len(places):,}")
            yield listed
            continue
        from visionbench.figures.comparison import draw_disagreements  # here, since matplotlib comes with it

        figure = draw_disagreements(correct, wrong, places, both[0].class_names, (one, other), images)
        words = f"Below each name: what {other} took it for and how surely, and what it is, as {one} says."
        yield page.figures([page.figure(picture_of(figure), f"{heading}: {len(places):,}", words, alone=True)])
        yield page.fold(f"The {both[0].item}s by name", listed)


def _listed(
    correct: Predictions, wrong: Predictions, letters: tuple[str, str], places: np.ndarray, names: Sequence[str]
) -> Html:
    rows = [
        (
            correct.names[n],
            names[correct.labels[n]],
            _confidence(correct.confidence[n]),
            names[wrong.predicted[n]],
            _confidence(wrong.confidence[n]),
        )
        for n in places[:LISTED].tolist()
    ]
    one, other = letters
    head = ("sample", f"true, as {one} says", "confidence", f"{other} says", "confidence")
    shown = page.table(head, rows, (2, 4))
    if len(places) <= LISTED:
        return shown
    return page.join([shown, tag("p", f"The first {LISTED} of {len(places):,}.", class_="same")])


def _confidence(confidence: float) -> str:
    return f"{100 * confidence:.1f} %" if np.isfinite(confidence) else ABSENT
