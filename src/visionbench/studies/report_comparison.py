"""Comparisons on a study's page: what the defects did to the numbers, and which cells are best."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.studies.expand import mode_of_measure
from visionbench.studies.report_contents import (
    ABSENT,
    Contents,
    Group,
    cell_name,
    deviation,
    listed,
    main_measure,
    measure_words,
    number,
    p_text,
    signed,
    with_deviation,
)
from visionbench.studies.spec import MINIMIZED, SECONDS, TEST_AS_VALIDATION, Stage, is_share
from visionbench.studies.statistics import (
    LEVEL,
    BestSet,
    Spread,
    best_and_indistinguishable,
    difference_interval,
    fold_test,
    holm,
    paired_test,
    pooled_spread,
    seeds_to_separate,
)
from visionbench.studies.tables import POINTS, CellRuns, Measured, distinct
from visionbench.text import counted

# Largest number of cells that a sentence names.
MAX_NAMED = 6
# Number of seeds below which the paired test is called weak: with four, its t has three degrees of freedom.
FEWEST_SEEDS = 5
# Evaluations that a defect replaced, by the word of the defect: the one that was made, and the right one.
MEASURED_OTHERWISE = {"augmented_validation": ("augmented_val/acc", "val/acc")}

Pair = tuple[Measured, Measured]
"""A value of the protocol with defects, and the same one of the protocol without."""


def defects(contents: Contents) -> Iterator[Html]:
    """Says what each defect is, and what the defects of a protocol did to the numbers.

    Args:
        contents: Contents of the report.
    """
    protocols = contents.study.protocols.values()
    for protocol in protocols:
        if not protocol.defects:
            continue
        yield tag("h3", f"Defects of protocol {protocol.name}")
        yield tag("ul", *(_defect(contents, word, sentence) for word, sentence in protocol.defects.items()))
        if protocol.changes:
            changed = [f"{measure_words(measure)} ({word})" for measure, word in protocol.changes.items()]
            yield tag("p", f"A defect changes what these measures mean: {listed(changed)}.")
        for other in protocols:
            if other.name != protocol.name and not other.defects:
                yield from _effect_of_defects(contents, protocol.name, other.name)


def _defect(contents: Contents, word: str, sentence: str) -> Html:
    text = f": {sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence}."
    made, right = MEASURED_OTHERWISE.get(word, ("", ""))
    pairs = [(row.value(made), row.value(right)) for row in contents.finished] if made else []
    differences = [POINTS * (one - other) for one, other in pairs if one is not None and other is not None]
    if differences:
        mean = sum(differences) / len(differences)
        text += (
            f" In {counted(len(differences), 'run')}, {measure_words(made)} minus {measure_words(right)} of the same "
            f"network is {signed(made, mean)} points on average ({signed(made, min(differences))} to "
            f"{signed(made, max(differences))})."
        )
    return tag("li", tag("code", word), text)


def _effect_of_defects(contents: Contents, with_defects: str, without: str) -> Iterator[Html]:
    pairs = [
        pair for stage in contents.study.stages.values() for pair in _pairs(contents, stage, with_defects, without)
    ]
    if not pairs:
        reason = f"{with_defects} and {without} have no finished cell in common."
        if _validates_on_test(contents, with_defects):
            reason = (
                f"What {with_defects} calls validation is of the test samples, so that only a test of {without} can be "
                "compared with it; no cell has both."
            )
        yield tag("p", reason)
        yield from _single_cells(contents, with_defects, without)
        return
    if all({row.id for row in one.rows} == {row.id for row in other.rows} for one, other in pairs):
        yield tag(
            "p",
            f"{with_defects} and {without} share all these trainings, so that the same measure has the same value in "
            "both.",
        )
        return
    if all(one.values == other.values for one, other in pairs):
        yield tag("p", f"All values of {with_defects} and {without} are equal: the defects changed no number.")
        return
    other_losses = _other_losses(contents, with_defects, without)
    compared = [pair for pair in pairs if not (other_losses and _is_loss(pair[0].measure))]
    together = ""
    if len(contents.study.protocols[with_defects].defects) > 1:
        together = " The defects act together: what each one does alone is not known."
    yield tag(
        "p",
        f"The cells with the defects ({with_defects}) and without ({without}): means over cells and seeds, accuracies "
        f"in percent, differences in points.{together}",
    )
    if other_losses:
        yield tag("p", f"Losses are not compared, since the protocols minimize different ones: {other_losses}.")
    if not compared:
        return
    head = (
        "",
        with_defects,
        without,
        f"{with_defects} minus {without}",
        "from smallest to largest",
        "clearly different",
    )
    yield tag("div", page.table(head, _effect_rows(compared), (1, 2, 3)), class_="effects")
    yield tag(
        "p",
        "Clearly different: p < 0.05 in the paired t-test on the same seeds, with Holm's correction for all tests of "
        "this table.",
        class_="source",
    )


def _pairs(contents: Contents, stage: Stage, with_defects: str, without: str) -> list[Pair]:
    entries = [entry for entry in contents.of_stage(stage.name) if entry.values and entry.measure != SECONDS]
    # Where each protocol chose one cell of its own, the two cells are compared.
    chosen = stage.best_of is not None and all(len(group.cells) <= 1 for group in contents.groups[stage.name])

    swapped = _validates_on_test(contents, with_defects) and not _validates_on_test(contents, without)

    cells = [cell for group in contents.groups[stage.name] for cell in group.cells]
    last = max((row.epochs or 0 for cell in cells for row in cell.rows), default=0) if stage.last_epoch else None

    def place(entry: Measured) -> tuple[Any, ...]:
        measure, epoch = entry.measure, entry.epoch
        if swapped and entry.protocol == with_defects:  # the same images are the test images of the other protocol
            measure = re.sub(r"\bval/", "test/", re.sub(r"\btest/", "/", measure))  # not train_eval/
            epoch = None if epoch == last else epoch  # a test is of the result
        return (() if chosen else tuple(entry.cell.items()), epoch, measure)

    others = {place(entry): entry for entry in entries if entry.protocol == without}
    return [(e, others[place(e)]) for e in entries if e.protocol == with_defects and place(e) in others]


def _validates_on_test(contents: Contents, protocol: str) -> bool:
    return TEST_AS_VALIDATION in contents.study.protocols[protocol].defects


def _is_loss(measure: str) -> bool:
    return measure == MINIMIZED or measure.endswith("/loss")


def _other_losses(contents: Contents, with_defects: str, without: str) -> str:
    """Losses that the protocols minimize, where they are different ones; else empty."""
    by_protocol: dict[str, set[str]] = {with_defects: set(), without: set()}
    for run in contents.plan.runs.values():
        model = run.config.get("model")
        loss = (model.get("init_args") or {}).get("loss") if isinstance(model, Mapping) else None
        for protocol in by_protocol.keys() & set(run.protocols):
            by_protocol[protocol].add(str(loss or "the default of the model"))
    if by_protocol[with_defects] == by_protocol[without]:
        return ""
    return listed([f"{listed(sorted(losses))} in {protocol}" for protocol, losses in by_protocol.items()])


def _effect_rows(pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    by_measure: dict[tuple[str, str], list[tuple[Pair, float | None]]] = {}
    for pair, p_value in zip(pairs, _corrected_p_values(pairs), strict=True):
        by_measure.setdefault((pair[0].stage, pair[0].measure), []).append((pair, p_value))
    rows = []
    for (stage, measure), found in by_measure.items():
        group = [pair for pair, _ in found]
        differences = [((one.mean or 0.0) - (other.mean or 0.0), _name(one)) for one, other in group]
        means = [sum(entry.mean or 0.0 for entry in side) / len(group) for side in zip(*group, strict=True)]
        tested = [p_value for _, p_value in found if p_value is not None]
        name = f"{stage}: {measure_words(measure)}"
        if group[0][1].measure != measure:
            name += f" of the test samples; {measure_words(group[0][1].measure)}"
        if group[0][0].cell != group[0][1].cell:
            name += f" ({_name(group[0][0])}; {_name(group[0][1])})"
        ends = [f"{signed(measure, d)} ({label})" for d, label in (min(differences), max(differences))]
        rows.append(
            (
                name,
                *(number(measure, mean) for mean in means),
                signed(measure, sum(d for d, _ in differences) / len(differences)),
                " to ".join(ends) if len(group) > 1 else ABSENT,
                f"{sum(p_value < LEVEL for p_value in tested)} of {len(tested)}" if tested else ABSENT,
            )
        )
    return rows


def _name(entry: Measured) -> str:
    return cell_name(entry.cell, entry.stage, entry.epoch)


def _corrected_p_values(pairs: Sequence[Pair]) -> list[float | None]:
    """P-value of each pair after Holm's correction; `None` where fewer than two seeds are shared."""
    raw: list[float | None] = []
    for one, other in pairs:
        seeds = [seed for seed in one.values if seed in other.values]
        first, second = ([entry.values[seed] for seed in seeds] for entry in (one, other))
        raw.append(paired_test(first, second).p_value if len(seeds) > 1 else None)
    corrected = iter(holm([p for p in raw if p is not None]))
    return [None if p is None else next(corrected) for p in raw]


