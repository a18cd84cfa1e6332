"""Looks at the activations inside a model while it reads some texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from finetune.export.files import start
from finetune.inference.onnx import Feed


@dataclass(frozen=True)
class Observed:
    """What a tensor ``[..., k]`` held.

    Attributes:
        least: Of each channel, ``[k]``.
        most: Of each channel, ``[k]``.
        mean: Of each channel, ``[k]``.
        gram: ``aᵀa``, ``[k, k]``.
        rows: How many rows of k there were.
    """

    least: NDArray[np.float32]
    most: NDArray[np.float32]
    mean: NDArray[np.float64]
    gram: NDArray[np.float64]
    rows: int

    def __add__(self, other: "Observed") -> "Observed":
        rows = self.rows + other.rows
        return Observed(
            np.minimum(self.least, other.least), np.maximum(self.most, other.most),
            (self.rows * self.mean + other.rows * other.mean) / rows, self.gram + other.gram, rows,
        )  # fmt: skip

    def shifted(self, shift: NDArray[np.floating]) -> "Observed":
        """What ``a - shift`` held; `shift` is ``[k]``."""
        crossed = np.outer(self.mean, shift)
        gram = self.gram + self.rows * (np.outer(shift, shift) - crossed - crossed.T)
        return Observed(
            self.least - shift, self.most - shift, self.mean - shift, gram, self.rows
        )  # fmt: skip


def observe(
    model: onnx.ModelProto, tensors: Iterable[str], feeds: Iterable[Feed]
) -> dict[str, Observed]:
    """Run a model and observe some of its tensors.

    Args:
        model: In fp32.
        tensors: Names of tensors ``[..., k]`` inside it.
        feeds: Batches to run; some 50 texts (4,000 tokens) tell enough.

    Returns:
        What was seen over all batches, by tensor; nothing if there are no batches, or no tensors.
    """
    names = list(tensors)
    if not names:
        return {}
    session = _session(model, [node for name in names for node in _channels(name)])
    seen: dict[str, Observed] = {}
    for feed in feeds:
        found = iter(session.run([f"{name}/{what}" for name in names for what in _CHANNELS], feed))
        for name in names:
            least, most, mean, gram, shape = (next(found) for _ in _CHANNELS)
            now = Observed(least, most, mean.astype(np.float64), gram.astype(np.float64),
                           int(shape[0]))  # fmt: skip
            seen[name] = seen[name] + now if name in seen else now
    return seen


def extremes(
    model: onnx.ModelProto, tensors: Iterable[str], feeds: Iterable[Feed]
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Find each token's least and largest value of some tensors.

    A token's ends are looked at, not each of its values: a range that leaves out one value in ten
    thousand would cut into every second token of a wide layer.

    Args:
        model: In fp32.
        tensors: Names of tensors ``[..., k]`` inside it.
        feeds: Batches to run.

    Returns:
        By tensor, least and largest value of each token, ``[tokens]`` twice; padding is left out.
        Nothing if there are no batches, or no tensors.
    """
    names, feeds = list(tensors), list(feeds)
    if not names or not feeds:
        return {}
    session = _session(model, [node for name in names for node in _tokens(name)])
    seen: dict[str, list[NDArray[np.float32]]] = {f"{n}/{w}": [] for n in names for w in _ENDS}
    for feed in feeds:
        real = feed["attention_mask"].ravel() > 0 if "attention_mask" in feed else None
        for name, found in zip(seen, session.run(list(seen), feed), strict=True):
            tokens = real is not None and len(real) == len(found)  # else one row a text
            seen[name].append(found[real] if tokens else found)
    return {
        name: (np.concatenate(seen[f"{name}/least"]), np.concatenate(seen[f"{name}/most"]))
        for name in names
    }


_CHANNELS = ("least", "most", "mean", "gram", "shape")
_ENDS = ("least", "most")


def _channels(name: str) -> list[NodeProto]:
    """What `Observed` holds; no activation leaves the graph."""
    rows, turned = f"{name}/rows", f"{name}/turned"
    return [
        helper.make_node("Flatten", [name], [rows], axis=-1),
        helper.make_node("ReduceMin", [rows], [f"{name}/least"], axes=[0], keepdims=0),
        helper.make_node("ReduceMax", [rows], [f"{name}/most"], axes=[0], keepdims=0),
        helper.make_node("ReduceMean", [rows], [f"{name}/mean"], axes=[0], keepdims=0),
        helper.make_node("Transpose", [rows], [turned], perm=[1, 0]),
        helper.make_node("MatMul", [turned, rows], [f"{name}/gram"]),
        helper.make_node("Shape", [rows], [f"{name}/shape"]),
    ]


def _tokens(name: str) -> list[NodeProto]:
    """``<name>/least`` and ``<name>/most`` of each row."""
    rows = f"{name}/rows"
    return [
        helper.make_node("Flatten", [name], [rows], axis=-1),
        helper.make_node("ReduceMin", [rows], [f"{name}/least"], axes=[1], keepdims=0),
        helper.make_node("ReduceMax", [rows], [f"{name}/most"], axes=[1], keepdims=0),
    ]


def _session(model: onnx.ModelProto, nodes: Sequence[NodeProto]) -> onnxruntime.InferenceSession:
    """Start a model that also runs some nodes, and gives what no node reads."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    for name in (node.output[0] for node in nodes):
        if name not in read:
            kind = TensorProto.INT64 if name.endswith("/shape") else TensorProto.FLOAT
            probe.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return start(probe)
