"""`visionbench data`: lists, prepares, verifies and shows data sets."""

from __future__ import annotations

import hashlib
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from visionbench.classes import docstring_of, sheet_entry
from visionbench.console import plain_console
from visionbench.data import DATA_SETS
from visionbench.data.store import SPLITS, Store, default_root, read_meta
from visionbench.errors import UserError, first_user_error
from visionbench.text import counted, shown

if TYPE_CHECKING:
    from visionbench.data.base import VisionDataModule
    from visionbench.data.splits import Split
    from visionbench.data.table import Table

USAGE = """\
usage: visionbench data COMMAND

  list [--root DIR]              list the data sets, where their files are, and their prepared stores
  prepare NAME [options]         write the prepared store; fetch missing files
  verify NAME [options]          check every byte of the store, and search for duplicate images
  show NAME [options]            draw samples (of a table, the features by class), class counts and augmented images,
                                 into --output FILE

NAME is a data set, such as FashionMNIST; its options are those of `visionbench fit`, such as --data.source DIR;
`visionbench fit --data.help NAME` lists them."""

COMMANDS = ("list", "prepare", "verify", "show")

# Smallest side of images that are searched for near duplicates: of smaller images, too many look alike.
MIN_NEAR_SIZE = 64
# Largest number of bits (of 64) in which the perceptual hashes of near duplicates differ.
NEAR_BITS = 2
MAX_LISTED = 10
# Limits of the picture of a table.
MAX_COLUMNS = 24
COLUMNS_PER_ROW = 6
MAX_CLASSES = 10


def data(args: Sequence[str]) -> int:
    """Runs one of the commands.

    Args:
        args: Name of the command, then its options.

    Returns:
        The exit status: 0; 1 if `verify` finds the store damaged.

    Raises:
        UserError: There is no such command or data set, or the data cannot be read or fetched.
    """
    if not args or {"-h", "--help"} & {*args}:
        print(USAGE)
        return 0 if args else 2
    command, *rest = args
    console = plain_console()
    if command == "list":
        lines = list_data_sets(_root(rest))
    elif command in COMMANDS:
        module, output = _data_module(command, rest, console)
        if command == "prepare":
            lines = prepare(module)
        elif command == "verify":
            damaged, report = verify(module)
            for line in report:
                console.print(line)
            return 1 if damaged else 0
        else:
            lines = show(module, _picture(output if output is not None else Path(f"{type(module).__name__}.png")))
    else:
        raise UserError(f"There is no command data {command}; the commands are list, prepare, verify and show.")
    for line in lines:
        console.print(line)
    return 0


def list_data_sets(root: Path) -> Iterator[str]:
    """Lines about each data set, where its files are, and each of its prepared stores.

    Args:
        root: Folder of prepared data sets.
    """
    for name, module in DATA_SETS.items():
        docstring = docstring_of(f"visionbench.data.{module}.{name}")
        yield f"{name:<14} {docstring.splitlines()[0]}"
        if files := sheet_entry(docstring, "Files"):
            yield f"  files: {files}"
            if "FOLDER" in files:
                yield f"  prepare once: visionbench data prepare {name} --data.source FOLDER"
        for folder in sorted(path.parent for path in (root / name).glob("*/meta.json")):
            try:
                meta = read_meta(folder)
            except UserError as error:
                yield textwrap.indent(str(error), "  ")
                continue
            arrays = meta["arrays"]
            counts = ", ".join(f"{arrays[f'{s}-labels']['shape'][0]:,} {s}" for s in SPLITS if f"{s}-labels" in arrays)
            lengths = arrays["train-images"]["shape"][1:]
            shape = " x ".join(map(str, lengths)) if len(lengths) > 1 else f"{lengths[0]} columns"
            size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
            yield f"  {folder}: {counts} of {shape}, {size:,.1f} MB, from {meta.get('source')}"


def prepare(module: VisionDataModule) -> Iterator[str]:
    """Prepares a data set; yields lines about its splits, its duplicates and its store."""
    from visionbench.guards.data import DataContext, DuplicateFiles  # here, since torch comes with it

    _set_up(module)
    sizes = module.sizes()
    yield (
        f"{module.title}: {sizes['train']:,} train, {sizes['val']:,} validation, {sizes['test']:,} test "
        f"{module.item}s of {module.shape_in_words}, {module.num_classes} classes"
    )
    for finding in DuplicateFiles().check(DataContext(module)):
        yield f"{finding.severity:<10} {finding.sentence}"
    yield f"store      {module.store_folder()}"