def _single_cells(contents: Contents, with_defects: str, without: str) -> Iterator[Html]:
    """Results of the stages with a single cell, for protocols without a cell in common."""
    rows = []
    for stage in contents.study.stages.values():
        measure = main_measure(contents, stage)
        for group in contents.groups[stage.name] if measure is not None else []:
            values = list(group.cells[0].values(measure or "").values()) if len(group.cells) == 1 else []
            if values and {with_defects, without} & set(group.protocols):
                mean = mean_text(measure or "", values)
                rows.append((stage.name, group.name, measure_words(measure or ""), mean))
    if rows:
        yield tag("p", "The results of the stages with a single cell, accuracies in percent:")
        yield page.table(("stage", "protocol", "measure", "mean ± standard deviation"), rows, (3,))


def mean_text(measure: str, values: Sequence[float]) -> str:
    """Mean ± standard deviation of some values as text.

    Args:
        measure: Measure.
        values: Values, at least one: points for shares.
    """
    return with_deviation(measure, sum(values) / len(values), deviation(values))


# Best cells


@dataclass(frozen=True)
class _Ranking:
    """The cells of a stage in a protocol, by one measure.

    Attributes:
        measure: Measure.
        values: Value of each seed, by the name of the cell; cells without a finished seed are left out.
        missing: Names of the cells without a finished seed.
        spreads: Spread of each cell.
        best: Best cell and those that it cannot be distinguished from.
        folds: Value of each fold, the mean over the seeds, by the name of the cell; empty for a stage without folds,
            and for cells of which a run is missing.
        held_out: Number of samples that a fold is measured on, divided by that of its training samples; `None` where
            it is not known.
    """

    measure: str
    values: dict[str, dict[int, float]]
    missing: list[str]
    spreads: dict[str, Spread]
    best: BestSet[str]
    folds: dict[str, dict[int, float]]
    held_out: float | None

    def mean(self, name: str) -> float:
        """Mean over the seeds of a cell."""
        return sum(self.values[name].values()) / len(self.values[name])

    def text(self, name: str) -> str:
        """Mean ± standard deviation of a cell."""
        return mean_text(self.measure, list(self.values[name].values()))

    @property
    def is_constant(self) -> bool:
        """Whether every run of every cell has the same value."""
        return len({value for by_seed in self.values.values() for value in by_seed.values()}) == 1

    @property
    def mode(self) -> Literal["max", "min"]:
        """Whether the greatest or the smallest mean is best."""
        return mode_of_measure(self.measure)


