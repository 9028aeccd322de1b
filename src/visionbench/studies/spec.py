"""A study file, read and checked: every mistake is one sentence."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import yaml

from visionbench.config.run_files import yaml_mistake
from visionbench.errors import UserError
from visionbench.studies.figure_words import FigureRequest, figure_request
from visionbench.studies.search import TRIAL, Range, Search

KEYS = {
    *("title", "source", "seeds", "choices", "base", "grid", "needs", "protocols", "stages", "published", "judged"),
    *("tolerance", "figures"),
}
PROTOCOL_KEYS = {"defects", "changes", "set", "chosen"}
STAGE_KEYS = {
    *("grid", "cells", "set", "result", "test", "protocols", "seeds", "more_seeds", "folds", "evaluate", "every"),
    *("best_of", "by", "over", "continue", "search"),
}
SEARCH_KEYS = {"over", "trials", "sampler", "at_once", "by", "seed", "prune_after"}
SEARCH_COUNTS = {"trials": 20, "at_once": 4}
RANGE_KEYS = {"low", "high", "log", "integer", "values"}
MORE_SEEDS_KEYS = {"seeds", "cells"}
# Options that a study gives each run itself, with the keys of a study file that say their values.
GIVEN_BY_KEYS = {"seed_everything": "seeds", "test_after_fit": "test of the stage"}
NEED_KEYS = {"study", "protocol", "stage", "cell", "epoch"}
EVALUATIONS = ("train_eval", "before", "augmented_val")
# Defects that `allow` of fit knows. The package of guards imports torch, which a study file does not need.
GUARD_WORDS = frozenset(
    {
        *("augmented_validation", "broadcast_loss", "double_softmax", "foreign_parameters", "frozen_in_train_mode"),
        *("missing_log", "non_finite_loss", "one_column_argmax", "regression_loss", "single_sample_batch_norm"),
        *("test_as_validation", "train_as_test", "unscaled_inputs"),
    }
)
# Similarity from which the word of a defect is taken for one of them, written wrong.
SLIP = 0.75
# The defect that validates on the test images.
TEST_AS_VALIDATION = "test_as_validation"
# Words of columns that are no metric.
EPOCH, SECONDS, MINIMIZED = "epoch", "seconds", "minimized"
# A published value that is not legible, or not given.
NOT_GIVEN = "-"
# Beginning of the measures that the test samples give.
TESTED = "test/"

Cell = dict[str, str]
"""Label of each axis."""


@dataclass(frozen=True)
class Need:
    """A run of another study, whose checkpoint a stage starts from.

    Attributes:
        study: Id of the other study.
        protocol: Protocol of the run.
        stage: Stage of the run.
        cell: Cell of the run.
        epoch: Checkpoint: `last` or `best`.
    """

    study: str
    protocol: str
    stage: str
    cell: Cell = field(default_factory=dict)
    epoch: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class Protocol:
    """One way to make and measure the runs.

    Attributes:
        name: Name, such as `reported` or `corrected`.
        defects: Sentence of each defect that the protocol repeats, by its word; runs allow the words that `allow` of
            `fit` knows.
        changes: Word of the defect that changes what a measure means, by measure.
        set: Options for all stages.
        chosen: Cell that the report chose, by stage.
    """

    name: str
    defects: dict[str, str] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A set of cells that are trained alike.

    Attributes:
        name: Name.
        cells: Cells; one empty cell where the stage has no grid, and none where it takes its cell from `best_of`, or
            its cells from `continues` or `search`.
        set: Options of the stage.
        last_epoch: Whether the last epoch is the result, although a validation is watched.
        test: Whether the result is tested.
        protocols: Names of the protocols that have the stage.
        seeds: Seeds of each cell; where cells are compared to choose one, these alone count.
        more_seeds: Further seeds.
        more_seeds_of: Cells that are trained with the further seeds too, for the spread over seeds.
        folds: Number of folds, each of which is held out by one run; `None` without folds.
        evaluate: Names of further evaluations.
        every: When they are made: after each epoch, or at the end.
        best_of: Stage whose best cell is the cell of this stage.
        by: Measure that chooses it.
        over: Whether the mean over all seeds chooses one cell, or each seed chooses its own.
        continues: Stage whose runs are resumed.
        search: How the stage finds its cells.
    """

    name: str
    cells: tuple[Cell, ...]
    set: dict[str, Any] = field(default_factory=dict)
    last_epoch: bool = False
    test: bool = False
    protocols: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    more_seeds: tuple[int, ...] = ()
    more_seeds_of: tuple[Cell, ...] = ()
    folds: int | None = None
    evaluate: tuple[str, ...] = ()
    every: Literal["epoch", "end"] = "end"
    best_of: str | None = None
    by: str = "val/acc"
    over: Literal["seeds", "each seed"] = "seeds"
    continues: str | None = None
    search: Search | None = None

    def seeds_of(self, cell: Cell) -> tuple[int, ...]:
        """Gives the seeds of a cell.

        Args:
            cell: Cell of the stage.
        """
        return self.seeds + (self.more_seeds if cell in self.more_seeds_of else ())


