"""Rounds weights to 8 bits so that the errors cancel on real activations.

Rounding each weight to the nearest step is best for the weight, not for ``a @ w``: activations are
correlated, so what one row loses the rows after it can make up. GPTQ (Frantar et al. 2023,
arXiv:2210.17323) rounds row after row and spreads each row's error over the rows still to come, by
the inverse of ``H = aᵀa``, gathered on some texts. Nothing changes at run time.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from finetune.inference.onnx import Feed

_BLOCK = 128  # rows rounded before the rest of the matrix is brought up to date
# Share of H's mean diagonal added to it, so that channels which the texts never used count little
# and the inverse exists.
_DAMPING = 0.01


def gram_matrices(
    fp32: Path, tensors: Iterable[str], feeds: Iterable[Feed]
) -> dict[str, NDArray[np.float64]]:
    """Run a model and sum ``aᵀa`` over all rows of some of its tensors.

    Args:
        fp32: The graph.
        tensors: Names of tensors ``[..., k]`` inside it.
        feeds: Batches to run; some 5,000 tokens tell enough.

    Returns:
        ``[k, k]`` by tensor; nothing if there are no tensors.
    """
    names = list(tensors)
    if not names:
        return {}
    session = _session_with_grams(fp32, names)
    sums: dict[str, NDArray[np.float64]] = {}
    for feed in feeds:
        found = session.run([f"{name}/gram" for name in names], feed)
        for name, gram in zip(names, found, strict=True):
            sums[name] = sums[name] + gram if name in sums else gram.astype(np.float64)
    return sums


def round_columns(
    weight: NDArray[np.float32], gram: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise ``[k, n]`` symmetrically with one scale a column -> int8 ``[k, n]``, ``[n]``.

    Args:
        weight: ``[k, n]``.
        gram: ``aᵀa`` of the activations that the weight is multiplied with, ``[k, k]``.
    """
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / 127, 1)
    spread = _spread(gram)
    rest = weight.astype(np.float64)
    rounded = np.empty(weight.shape, np.int8)
    for start in range(0, len(rest), _BLOCK):
        end = min(start + _BLOCK, len(rest))
        errors = np.empty((end - start, rest.shape[1]))
        for row in range(start, end):
            rounded[row] = np.clip(np.round(rest[row] / scale), -127, 127)
            errors[row - start] = (rest[row] - rounded[row] * scale) / spread[row, row]
            rest[row + 1 : end] -= np.outer(spread[row, row + 1 : end], errors[row - start])
        rest[end:] -= spread[start:end, end:].T @ errors
    return rounded, scale.astype(np.float32)


def _spread(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper Cholesky factor of the damped inverse: row i says where the error of row i goes."""
    size = len(gram)
    damping = _DAMPING * (np.trace(gram) / size or 1.0)
    inverse = np.linalg.inv(gram + damping * np.eye(size))
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float64)


def _session_with_grams(fp32: Path, names: list[str]) -> onnxruntime.InferenceSession:
    """Start a model that also gives ``<name>/gram``, so that no activation leaves the graph."""
    probe = onnx.load(fp32)
    for name in names:
        flat, turned, gram = f"{name}/rows", f"{name}/turned", f"{name}/gram"
        probe.graph.node.extend(
            [
                helper.make_node("Flatten", [name], [flat], axis=-1),
                helper.make_node("Transpose", [flat], [turned], perm=[1, 0]),
                helper.make_node("MatMul", [turned, flat], [gram]),
            ]
        )
        probe.graph.output.append(helper.make_tensor_value_info(gram, TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
