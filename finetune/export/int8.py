"""INT8 graphs, written by hand: what the runtimes' own quantisers do slowly or not at all.

What is quantised, and how (measured on CPUs with VNNI):

- MatMuls whose right side is a constant matrix, that is the projections and the feed-forward
  layers, where nearly all of the time and of the weights is. Weights are int8, symmetric, one scale
  a column; activations uint8, asymmetric, with one scale for all readers (`Form`), or one a token
  where a few tokens stand out.
- Rows of large embedding tables, int8 with one scale a row: a table is read a few rows at a time,
  so this costs no time and saves three quarters of what is the larger half of a small model.
- Channels of an activation are shifted to their middle and their outliers moved into the weight
  first (`smooth`, `adapt`), and weights are rounded so that their errors cancel (`rounding`).

Everything else stays fp32: Softmax, LayerNorm, Gelu, additions and the two products inside
attention are a small part of the time and most of the error.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from finetune.export.adapt import adapt
from finetune.export.files import save
from finetune.export.graph import lookups, matrices, name_of, products
from finetune.export.smooth import RowScale
from finetune.export.weights import Form, Prepared, Rounded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizedNode:
    """A node that was rewritten: its name in the fp32 graph, the weight's shape and bytes now."""

    node: str
    weight: str
    shape: tuple[int, int]
    bytes: int


@dataclass(frozen=True)
class Int8Plan:
    """What `quantize` did; written into ``bundle.json``.

    Attributes:
        matmuls: MatMuls that now run in int8.
        embeddings: Tables whose rows are now int8.
        kept_fp32: MatMul, Gemm and Gather nodes with a constant weight that stayed.
        smoothed: Activations whose outliers were moved into the weights.
        shifted: Activations whose channels were moved to their middle.
        by_row: Activations whose tokens have a scale each.
        activation_quantizers: Nodes that quantise an activation; fewer than `matmuls`, because
            query, key and value share one.
    """

    matmuls: tuple[QuantizedNode, ...]
    embeddings: tuple[QuantizedNode, ...]
    kept_fp32: tuple[str, ...]
    smoothed: tuple[str, ...]
    shifted: tuple[str, ...]
    by_row: tuple[str, ...]
    activation_quantizers: int


def quantize(fp32: Path, int8: Path, prepared: Prepared, keep: Collection[str] = ()) -> Int8Plan:
    """Write an INT8 form of an fp32 ONNX file.

    Weights use all 8 bits (no ``reduce_range``): CPUs with VNNI, and ARM, add the products without
    saturating. On an x86 CPU with AVX2 only, sums may saturate and cost quality.

    Args:
        fp32: The graph that `prepared` was made from.
        int8: Where to write.
        prepared: Its weights and ranges, for the form that is wanted.
        keep: Groups that stay fp32 (see `finetune.export.graph.groups`).
    """
    model = onnx.load(fp32)
    adapt(model.graph, prepared.maps)
    plan = _Rewrite(model.graph, prepared, keep).run()
    save(model, int8)
    return plan


