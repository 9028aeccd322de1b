"""IDX files of MNIST and of data sets in the same format."""

from collections.abc import Mapping

import numpy as np


def idx_arrays(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Arrays of a store, from the contents of the four files, which have the same names in all these data sets."""
    arrays = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        arrays[f"{split}-images"] = _idx(files[f"{name}-images-idx3-ubyte"])[..., np.newaxis]
        arrays[f"{split}-labels"] = _idx(files[f"{name}-labels-idx1-ubyte"]).astype(np.int64)
    return arrays


def _idx(content: bytes) -> np.ndarray:
    """Reads a file of the IDX format: two zero bytes, the type (8: uint8), the number of axes, their lengths, data.

    The content is not checked here, since its sha256 has been verified.
    """
    axes = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=axes, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