@dataclass(frozen=True)
class PublishedRow:
    """A row of the published table.

    Attributes:
        cell: Labels of the axes that the row names.
        epoch: Epoch whose values these are, 0 before training; `None` for the values of the result.
        values: Printed values by measure, as text.
    """

    cell: Cell
    epoch: int | None
    values: dict[str, str]


@dataclass(frozen=True)
class Study:
    """A published table, how its runs are made and when its values count as reproduced.

    Attributes:
        path: File.
        title: Title.
        source: Source of the published values; empty where there is none.
        seeds: Seeds of each cell.
        choices: Choices that the source leaves open.
        base: Run file that all runs start from.
        grid: Options that each label of each axis sets.
        needs: Runs of other studies, by the word that stands for their checkpoint.
        protocols: Protocols by name.
        stages: Stages by name, in their order.
        published_protocol: Protocol of the published values.
        published: Published rows by stage.
        judged: Judged measures by stage.
        tolerance: Tolerance by measure; the empty name holds that of all others.
        figures: Figures that the page has besides the usual ones, by stage.
    """

    path: Path
    title: str
    source: str
    seeds: tuple[int, ...]
    choices: tuple[str, ...]
    base: dict[str, Any]
    grid: dict[str, dict[str, dict[str, Any]]]
    needs: dict[str, Need]
    protocols: dict[str, Protocol]
    stages: dict[str, Stage]
    published_protocol: str
    published: dict[str, tuple[PublishedRow, ...]]
    judged: dict[str, tuple[str, ...]]
    tolerance: dict[str, float]
    figures: dict[str, tuple[FigureRequest, ...]]

    @property
    def id(self) -> str:
        """Id: the name of the file."""
        return self.path.stem

    @property
    def module(self) -> Path:
        """Python file beside the study, which need not exist: models and data sets of this study alone."""
        return self.path.with_name(self.id.replace("-", "_") + ".py")

    @property
    def idle_axes(self) -> list[str]:
        """Axes of the grid that no stage names, so that their labels set nothing."""
        named = {axis for stage in self.stages.values() for cell in stage.cells for axis in cell}
        return [axis for axis in self.grid if axis not in named]

    def tolerance_of(self, measure: str) -> float:
        """Tolerance of a measure: points for shares, units of the measure for the others."""
        return self.tolerance.get(measure, self.tolerance[""])


def load_study(path: str | Path) -> Study:
    """Reads a study file.

    Args:
        path: File, or the id of a study in `configs/studies`.

    Raises:
        UserError: The file cannot be read, or something in it is not as a study file has it.
    """
    path = Path(path)
    if not path.is_file() and path.suffix == "" and (named := Path("configs/studies") / f"{path}.yaml").is_file():
        path = named
    if not path.is_file():
        shipped = sorted(file.stem for file in Path("configs/studies").glob("*.yaml"))
        close = difflib.get_close_matches(path.stem, shipped, n=1)
        hint = f"did you mean {close[0]}?" if close else "visionbench study list shows those that there are."
        raise UserError(f"There is no study file {path}; {hint}")
    try:
        text = path.read_text(encoding="utf-8")
        return _Reader(path, _plain(text), _plain(text, as_text=True)).study()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
    except yaml.YAMLError as error:
        raise UserError(yaml_mistake(error, text, str(path))) from error
    except _Mistake as mistake:
        raise UserError(f"{path}: {mistake}") from None


def is_share(measure: str) -> bool:
    """Whether a measure is a share, which is printed in percent: accuracies and the like."""
    name = measure.partition("/")[2] or measure  # a class may have a slash in its name, as in f1_T-shirt/top
    return name in ("acc", "balanced_accuracy", "macro_f1", "auc") or name.startswith("f1_")


def is_measure(word: str) -> bool:
    """Whether a word names something that a run measures."""
    bare = word.removeprefix("max ").removeprefix("min ").removeprefix("step ")
    return word in (SECONDS, MINIMIZED) or ("/" in bare and " " not in bare)


class _Mistake(Exception):
    """What is wrong in a study file, without the file's name."""


