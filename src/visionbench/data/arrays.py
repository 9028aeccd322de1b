"""Images and labels that a notebook already holds; `rows.py` has rows of features likewise."""

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from visionbench.data.base import Residency, VisionDataModule
from visionbench.data.store import Store
from visionbench.errors import UserError

CHANNELS = (1, 3)


class InMemory(VisionDataModule):
    """A data set whose samples and labels are arrays in memory; no store is written.

    A subclass fills `_arrays`, and `_class_names` by `_named_classes`, before it calls the `__init__` of this class.
    """

    from_command_line: ClassVar[bool] = False
    _arrays: dict[str, np.ndarray]
    _class_names: tuple[str, ...]

    def __init__(self, **kwargs: Any) -> None:
        self._store: Store | None = None
        # The samples are in memory already, so that nothing is read ahead or through a memory map.
        super().__init__(memory_budget=None, workers=None, **kwargs)

    def _named_classes(self, class_names: Sequence[str] | None) -> tuple[str, ...]:
        kind, labels = type(self).__name__, self._arrays["train-labels"]
        if class_names is not None:
            if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
                raise UserError(f"The class_names of {kind} are not a list of strings; pass one string per class.")
            names = tuple(class_names)
            if len(set(names)) < len(names):
                raise UserError(f"The class_names of {kind} contain a name twice; give every class a name of its own.")
        else:
            names = tuple(map(str, range(int(labels.max()) + 1)))
            if missing := sorted(set(range(len(names))) - set(labels.tolist())):
                raise UserError(
                    f"The labels of {kind} go up to {len(names) - 1}, but no {self.item} has the label {missing[0]}; "
                    "number the classes from 0 without gaps, or pass class_names."
                )
        if len(names) < 2:
            raise UserError(f"{kind} has {len(names)} class{'es' * (len(names) != 1)}, expected 2 or more.")
        for name in ("train", "test"):
            values = self._arrays.get(f"{name}-labels", labels)
            if values.min() < 0 or values.max() >= len(names):
                raise UserError(
                    f"The {'test_' * (name == 'test')}labels of {kind} go from {values.min()} to {values.max()}, "
                    f"expected 0 to {len(names) - 1} for {len(names)} classes."
                )
        return names

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self._class_names

    def prepare_settings(self) -> dict[str, Any]:  # noqa: D102
        return {"arrays": self.open_store().meta["arrays"]}

    def open_store(self, check_source: bool = True) -> Store:
        """The arrays in the form of a store; it is only in memory, its folder does not exist.

        Args:
            check_source: Without effect, since arrays in memory have no source.
        """
        if self._store is None:
            entries = {
                name: {
                    "shape": list(array.shape),
                    "dtype": str(array.dtype),
                    "sha256": hashlib.sha256(array.data).hexdigest(),
                }
                for name, array in self._arrays.items()
            }
            meta = {
                "dataset": type(self).__name__,
                "class_names": list(self.class_names),
                "source": "arrays in memory",
                "licence": f"that of the {self.item}s",
                "split": "test: passed" if "test-images" in self._arrays else "none",
                "arrays": entries,
            }
            self._store = Store(self.root / type(self).__name__, meta, self._arrays)
        return self._store

    def residency(self, device: torch.device, processes: int = 1) -> Residency:
        """The samples are always held on the device."""
        return Residency(True, 0, "")


