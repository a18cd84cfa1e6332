"""Runs a graph with OpenVINO, which is an extra: ``pip install 'finetune[openvino]'``."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from finetune.errors import UserError


class OpenVinoSession:
    """A compiled graph in the shape of an ONNX Runtime session. Safe to call from several threads.

    Raises:
        UserError: The package is not installed.
    """

    def __init__(self, model: Path, threads: int) -> None:
        openvino = _package(model)
        self._compiled = openvino.Core().compile_model(
            str(model),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                # On CPUs with bf16 OpenVINO would compute in it what INT8 leaves, and lose digits.
                "INFERENCE_PRECISION_HINT": "f32",
                # Pinned threads of two processes would share a core while others are idle.
                "ENABLE_CPU_PINNING": False,
            },
        )
        # A request holds the buffers of one inference, so each thread has its own.
        self._own = threading.local()

    def run(self, outputs: Sequence[str] | None, feed: Mapping[str, Any]) -> list[Any]:
        """Return the outputs of one batch, all of them."""
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        return list(request.infer(dict(feed)).values())


def version(model: Path) -> str:
    """Which OpenVINO runs a model here.

    Raises:
        UserError: The package is not installed.
    """
    return f"openvino {_package(model).__version__}"


def _package(model: Path) -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            f"{model}: needs the package openvino: pip install 'finetune[openvino]', or take "
            "another precision"
        ) from error
    return cast(ModuleType, openvino)
