"""The parts of an fp32 graph that can run in INT8: products with constant matrices, and tables."""

from collections import defaultdict

import onnx
from onnx import NodeProto, TensorProto

# A table with fewer rows (positions, token types) is not worth its three extra nodes.
_MIN_ROWS = 1024


def matrices(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Return the constant fp32 matrices by name."""
    return {
        weight.name: weight
        for weight in graph.initializer
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) == 2
    }


def products(graph: onnx.GraphProto) -> list[NodeProto]:
    """Return the MatMuls whose right side is a constant matrix, in order."""
    known = matrices(graph)
    return [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in known]


def lookups(graph: onnx.GraphProto) -> list[NodeProto]:
    """Return the Gathers that read rows of a large constant table, in order."""
    large = {name for name, table in matrices(graph).items() if table.dims[0] >= _MIN_ROWS}
    return [n for n in graph.node if n.op_type == "Gather" and n.input[0] in large]


def biases(graph: onnx.GraphProto) -> dict[str, tuple[NodeProto, int]]:
    """Return, by product, the addition of a constant vector that alone reads what it gives.

    Products are called by `name_of`; beside the addition stands which of its inputs is the vector.
    """
    vectors = {each.name for each in graph.initializer if len(each.dims) == 1}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in set(node.input):
            readers[name].append(node)
    found = {}
    for product in products(graph):
        reading = readers[product.output[0]]
        if len(reading) == 1 and reading[0].op_type == "Add":
            for at, name in enumerate(reading[0].input):
                if name in vectors:
                    found[name_of(product)] = reading[0], at
    return found


def groups(graph: onnx.GraphProto) -> list[str]:
    """Return the tensors that INT8 is decided by: activations that products read, and tables.

    Products of one activation (query, key and value) share its quantised form, so they are one
    group.
    """
    activations = dict.fromkeys(node.input[0] for node in products(graph))
    return [*dict.fromkeys(node.input[0] for node in lookups(graph)), *activations]


def adaptable(graph: onnx.GraphProto) -> list[str]:
    """Return the activations that nodes make, of products whose weights serve no other purpose.

    A weight that several activations share (layers that share weights) can be fitted to one only.
    """
    made = {name for node in graph.node for name in node.output} - {o.name for o in graph.output}
    readers: dict[str, set[str]] = defaultdict(set)
    for node in graph.node:
        for name in node.input:
            readers[name].add(node.input[0] if node.op_type == "MatMul" else name_of(node))
    shared = {node.input[0] for node in products(graph) if len(readers[node.input[1]]) > 1}
    names = dict.fromkeys(node.input[0] for node in products(graph))
    return [name for name in names if name in made and name not in shared]


def name_of(node: NodeProto) -> str:
    """Return what a node is called: its name, or that of its output."""
    return node.name or node.output[0]
