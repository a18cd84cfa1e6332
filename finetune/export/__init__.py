"""Exports a model to ONNX and INT8, and publishes only what still gives the same vectors."""

from finetune.export.int8 import Form, quantize
from finetune.export.onnx import export_onnx
from finetune.export.parity import Comparison, Parity, compare, misses
from finetune.export.stage import Origin, export_bundle
from finetune.export.texts import draw
from finetune.export.weights import prepare

__all__ = [
    "Comparison",
    "Form",
    "Origin",
    "Parity",
    "compare",
    "draw",
    "export_bundle",
    "export_onnx",
    "misses",
    "prepare",
    "quantize",
]