def verify(module: VisionDataModule) -> tuple[bool, list[str]]:
    """Checks the arrays of a prepared store against their sha256, and searches for duplicate images.

    Near duplicates, found by a perceptual hash, are searched for among images of 64 x 64 pixels or more.

    Args:
        module: Data set to verify.

    Returns:
        Whether the store is damaged, and lines about the result.
    """
    store = _set_up(module)
    lines, damaged = [], False
    for name, entry in store.meta["arrays"].items():
        digest = _sha256(store.arrays[name])
        if digest != entry["sha256"]:
            damaged = True
            lines.append(
                f"DAMAGED    {store.folder / name}.npy: its sha256 is {digest[:16]}..., expected "
                f"{entry['sha256'][:16]}...; delete {store.folder} to prepare it again"
            )
    if not damaged:
        lines.append(f"intact     every array in {store.folder} has its recorded sha256")
    lines += _duplicates(module, store)
    return damaged, lines


def show(module: VisionDataModule, output: Path) -> Iterator[str]:
    """Draws a labeled grid of samples, the class counts of each split, and the same samples augmented.

    For a table it draws the distribution of each column by class instead of samples.

    Args:
        module: Data set to show.
        output: File for the picture, PNG or SVG.
    """
    from matplotlib.figure import Figure  # here, since it takes a second to import

    from visionbench.data.table import Table

    store = _set_up(module)
    split = module.splits["train"]
    labels = store.arrays[f"{split.part}-labels"][split.index]
    names = module.class_names
    table = isinstance(module, Table)
    rows = -(-min(len(module.schema.columns), MAX_COLUMNS) // COLUMNS_PER_ROW) if isinstance(module, Table) else 0
    heights = [2.2 * rows + 0.8, 3] if table else [5, 3, 5] if module.augment else [5, 3]
    figure = Figure(figsize=(12, sum(heights) if table else 11 if module.augment else 8), layout="constrained")
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    if isinstance(module, Table):
        values = store.arrays[f"{split.part}-images"][split.index]
        _columns(parts[0], module, values, labels)
    else:
        chosen = _samples(labels, module.num_classes, 40)
        images = store.arrays[f"{split.part}-images"][split.index[chosen]]
        shown = [names[label] for label in labels[chosen]]
        _grid(parts[0], images, shown, f"{module.title}: training images")
        if module.augment:
            augmented = _augmented(module, images)
            names_used = ", ".join(type(augmentation).__name__ for augmentation in module.augment)
            _grid(parts[2], augmented, shown, f"the same images, augmented: {names_used}")
    _counts(parts[1].subplots(), module, store)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=100)
    except (OSError, ValueError) as error:
        raise UserError(f"The picture cannot be written to {output} ({error}); give another --output.") from error
    yield f"picture    {output}"


def _data_module(command: str, args: list[str], console: Console) -> tuple[VisionDataModule, Path | None]:
    if not args or args[0].startswith("-"):
        raise UserError(f"data {command} needs the name of a data set, such as visionbench data {command} Digits.")
    # Here, since Lightning comes with them, for which `data list` need not wait.
    from visionbench.config.parser import Parser
    from visionbench.config.patches import watched_parsing
    from visionbench.data.base import VisionDataModule

    parser = Parser(prog=f"visionbench data {command}", allow_abbrev=False)
    parser.add_lightning_class_args(VisionDataModule, "data", subclass_mode=True, required=True)
    parser.add_argument("--output", type=str | None, default=None, help="File for the picture that show draws.")
    with watched_parsing(console.print):
        config = parser.parse_args(["--data", *args])
    try:
        module: VisionDataModule = parser.instantiate_classes(config).data
    except ValueError as error:  # raised by the parser, with the refusal of the class among its causes
        if (refusal := first_user_error(error)) is None:
            raise
        raise refusal from None
    return module, Path(config.output) if config.output is not None else None


def _picture(output: Path) -> Path:
    """The file for the picture: matplotlib adds .png to a name without an ending."""
    if output.is_dir():
        raise UserError(f"{output} is a folder; give the name of a file with --output, such as {output}.png.")
    path = output if output.suffix else output.with_name(f"{output.name}.png")
    if not path.is_file():
        return path
    with path.open("rb") as file:
        head = file.read(2048)
    if head and b"atplotlib" not in head:  # which pictures of matplotlib have in their metadata
        raise UserError(f"{path} exists and is no picture of visionbench; remove it, or give another --output.")
    return path


def _root(args: list[str]) -> Path:
    if not args:
        return default_root()
    if len(args) == 2 and args[0] == "--root":
        return Path(args[1])
    raise UserError(f"data list takes --root DIR alone, found {' '.join(args)}; give only --root DIR.")


def _set_up(module: VisionDataModule) -> Store:
    module.prepare_data()
    module.setup()
    return module.open_store(check_source=False)


