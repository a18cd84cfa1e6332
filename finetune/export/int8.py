"""Dynamic INT8, written by hand: what ONNX Runtime's own quantiser does slowly or not at all.

What is quantised, and how (measured on CPUs with VNNI):

- MatMuls whose right side is a constant matrix, that is the projections and the feed-forward
  layers, where nearly all of the time and of the weights is. Weights are int8, symmetric, one scale
  a column; activations uint8, asymmetric, one scale a batch, found while running.
- Rows of large embedding tables, int8 with one scale a row: a table is read a few rows at a time,
  so this costs no time and saves three quarters of what is the larger half of a small model.

- Outliers among the channels of an activation are moved into the weight first (`smooth`), and
  weights are rounded so that their errors cancel (`rounding`).

Everything else stays fp32: Softmax, LayerNorm, Gelu, additions and the two products inside
attention are a small part of the time and most of the error.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from finetune.export.calibration import observe
from finetune.export.rounding import round_columns
from finetune.export.smooth import smoothing
from finetune.inference.onnx import Feed

log = logging.getLogger(__name__)

# A table with fewer rows (positions, token types) is not worth its three extra nodes.
_MIN_ROWS = 1024


@dataclass(frozen=True)
class QuantizedNode:
    """A node that was rewritten: its name in the fp32 graph, the weight's shape and bytes now."""

    node: str
    weight: str
    shape: tuple[int, int]
    bytes: int


@dataclass(frozen=True)
class Int8Plan:
    """What `quantize_dynamic` did; written into ``bundle.json``.

    Attributes:
        matmuls: MatMuls that now run in int8.
        embeddings: Tables whose rows are now int8.
        kept_fp32: MatMul, Gemm and Gather nodes with a constant weight that stayed.
        smoothed: Activations whose outliers were moved into the weights.
        activation_quantizers: Nodes that quantise an activation; fewer than `matmuls`, because
            query, key and value share one.
    """

    matmuls: tuple[QuantizedNode, ...]
    embeddings: tuple[QuantizedNode, ...]
    kept_fp32: tuple[str, ...]
    smoothed: tuple[str, ...]
    activation_quantizers: int


def quantize_dynamic(fp32: Path, int8: Path, feeds: Sequence[Feed] = ()) -> dict[str, Any]:
    """Write the INT8 form of an fp32 ONNX file; return the plan (`Int8Plan` as a dict).

    Weights use all 8 bits (no ``reduce_range``): CPUs with VNNI, and ARM, add the products without
    saturating. On an x86 CPU with AVX2 only, sums may saturate and cost quality.

    Args:
        fp32: The graph of `export_onnx`.
        int8: Where to write.
        feeds: Batches to find outliers and correlations with; without any, outliers stay where they
            are and each weight is rounded to its nearest step.

    Raises:
        RuntimeError: There was nothing to quantise.
    """
    model = onnx.load(fp32)
    rewrite = _Rewrite(model.graph)
    seen = observe(fp32, rewrite.matmul_inputs(), feeds) if feeds else {}
    smoothed = {name: smoothing(each.maxima) for name, each in seen.items()}
    plan = rewrite.run(
        {name: divisor for name, divisor in smoothed.items() if divisor is not None},
        {name: each.gram for name, each in seen.items()},
    )
    if not plan.matmuls:
        raise RuntimeError(f"{fp32}: holds no MatMul with a constant weight to quantise")
    onnx.checker.check_model(model)
    int8.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, int8)
    matmuls, tables, size = len(plan.matmuls), len(plan.embeddings), int8.stat().st_size / 1e6
    log.info("quantised %d MatMuls and %d tables: %s, %.1f MB", matmuls, tables, int8, size)
    return asdict(plan)