def best_cells(contents: Contents) -> Iterator[Html]:
    """Names the best cell of each stage with several cells, and those that it cannot be distinguished from.

    Args:
        contents: Contents of the report.
    """
    for heading, ranking in _rankings(contents):
        yield tag("h3", heading)
        yield tag("p", *_sentences(ranking))
        if not ranking.is_constant:
            yield page.fold("All comparisons with the best cell", *_comparisons(ranking))


def best_lines(contents: Contents) -> Iterator[str]:
    """Says what `best_cells` says, for a terminal.

    Args:
        contents: Contents of the report.
    """
    for heading, ranking in _rankings(contents):
        yield f"{heading}: {''.join(_sentences(ranking))}"


def single_lines(contents: Contents) -> Iterator[str]:
    """Gives the value of each stage with a single cell, such as that of the chosen cell on the test samples.

    Args:
        contents: Contents of the report.
    """
    for stage in contents.study.stages.values():
        measure = main_measure(contents, stage)
        for group in contents.groups[stage.name] if measure is not None else []:
            if len(group.cells) != 1 or not (values := list(group.cells[0].values(measure or "").values())):
                continue
            samples = group.cells[0].samples((measure or "").partition("/")[0])
            within = f", {counted(samples, 'sample')}" if samples else ""
            protocol = "" if contents.is_plain else f", {group.name}"
            yield (
                f"{stage.name}{protocol}: {measure_words(measure or '')} {mean_text(measure or '', values)} over "
                f"{counted(len(values), 'seed')}{within}"
            )