class _TextKeys(yaml.SafeLoader):  # type: ignore[misc]
    """Reads keys as they are written, since `no`, `0.20` and `1` are labels.

    A key that is there twice, or that is a list or a mapping, is refused.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                start, kind = key.start_mark, "list" if isinstance(key, yaml.SequenceNode) else "mapping"
                found = " ".join(start.buffer[start.pointer : key.end_mark.pointer].split())
                raise _Mistake(f"line {start.line + 1} has the {kind} {found} as a key, expected a text; quote it.")
        keys = [key.value for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                line = node.value[place][0].start_mark.line + 1
                raise _Mistake(f"{key} stands twice in one mapping (line {line}); rename or remove one.")
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


class _AllText(yaml.BaseLoader):  # type: ignore[misc]
    """Reads every value as it is written, so that 97.80 keeps its zero."""


_TextKeys.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node))


def _plain(text: str, as_text: bool = False) -> Any:
    return yaml.load(text, _AllText if as_text else _TextKeys)


class _Reader:
    """Turns the content of a study file into a `Study`.

    Args:
        path: File.
        content: Content, its values in YAML's types.
        text: Content, its values as text.
    """

    def __init__(self, path: Path, content: Any, text: Any) -> None:
        if not isinstance(content, dict):
            raise _Mistake("the file holds no mapping; see `visionbench study new`, which writes an example.")
        self.path, self.content, self.text = path, content, text
        _known(content, KEYS, "the file")
        self.grid = self._grid()
        self.seeds = self._seeds(content.get("seeds"), "seeds")

    def study(self) -> Study:
        # A comparison of models of one's own is from nobody.
        for key in ("title", *(["source"] if self.content.get("published") else []), "base", "stages"):
            if not self.content.get(key):
                raise _Mistake(f"{key} is missing; give it.")
        base = _mapping(self.content["base"], "base")
        for part in ("data", "model"):
            if part not in base:
                raise _Mistake(f"base has no {part}; give its class_path and init_args, as in a run file.")
        protocols = self._protocols()
        stages = self._stages(protocols)
        self._check_chosen(stages, protocols)
        published_protocol, published = self._published(stages, protocols)
        self._check_changes(protocols, published)
        judged = self._judged(published, stages, protocols[published_protocol])
        needs = self._needs()
        return Study(
            path=self.path,
            title=_text(self.content["title"], "title"),
            source=_text(self.content["source"], "source") if self.content.get("source") else "",
            seeds=self.seeds,
            choices=tuple(_text(entry, "choices") for entry in _sequence(self.content.get("choices") or [], "choices")),
            base=base,
            grid=self.grid,
            needs=needs,
            protocols=protocols,
            stages=stages,
            published_protocol=published_protocol,
            published=published,
            judged=judged,
            tolerance=self._tolerance(published, judged),
            figures=self._figures(stages),
        )

    def _grid(self) -> dict[str, dict[str, dict[str, Any]]]:
        grid = {}
        for axis, labels in _mapping(self.content.get("grid") or {}, "grid").items():
            if axis == EPOCH or is_measure(axis):
                raise _Mistake(f"grid.{axis}: an axis cannot be called as a column of measured values; rename it.")
            labels = _mapping(labels, f"grid.{axis}")
            if not labels:
                raise _Mistake(f"grid.{axis} has no label; give one or more.")
            grid[axis] = {label: self._options(what, "grid", axis, label) for label, what in labels.items()}
        return grid

    def _protocols(self) -> dict[str, Protocol]:
        protocols = {}
        given = _mapping(self.content.get("protocols") or {"reported": {}}, "protocols")
        for name, entry in given.items():
            where = f"protocols.{name}"
            entry = _mapping(entry or {}, where)
            _known(entry, PROTOCOL_KEYS, where)
            defects = _mapping(entry.get("defects") or {}, f"{where}.defects")
            changes = _mapping(entry.get("changes") or {}, f"{where}.changes")
            for word in defects.keys() - GUARD_WORDS:
                if close := difflib.get_close_matches(word, GUARD_WORDS, n=1, cutoff=SLIP):
                    raise _Mistake(
                        f"{where}.defects has {word}, which no guard knows, so that it would change no run; did you "
                        f"mean {close[0]}?"
                    )
            for measure, word in changes.items():
                if word not in defects:
                    raise _Mistake(f"{where}.changes.{measure} is {word}, which is not among the defects there.")
            chosen = {}
            if entry.get("chosen") is not None:
                chosen = _mapping(self.text["protocols"][name]["chosen"], f"{where}.chosen")
            protocols[name] = Protocol(
                name,
                {word: _text(sentence, f"{where}.defects.{word}") for word, sentence in defects.items()},
                {measure: str(word) for measure, word in changes.items()},
                self._options(entry.get("set"), "protocols", name, "set"),
                {stage: dict(_mapping(cell, f"{where}.chosen.{stage}")) for stage, cell in chosen.items()},
            )
        return protocols

    def _check_chosen(self, stages: Mapping[str, Stage], protocols: Mapping[str, Protocol]) -> None:
        for protocol in protocols.values():
            for stage, cell in protocol.chosen.items():
                where = f"protocols.{protocol.name}.chosen.{stage}"
                if stage not in stages or stages[stage].best_of is None:
                    raise _Mistake(f"{where}: there is no stage of this name with best_of.")
                self._check_cell(cell, where)

    def _check_changes(
        self, protocols: Mapping[str, Protocol], published: Mapping[str, Sequence[PublishedRow]]
    ) -> None:
        for protocol in protocols.values():
            for measure in protocol.changes:
                _published_measure(measure, published, f"protocols.{protocol.name}.changes")

    def _stages(self, protocols: Mapping[str, Protocol]) -> dict[str, Stage]:
        stages: dict[str, Stage] = {}
        for name, entry in _mapping(self.content["stages"], "stages").items():
            where = f"stages.{name}"
            entry = _mapping(entry or {}, where)
            _known(entry, STAGE_KEYS, where)
            ways = [key for key in ("grid", "cells", "best_of", "continue", "search") if entry.get(key) is not None]
            if len(ways) > 1:
                raise _Mistake(f"{where} has {ways[0]} and {ways[1]}; give only one of them.")
            for key in ("best_of", "continue"):
                if entry.get(key) is not None and entry[key] not in stages:
                    raise _Mistake(
                        f"{where}.{key} is {entry[key]}, which is no stage above it; {_meant(entry[key], stages)}"
                    )
            parent = stages[entry["continue"]] if entry.get("continue") is not None else None
            for key in ("seeds", "more_seeds", "folds") if parent is not None else ():
                if entry.get(key) is not None:
                    raise _Mistake(
                        f"{where} has {key}, but continues {entry['continue']}, whose {key} it has; remove it."
                    )
            if parent is not None and parent.search is not None and parent.search.prune_after is not None:
                raise _Mistake(
                    f"{where} continues {parent.name}, whose prune_after ends runs early; remove prune_after, or train "
                    "the best cell again with best_of."
                )
            if parent is not None and (entry.get("result", "best") != "best") != parent.last_epoch:
                raise _Mistake(
                    f"{where}.result is {entry.get('result', 'best')}, but it continues {parent.name}, whose result is "
                    f"{'last epoch' if parent.last_epoch else 'best'}; give both the same."
                )
            self._check_idle_keys(entry, where)
            names = tuple(_sequence(entry.get("protocols") or list(protocols), f"{where}.protocols"))
            _different(names, f"{where}.protocols")
            for protocol in names:
                if protocol not in protocols:
                    raise _Mistake(
                        f"{where}.protocols names {protocol}, which is not among the protocols; "
                        f"{_meant(protocol, protocols)}"
                    )
            seeds = self._seeds(entry["seeds"], f"{where}.seeds") if entry.get("seeds") is not None else self.seeds
            folds = entry.get("folds")
            if folds is not None and (not isinstance(folds, int) or isinstance(folds, bool) or folds < 2):
                raise _Mistake(f"{where}.folds is {folds}, expected an integer of 2 or more.")
            evaluate = tuple(_sequence(entry.get("evaluate") or [], f"{where}.evaluate"))
            for evaluation in evaluate:
                _one_of(evaluation, EVALUATIONS, f"{where}.evaluate")
            by = _text(entry.get("by", "val/acc"), f"{where}.by")
            if not is_measure(by) or by.rpartition(" ")[2].startswith(TESTED):
                raise _Mistake(f"{where}.by is {by}, expected a metric of the validation, such as val/acc.")
            _check_measure(f"{where}.by", by, "measure")
            cells = self._cells(name, entry)
            more_seeds, more_seeds_of = self._more_seeds(name, entry, seeds, cells)
            stages[name] = Stage(
                name=name,
                cells=cells,
                set=self._options(entry.get("set"), "stages", name, "set"),
                last_epoch=_one_of(entry.get("result", "best"), ("best", "last epoch"), f"{where}.result") != "best",
                test=_flag(entry.get("test", False), f"{where}.test"),
                protocols=names,
                seeds=parent.seeds if parent is not None else seeds,
                more_seeds=parent.more_seeds if parent is not None else more_seeds,
                more_seeds_of=parent.more_seeds_of if parent is not None else more_seeds_of,
                folds=parent.folds if parent is not None else folds,
                evaluate=evaluate,
                every="epoch"
                if _one_of(entry.get("every", "end"), ("epoch", "end"), f"{where}.every") == "epoch"
                else "end",
                best_of=entry.get("best_of"),
                by=by,
                over="seeds"
                if _one_of(entry.get("over", "seeds"), ("seeds", "each seed"), f"{where}.over") == "seeds"
                else "each seed",
                continues=entry.get("continue"),
                search=self._search(entry["search"], f"{where}.search") if entry.get("search") is not None else None,
            )
            self._check_seeds(stages[name], stages)
        return stages

    def _check_idle_keys(self, entry: Mapping[str, Any], where: str) -> None:
        """Refuses keys of a stage that would have no effect beside the others that it has."""
        if entry.get("over") is not None and entry.get("best_of") is None:
            raise _Mistake(f"{where} has over, but no best_of, whose cell it would choose; remove over.")
        if entry.get("every") is not None and not entry.get("evaluate"):
            raise _Mistake(f"{where} has every, but no evaluate, whose evaluations it is of; give evaluate too.")
        if entry.get("by") is not None and entry.get("search") is not None:
            raise _Mistake(
                f"{where} has by beside search; the search improves the by in its own mapping: move it there."
            )

    def _check_seeds(self, stage: Stage, stages: Mapping[str, Stage]) -> None:
        """Refuses a stage whose seeds choose a cell each, but have no runs that they could choose it by."""
        if stage.best_of is None or stage.over != "each seed":
            return
        own, others = sorted(stage.seeds), sorted(stages[stage.best_of].seeds)
        if own != others:
            raise _Mistake(
                f"stages.{stage.name} has over: each seed and the seeds {own}, but {stage.best_of}, whose best cells "
                f"it takes, has the seeds {others}; give both the same seeds, or write over: seeds."
            )

    def _cells(self, name: str, entry: Mapping[str, Any]) -> tuple[Cell, ...]:
        where = f"stages.{name}"
        if any(entry.get(key) is not None for key in ("best_of", "continue", "search")):
            return ()
        if entry.get("cells") is not None:
            return self._listed_cells(self.text["stages"][name]["cells"], f"{where}.cells")
        product: list[Cell] = [{}]
        axes = _sequence(entry.get("grid") or [], f"{where}.grid")
        _different(axes, f"{where}.grid")
        for axis in axes:
            if axis not in self.grid:
                raise _Mistake(f"{where}.grid names {axis}, which is no axis of grid; {_meant(axis, self.grid)}")
            product = [{**cell, axis: label} for cell in product for label in self.grid[axis]]
        return tuple(product)

    def _search(self, content: Any, where: str) -> Search:
        content = _mapping(content, where)
        _known(content, SEARCH_KEYS, where)
        options = _mapping(_given(content, "over", where), f"{where}.over")
        over = {}
        for name, entry in options.items():
            _check_free(name, f"{where}.over")
            if name in self.grid or name == TRIAL or " " in name or "," in name:
                raise _Mistake(f"{where}.over names {name!r}, expected the name of an option that is no axis of grid.")
            over[name] = self._range(entry, f"{where}.over.{name}")
        if not over:
            raise _Mistake(f"{where}.over has no option; give one or more.")
        by = _text(content.get("by", "val/acc"), f"{where}.by")
        if not is_measure(by) or by.rpartition(" ")[2].startswith(TESTED):
            raise _Mistake(f"{where}.by is {by}, expected a metric of the validation, such as val/acc.")
        _check_measure(f"{where}.by", by, "measure")
        sampler = _one_of(content.get("sampler", "random"), ("random", "tpe"), f"{where}.sampler")
        trials, at_once = (_count(content.get(key, value), f"{where}.{key}") for key, value in SEARCH_COUNTS.items())
        if content.get("prune_after") is not None:
            if not by.rpartition(" ")[2].startswith("val/"):
                raise _Mistake(f"{where} has prune_after, expected by to be a metric of the validation, not {by}.")
            if at_once >= trials:
                raise _Mistake(
                    f"{where} has prune_after, but proposes all {trials} trials at once, so that none is compared with "
                    "earlier ones; give a smaller at_once."
                )
        return Search(
            over=over,
            trials=trials,
            sampler="random" if sampler == "random" else "tpe",
            at_once=at_once,
            by=by,
            seed=self._seeds([content.get("seed", 0)], f"{where}.seed")[0],
            prune_after=(
                _count(content["prune_after"], f"{where}.prune_after")
                if content.get("prune_after") is not None
                else None
            ),
        )

    def _range(self, content: Any, where: str) -> Range:
        content = _mapping(content, where)
        _known(content, RANGE_KEYS, where)
        if "values" in content:
            values = tuple(_sequence(content["values"], f"{where}.values"))
            if len(values) < 2 or len(content) > 1:
                raise _Mistake(f"{where} has values, expected two or more of them and nothing else.")
            return Range(values=values)
        low, high = (_number(_given(content, key, where), f"{where}.{key}") for key in ("low", "high"))
        log, integer = (_flag(content.get(key, False), f"{where}.{key}") for key in ("log", "integer"))
        if low >= high or (log and low <= 0):
            least = "above 0 and " if log else ""
            raise _Mistake(
                f"{where} is from {low:g} to {high:g}, expected a low end that is {least}below the high one."
            )
        if integer and not (low.is_integer() and high.is_integer()):
            raise _Mistake(f"{where} is from {low:g} to {high:g}, expected whole numbers, since integer is true.")
        return Range(low, high, log, integer)

    def _listed_cells(self, content: Any, where: str) -> tuple[Cell, ...]:
        cells = [dict(_mapping(cell, where)) for cell in _sequence(content, where)]
        if not cells:
            raise _Mistake(f"{where} has no cell; give one or more.")
        for cell in cells:
            self._check_cell(cell, where)
        _different(cells, where)
        return tuple(cells)

    def _more_seeds(
        self, name: str, entry: Mapping[str, Any], seeds: Sequence[int], cells: Sequence[Cell]
    ) -> tuple[tuple[int, ...], tuple[Cell, ...]]:
        """The further seeds of a stage, and the cells that have them."""
        where = f"stages.{name}.more_seeds"
        if entry.get("more_seeds") is None:
            return (), ()
        content = _mapping(entry["more_seeds"], where)
        _known(content, MORE_SEEDS_KEYS, where)
        if entry.get("best_of") is not None:
            raise _Mistake(f"{where}: the stage has one cell, that of best_of; give it seeds instead.")
        more = self._seeds(_given(content, "seeds", where), f"{where}.seeds")
        if twice := sorted({*more} & {*seeds}):
            raise _Mistake(f"{where}.seeds has {twice[0]}, which is among the seeds of all cells; remove it.")
        _given(content, "cells", where)
        listed = self._listed_cells(self.text["stages"][name]["more_seeds"]["cells"], f"{where}.cells")
        found = []
        for cell in listed:
            same = [known for known in cells if known.items() == cell.items()]
            if not same:
                raise _Mistake(f"{where}.cells has {cell}, which is no cell of the stage; name one with all its axes.")
            found += same
        return more, tuple(found)

    def _needs(self) -> dict[str, Need]:
        needs = {}
        for word, entry in _mapping(self.text.get("needs") or {}, "needs").items():
            _known(_mapping(entry, f"needs.{word}"), NEED_KEYS, f"needs.{word}")
            for key in ("study", "protocol", "stage"):
                if key not in entry:
                    raise _Mistake(f"needs.{word} has no {key}; give it.")
            if entry["study"] == self.path.stem:
                raise _Mistake(
                    f"needs.{word}.study is {entry['study']}, which is this study itself, expected another one; use "
                    "continue or best_of for a stage of this study."
                )
            epoch = _one_of(entry.get("epoch", "last"), ("last", "best"), f"needs.{word}.epoch")
            needs[word] = Need(
                entry["study"],
                entry["protocol"],
                entry["stage"],
                dict(_mapping(entry.get("cell") or {}, f"needs.{word}.cell")),
                "last" if epoch == "last" else "best",
            )
        return needs

    def _published(
        self, stages: Mapping[str, Stage], protocols: Mapping[str, Protocol]
    ) -> tuple[str, dict[str, tuple[PublishedRow, ...]]]:
        content = dict(_mapping(self.text.get("published") or {}, "published"))
        protocol = content.pop("protocol", None) or next(iter(protocols))
        if protocol not in protocols:
            raise _Mistake(
                f"published.protocol is {protocol}, which is not among the protocols; {_meant(protocol, protocols)}"
            )
        published = {}
        for stage, table in content.items():
            where = f"published.{stage}"
            if stage not in stages:
                raise _Mistake(f"{where}: there is no stage {stage}; {_meant(stage, stages)}")
            if protocol not in stages[stage].protocols:
                raise _Mistake(f"{where}: the stage {stage} has no protocol {protocol}, whose values these are.")
            rows = [_sequence(row, where) for row in _sequence(table, where)]
            header = rows[0] if rows else []
            axes = [word for word in header if word in self.grid]
            for word in header:
                if word in self.grid or word == EPOCH:
                    continue
                if not is_measure(word):
                    raise _Mistake(f"{where}: the column {word} is no axis, not epoch and no measure such as val/acc.")
                _check_measure(where, word)
            for row in rows[1:]:
                if len(row) != len(header):
                    raise _Mistake(
                        f"{where}: the row {row} has {len(row)} values, expected {len(header)}, as the header has; a "
                        "text with a comma needs quotes."
                    )
            if twice := [word for place, word in enumerate(header) if word in header[:place]]:
                raise _Mistake(f"{where}: the column {twice[0]} is there twice; leave one out.")
            published[stage] = tuple(self._published_row(where, header, row, axes) for row in rows[1:])
            places = [(row.cell, row.epoch) for row in published[stage]]
            for place, row in enumerate(rows[1:]):
                if places[place] in places[:place]:
                    raise _Mistake(f"{where}: the row {row} is of a cell that a row above it has; leave one out.")
            _check_percent(where, published[stage])
            _check_one_cell(where, published[stage], _cells_of(stages[stage], stages))
        return protocol, published

    def _published_row(
        self, where: str, header: Sequence[str], row: Sequence[str], axes: Sequence[str]
    ) -> PublishedRow:
        entry = dict(zip(header, row, strict=True))
        cell = {axis: entry[axis] for axis in axes}
        self._check_cell(cell, where)
        values = {word: value for word, value in entry.items() if word not in axes and word != EPOCH}
        for word, value in values.items():
            if value != NOT_GIVEN:
                _number(value, f"{where}, column {word}", f"; {NOT_GIVEN} where none is legible")
        epoch = entry.get(EPOCH)
        if epoch is not None and not epoch.isdecimal():
            raise _Mistake(
                f"{where}: the epoch {epoch} is no whole number; the first epoch is 1, 0 is before training."
            )
        for word, value in values.items():
            if epoch is not None and word.startswith(TESTED) and value != NOT_GIVEN:
                raise _Mistake(
                    f"{where}, column {word} is {value} at epoch {epoch}, but a test is of the result alone; write "
                    f"{NOT_GIVEN} there, or remove the column epoch."
                )
        return PublishedRow(cell, int(epoch) if epoch is not None else None, values)

    def _judged(
        self, published: Mapping[str, Sequence[PublishedRow]], stages: Mapping[str, Stage], protocol: Protocol
    ) -> dict[str, tuple[str, ...]]:
        judged = self.content.get("judged") or []
        columns = {stage: list(rows[0].values) if rows else [] for stage, rows in published.items()}
        if isinstance(judged, Mapping):
            chosen = self._by_stage(judged, "judged", published)
            for stage, measures in chosen.items():
                for measure in measures:
                    if measure not in columns[stage]:
                        raise _Mistake(f"judged.{stage} names {measure}, of which nothing is published there.")
        else:
            for measure in _sequence(judged, "judged"):
                if not any(measure in names for names in columns.values()):
                    raise _Mistake(f"judged names {measure}, of which nothing is published.")
            chosen = {stage: tuple(name for name in names if name in judged) for stage, names in columns.items()}
        for stage, measures in chosen.items():
            for measure in measures:
                if measure.startswith(TESTED):
                    self._check_tested(measure, stages[stage], published[stage], protocol)
        return chosen

    def _check_tested(self, measure: str, stage: Stage, rows: Sequence[PublishedRow], protocol: Protocol) -> None:
        """Refuses a judged measure of the test samples that a stage never has."""
        if TEST_AS_VALIDATION in protocol.defects:
            raise _Mistake(
                f"judged names {measure}, but protocol {protocol.name}, whose values are published, has "
                f"{TEST_AS_VALIDATION}: its runs validate on the test samples and are not tested; write "
                f"{measure.replace(TESTED, 'val/')} in published.{stage.name} and in judged."
            )
        if not stage.test:
            raise _Mistake(
                f"judged names {measure}, which is published of the stage {stage.name}, but that is not tested; give "
                f"stages.{stage.name} test: true, or do not judge {measure} there."
            )
        if any(row.epoch is not None for row in rows):
            raise _Mistake(
                f"judged names {measure}, but published.{stage.name} has the column epoch, and a test is of the result "
                f"alone; do not judge {measure} there, or remove the column epoch."
            )

    def _tolerance(
        self, published: Mapping[str, Sequence[PublishedRow]], judged: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        given = self.content.get("tolerance", 1.0)
        by_measure = dict(given) if isinstance(given, Mapping) else {"": given}
        for measure in by_measure:
            if measure:  # the empty name holds the tolerance of all others
                _published_measure(measure, published, "tolerance")
        measures = dict.fromkeys(measure for names in judged.values() for measure in names)
        others = [measure for measure in measures if not is_share(measure) and measure not in by_measure]
        if others and (self.content.get("tolerance") is None or "" not in by_measure or len(others) < len(measures)):
            raise _Mistake(
                f"judged names {others[0]}, which is no share of samples, so that a tolerance in points does not fit "
                f"it; write tolerance: {{{others[0]}: ...}}, in its own unit."
            )
        tolerance = {name: _number(value, "tolerance") for name, value in by_measure.items()}
        if any(value <= 0 for value in tolerance.values()):
            raise _Mistake(f"tolerance is {given}, expected numbers above 0.")
        return {"": 1.0, **tolerance}

    def _by_stage(self, content: Any, where: str, stages: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        chosen = {}
        for stage, names in _mapping(content, where).items():
            if stage not in stages:
                raise _Mistake(f"{where}.{stage}: there is no stage {stage} there.")
            chosen[stage] = tuple(_text(name, f"{where}.{stage}") for name in _sequence(names, f"{where}.{stage}"))
        return chosen

    def _figures(self, stages: Mapping[str, Any]) -> dict[str, tuple[FigureRequest, ...]]:
        figures = {}
        for stage, words in self._by_stage(self.content.get("figures") or {}, "figures", stages).items():
            try:
                figures[stage] = tuple(figure_request(word) for word in words)
            except UserError as error:
                raise _Mistake(f"figures.{stage}: {error}") from None
        return figures

    def _check_cell(self, cell: Mapping[str, str], where: str) -> None:
        for axis, label in cell.items():
            if axis not in self.grid:
                raise _Mistake(f"{where}: {axis} is no axis of grid; {_meant(axis, self.grid)}")
            _one_of(label, tuple(self.grid[axis]), f"{where}, {axis}")

    def _options(self, content: Any, *place: str) -> dict[str, Any]:
        where = ".".join(place)
        options = _mapping(content or {}, where)
        for name, value in options.items():
            if "," in name or " " in name:
                raise _Mistake(f"{where}: {name!r} is no name of an option; a text with a comma needs quotes.")
            _check_free(name, where)
            if value is None and self._is_bare(*place, name):
                raise _Mistake(f"{where}.{name} has no value; write null to unset the option.")
        return options

    def _is_bare(self, *place: str) -> bool:
        """Whether a key has nothing after it, where `null` is not written either."""
        node: Any = self.text
        for key in place:
            node = node.get(key) if isinstance(node, Mapping) else None
        return bool(node == "")

    def _seeds(self, given: Any, where: str) -> tuple[int, ...]:
        seeds = _sequence(given if given is not None else [0, 1, 2, 3, 4], where)
        for seed in seeds:
            if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
                raise _Mistake(f"{where} has {seed}, expected integers from 0 to 4294967295.")
        if not seeds or len(set(seeds)) < len(seeds):
            raise _Mistake(f"{where} is {seeds}, expected one or more different seeds.")
        return tuple(seeds)


def _check_free(name: str, where: str) -> None:
    """Refuses an option that would have no effect, since the study gives it each run itself."""
    if name in GIVEN_BY_KEYS:
        raise _Mistake(f"{where} names {name}, which a study sets by {GIVEN_BY_KEYS[name]}; remove it there.")


def _different(entries: Sequence[Any], where: str) -> None:
    """Refuses an entry that is there twice: its runs would be counted twice."""
    for place, entry in enumerate(entries):
        if entry in entries[:place]:
            raise _Mistake(f"{where} has {entry} twice; leave one out.")


def _cells_of(stage: Stage, stages: Mapping[str, Stage]) -> tuple[Cell, ...]:
    """The cells of a stage that the file names, those of the stage that it continues among them."""
    return stage.cells if stage.continues is None else _cells_of(stages[stage.continues], stages)


def _check_one_cell(where: str, rows: Sequence[PublishedRow], cells: Sequence[Cell]) -> None:
    """Refuses rows that do not tell which of several cells they are of: each of these would be compared with them."""
    for row in rows:
        fitting = [cell for cell in cells if row.cell.items() <= cell.items()]
        if len(fitting) > 1:
            one, other = fitting[:2]
            axes = [axis for axis in {**one, **other} if one.get(axis) != other.get(axis)]
            raise _Mistake(
                f"{where}: the row of {row.cell or 'no label'} fits {len(fitting)} cells, such as {one} and {other}; "
                f"give the column {' and '.join(axes)}."
            )


def _check_measure(where: str, word: str, kind: str = "column") -> None:
    """Refuses a measure that no run has."""
    split, _, name = word.rpartition(" ")[2].partition("/")
    if word in (SECONDS, MINIMIZED):
        return
    if word.startswith("step ") and word != "step train/loss":
        raise _Mistake(
            f"{where}: the {kind} {word} is of a batch, of which the training loss alone is known; write "
            "step train/loss."
        )
    if split not in ("train", "val", "test", *EVALUATIONS):
        known = ", ".join(("train", "val", "test", *EVALUATIONS))
        raise _Mistake(f"{where}: the {kind} {word} is of {split}, expected one of: {known}.")
    if name not in ("acc", "loss") and "." not in name:  # a dotted name is a class of the user's
        from visionbench.evaluation.metrics import mode_of  # here, since it takes a third of a second to import

        try:
            mode_of(name)
        except UserError as error:
            raise _Mistake(f"{where}, {kind} {word}: {error}") from None


def _known(content: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise _Mistake(
                f"{where} has the key {key}, which a study file does not have there; {_meant(key, sorted(known))}"
            )


def _meant(word: Any, known: Iterable[str]) -> str:
    """The end of a sentence about a word that is not known: the word that is most like it, or all known ones."""
    known = list(known)
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known) or 'none'}."


def _found(content: Any) -> str:
    return "empty" if content is None else repr(content)


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise _Mistake(f"{where} is {_found(content)}, expected a mapping (name: value).")
    return content


def _sequence(content: Any, where: str) -> list[Any]:
    if not isinstance(content, list):
        raise _Mistake(f"{where} is {_found(content)}, expected a list, such as [a, b].")
    return content


def _given(content: Mapping[str, Any], key: str, where: str) -> Any:
    if content.get(key) is None:
        raise _Mistake(f"{where} has no {key}; give {'them' if key.endswith('s') else 'it'}.")
    return content[key]


def _text(content: Any, where: str) -> str:
    if not isinstance(content, str) or not content:
        hint = "; a text with a comma or a colon needs quotes" if content is None or isinstance(content, dict) else ""
        raise _Mistake(f"{where} is {_found(content)}, expected a text{hint}.")
    return content


def _count(content: Any, where: str) -> int:
    if not isinstance(content, int) or isinstance(content, bool) or content < 1:
        raise _Mistake(f"{where} is {content!r}, expected a whole number of 1 or more.")
    return content


def _flag(content: Any, where: str) -> bool:
    if not isinstance(content, bool):
        raise _Mistake(f"{where} is {content!r}, expected true or false.")
    return content


def _check_percent(where: str, rows: Sequence[PublishedRow]) -> None:
    """Refuses accuracies that are written as fractions: as percentages they would be compared with another number."""
    for measure in rows[0].values if rows else ():
        printed = [row.values[measure] for row in rows if row.values[measure] != NOT_GIVEN]
        if is_share(measure.rpartition(" ")[2]):
            for value in printed:
                if not 0 <= float(value) <= 100:
                    raise _Mistake(f"{where}, column {measure} has {value}, expected percent, from 0 to 100.")
        if is_share(measure.rpartition(" ")[2]) and printed and all(0 < float(value) <= 1 for value in printed):
            raise _Mistake(
                f"{where}, column {measure} has {printed[0]}, a fraction, expected percent; write {printed[0]} as "
                f"{Decimal(printed[0]).scaleb(2)}, with the digits that it has."
            )


def _number(content: Any, where: str, hint: str = "") -> float:
    convert: Callable[[Any], float] = float
    try:
        number = convert(content)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _Mistake(f"{where} is {content!r}, expected a finite number{hint}.")
    return number


def _published_measure(measure: str, published: Mapping[str, Sequence[PublishedRow]], where: str) -> None:
    known = list(dict.fromkeys(name for rows in published.values() for row in rows for name in row.values))
    if measure not in known:
        close = difflib.get_close_matches(measure, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"published: {', '.join(known) or 'nothing'}."
        raise _Mistake(f"{where} names {measure}, of which nothing is published; {hint}")


def _one_of(content: Any, known: Sequence[str], where: str) -> str:
    if content not in known:
        close = difflib.get_close_matches(str(content), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of: {', '.join(known)}."
        raise _Mistake(f"{where} is {content!r}, which is not known there; {hint}")
    return str(content)
