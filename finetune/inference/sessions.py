"""What runs a graph: which runtime a precision is made for, and where it can start."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import onnxruntime

from finetune.errors import UserError
from finetune.inference.machine import saturates

log = logging.getLogger(__name__)

_GPU = "CUDAExecutionProvider"
DEVICES = ("auto", "cpu", "cuda")


class Session(Protocol):
    """What runs a graph: ONNX Runtime's session, or another runtime in its shape."""

    def run(self, outputs: Sequence[str] | None, feed: Mapping[str, Any]) -> list[Any]:
        """Return the outputs of one batch."""
        ...


def on_gpu(precision: str, device: str) -> bool:
    """Say whether a GPU is to run a precision on a device, as `OnnxEncoder.load` describes them.

    Whether it starts there, `runs_on_gpu` says.

    Raises:
        UserError: There is no such device, ONNX Runtime has no GPU, or the precision is for CPUs.
    """
    if device not in DEVICES:
        raise UserError(f"device={device}: expected {', '.join(DEVICES)}")
    providers = onnxruntime.get_available_providers()
    if device == "cuda":
        if precision not in ("fp16", "fp32"):
            raise UserError(
                f"device=cuda: {precision} is made for CPUs; take precision fp16 (made by "
                "export=fp16) or fp32"
            )
        if _GPU not in providers:
            raise UserError(
                f"device=cuda: this onnxruntime has {', '.join(providers)} only; pip uninstall "
                "onnxruntime, then pip install onnxruntime-gpu (both cannot be there), or take "
                "device=cpu"
            )
        return True
    if device == "auto" and precision == "fp16":
        if _GPU not in providers:
            log.warning("fp16 is made for GPUs; runs on the CPU in fp32 (install onnxruntime-gpu "
                        "instead of onnxruntime where there is one)")  # fmt: skip
        return _GPU in providers
    return False


def runtime(model: Path, precision: str) -> str:
    """Return the version of what runs a precision.

    Raises:
        UserError: It is not installed.
    """
    if precision.startswith("openvino"):
        from finetune.inference.openvino import version

        return version(model)
    return onnxruntime.__version__


def start_model(model: Path, precision: str, threads: int, *, gpu: bool, required: bool) -> Session:
    """Start the runtime that a precision is made for.

    Args:
        model: The graph.
        precision: Which it is.
        threads: Of the runtime.
        gpu: Whether to start it on a GPU.
        required: Whether a GPU that does not start is an error, or the CPU takes its place.

    Raises:
        UserError: The runtime is not installed, or the GPU is required and does not start.
    """
    if "int8" in precision and saturates():
        _warn_of_saturation()
    if precision.startswith("openvino"):
        from finetune.inference.openvino import OpenVinoSession

        return OpenVinoSession(model, threads)
    return start_session(model, threads, gpu=gpu, required=required)


@cache
def _warn_of_saturation() -> None:
    """Say once a process that INT8 may not give here what its gate has seen."""
    log.warning(
        "this CPU has no VNNI (neither avx512_vnni nor avx_vnni): sums of INT8 products may "
        "saturate, and vectors be worse than where the model was measured; compare them with "
        "precision fp32, or take that"
    )


def start_session(
    model: Path, threads: int, *, gpu: bool = False, required: bool = False
) -> onnxruntime.InferenceSession:
    """Start ONNX Runtime.

    Raises:
        UserError: It is required to run on the GPU, and cannot start there.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The pattern cache keeps a plan per input shape, and nearly every batch has a shape of its own.
    options.enable_mem_pattern = False
    providers = [*([_GPU] if gpu else []), "CPUExecutionProvider"]
    if gpu:
        _load_cuda()
    session = onnxruntime.InferenceSession(str(model), options, providers=providers)
    # Without CUDA's libraries ONNX Runtime falls back to the CPU, and says so in a log only.
    if gpu and not runs_on_gpu(session):
        problem = (
            f"{model}: ONNX Runtime could not start on the GPU; see what it logged (most often "
            "CUDA or cuDNN of another version than onnxruntime-gpu needs), or take device=cpu"
        )
        if required:
            raise UserError(problem)
        log.warning(problem)
    log.debug("loaded %s with %d threads", model, threads)
    return session


def runs_on_gpu(session: Session) -> bool:
    """Say whether a session has started on a GPU; the providers there are do not tell."""
    return isinstance(session, onnxruntime.InferenceSession) and _GPU in session.get_providers()


def _load_cuda() -> None:
    """Load CUDA and cuDNN where pip has installed them, which ONNX Runtime does not look at.

    Where torch is imported it has loaded them; the core imports none. What is not found is printed,
    and standard output may be a file of vectors.
    """
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