def _rankings(contents: Contents) -> Iterator[tuple[str, _Ranking]]:
    """The stages with several cells, by protocol: a heading and the order of the cells."""
    for stage in contents.study.stages.values():
        measure = main_measure(contents, stage)
        for group in contents.groups[stage.name] if measure is not None else []:
            ranking = _ranking(group, stage, measure or "")
            if ranking is not None:
                protocol = "" if contents.is_plain else f", {group.name}"
                yield f"{stage.name}{protocol}: by {measure_words(ranking.measure)}", ranking


def _ranking(group: Group, stage: Stage, measure: str) -> _Ranking | None:
    named = _by_name(group, stage, measure)
    by_cell = {name: cell.values(measure) for name, cell in named.items()}
    # The seeds that all cells have, so that each counts alike; of a single one the pooled spread is all that compares.
    counted_seeds = stage.seeds if len(stage.seeds) > 1 else (*stage.seeds, *stage.more_seeds)
    by_seeds = {
        name: {seed: value for seed, value in of_cell.items() if seed in counted_seeds}
        for name, of_cell in by_cell.items()
    }
    values = {name: by_seed for name, by_seed in by_seeds.items() if by_seed}
    if len(values) < 2:
        return None
    spreads = pooled_spread({name: list(by_cell[name].values()) for name in values})
    best = best_and_indistinguishable(values, mode_of_measure(measure), spreads)
    missing = [name for name in by_cell if name not in values]
    folds = {name: _by_fold(cell, measure) for name, cell in named.items()}
    complete = {name: by_fold for name, by_fold in folds.items() if by_fold}
    return _Ranking(measure, values, missing, spreads, best, complete, _held_out(group, measure))


def _by_name(group: Group, stage: Stage, measure: str) -> dict[str, CellRuns]:
    """The cells that count by their names, which have the names of axes where two would be alike."""
    cells = distinct(group.cells, measure)
    names = [cell_name(cell.cell, stage.name) for cell in cells]
    if len(set(names)) < len(names):
        names = [", ".join(f"{axis} {label}" for axis, label in cell.cell.items()) or stage.name for cell in cells]
    return dict(zip(names, cells, strict=True))


def _held_out(group: Group, measure: str) -> float | None:
    """Number of samples that a run is measured on for each training sample, over all runs; `None` if not known."""
    split = measure.rpartition(" ")[2].partition("/")[0]
    counts = [(row.counts.get(split, 0), row.counts.get("train", 0)) for cell in group.cells for row in cell.rows]
    measured, trained = (sum(side) for side in zip(*counts, strict=True)) if counts else (0, 0)
    return measured / trained if measured and trained else None


def _by_fold(cell: CellRuns, measure: str) -> dict[int, float]:
    """Value of each fold, the mean over the seeds; empty where a run is missing."""
    found: dict[int, list[float]] = {}
    for row in cell.rows:
        if (value := row.value(measure)) is not None and row.fold is not None:
            found.setdefault(row.fold, []).append(value * POINTS if is_share(measure) else value)
    is_complete = sum(map(len, found.values())) == sum(cell.planned.values())
    return {fold: sum(values) / len(values) for fold, values in sorted(found.items())} if is_complete else {}


