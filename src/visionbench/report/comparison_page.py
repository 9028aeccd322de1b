"""Page of several runs side by side: the first run is compared with each of the others."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visionbench.evaluation.intervals import MIN_SAMPLES
from visionbench.evaluation.measures import confusion
from visionbench.evaluation.paired import SOURCES, Paired, disagreements, pair, reordered
from visionbench.evaluation.predictions import SPLIT_TITLES, Predictions
from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.report.run_contents import ReportedRun, find_images, picture_of
from visionbench.report.run_page import (
    accuracy_interval,
    additional_metrics,
    number,
    share_of,
    short_class,
    title_of_data,
)
from visionbench.runs.compare import circumstances, incomparable
from visionbench.runs.identity import comparable, flat
from visionbench.text import MINUS, as_percent, counted, duration

if TYPE_CHECKING:
    from visionbench.figures.images import Images

# Colors of the runs: matplotlib's own ten.
COLORS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)
LETTERS = "ABCDEFGHIJ"
# Largest number of rows in a table of samples.
MAX_LISTED = 100
ABSENT = "\N{EN DASH}"
LEVEL = 0.05
ONE_SEED = (
    "The test compares these trained models on these samples, not the methods: another seed gives another model. To "
    "compare methods, train each with several seeds (visionbench study new NAME --compare)."
)


def comparison_page(reported: Sequence[ReportedRun], root: str | None) -> bytes:
    """Makes the page of several runs, a complete HTML file.

    Args:
        reported: Runs to compare; the first is compared with each of the others.
        root: Folder of prepared data sets; by default the ones that the runs used.
    """
    marks = [page.swatch(letter, color) for letter, color in zip(LETTERS, COLORS, strict=True)][: len(reported)]
    sections = [
        page.section("result", "Side by side", *_summary(reported, marks)),
        page.section("curves", "Learning curves", *_curves(reported)),
        page.section("differences", "What differs", *_differences(reported, marks)),
    ]
    for place in range(1, len(reported)):
        letters = (LETTERS[0], LETTERS[place])
        heading = f"{letters[0]} and {letters[1]}"
        parts = _comparison_with(
            reported[0], reported[place], letters, (COLORS[0], COLORS[place]), len(reported) - 1, root
        )
        sections.append(page.section(f"{letters[0]}-{letters[1]}", heading, *parts))
    title = " and ".join(run.name for run in reported) if len(reported) == 2 else f"{len(reported)} runs side by side"
    below = [
        tag("p", mark, f" {run.marked_name}: {short_class(run.config['model'])} on {title_of_data(run)}")
        for mark, run in zip(marks, reported, strict=True)
    ]
    return page.page(title, "Run report", page.join(below), sections)


def outcomes(reported: Sequence[ReportedRun]) -> Iterator[tuple[str, str]]:
    """The letters of the first run and of each other run, and what the paired test says of them."""
    for letter, other in zip(LETTERS[1:], reported[1:], strict=False):
        letters = (LETTERS[0], letter)
        stage, matched = _matched(reported[0], other)
        if stage is None or matched is None:
            text = "There is no paired test, since the runs have no predictions of the same samples."
        else:
            paired = pair(reported[0].predictions[stage], matched)
            text = f"{SPLIT_TITLES[stage].capitalize()} {other.item}s: {_meaning(paired, letters, other.item)}"
        yield " and ".join(letters), text


def _labels(reported: Sequence[ReportedRun]) -> list[str]:
    return [f"{letter}  {run.marked_name}" for letter, run in zip(LETTERS, reported, strict=False)]


def _summary(reported: Sequence[ReportedRun], marks: Sequence[Html]) -> Iterator[Html]:
    for letter, run in zip(LETTERS, reported, strict=False):
        if not run.finished and run.status != "diverged":
            yield page.note(tag("p", f"{letter} is {run.status}."), kind="warn")
        if run.divergence is not None or run.status == "diverged":
            reason = f"; {run.divergence}." if run.divergence is not None else "."
            yield page.note(tag("p", f"{letter} has diverged", reason), kind="warn")
    sides = [(letter, run.report, run.config) for letter, run in zip(LETTERS, reported, strict=False)]
    for sentence in incomparable(sides):
        yield page.note(tag("p", f"{sentence[0].upper()}{sentence[1:]}."), kind="warn")
    names = [name for run in reported for name in additional_metrics(run) if name.startswith("test/")]
    names = list(dict.fromkeys(names))
    additional = [name.replace("/", " ", 1) for name in names]
    head = ["run", "test accuracy", "95 % interval", "samples", "test loss", *additional]
    head += ["opening", "validation accuracy", "chosen"]
    rows = [
        (tag("span", mark, " ", run.marked_name), *_numbers(run, names))
        for mark, run in zip(marks, reported, strict=True)
    ]
    more = ("parameters", "training", "seed")
    yield page.table((*head, *more), rows, range(1, len(head) + len(more)))
    accuracies = {
        name: (interval[0] / interval[1], interval[2], interval[3])
        for name, run in zip(_labels(reported), reported, strict=True)
        if (interval := accuracy_interval(run, "test")) is not None
    }
    if len(accuracies) > 1:
        from visionbench.figures.comparison import draw_intervals  # here, since matplotlib comes with it

        colors = [
            color for run, color in zip(reported, COLORS, strict=False) if accuracy_interval(run, "test") is not None
        ]
        figure = draw_intervals("Test accuracy with its 95 % interval (Wilson)", accuracies, colors)
        description = (
            "Each interval is for one run. The paired test below is more sensitive for runs on the same samples."
        )
        yield page.figures([page.figure(picture_of(figure), "Test accuracy", description, alone=True)])
    absent = [
        tag("li", f"{letter}: {text}") for letter, run in zip(LETTERS, reported, strict=False) for text in run.missing
    ]
    if absent:
        yield page.note(tag("p", "Not in this report:"), tag("ul", *absent))


def _numbers(run: ReportedRun, names: Sequence[str]) -> Iterator[Any]:
    metrics, report = run.metrics, run.report
    interval = accuracy_interval(run, "test")
    yield share_of(run, "test") if "test/acc" in metrics else ABSENT
    has_interval = interval is not None and interval[1] >= MIN_SAMPLES
    yield f"{100 * interval[2]:.2f} to {100 * interval[3]:.2f}" if interval is not None and has_interval else ABSENT
    yield f"{interval[1]:,}" if interval is not None else ABSENT
    yield number(metrics["test/loss"]) if "test/loss" in metrics else ABSENT
    for name in names:
        yield number(metrics[name]) if name in metrics else ABSENT
    yield f"{report['opening']:,}" if report.get("opening") and "test/acc" in metrics else ABSENT
    yield share_of(run, "val") if "val/acc" in metrics else ABSENT
    yield run.provenance if report.get("best_epoch") is not None else ABSENT
    yield f"{report['parameters']:,}" if "parameters" in report else ABSENT
    yield duration(report["seconds"]) if "seconds" in report else ABSENT
    yield str(run.config.get("seed_everything"))


def _curves(reported: Sequence[ReportedRun]) -> Iterator[Html]:
    chosen = [(name, run.rows, color) for name, run, color in zip(_labels(reported), reported, COLORS, strict=False)]
    shown = [entry for entry in chosen if entry[1]]
    if not shown:
        yield tag("p", "No epoch of any run is finished.")
        return
    yield tag("p", "Solid: validation; dashed: training, where dropout and augmentation lower the accuracy.")
    cards = []
    from visionbench.figures.comparison import draw_overlaid  # here, since matplotlib comes with it

    for metric, heading in (("loss", "Loss"), ("acc", "Accuracy")):
        figure = draw_overlaid(metric, {name: rows for name, rows, _ in shown}, [color for *_, color in shown])
        cards.append(page.figure(picture_of(figure), heading, "After each epoch, for all runs."))
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


def _comparison_with(
    first: ReportedRun,
    other: ReportedRun,
    letters: tuple[str, str],
    colors: tuple[str, str],
    tests: int,
    root: str | None,
) -> Iterator[Html]:
    """Comparison of two runs: paired test, difference of confusion matrices, and samples on which they disagree."""
    stage, matched = _matched(first, other)
    if stage is None:
        yield tag("p", "The runs have no predictions on the same split, so that there is no paired test.")
        return
    one, two = first.predictions[stage], other.predictions[stage]
    if stage == "val":
        yield page.note(
            tag(
                "p",
                "Not both runs have test predictions, so that validation predictions are compared. The epochs were "
                "selected on validation: the results are too optimistic, and not equally for both runs.",
            )
        )
    if first.class_names != other.class_names:
        yield tag(
            "p", "The runs have different classes, so that there is no paired test and no common confusion matrix."
        )
        return
    if matched is None:
        yield tag(
            "p",
            f"The runs have different {SPLIT_TITLES[stage]} samples (other data, names or labels), so that there is "
            "no paired test; the confusion matrices are compared by their shares.",
        )
    else:
        yield from _test(pair(one, matched), letters, SPLIT_TITLES[stage], first.item, tests)
    classes = len(first.class_names)
    counts = tuple(confusion(predictions.labels, predictions.predicted, classes) for predictions in (one, two))
    from visionbench.figures.comparison import draw_confusion_difference  # here, since matplotlib comes with it

    figure = draw_confusion_difference(
        stage, (counts[0], counts[1]), first.class_names, letters, colors, of_rows=matched is None
    )
    description = (
        f"{letters[1]} minus {letters[0]}, one row per true class. Larger is better on the diagonal, smaller is better "
        "elsewhere; a cell has the color of the better run in it."
    )
    heading = "Difference of the confusion matrices"
    yield page.figures([page.figure(picture_of(figure), heading, description, alone=True)])
    if matched is not None:
        yield from _samples((first, other), (one, matched), letters, root)


def _matched(first: ReportedRun, other: ReportedRun) -> tuple[str | None, Predictions | None]:
    """The split on which two runs are compared, and the second one's predictions of the first one's samples there."""
    stage = next((s for s in ("test", "val") if s in first.predictions and s in other.predictions), None)
    same_data = first.input_description.get("data") == other.input_description.get("data")
    if stage is None or not same_data or first.class_names != other.class_names or _are_others(first, other, stage):
        return stage, None
    return stage, reordered(first.predictions[stage], other.predictions[stage])


def _are_others(first: ReportedRun, other: ReportedRun, stage: str) -> bool:
    """Whether the samples of a split are others, although they may have the same names, as in another folder.

    Samples that were prepared in another way, such as images of another size, are told by their names alone.
    """
    digests = [(run.report.get("split_digests") or {}).get(stage) for run in (first, other)]
    return None not in digests and digests[0] != digests[1] and _preparation(first) == _preparation(other)


def _preparation(run: ReportedRun) -> dict[str, Any]:
    """How the samples of a run were prepared, without what was computed from those of its training split."""
    ignored = ("title", "mean", "std")
    described = {name: value for name, value in run.input_description.items() if name not in ignored}
    if described.get("table") is not None:
        described["table"] = {name: value for name, value in described["table"].items() if name != "fitted"}
    return described


def _test(paired: Paired, letters: tuple[str, str], stage: str, item: str, tests: int) -> Iterator[Html]:
    first, other = letters
    low, high = paired.interval()
    yield tag("h3", "Paired test")
    head = ("", f"{other} correct", f"{other} wrong")
    rows = [
        (f"{first} correct", f"{paired.both:,}", f"{paired.only_first:,}"),
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
            f"{other} minus {first}: {_points(paired.difference)} points "
            f"(95 % interval {_points(low)} to {_points(high)})",
        ),
        ("McNemar, exact", f"p = {_p(p)}, two-sided"),
    ]
    yield tag("div", page.table(head, rows, (1, 2)), class_="square")
    yield tag("div", page.table((), facts), class_="facts")
    yield tag("p", _meaning(paired, letters, item))
    note = f"This page holds {tests} such tests, and p is not corrected for multiple tests. " if tests > 1 else ""
    yield tag(
        "p",
        f"{note}{ONE_SEED}",
    )
    yield tag("p", f"Sources: {'; '.join(SOURCES)}.", class_="source")


def _share(count: int, paired: Paired) -> str:
    return as_percent(count / paired.samples)


def _points(share: float) -> str:
    value = round(100 * share, 2)
    return f"{'+' if value > 0 else MINUS if value < 0 else ''}{abs(value):.2f}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.2g}"


def _meaning(paired: Paired, letters: tuple[str, str], item: str) -> str:
    """Sentence that explains the result of the test."""
    first, other = letters
    discordant = paired.only_first + paired.only_second
    if not discordant:
        return f"Both runs are correct on the same {item}s, so that the test finds no difference."
    better, worse = (first, other) if paired.only_first > paired.only_second else (other, first)
    counts = f"Only {first} is correct on {counted(paired.only_first, item)}, only {other} on {paired.only_second:,}. "
    test = f"McNemar's exact test gives p = {_p(paired.p_value)}"
    if paired.p_value < LEVEL:
        return (
            f"{counts}{test}, the probability of so large a difference if both were equally accurate on {item}s like "
            f"these: {better} is better than {worse} here."
        )
    return f"{counts}{test}: it finds no difference, which does not show that both are equally good."


def _samples(
    both: tuple[ReportedRun, ReportedRun],
    predictions: tuple[Predictions, Predictions],
    letters: tuple[str, str],
    root: str | None,
) -> Iterator[Html]:
    """Samples that only the one run predicts correctly, and samples that only the other does."""
    directions = [
        (predictions[0], predictions[1], (letters[0], letters[1]), disagreements(predictions[0], predictions[1])),
        (predictions[1], predictions[0], (letters[1], letters[0]), disagreements(predictions[1], predictions[0])),
    ]
    images: Images | None = None
    if both[0].has_images and any(len(places) for *_, places in directions):
        images, reason = find_images(both[0], predictions[0], root)
        if images is None:
            yield page.note(
                tag("p", f"The images are not shown, since the data cannot be opened: {reason}. The samples are named.")
            )
    for correct, wrong, (one, other), places in directions:
        heading = f"{one} correct, {other} wrong"
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
        description = f"Below each name: the class that {other} predicts, with its confidence, and the true class."
        yield page.figures([page.figure(picture_of(figure), f"{heading}: {len(places):,}", description, alone=True)])
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
        for n in places[:MAX_LISTED].tolist()
    ]
    one, other = letters
    head = ("sample", f"true, predicted by {one}", "confidence", f"predicted by {other}", "confidence")
    shown = page.table(head, rows, (2, 4))
    if len(places) <= MAX_LISTED:
        return shown
    return page.join([shown, tag("p", f"The first {MAX_LISTED} of {len(places):,}.", class_="same")])


def _confidence(confidence: float) -> str:
    return f"{100 * confidence:.1f} %" if np.isfinite(confidence) else ABSENT
