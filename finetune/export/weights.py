"""Rounds the weights of a graph to 8 bits, with what some texts tell about its activations."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from finetune.export.adapt import Affine, adapt
from finetune.export.calibration import Observed, extremes, observe
from finetune.export.graph import adaptable, biases, groups, lookups, matrices, name_of, products
from finetune.export.rounding import round_columns
from finetune.export.smooth import RowScale, best_map, row_scale
from finetune.inference.onnx import Feed

log = logging.getLogger(__name__)


class Form(Enum):
    """Where the scale of an activation comes from."""

    dynamic = "dynamic"  # from the batch, while running; for ONNX Runtime
    static = "static"  # from calibration texts; for ONNX Runtime and OpenVINO


_ROWS = 4096  # rounded at a time

Rounded = tuple[NDArray[np.int8], NDArray[np.float32]]


@dataclass(frozen=True)
class Prepared:
    """What an INT8 form of one graph is written from.

    Attributes:
        form: Which.
        weights: By matrix of a product, int8 ``[k, n]`` and scales ``[n]``.
        tables: By table, int8 ``[n, k]`` and scales ``[n]``.
        maps: By activation, what is done to its channels; all else is of the graph that `adapt`
            makes of these.
        rows: By activation whose tokens have a scale each, how; nothing else is done to it.
        ranges: By activation, least and largest value after its map; none where no texts were
            read for them.
        groups: The activations and tables, in the graph's order.
    """

    form: Form
    weights: Mapping[str, Rounded]
    tables: Mapping[str, Rounded]
    maps: Mapping[str, Affine]
    rows: Mapping[str, RowScale]
    ranges: Mapping[str, tuple[float, float]]
    groups: tuple[str, ...]


def prepare(
    fp32: Path,
    form: Form,
    feeds: Iterable[Feed] = (),
    range_feeds: Iterable[Feed] = (),
    percentile: float = 100,
) -> Prepared:
    """Round the weights of an fp32 graph, and find the ranges of its activations.

    Args:
        fp32: The graph of `export_onnx`.
        form: What it is made ready for.
        feeds: Batches to find outliers and correlations with; without any, outliers stay where they
            are and each weight is rounded to its nearest step.
        range_feeds: Batches to find the ranges of static INT8 with; dynamic INT8 needs none.
        percentile: Of tokens that must lie within a range, on either side; 100 takes the extremes.

    Raises:
        RuntimeError: There is nothing to quantise.
        ValueError: The form needs ranges, and there are no batches to find them on.
    """
    model, feeds, range_feeds = onnx.load(fp32), list(feeds), list(range_feeds)
    if form is Form.static and not range_feeds:
        raise ValueError("static INT8 needs the ranges of activations; give range_feeds")
    read = _Products(model.graph)
    if not read.by:
        raise RuntimeError(f"{fp32}: holds no MatMul with a constant weight to quantise")
    seen = observe(model, adaptable(model.graph), feeds)
    rows = _row_scales(model, read, feeds) if form is Form.dynamic else {}
    maps = {name: Affine() for name in read.by}
    for name in seen.keys() - rows.keys():
        maps[name] = best_map(seen[name], read.weight(name), shiftable=read.shiftable(name))
    adapt(model.graph, maps)
    known = _arrays(model.graph)
    tables = dict.fromkeys(node.input[0] for node in lookups(model.graph))
    ends = extremes(model, read.by, range_feeds)
    return Prepared(
        form=form,
        weights={
            node.input[1]: _round(known[node.input[1]], maps[name], seen.get(name))
            for name, node in read
        },
        tables={table: quantize_rows(known[table]) for table in tables},
        maps=maps,
        rows=rows,
        ranges={
            name: (_percentile(least, 100 - percentile), _percentile(most, percentile))
            for name, (least, most) in ends.items()
        },
        groups=tuple(groups(model.graph)),
    )


class _Products:
    """The products of a graph by the activation that they read, and its constant matrices."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.known = _arrays(graph)
        self.by: dict[str, list[NodeProto]] = {}
        for node in products(graph):
            self.by.setdefault(node.input[0], []).append(node)
        self._biased = biases(graph)

    def __iter__(self) -> Iterator[tuple[str, NodeProto]]:
        """Each activation with each product that reads it."""
        return ((name, node) for name, nodes in self.by.items() for node in nodes)

    def weight(self, name: str) -> NDArray[np.float32]:
        """What multiplies an activation ``[..., k]``, side by side, ``[k, m]``."""
        return np.concatenate([self.known[node.input[1]] for node in self.by[name]], axis=1)

    def widened(self, name: str) -> bool:
        """Whether products give more numbers than the activation has."""
        shapes = [self.known[node.input[1]].shape for node in self.by[name]]
        return sum(columns for _, columns in shapes) > shapes[0][0]

    def shiftable(self, name: str) -> bool:
        """Whether biases can make up for a shift, and products take long enough to be worth it."""
        return self.widened(name) and all(name_of(node) in self._biased for node in self.by[name])


def _arrays(graph: onnx.GraphProto) -> dict[str, NDArray[np.float32]]:
    return {name: numpy_helper.to_array(each) for name, each in matrices(graph).items()}


def _row_scales(
    model: onnx.ModelProto, read: _Products, feeds: Sequence[Feed]
) -> dict[str, RowScale]:
    """Choose the activations whose rows have a scale each.

    Those that products widen are left out: the scales are multiplied into what products give.
    """
    narrowed = [name for name in read.by if not read.widened(name)]
    found = {name: row_scale(*ends) for name, ends in extremes(model, narrowed, feeds).items()}
    return {name: each for name, each in found.items() if each is not None}


def _percentile(values: NDArray[np.float32], percentile: float) -> float:
    return float(np.percentile(values, percentile))


def quantize_columns(weight: NDArray[np.float32]) -> Rounded:
    """Quantise ``[k, n]`` symmetrically with one scale a column -> int8 ``[k, n]``, ``[n]``."""
    rows, scale = quantize_rows(weight.T)
    return np.ascontiguousarray(rows.T), scale


def quantize_rows(weight: NDArray[np.float32]) -> Rounded:
    """Quantise ``[n, k]`` symmetrically with one scale a row -> int8 ``[n, k]``, scales ``[n]``.

    The largest weight of a row becomes 127 or -127; a row of zeros keeps scale 1.
    """
    rounded = np.empty(weight.shape, np.int8)
    scale = np.empty(len(weight), np.float32)
    for start in range(0, len(weight), _ROWS):  # a table of words may take gigabytes
        rows = slice(start, start + _ROWS)
        largest = np.abs(weight[rows]).max(axis=1)
        scale[rows] = np.where(largest > 0, largest / 127, 1)
        rounded[rows] = np.round(weight[rows] / scale[rows, None])
    return rounded, scale


def _round(weight: NDArray[np.float32], applied: Affine, seen: Observed | None) -> Rounded:
    """Round a matrix that has made up for the map of its activation."""
    if seen is None:
        return quantize_columns(weight)
    moved = seen if applied.shift is None else seen.shifted(applied.shift)
    if applied.divisor is None:
        return round_columns(weight, moved.gram)
    return round_columns(weight, moved.gram / np.outer(applied.divisor, applied.divisor))
