"""Rounds the weights of a graph to 8 bits, with what some texts tell about its activations."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from finetune.export.calibration import Observed, observe, ranges
from finetune.export.graph import adaptable, groups, lookups, matrices, products
from finetune.export.rounding import round_columns
from finetune.export.smooth import smoothing
from finetune.inference.onnx import Feed

log = logging.getLogger(__name__)

Rounded = tuple[NDArray[np.int8], NDArray[np.float32]]


@dataclass(frozen=True)
class Prepared:
    """What every INT8 form of one graph is written from.

    Attributes:
        weights: By matrix of a product, int8 ``[k, n]`` and scales ``[n]``.
        tables: By table, int8 ``[n, k]`` and scales ``[n]``.
        divisors: By activation with outliers, what its channels are divided by; the rows of its
            weights are multiplied by the same.
        ranges: By activation, least and largest value after the division; none where no texts
            were read for them.
        groups: The activations and tables, in the graph's order.
    """

    weights: Mapping[str, Rounded]
    tables: Mapping[str, Rounded]
    divisors: Mapping[str, NDArray[np.float32]]
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
        percentile: See `finetune.export.calibration.ranges`.

    Raises:
        RuntimeError: There is nothing to quantise.
    """
    graph = onnx.load(fp32).graph
    seen = observe(fp32, adaptable(graph), feeds)
    known = matrices(graph)
    divisors = {}
    for name, each in seen.items():
        read = dict.fromkeys(node.input[1] for node in products(graph) if node.input[0] == name)
        side_by_side = np.concatenate([numpy_helper.to_array(known[w]) for w in read], axis=1)
        if (divisor := smoothing(each, side_by_side)) is not None:
            divisors[name] = divisor
    readers = {node.input[1]: node.input[0] for node in products(graph)}
    if not readers:
        raise RuntimeError(f"{fp32}: holds no MatMul with a constant weight to quantise")
    activations = list(dict.fromkeys(node.input[0] for node in products(graph)))
    range_feeds = list(range_feeds)
    return Prepared(
        weights={
            weight: _round(numpy_helper.to_array(known[weight]), divisors.get(name), seen.get(name))
            for weight, name in readers.items()
        },
        tables={
            table: quantize_rows(numpy_helper.to_array(known[table]))
            for table in dict.fromkeys(node.input[0] for node in lookups(graph))
        },
        divisors=divisors,
        ranges=ranges(fp32, activations, divisors, range_feeds, percentile) if range_feeds else {},
        groups=tuple(groups(graph)),
    )


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


def _round(
    weight: NDArray[np.float32], divisor: NDArray[np.float32] | None, seen: Observed | None
) -> Rounded:
    """Round a matrix whose rows are multiplied by what its activation is divided by."""
    if divisor is None:
        divisor = np.ones(len(weight), np.float32)
    weight = weight * divisor[:, None]
    if seen is None:
        return quantize_columns(weight)
    return round_columns(weight, seen.gram / np.outer(divisor, divisor))
