"""Exports a model to ONNX and INT8, and publishes only what still gives the same vectors."""

from finetune.export.int8 import quantize_dynamic
from finetune.export.onnx import export_onnx
from finetune.export.parity import Parity, check_parity, compare
from finetune.export.stage import Origin, export_bundle

__all__ = [
    "Origin",
    "Parity",
    "check_parity",
    "compare",
    "export_bundle",
    "export_onnx",
    "quantize_dynamic",
]