def _sentences(ranking: _Ranking) -> list[str]:
    best = ranking.best
    if ranking.is_constant:
        value = number(ranking.measure, ranking.mean(best.best))
        parts = [f"No cell is best: every run of every cell gave {value}."]
    else:
        seeds = counted(len(ranking.values[best.best]), "seed")
        parts = ["Best: ", best.best, f" ({ranking.text(best.best)} over {seeds})"]
        if best.ties:
            parts.append(f"; cannot be distinguished from {_names(best.ties)}.{_tie(ranking)}")
        else:
            parts.append("." if best.undecided else _better(ranking))
    if best.undecided:
        parts.append(f" Not compared, for lack of runs: {_names(best.undecided)}.")
    if ranking.missing:
        parts.append(f" Without a finished seed: {_names(ranking.missing)}.")
    return parts


def _better(ranking: _Ranking) -> str:
    """Says by how much the best cell is better than the next one, and how clear that is."""
    best, p_values = ranking.best.best, ranking.best.p_values
    second = (max if ranking.mode == "max" else min)(p_values, key=ranking.mean)
    p, next_one = f"p = {max(p_values.values()):.2g}", f"{second} ({ranking.text(second)})"
    difference, ends = _difference(ranking, second)
    interval = f"95 % interval {ends}" if ends else ""
    if len(p_values) > 1:
        others = f"every other cell ({p} at most), than the next one, {next_one}"
        within = f" ({interval})" if interval else ""
    else:
        others, within = next_one, f" ({interval}; {p})" if interval else f" ({p})"
    text = f"; better on these samples than {others}, by {difference}{within}."
    by_folds = _fold_p_values(ranking)
    if by_folds.keys() == p_values.keys():
        highest = max(by_folds.values())
        test = f"the t-test over {len(ranking.folds[best])} folds gives p = {highest:.2g}"
        text += (
            f" For other samples of the same kind this is shown too: {test}."
            if highest < LEVEL
            else f" For other samples of the same kind it is not shown: {test}; more folds make this test sharper."
        )
    return text


def _difference(ranking: _Ranking, name: str) -> tuple[str, str]:
    """By how much the best cell is better than another one, and its interval; of seeds that both have, if two or more.

    The interval is empty where they share fewer.
    """
    best, other = ranking.values[ranking.best.best], ranking.values[name]
    seeds = [seed for seed in best if seed in other]
    unit = " points" if is_share(ranking.measure) else ""
    if len(seeds) < 2:
        return number(ranking.measure, abs(ranking.mean(ranking.best.best) - ranking.mean(name))) + unit, ""
    difference = abs(sum(best[seed] - other[seed] for seed in seeds)) / len(seeds)
    if _is_same_difference(best, other, seeds):
        return number(ranking.measure, difference) + unit, ""  # the t-distribution gives such differences no interval
    low, high = difference_interval([other[seed] for seed in seeds], [best[seed] for seed in seeds])
    if ranking.mode == "min":  # "by" says how much smaller it is
        low, high = -high, -low
    interval = f"{number(ranking.measure, low)} to {number(ranking.measure, high)}"
    return number(ranking.measure, difference) + unit, interval


def _is_same_difference(first: Mapping[int, float], second: Mapping[int, float], seeds: Sequence[int]) -> bool:
    """Whether two cells differ by the same amount with each of several seeds."""
    differences = [first[seed] - second[seed] for seed in seeds]
    return len(seeds) > 1 and all(math.isclose(entry, differences[0], abs_tol=1e-9) for entry in differences)


def _fold_p_values(ranking: _Ranking) -> dict[str, float]:
    """P-value of each other cell for other samples, after Holm's correction; empty without folds."""
    best = ranking.folds.get(ranking.best.best, {})
    found = {
        name: fold_test(list(best.values()), list(of_cell.values()), ranking.held_out)
        for name, of_cell in ranking.folds.items()
        if name != ranking.best.best and of_cell.keys() == best.keys()
    }
    return dict(zip(found, holm(list(found.values())), strict=True))