def _sha256(array: np.ndarray) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(array), 4096):  # so that an array larger than memory is not read at once
        digest.update(np.ascontiguousarray(array[start : start + 4096]).data)
    return digest.hexdigest()


def _duplicates(module: VisionDataModule, store: Store) -> Iterator[str]:
    """Lines about exact and near duplicates in the splits."""
    places: dict[bytes, list[tuple[str, int, int]]] = {}
    hashes_seen: dict[int, list[tuple[str, int, int]]] = {}
    near = len(module.input_shape) == 3 and min(module.input_shape[1:]) >= MIN_NEAR_SIZE
    for stage, split in module.splits.items():
        images, labels = store.arrays[f"{split.part}-images"], store.arrays[f"{split.part}-labels"]
        for number in split.index:
            image = images[number]
            place = (stage, int(number), int(labels[number]))
            places.setdefault(hashlib.sha256(image.tobytes()).digest(), []).append(place)
            if near:
                hashes_seen.setdefault(_perceptual_hash(image), []).append(place)
    yield from _duplicate_lines("exact", [group for group in places.values() if len(group) > 1], module)
    if near:
        yield from _duplicate_lines("near", _near_groups(hashes_seen), module)


def _duplicate_lines(kind: str, groups: list[list[tuple[str, int, int]]], module: VisionDataModule) -> Iterator[str]:
    if not groups:
        yield (
            f"{kind:<10} no two {module.item}s are equal"
            if kind == "exact"
            else f"{kind:<10} no two {module.item}s are nearly equal"
        )
        return
    across = [group for group in groups if len({stage for stage, _, _ in group}) > 1]
    disagreeing = [group for group in groups if len({label for _, _, label in group}) > 1]
    pairs = Counter("-".join(sorted({stage for stage, _, _ in group})) for group in across)
    between = ", ".join(f"{count} {name}" for name, count in pairs.items())
    yield (
        f"{kind:<10} {sum(map(len, groups)):,} {module.item}s in {counted(len(groups), 'group')} of {kind} duplicates; "
        f"across splits {len(across):,}{f' ({between})' if across else ''}, with different labels {len(disagreeing):,}"
    )
    first = across + [group for group in groups if group not in across]
    for group in first[:MAX_LISTED]:
        yield "             " + " = ".join(
            f"{shown(module.sample_name(module.splits[stage].part, n))} ({stage}, {module.class_names[label]})"
            for stage, n, label in group[:4]
        )
    if len(groups) > MAX_LISTED:
        yield f"             and {counted(len(groups) - MAX_LISTED, 'more group')}"


def _perceptual_hash(image: np.ndarray) -> int:
    import imagehash  # here, since only large images need it
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return int(str(imagehash.phash(picture)), 16)


def _near_groups(hashes_seen: dict[int, list[tuple[str, int, int]]]) -> list[list[tuple[str, int, int]]]:
    """Images whose perceptual hashes differ by few bits, grouped with the first of them."""
    hashes = np.array(list(hashes_seen), dtype=np.uint64)
    groups, grouped = [], np.zeros(len(hashes), dtype=bool)
    for number, value in enumerate(hashes):
        if grouped[number]:
            continue
        close = np.flatnonzero(np.bitwise_count(hashes ^ value) <= NEAR_BITS)
        close = close[~grouped[close]]
        grouped[close] = True
        members = [place for other in close for place in hashes_seen[int(hashes[other])]]
        if len(members) > 1:
            groups.append(members)
    return groups


