"""Rounds the weights of a graph to 8 bits, with what some texts tell about its activations."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from finetune.export.affine import Affine
from finetune.export.calibration import Observed, extremes, observe
from finetune.export.graph import adaptable, biases, groups, lookups, matrices, name_of, products
from finetune.export.rounding import round_columns
from finetune.export.smooth import RowScale, affine, row_scale
from finetune.inference.onnx import Feed

log = logging.getLogger(__name__)

Rounded = tuple[NDArray[np.int8], NDArray[np.float32]]


@dataclass(frozen=True)
class Prepared:
    """What every INT8 form of one graph is written from.

    Attributes:
        weights: By matrix of a product, int8 ``[k, n]`` and scales ``[n]``.
        tables: By table, int8 ``[n, k]`` and scales ``[n]``.
        maps: By activation, what is done to its channels; the weights are of what that gives.
        added: By product of a shifted activation, what its bias gains, ``[n]``.
        rows: By activation whose tokens have a scale each in dynamic INT8, how.
        ranges: By activation, least and largest value after its map; none where no texts were
            read for them.
        groups: The activations and tables, in the graph's order.
    """

    weights: Mapping[str, Rounded]
    tables: Mapping[str, Rounded]
    maps: Mapping[str, Affine]
    added: Mapping[str, NDArray[np.float32]]
    rows: Mapping[str, RowScale]
    ranges: Mapping[str, tuple[float, float]]
    groups: tuple[str, ...]


def prepare(
    fp32: Path,
    feeds: Iterable[Feed] = (),
    range_feeds: Iterable[Feed] = (),
    percentile: float = 100,
) -> Prepared:
    """Round the weights of an fp32 graph, and find the ranges of its activations.

    Args:
        fp32: The graph of `export_onnx`.
        feeds: Batches to find outliers and correlations with; without any, outliers stay where they
            are and each weight is rounded to its nearest step.
        range_feeds: Batches to find the ranges of static INT8 with; dynamic INT8 needs none.
        percentile: Of tokens that must lie within a range, on either side; 100 takes the extremes.

    Raises:
        RuntimeError: There is nothing to quantise.
    """
    graph = onnx.load(fp32).graph
    feeds, range_feeds = list(feeds), list(range_feeds)
    reading = _readers(graph)
    if not reading:
        raise RuntimeError(f"{fp32}: holds no MatMul with a constant weight to quantise")
    known = {name: numpy_helper.to_array(each) for name, each in matrices(graph).items()}
    seen = observe(fp32, adaptable(graph), feeds)
    biased = biases(graph)
    maps = {name: Affine() for name in reading}
    for name, each in seen.items():
        side_by_side = np.concatenate([known[node.input[1]] for node in reading[name]], axis=1)
        shiftable = all(name_of(node) in biased for node in reading[name])
        maps[name] = affine(each, side_by_side, biased=shiftable)
    return Prepared(
        weights={
            node.input[1]: _round(known[node.input[1]], maps[name], seen.get(name))
            for name, nodes in reading.items() for node in nodes
        },
        tables={
            table: quantize_rows(known[table])
            for table in dict.fromkeys(node.input[0] for node in lookups(graph))
        },
        maps=maps,
        added={
            name_of(node): shift @ known[node.input[1]]
            for name, nodes in reading.items() if (shift := maps[name].shift) is not None
            for node in nodes
        },
        rows=_row_scales(fp32, reading, maps, known, feeds),
        ranges={
            name: (_percentile(least, 100 - percentile), _percentile(most, percentile))
            for name, (least, most) in extremes(fp32, maps, range_feeds).items()
        },
        groups=tuple(groups(graph)),
    )  # fmt: skip


def _readers(graph: onnx.GraphProto) -> dict[str, list[NodeProto]]:
    """The products that read an activation, by its name."""
    found: dict[str, list[NodeProto]] = {}
    for node in products(graph):
        found.setdefault(node.input[0], []).append(node)
    return found


def _row_scales(
    fp32: Path,
    reading: Mapping[str, Sequence[NodeProto]],
    maps: Mapping[str, Affine],
    known: Mapping[str, NDArray[np.float32]],
    feeds: Sequence[Feed],
) -> dict[str, RowScale]:
    """Choose the activations whose rows have a scale each.

    Those that products widen are left out: the scales are multiplied into what products give.
    """
    narrowed = {}
    for name, nodes in reading.items():
        sizes = [known[node.input[1]].shape for node in nodes]
        if sum(columns for _, columns in sizes) <= sizes[0][0]:
            narrowed[name] = maps[name]
    ends = extremes(fp32, narrowed, feeds)
    found = {name: row_scale(*each) for name, each in ends.items()}
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
    largest = np.abs(weight).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.round(weight / scale[:, None]).astype(np.int8), scale


def _round(weight: NDArray[np.float32], affine: Affine, seen: Observed | None) -> Rounded:
    """Round a matrix whose rows are multiplied by what its activation is divided by."""
    divisor = np.ones(len(weight), np.float32) if affine.divisor is None else affine.divisor
    weight = weight * divisor[:, None]
    if seen is None:
        return quantize_columns(weight)
    moved = seen if affine.shift is None else seen.shifted(affine.shift)
    return round_columns(weight, moved.gram / np.outer(divisor, divisor))
