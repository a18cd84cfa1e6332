"""ONNX files: one, or, where the weights are over 2 GB, the graph and its weights beside it."""

import tempfile
from pathlib import Path

import onnx
from onnxruntime import InferenceSession

from finetune.inference.bundle import weights_file

# A serialised graph is one protobuf message, which ends at 2 GB.
_MAX_BYTES = 2**31 - 2**20
_CPU = ["CPUExecutionProvider"]


def save(model: onnx.ModelProto, file: Path) -> None:
    """Write a model and check it; weights that one file cannot hold are written beside it.

    Args:
        model: Used up: weights that are written beside the graph leave it.
        file: Where to write the graph; its folder is made, a model that is there is replaced.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(model, file)
    onnx.checker.check_model(str(file))


def start(model: onnx.ModelProto) -> InferenceSession:
    """Start a model on the CPU; it is used up as by `save`."""
    if _fits(model):
        return InferenceSession(model.SerializeToString(), providers=_CPU)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        _write(model, file)
        return InferenceSession(str(file), providers=_CPU)


def _write(model: onnx.ModelProto, file: Path) -> None:
    weights = weights_file(file)
    weights.unlink(missing_ok=True)  # onnx appends
    onnx.save(model, file, save_as_external_data=not _fits(model), location=weights.name)


def _fits(model: onnx.ModelProto) -> bool:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= _MAX_BYTES
