"""Millions of texts from a file to a file, in bounded memory; what was killed goes on."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune import cpu
from finetune.errors import UserError
from finetune.inference.bundle import BundleInfo
from finetune.inference.lines import TextFile
from finetune.inference.machine import settings
from finetune.inference.onnx import CHUNK, OnnxEncoder
from finetune.inference.output import Output, read_record
from finetune.inference.sessions import on_gpu, runtime
from finetune.inference.stream import Load, encode_in_processes, encode_iter
from finetune.inference.vectors import TYPES, as_type
from finetune.script import KEEP


def encode_file(
    source: Path,
    out: Path,
    bundle: Path,
    prompt: str = "passage",
    *,
    column: str | None = None,
    precision: str | None = None,
    dim: int | None = None,
    dtype: str = "float32",
    threads: int | None = None,
    processes: int = 1,
    device: str = "auto",
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Encode a file of texts into an ``.npy`` file; a killed call repeated goes on.

    The vectors do not depend on how often it was killed, nor on the number of processes. A call
    that finds its result finished does nothing. Read it with ``np.load(out, mmap_mode="r")``.

    Args:
        source: UTF-8 texts, one a line, or JSON Lines; ``.gz`` is unpacked.
        out: Where ``[rows, dim]`` goes, row i for text i.
        bundle: The bundle.
        prompt: Name of the prompt put before each text.
        column: Of JSON Lines, where the text stands.
        precision: Which of the bundle's models to run; None as `OnnxEncoder.load`.
        dim: One of the bundle's ``dims`` that vectors are cut to; None as `OnnxEncoder.load`.
        dtype: Type of the vectors: float32, float16 or int8 (`finetune.inference.as_type`).
        threads: Of each process; None as an earlier call had them, else as `OnnxEncoder.load`,
            and shares the CPUs among several processes.
        processes: How many encode.
        device: As `OnnxEncoder.load`; all processes share one GPU.
        chunk: Texts that are batched together, and that a kill may cost each process.
        progress: Called after each chunk with the number of texts in it; first with how many an
            earlier call got done.

    Returns:
        How many texts the file holds.

    Raises:
        UserError: The file or the bundle cannot be used, another process writes this output, or
            what lies there was made from something else or in another way.
    """
    if dtype not in TYPES or min(processes, chunk) < 1:
        raise UserError(
            f"dtype={dtype}, processes={processes}, chunk={chunk}: expected {', '.join(TYPES)}, "
            "and at least 1 of each"
        )
    texts = TextFile.read(source, column)
    info = BundleInfo.read(bundle)
    precision = info.chosen(bundle, precision)
    model = info.precisions[precision].sha256
    # What decides is whether it starts, and every process must start there as well.
    gpu = on_gpu(precision, device) and OnnxEncoder.load(bundle, precision, device=device).gpu
    begun = read_record(out)  # what was not asked for stays as an earlier call had it
    threads = threads or begun.get("threads")
    if threads is None and processes > 1:
        threads = max(1, cpu.count() // processes)
    threads, budget = settings(bundle, precision, model, threads, begun.get("budget"), gpu=gpu)
    load = partial(
        OnnxEncoder.load, bundle, precision, threads, dim, budget, "cuda" if gpu else "cpu"
    )
    made_of = {
        "source": texts.sha256, "column": column, "rows": texts.rows,
        "model": model, "tokenizer": info.tokenizer_sha256,
        "prompt": info.prompt(prompt), "max_length": info.max_length, "dim": info.length(dim),
        "dtype": dtype, "chunk": chunk, "budget": budget, "threads": threads,
        "gpu": gpu,
        "runtime": runtime(info.model_file(bundle, precision), precision),
    } | ({} if info.script == KEEP else {"script": info.script})  # fmt: skip
    output = Output(out, (texts.rows, info.length(dim)), dtype, made_of)
    tell = progress or (lambda count: None)
    if output.finished:
        tell(output.done)
        return texts.rows
    with output.opened() as file:
        tell(output.done)
        rest = texts.texts(skip=output.done)
        for vectors in _encoded(load, rest, prompt, dtype, processes, chunk):
            output.append(file, vectors)
            tell(len(vectors))
    return texts.rows


def _encoded(
    load: Load, texts: Iterator[str], prompt: str, dtype: str, processes: int, chunk: int
) -> Iterator[NDArray[np.generic]]:
    if processes > 1:
        yield from encode_in_processes(
            load, texts, prompt, processes=processes, chunk=chunk, dtype=dtype
        )
        return
    for vectors in encode_iter(load(), texts, prompt, chunk=chunk):
        yield as_type(vectors, dtype)
