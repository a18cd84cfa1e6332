"""Vectors as vector stores take them: float32, float16 or int8."""

import io

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

TYPES = ("float32", "float16", "int8")


def as_type(vectors: NDArray[np.float32], dtype: str) -> NDArray[np.generic]:
    """Turn float32 vectors into a smaller type.

    ``int8`` gives each vector a scale of its own, ``round(127 x / max|x|)``: the numbers of a unit
    vector of 768 dimensions are around 0.04, and one scale for all (``round(127 x)``) would leave
    them some ten values. No scale need be kept, because a cosine does not depend on it: int8
    vectors are compared by **cosine** (not by inner product) in every store, and `top_k` does so.
    Nothing is fitted to the data, so that a vector does not depend on the others.

    Args:
        vectors: ``[n, dim]``.
        dtype: One of `TYPES`.

    Returns:
        ``[n, dim]``; a vector of zeros stays one.

    Raises:
        ValueError: There is no such type here.
    """
    if dtype not in TYPES:
        raise ValueError(f"dtype is {dtype!r}; expected {', '.join(TYPES)}")
    if dtype != "int8":
        return vectors.astype(dtype, copy=False)
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    return np.rint(vectors * (127 / np.maximum(largest, 1e-12))).astype(np.int8)


def header(rows: int, dim: int, dtype: DTypeLike) -> bytes:
    """What an ``.npy`` file of so many vectors begins with; their numbers follow."""
    head = io.BytesIO()
    form = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
    npy.write_array_header_1_0(head, {**form, "shape": (rows, dim)})
    return head.getvalue()


def as_float32(vectors: NDArray[np.generic]) -> NDArray[np.float32]:
    """Turn vectors of any of the types into float32; those of int8 get length 1 again."""
    floats = np.asarray(vectors, dtype=np.float32)
    if vectors.dtype != np.int8:
        return floats
    return floats / np.maximum(np.linalg.norm(floats, axis=1, keepdims=True), 1e-12)
