"""Looks at the activations inside a model while it reads some texts."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from finetune.inference.onnx import Feed


@dataclass(frozen=True)
class Observed:
    """What a tensor ``[..., k]`` held: each channel's largest absolute value, and ``aᵀa``."""

    maxima: NDArray[np.float32]
    gram: NDArray[np.float64]


def observe(fp32: Path, tensors: Iterable[str], feeds: Iterable[Feed]) -> dict[str, Observed]:
    """Run a model and observe some of its tensors.

    Args:
        fp32: The graph.
        tensors: Names of tensors ``[..., k]`` inside it.
        feeds: Batches to run; some 50 texts (4,000 tokens) tell enough.

    Returns:
        ``maxima [k]`` and ``gram [k, k]``, over all batches, by tensor; nothing if there are no
        batches, or no tensors.
    """
    names = list(tensors)
    if not names:
        return {}
    session = _session(fp32, names)
    seen: dict[str, Observed] = {}
    for feed in feeds:
        found = session.run([f"{name}/{what}" for name in names for what in ("max", "gram")], feed)
        for name, maxima, gram in zip(names, found[::2], found[1::2], strict=True):
            before = seen.get(name, Observed(maxima, np.zeros(gram.shape)))
            seen[name] = Observed(np.maximum(before.maxima, maxima), before.gram + gram)
    return seen


def _session(fp32: Path, names: list[str]) -> onnxruntime.InferenceSession:
    """Start a model that also gives ``<name>/max`` and ``<name>/gram``: no activation leaves it."""
    probe = onnx.load(fp32)
    for name in names:
        rows, absolute, turned = f"{name}/rows", f"{name}/abs", f"{name}/turned"
        largest, gram = f"{name}/max", f"{name}/gram"
        probe.graph.node.extend(
            [
                helper.make_node("Flatten", [name], [rows], axis=-1),
                helper.make_node("Abs", [rows], [absolute]),
                helper.make_node("ReduceMax", [absolute], [largest], axes=[0], keepdims=0),
                helper.make_node("Transpose", [rows], [turned], perm=[1, 0]),
                helper.make_node("MatMul", [turned, rows], [gram]),
            ]
        )
        for output in (largest, gram):
            value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
            probe.graph.output.append(value)
    return onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