def _names(names: Sequence[str]) -> str:
    if len(names) > MAX_NAMED + 1:
        return f"{'; '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} others"
    return "; ".join(names) if any("," in name for name in names) else listed(names)


def _tie(ranking: _Ranking) -> str:
    """What is known of the difference from the best of those cells that the best one cannot be distinguished from."""
    best = ranking.best.best
    equal = [name for name in ranking.best.ties if math.isclose(ranking.mean(name), ranking.mean(best))]
    others = [name for name in ranking.best.ties if name not in equal]
    same = f" With the same mean: {_names(equal)}." if equal else ""
    if not others:
        return same
    second = (max if ranking.mode == "max" else min)(others, key=ranking.mean)
    seeds = [seed for seed in ranking.values[best] if seed in ranking.values[second]]
    sd = None
    if len(seeds) < 2:  # nothing tells how two runs with one seed differ: they are taken as independent
        both = [ranking.spreads[name].sd for name in (best, second)]
        if not seeds or any(value is None for value in both):
            return same
        sd = sum((value or 0.0) ** 2 for value in both) ** 0.5
    first, other = ([ranking.values[name][seed] for seed in seeds] for name in (best, second))
    difference, ends = _difference(ranking, second)
    within = f" (95 % interval {ends})" if ends else ""
    few = (
        f" {len(seeds)} seeds make a weak test, in which the larger of two differences may have the larger p."
        if 2 <= len(seeds) < FEWEST_SEEDS
        else ""
    )
    below = sorted(ranking.mean(name) for name in ranking.values if name not in (best, *equal))
    is_next = ranking.mean(second) == below[0 if ranking.mode == "min" else -1]
    next_one = ", the next one," if is_next else ""  # one with a better mean may be told from the best one
    known = f"{same} Its mean is better than that of {second}{next_one} by {difference}{within}.{few}"
    if _is_same_difference(ranking.values[best], ranking.values[second], seeds):
        return f"{known} Each of the {len(seeds)} seeds has this difference, and that alone cannot tell it from chance."
    wanted = seeds_to_separate(first, other, sd)
    if wanted is None:
        return f"{known} No number of seeds that can be trained would distinguish it from {second}."
    if wanted == 0:
        return f"{known} The seeds would distinguish it from {second} alone, but not in all comparisons of this table."
    return (
        f"{known} If this difference is as large as it looks, about {counted(wanted, 'more seed')} would show it; "
        "their number is to be chosen once, before their results are known."
    )


def _comparisons(ranking: _Ranking) -> Iterator[Html]:
    """Table of each cell against the best one, the best ones first."""
    best = ranking.best
    order = sorted(ranking.values, key=ranking.mean, reverse=ranking.mode == "max")
    order.remove(best.best)
    by_folds, rows = _fold_p_values(ranking), []
    for name in [best.best, *order]:
        difference = signed(ranking.measure, ranking.mean(name) - ranking.mean(best.best))
        ends = "" if name == best.best else _difference(ranking, name)[1]
        rows.append(
            (
                name,
                ranking.text(name),
                f"{len(ranking.values[name])}",
                ABSENT if name == best.best else difference,
                ends or ABSENT,
                *(p_text(p_values.get(name)) for p_values in (best.p_values, by_folds)[: 2 if by_folds else 1]),
            )
        )
    head = ["cell", "mean ± standard deviation", "seeds", "minus the best", "best better by (95 %)", "p"]
    head += ["p, other samples"] if by_folds else []
    yield page.table(head, rows, range(1, len(head)))
    chance = " The seeds vary the training alone: on other samples the order of the cells may be another one."
    if by_folds:
        chance = (
            " The seeds vary the training alone, on the same samples. For other samples: the t-test over the folds, "
            "whose variance is raised since their training sets share samples (Nadeau and Bengio, 2003), with Holm's "
            "correction too."
        )
    yield tag(
        "p",
        "p: paired t-test on the seeds that both cells have, or the t-test with the pooled spread where they share "
        "fewer than two, with Holm's correction for all comparisons of this table. Where a pair of cells "
        "has the same difference for each seed, the t-test has no p, and that of the permutation of signs stands."
        + chance,
        class_="source",
    )