class _Rewrite:
    """Rewrites one graph in place; holds what was done and what can be shared."""

    def __init__(self, graph: onnx.GraphProto, prepared: Prepared, keep: Collection[str]) -> None:
        self.graph, self.prepared = graph, prepared
        self.matrices = matrices(graph)
        self.products = {name_of(n) for n in products(graph) if n.input[0] not in keep}
        self.lookups = {name_of(n) for n in lookups(graph) if n.input[0] not in keep}
        self.added: set[str] = set()
        # Of each activation, the names of its uint8 form, scale and zero point.
        self.activations: dict[str, tuple[str, str, str]] = {}

    def run(self) -> Int8Plan:
        """Replace the nodes that qualify, in order, and drop the weights nothing reads now."""
        matmuls, embeddings, kept = [], [], []
        nodes: list[NodeProto] = []
        for node in self.graph.node:
            name = name_of(node)
            if name in self.products:
                matmuls.append(self._entry(name, node.input[1]))
                nodes += self._matmul(node)
            elif name in self.lookups:
                embeddings.append(self._entry(name, node.input[0]))
                nodes += self._embedding(node)
            else:
                nodes.append(node)
                if node.op_type in ("MatMul", "Gemm", "Gather") and any(
                    each in self.matrices for each in node.input
                ):
                    kept.append(name)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._drop_unused()
        maps = self.prepared.maps
        return Int8Plan(
            matmuls=tuple(matmuls),
            embeddings=tuple(embeddings),
            kept_fp32=tuple(kept),
            smoothed=tuple(name for name in self.activations if maps[name].divisor is not None),
            shifted=tuple(name for name in self.activations if maps[name].shift is not None),
            by_row=tuple(name for name in self.activations if name in self.prepared.rows),
            activation_quantizers=len(self.activations),
        )

    def _matmul(self, node: NodeProto) -> list[NodeProto]:
        """Return the nodes that multiply in int8.

        Dynamic: ``(uint8 a @ int8 w) * (scale of a * scales of w)``; ONNX Runtime fuses the
        multiplications, and a bias added next, into the integer product. Static: a product of two
        int8 tensors turned into floats again, in which both runtimes see the integer product; the
        form above would lose it to constant folding.
        """
        activation, weight = node.input
        nodes = self._quantize_activation(activation)
        a, w = self.activations[activation], self._constant(weight, self.prepared.weights[weight])
        product = _static_product
        if self.prepared.form is Form.dynamic:
            product = _row_product if activation in self.prepared.rows else _dynamic_product
        return [*nodes, *product(name_of(node), a, w, node.output[0])]

    def _embedding(self, node: NodeProto) -> list[NodeProto]:
        """``table[ids]`` -> ``float(int8 table[ids]) * scales[ids]``."""
        name, (table, ids) = name_of(node), node.input
        int8, scale = self.prepared.tables[table]
        rows, row_scale = self._constant(f"{table}/rows", (int8, scale[:, None]))
        return [
            helper.make_node("Gather", [rows, ids], [f"{name}/int8"], name),
            _to_float(f"{name}/int8", f"{name}/float"),
            helper.make_node("Gather", [row_scale, ids], [f"{name}/scale"], f"{name}/scale"),
            helper.make_node(
                "Mul", [f"{name}/float", f"{name}/scale"], [node.output[0]], f"{name}/rescale"
            ),
        ]

    def _quantize_activation(self, name: str) -> list[NodeProto]:
        """Return the nodes that quantise a tensor; none if an earlier MatMul has brought them."""
        if name in self.activations:
            return []
        uint8, scale, zero = f"{name}/uint8", f"{name}/uint8/scale", f"{name}/uint8/zero"
        self.activations[name] = uint8, scale, zero
        if name in self.prepared.rows:
            return self._quantize_rows(name, self.prepared.rows[name])
        if self.prepared.form is Form.dynamic:
            kind, inputs, outputs = "DynamicQuantizeLinear", [name], [uint8, scale, zero]
        else:
            step, middle = steps(*self.prepared.ranges[name])
            self._add(scale, step)
            self._add(zero, middle)
            kind, inputs, outputs = "QuantizeLinear", [name, scale, zero], [uint8]
        return [helper.make_node(kind, inputs, outputs, f"{name}/quantize")]

    def _quantize_rows(self, name: str, rows: RowScale) -> list[NodeProto]:
        """Return the nodes that round each row of a tensor by its own scale."""
        uint8, scale, zero = self.activations[name]
        constants = {"share": 1 / (255 - rows.zero), "floor": rows.floor, "one": 1}
        for constant, value in constants.items():
            self._add(f"{name}/{constant}", np.array(value, np.float32))
        self._add(zero, np.array(rows.zero, np.uint8))
        most, step, factor, steps = (f"{name}/{each}" for each in ("most", "step", "per", "steps"))
        return [
            helper.make_node("ReduceMax", [name], [most], most, axes=[-1]),
            helper.make_node("Mul", [most, f"{name}/share"], [step], step),
            helper.make_node("Max", [step, f"{name}/floor"], [scale], scale),
            helper.make_node("Reciprocal", [scale], [factor], factor),
            helper.make_node("Mul", [name, factor], [steps], steps),
            helper.make_node("QuantizeLinear", [steps, f"{name}/one", zero], [uint8],
                             f"{name}/quantize"),
        ]  # fmt: skip

    def _constant(self, name: str, rounded: Rounded) -> tuple[str, str]:
        """Add an int8 matrix and its scales; return their names."""
        int8, scales = f"{name}/int8", f"{name}/scales"
        self._add(int8, rounded[0])
        self._add(scales, rounded[1])
        return int8, scales

    def _add(self, name: str, values: NDArray[Any]) -> None:
        if name not in self.added:
            self.added.add(name)
            self.graph.initializer.append(numpy_helper.from_array(values, name))

    def _entry(self, node: str, weight: str) -> QuantizedNode:
        rows, columns = self.matrices[weight].dims
        return QuantizedNode(node, weight, (rows, columns), rows * columns)

    def _drop_unused(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        kept = [weight for weight in self.graph.initializer if weight.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


def steps(least: float, most: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return scale and zero point with which uint8 reaches from `least` to `most`, and holds 0.

    Zero must be exact: padding, and what Gelu cuts off, is zero.
    """
    least, most = min(least, 0.0), max(most, 0.0)
    scale = (most - least) / 255 or 1.0
    return np.array(scale, np.float32), np.array(round(-least / scale), np.uint8)


def _dynamic_product(
    name: str, a: tuple[str, str, str], w: tuple[str, str], output: str
) -> list[NodeProto]:
    return [
        helper.make_node("MatMulInteger", [a[0], w[0], a[2]], [f"{name}/int32"], name),
        _to_float(f"{name}/int32", f"{name}/float"),
        helper.make_node("Mul", [a[1], w[1]], [f"{name}/scale"], f"{name}/scale"),
        helper.make_node("Mul", [f"{name}/float", f"{name}/scale"], [output], f"{name}/rescale"),
    ]


def _row_product(
    name: str, a: tuple[str, str, str], w: tuple[str, str], output: str
) -> list[NodeProto]:
    columns = f"{name}/columns"
    return [
        helper.make_node("MatMulInteger", [a[0], w[0], a[2]], [f"{name}/int32"], name),
        _to_float(f"{name}/int32", f"{name}/float"),
        helper.make_node("Mul", [f"{name}/float", w[1]], [columns], columns),
        helper.make_node("Mul", [columns, a[1]], [output], f"{name}/rescale"),
    ]


def _static_product(
    name: str, a: tuple[str, str, str], w: tuple[str, str], output: str
) -> list[NodeProto]:
    return [
        helper.make_node("DequantizeLinear", list(a), [f"{name}/a"], f"{name}/a"),
        helper.make_node("DequantizeLinear", list(w), [f"{name}/w"], f"{name}/w", axis=1),
        helper.make_node("MatMul", [f"{name}/a", f"{name}/w"], [output], name),
    ]


def _to_float(source: str, target: str) -> NodeProto:
    return helper.make_node("Cast", [source], [target], target, to=TensorProto.FLOAT)