def _samples(labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Indices of up to `count` images, sorted by class, with about the same number of images per class."""
    by_class = [np.flatnonzero(labels == label) for label in range(classes)]
    turns = [places[turn] for turn in range(count) for places in by_class if turn < len(places)]
    places = np.sort(np.array(turns[:count]))
    return places[np.argsort(labels[places], kind="stable")]


def _augmented(module: VisionDataModule, images: np.ndarray) -> np.ndarray:
    """Images augmented as in an epoch of training, (N, H, W, C), from 0 to 1."""
    import torch

    from visionbench.data.loader import generator

    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    for stream, augmentation in enumerate(module.augment, start=1):
        batch = augmentation.apply(batch, augmentation.draw(len(batch), generator(module.seed or 0, 0, stream)))
    return batch.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _grid(part: Any, images: np.ndarray, names: list[str], title: str) -> None:
    columns = 10
    rows = -(-len(images) // columns)
    part.suptitle(title)
    for number, axes in enumerate(part.subplots(rows, columns, squeeze=False).ravel()):
        axes.axis("off")
        if number < len(images):
            image = images[number]
            gray = image.shape[-1] == 1
            # Without limits, matplotlib would stretch the gray levels to the range of each image.
            limits = {"cmap": "gray", "vmin": 0, "vmax": 255 if image.dtype == np.uint8 else 1} if gray else {}
            axes.imshow(image[..., 0] if gray else image, interpolation="nearest", **limits)
            axes.set_title(_cut(names[number], 19), fontsize=7)


def _counts(axes: Any, module: VisionDataModule, store: Store) -> None:
    """Draws bars of the number of samples of each class in each split."""
    names = module.class_names
    filled = {stage: split for stage, split in module.splits.items() if len(split.index)}
    width = 0.8 / len(filled)
    for number, (stage, split) in enumerate(filled.items()):
        counts = _class_counts(store, split, len(names))
        places = np.arange(len(names)) + (number - (len(filled) - 1) / 2) * width
        axes.bar(places, counts, width, label=f"{stage} ({counts.sum():,})")
    axes.set_ylabel(f"{module.item}s")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    if len(names) > 30:
        axes.set_xlabel("class number")
        return
    turned = sum(map(len, names)) > 90
    axes.set_xticks(
        range(len(names)),
        [_cut(name, 24) for name in names],
        rotation=40 if turned else 0,
        ha="right" if turned else "center",
    )


def _columns(part: Any, table: Table, values: np.ndarray, labels: np.ndarray) -> None:
    """Draws the distribution of each column by class, with the share of missing cells last."""
    columns = table.schema.columns[:MAX_COLUMNS]
    left = len(table.schema.columns) - len(columns)
    more = f" (the first {len(columns)}; {left} more are not drawn)" if left else ""
    part.suptitle(f"{table.title}: columns of the training rows, as shares of each class{more}")
    all_axes = part.subplots(-(-len(columns) // COLUMNS_PER_ROW), COLUMNS_PER_ROW, squeeze=False).ravel()
    classes = range(min(table.num_classes, MAX_CLASSES))
    for number, axes in enumerate(all_axes):
        if number >= len(columns):
            axes.axis("off")
            continue
        column, cells = columns[number], values[:, number]
        axes.set_title(_cut(column.name, 24), fontsize=9)
        axes.tick_params(labelsize=7)
        if column.kind == "numeric":
            bins = _bins(cells)
        else:
            # One bin per category; negative codes stand for missing and unknown categories.
            categories = list(column.categories)
            bins, cells = np.arange(len(categories) + 1) - 0.5, np.where(cells < 0, np.nan, cells)
        is_missing = np.isnan(cells)
        missing_width = max(0.08 * (bins[-1] - bins[0]), 0.5 * (bins[1] - bins[0]))  # for the missing cells
        for label in classes:
            class_cells = cells[(labels == label) & ~is_missing]
            total = max(1, int((labels == label).sum()))
            shares = np.histogram(class_cells, bins)[0] / total
            name = _cut(table.class_names[label], 20)
            if column.kind == "numeric":
                axes.stairs(shares, bins, color=f"C{label}", label=name)
            else:
                bar = 0.8 / len(classes)
                centers = np.arange(len(categories)) + (label - (len(classes) - 1) / 2) * bar
                axes.bar(centers, shares, bar, color=f"C{label}", label=name)
            if is_missing.any():
                place = bins[-1] + missing_width * (1 + (label + 0.5) / len(classes))
                axes.bar(
                    place,
                    ((labels == label) & is_missing).sum() / total,
                    missing_width / len(classes),
                    color=f"C{label}",
                )
        if column.kind == "categorical" and len(categories) <= 8:
            axes.set_xticks(range(len(categories)), [_cut(word, 9) for word in categories])
        if is_missing.any():
            axes.text(bins[-1] + 0.9 * missing_width, 0, " missing", rotation=90, va="bottom", ha="right", fontsize=7)
        axes.set_ylim(bottom=0)
    drawn = all_axes[0].get_legend_handles_labels()
    part.legend(*drawn, title=_cut(table.options.target, 40), loc="outside lower center", ncols=10, fontsize=8)


def _bins(cells: np.ndarray) -> np.ndarray:
    """Edges of a histogram; for integers in a small range, each integer is the center of a bin."""
    present = cells[~np.isnan(cells)]
    low, high = float(present.min()), float(present.max())
    if high - low <= 20 and bool((present == np.round(present)).all()):
        return np.arange(low, high + 2) - 0.5
    return np.linspace(low, high, 21)


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 3]}..."


def _class_counts(store: Store, split: Split, classes: int) -> np.ndarray:
    return np.bincount(store.arrays[f"{split.part}-labels"][split.index], minlength=classes)


def run(args: Sequence[str]) -> int:
    """Runs `visionbench data`; returns the exit status."""
    return data(args)
