"""The machine's limit, and where a graph's time goes; used by benchmarks/inference.py."""

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from common.engines import interleaved
from onnx import TensorProto, helper, numpy_helper


def rates(threads: int, rounds: int) -> dict[str, float]:
    """Billions of operations a second of products as large as a model's, and the best of them."""
    runs, work = {}, {}
    for rows, inner, columns in ((512, 768, 3072), (1024, 1024, 4096), (2048, 2048, 2048)):
        for kind in ("int8", "fp32"):
            key = f"{kind} {rows}x{inner}x{columns}"
            runs[key] = product(kind, rows, inner, columns, threads)
            work[key] = 2e-9 * rows * inner * columns
    seconds = interleaved(runs, rounds)
    found = {key: round(work[key] / value, 1) for key, value in seconds.items()}
    peaks = {
        f"{kind}_peak": max(rate for key, rate in found.items() if key.startswith(kind))
        for kind in ("int8", "fp32")
    }
    return peaks | found


def product(kind: str, rows: int, inner: int, columns: int, threads: int) -> Callable[[], Any]:
    """A function that multiplies once, u8 by constant s8 (``int8``) or fp32 by constant fp32."""
    rng = np.random.default_rng(0)
    if kind == "int8":
        left = rng.integers(0, 256, (rows, inner)).astype(np.uint8)
        right = rng.integers(-127, 128, (inner, columns)).astype(np.int8)
        operator, read, made = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
    else:
        left = rng.standard_normal((rows, inner), np.float32)
        right = rng.standard_normal((inner, columns), np.float32)
        operator, read, made = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])], "product",
        [helper.make_tensor_value_info("a", read, left.shape)],
        [helper.make_tensor_value_info("c", made, (rows, columns))],
        [numpy_helper.from_array(right, "b")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = start(proto.SerializeToString(), threads)
    return lambda: session.run(None, {"a": left})


def operators(model: Path, feed: Mapping[str, Any], threads: int) -> dict[str, float]:
    """Microseconds of one run by operator, the slowest first; the median of 20 runs each."""
    runs = 20
    with tempfile.TemporaryDirectory() as folder:
        session = start(str(model), threads, profile=f"{folder}/profile")
        for _ in range(runs + 3):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    took: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            took.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    sums: dict[str, float] = {}
    for (operator, _), values in took.items():
        # A name may stand for several nodes: all their runs, not one's.
        nodes = len(values) / (runs + 3)
        sums[operator] = sums.get(operator, 0.0) + nodes * statistics.median(values)
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def start(model: str | bytes, threads: int, profile: str = "") -> Any:
    """Start ONNX Runtime as the encoder does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_mem_pattern = threads, False
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