class Arrays(InMemory):
    """Images and labels from Python: NumPy arrays or tensors that are already in memory.

    Only Python can create this data set; the command line and YAML files cannot hold arrays. The arrays are copied, so
    that later changes of them do not reach a run. No store is written.

    - Images: uint8, 0 to 255, gray (1 channel) or RGB (3 channels). An array has the shape (N, H, W, C) or (N, H, W). A
      tensor may also have the shape (N, C, H, W): its channels are the last or the second axis, whichever has the
      length 1 or 3; a tensor in which both have is refused.
    - Classes: the labels 0 to K-1.
    - Split: the test images that are passed; without them the test split is cut by `split_seed`, as for every data set.
    - Source: the caller's arrays. License: that of the images.

    Args:
        images: Images to train and validate on (and to test on, without `test_images`).
        labels: Labels of the images: N integers from 0 to K-1.
        test_images: Official test images, of the same height, width and channels.
        test_labels: Labels of the test images.
        class_names: Names of the K classes, in the order of the labels; by default "0", "1" and so on.
    """

    title = "Arrays"
    specific_arguments: ClassVar[frozenset[str]] = VisionDataModule.specific_arguments | {
        *("images", "labels", "test_images", "test_labels", "class_names")
    }

    def __init__(
        self,
        images: Any = None,
        labels: Any = None,
        test_images: Any = None,
        test_labels: Any = None,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        # Optional only in the signature, so that the command line ends here too, in a sentence that says why.
        if not _is_array(images):
            raise UserError(
                f"The images of Arrays are {'missing' if images is None else type(images).__name__}, expected a NumPy "
                "array or a tensor, which only Python can pass, as Arrays(images, labels); on the command line, use "
                "--data ImageFolder."
            )
        if (test_images is None) != (test_labels is None):
            present, absent = ("images", "labels") if test_labels is None else ("labels", "images")
            raise UserError(f"Arrays has test_{present} but no test_{absent}; pass both, or neither.")
        self._arrays = {"train-images": _as_images(images, "images")}
        self._arrays["train-labels"] = as_labels(labels, "labels", len(self._arrays["train-images"]))
        if test_images is not None:
            self._arrays["test-images"] = _as_images(test_images, "test_images")
            self._arrays["test-labels"] = as_labels(test_labels, "test_labels", len(self._arrays["test-images"]))
            shape, test_shape = (self._arrays[f"{split}-images"].shape[1:] for split in ("train", "test"))
            if shape != test_shape:
                raise UserError(
                    f"The test_images of Arrays have height, width and channels {test_shape}, but the images have "
                    f"{shape}; make them equal."
                )
        self._class_names = self._named_classes(class_names)
        super().__init__(**kwargs)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, height, width, channels = self._arrays["train-images"].shape
        return (channels, height, width)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _as_images(images: Any, name: str) -> np.ndarray:
    """A copy of the images, shape (N, H, W, C), uint8, that cannot be written to."""
    if not _is_array(images):
        raise UserError(f"The {name} of Arrays are {type(images).__name__}, expected a NumPy array or a tensor.")
    kind, shape = _dtype(images), tuple(images.shape)
    if kind != "uint8":
        raise UserError(
            f"The {name} of Arrays are {kind}, expected uint8 from 0 to 255; convert them, such as "
            "(255 * images).round() as uint8 for images from 0 to 1."
        )
    if len(shape) not in (3, 4) or 0 in shape:
        raise UserError(
            f"The {name} of Arrays have the shape {shape}, expected (N, H, W) or (N, H, W, C) without an empty axis."
        )
    if len(shape) == 3:
        images = images[..., None]
    else:
        last, second = shape[3] in CHANNELS, shape[1] in CHANNELS
        if isinstance(images, torch.Tensor):
            if last and second:
                raise UserError(
                    f"The {name} of Arrays are a tensor of shape {shape}, which does not tell (N, H, W, C) from "
                    "(N, C, H, W); pass a NumPy array of shape (N, H, W, C)."
                )
            if second:
                images, last = images.permute(0, 2, 3, 1), True
        if not last:
            advice = "; move the channels to the last axis" if second else ""
            raise UserError(
                f"The {name} of Arrays have the shape {shape}, expected 1 channel (gray) or 3 channels (RGB) in the "
                f"last axis{advice}."
            )
    return _copy(images, np.uint8)


def as_labels(labels: Any, name: str, count: int, kind: str = "Arrays", item: str = "image") -> np.ndarray:
    """A copy of the labels, shape (N,), int64, that cannot be written to.

    Args:
        labels: Labels as the caller passes them.
        name: Name of the argument, for messages.
        count: Number of samples, N.
        kind: Class of the data set, for messages.
        item: Word for one sample, for messages.

    Raises:
        UserError: They are not N integers.
    """
    if isinstance(labels, list | tuple):
        labels = np.array(labels)
    if not _is_array(labels):
        raise UserError(
            f"The {name} of {kind} are {type(labels).__name__}, expected a list, a NumPy array or a tensor of integers."
        )
    dtype, shape = _dtype(labels), tuple(labels.shape)
    if not dtype.startswith(("int", "uint")):
        raise UserError(
            f"The {name} of {kind} are {dtype}, expected integers from 0 to K-1 for K classes, one per {item}."
        )
    if shape != (count,):
        raise UserError(f"The {name} of {kind} have the shape {shape}, expected ({count},), one label per {item}.")
    return _copy(labels, np.int64)


def _dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def _copy(array: Any, dtype: type[np.generic]) -> np.ndarray:
    values = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
    copied: np.ndarray = np.array(values, dtype=dtype, order="C")
    copied.flags.writeable = False
    return copied
