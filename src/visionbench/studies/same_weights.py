"""Runs of a study that end with the same weights although their settings or seeds differ."""

from collections.abc import Iterable

from visionbench.studies.results import Row
from visionbench.studies.spec import Cell
from visionbench.text import counted


def same_weights(rows: Iterable[Row]) -> list[str]:
    """Finds options and seeds that had no effect: two runs that differ never have the same weights by chance.

    Runs of one stage and fold are compared: those of different cells with one seed and a protocol in common, and those
    of one cell with different seeds.

    Args:
        rows: Rows of the study.

    Returns:
        A sentence for each stage with such cells, and one for each with such seeds.
    """
    groups: dict[tuple[str, int | None, str], list[Row]] = {}
    for row in rows:
        if row.is_finished and row.weights_digest:
            groups.setdefault((row.stage, row.fold, row.weights_digest), []).append(row)
    cells: dict[str, dict[tuple[str, ...], tuple[Row, Row]]] = {}
    seeds: dict[str, dict[tuple[str, ...], tuple[Row, Row]]] = {}
    for (stage, _, _), group in groups.items():
        for place, row in enumerate(group):
            for other in group[:place]:
                if row.cell != other.cell and row.seed == other.seed and {*row.protocols} & {*other.protocols}:
                    found = cells.setdefault(stage, {})
                    for each in (other, row):
                        found.setdefault(tuple(each.cell.values()), (other, row))
                elif row.cell == other.cell and row.seed != other.seed:
                    seeds.setdefault(stage, {}).setdefault(tuple(row.cell.values()), (other, row))
    sentences = []
    for stage, found in cells.items():
        one, other = next(iter(found.values()))
        sentences.append(
            f"{stage}: {len(found):,} cells end with the same weights as another cell, to the last bit, such as "
            f"{_name(one.cell)} and {_name(other.cell)} (seed {one.seed}): the options in which they differ had no "
            "effect on the result, and such cells count once where cells are compared."
        )
    for stage, found in seeds.items():
        one, other = next(iter(found.values()))
        runs = f"the runs of {_name(one.cell)}" if one.cell else "the runs"
        more = f", and those of {counted(len(found) - 1, 'more cell')}," if len(found) > 1 else ""
        sentences.append(
            f"{stage}: {runs}{more} end with the same weights with the seeds {one.seed} and {other.seed}, to the last "
            "bit: the seed had no effect, so that the spread over seeds says nothing about another training."
        )
    return sentences


def _name(cell: Cell) -> str:
    return ", ".join(f"{axis} {label}" for axis, label in cell.items())