def quantize_columns(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise ``[k, n]`` symmetrically with one scale a column -> int8 ``[k, n]``, ``[n]``."""
    rows, scale = quantize_rows(weight.T)
    return np.ascontiguousarray(rows.T), scale


def quantize_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise ``[n, k]`` symmetrically with one scale a row -> int8 ``[n, k]``, scales ``[n]``.

    The largest weight of a row becomes 127 or -127; a row of zeros keeps scale 1.
    """
    largest = np.abs(weight).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.round(weight / scale[:, None]).astype(np.int8), scale


class _Rewrite:
    """Rewrites one graph in place; holds its weights, what was done and what can be shared."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.matmuls: list[QuantizedNode] = []
        self.embeddings: list[QuantizedNode] = []
        self.kept: list[str] = []
        # Input name -> names of its uint8 form, scale and zero point.
        self.activations: dict[str, tuple[str, str, str]] = {}
        # Input name -> what its channels are divided by.
        self.divisors: Mapping[str, NDArray[np.float32]] = {}
        # Input name -> its aᵀa, by which weights are rounded.
        self.grams: Mapping[str, NDArray[np.float64]] = {}

    def matmul_inputs(self) -> list[str]:
        """Return the activations that MatMuls with a constant weight read.

        One whose weight also serves another activation (layers that share weights) is left out:
        the weight can take over the outliers of one only.
        """
        pairs = [node.input for node in self.graph.node if self._is_matmul(node)]
        readers: dict[str, set[str]] = {}
        for activation, weight in pairs:
            readers.setdefault(weight, set()).add(activation)
        shared = {name for names in readers.values() if len(names) > 1 for name in names}
        return [name for name in dict.fromkeys(name for name, _ in pairs) if name not in shared]

    def run(
        self,
        divisors: Mapping[str, NDArray[np.float32]],
        grams: Mapping[str, NDArray[np.float64]],
    ) -> Int8Plan:
        """Replace the nodes that qualify, in order, and drop the weights nothing reads now."""
        self.divisors = divisors
        self.grams = grams
        nodes: list[NodeProto] = []
        for node in self.graph.node:
            if self._is_matmul(node):
                nodes += self._matmul(node)
            elif node.op_type == "Gather" and self._is_matrix(node.input[0], _MIN_ROWS):
                nodes += self._embedding(node)
            else:
                nodes.append(node)
                self._note_kept(node)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._drop_unused()
        return Int8Plan(
            matmuls=tuple(self.matmuls),
            embeddings=tuple(self.embeddings),
            kept_fp32=tuple(self.kept),
            smoothed=tuple(self.divisors),
            activation_quantizers=len(self.activations),
        )

    def _matmul(self, node: NodeProto) -> list[NodeProto]:
        """``a @ w`` -> ``(uint8 a @ int8 w) * (scale of a * scales of w)``.

        ONNX Runtime fuses the multiplications, and a bias added next, into the integer product.
        """
        activation, weight = node.input
        name = node.name or node.output[0]
        nodes = self._quantize_activation(activation)
        a, a_scale, a_zero = self.activations[activation]
        w, w_scale = self._quantize_matrix(weight, activation)
        self.matmuls.append(self._entry(name, weight))
        return [
            *nodes,
            helper.make_node("MatMulInteger", [a, w, a_zero], [f"{name}/int32"], name),
            _to_float(f"{name}/int32", f"{name}/float"),
            helper.make_node("Mul", [a_scale, w_scale], [f"{name}/scale"], f"{name}/scale"),
            helper.make_node(
                "Mul", [f"{name}/float", f"{name}/scale"], [node.output[0]], f"{name}/rescale"
            ),
        ]

    def _embedding(self, node: NodeProto) -> list[NodeProto]:
        """``table[ids]`` -> ``float(int8 table[ids]) * scales[ids]``."""
        table, ids = node.input
        name = node.name or node.output[0]
        rows, scale = self._quantize_table(table)
        self.embeddings.append(self._entry(name, table))
        return [
            helper.make_node("Gather", [rows, ids], [f"{name}/int8"], name),
            _to_float(f"{name}/int8", f"{name}/float"),
            helper.make_node("Gather", [scale, ids], [f"{name}/scale"], f"{name}/scale"),
            helper.make_node(
                "Mul", [f"{name}/float", f"{name}/scale"], [node.output[0]], f"{name}/rescale"
            ),
        ]

    def _quantize_activation(self, name: str) -> list[NodeProto]:
        """Return the nodes that quantise a tensor; none if an earlier MatMul has brought them."""
        if name in self.activations:
            return []
        outputs = (f"{name}/uint8", f"{name}/uint8/scale", f"{name}/uint8/zero")
        self.activations[name] = outputs
        if name not in self.divisors:
            return [helper.make_node("DynamicQuantizeLinear", [name], outputs, f"{name}/quantize")]
        smooth, factors = f"{name}/smooth", f"{name}/factors"
        self._add(factors, 1 / self.divisors[name])
        return [
            helper.make_node("Mul", [name, factors], [smooth], smooth),
            helper.make_node("DynamicQuantizeLinear", [smooth], outputs, f"{name}/quantize"),
        ]

    def _quantize_matrix(self, name: str, activation: str) -> tuple[str, str]:
        """Add the int8 form of a matrix and its scales ``[n]``; return their names.

        What the activation is divided by multiplies the rows.
        """
        names = (f"{name}/int8", f"{name}/scales")
        if names[0] not in self.weights:
            weight = numpy_helper.to_array(self.weights[name])
            divisor = self.divisors.get(activation, np.ones(len(weight), np.float32))
            weight = weight * divisor[:, None]
            gram = self.grams.get(activation)
            int8, scale = (
                quantize_columns(weight)
                if gram is None
                else round_columns(weight, gram / np.outer(divisor, divisor))
            )
            self._add(names[0], int8)
            self._add(names[1], scale)
        return names

    def _quantize_table(self, name: str) -> tuple[str, str]:
        """Add the int8 rows of a table and their scales ``[n, 1]``; return their names."""
        names = (f"{name}/int8-rows", f"{name}/row-scales")
        if names[0] not in self.weights:
            int8, scale = quantize_rows(numpy_helper.to_array(self.weights[name]))
            self._add(names[0], int8)
            self._add(names[1], scale[:, None])
        return names

    def _add(self, name: str, values: NDArray[Any]) -> None:
        tensor = numpy_helper.from_array(values, name)
        self.weights[name] = tensor
        self.graph.initializer.append(tensor)

    def _entry(self, node: str, weight: str) -> QuantizedNode:
        rows, columns = self.weights[weight].dims
        return QuantizedNode(node, weight, (rows, columns), rows * columns)

    def _is_matmul(self, node: NodeProto) -> bool:
        return node.op_type == "MatMul" and self._is_matrix(node.input[1])

    def _is_matrix(self, name: str, min_rows: int = 1) -> bool:
        """Say whether a tensor is a constant fp32 matrix with enough rows."""
        weight = self.weights.get(name)
        return (
            weight is not None
            and weight.data_type == TensorProto.FLOAT
            and len(weight.dims) == 2
            and weight.dims[0] >= min_rows
        )

    def _note_kept(self, node: NodeProto) -> None:
        """Remember a node with a constant fp32 matrix that stays as it is."""
        if node.op_type in ("MatMul", "Gemm", "Gather") and any(map(self._is_matrix, node.input)):
            self.kept.append(node.name or node.output[0])

    def _drop_unused(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        kept = [weight for weight in self.graph.initializer if weight.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


def _to_float(source: str, target: str) -> NodeProto:
    return helper.make_node("Cast", [source], [target], target, to=TensorProto.FLOAT)
