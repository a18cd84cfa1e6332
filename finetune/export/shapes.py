"""Reshapes that the exporter spells out, in one node: heads are split and joined in every layer."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper


def keep_leading(graph: onnx.GraphProto) -> None:
    """Let reshapes of ``[batch, sequence, …]`` keep both sizes, instead of asking for each.

    The exporter makes a target shape of six nodes (Shape, Gather, Unsqueeze, …, Concat), which a
    single short text waits for. A 0 in a constant shape says the same: as it was.
    Meant for graphs in which all that is reshaped begins with batch and sequence, as in BERT.
    """
    nodes = {name: node for node in graph.node for name in node.output}
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    shapes: dict[str, NDArray[np.int64]] = {}
    for node in graph.node:
        target = nodes.get(node.input[1]) if node.op_type == "Reshape" else None
        if target is None or target.op_type != "Concat":
            continue
        leading = [_dimension(name, nodes, constants) for name in target.input[:2]]
        rest = [constants.get(name) for name in target.input[2:]]
        if leading == [0, 1] and all(size is not None for size in rest):
            sizes = [0, 0, *(int(size.item()) for size in rest if size is not None)]
            node.input[1] = "shape/" + "x".join(map(str, sizes))
            shapes[node.input[1]] = np.array(sizes, dtype=np.int64)
    graph.initializer.extend(numpy_helper.from_array(sizes, name) for name, sizes in shapes.items())
    _drop_unread(graph)


def _dimension(
    name: str, nodes: dict[str, NodeProto], constants: dict[str, NDArray[np.int64]]
) -> int | None:
    """Which dimension of a tensor a part of a shape is; None where it is something else."""
    node = nodes.get(name)
    for kind in ("Unsqueeze", "Gather"):
        if node is None or node.op_type != kind:
            return None
        index = constants.get(node.input[1])
        node = nodes.get(node.input[0])
    return (
        int(index) if node is not None and node.op_type == "Shape" and index is not None else None
    )


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Leave out nodes whose outputs nobody reads any more, the last first."""
    read = {each.name for each in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            read |= set(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
