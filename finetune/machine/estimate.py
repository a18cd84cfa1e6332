"""How much memory a step will take, worked out from the model's geometry.

Counted tensor by tensor, so that it can be checked on paper, and held against measured peaks by
``benchmarks/memory.py``. Nothing here touches torch, a file or the machine.

Bytes are bytes, lengths are tokens, a *column* is one text of a training row (query, positive,
each negative).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config.choices import Precision
from finetune.machine.geometry import Adapter, Geometry

MIB = 1024**2

# What a process holds before any weights: Python and the libraries of a step. Measured on Linux
# x86-64 (`benchmarks/memory.py`); a CUDA context takes about as much of the GPU, unmeasured.
PROCESS = 600 * MIB
# Buffers of the data loader, the tokeniser and the math libraries: what training the smallest
# model adds to its imports.
RUNTIME = 40 * MIB
_ADAM = 12  # bytes a trained parameter: fp32 gradient and the two fp32 moments
# Compiled kernels that 16-bit training keeps on a CPU (`hardware.bound_kernel_caches`).
_KERNELS = 60 * MIB
# On a CPU, glibc keeps freed blocks under 32 MiB to use them again, and blocks of other sizes leave
# holes between them: so much of the activations. Measured with texts all of one length, with
# lengths that vary from batch to batch (0.1 to 0.6), and where frozen layers run in between (0.8
# to 1.2).
_HOLES_EVEN, _HOLES, _HOLES_FROZEN = 0.1, 0.45, 0.8
_MAPPED = 32 * MIB
# Copies of the fp32 weights that are held at once (measured): while ONNX Runtime loads a graph, and
# in an export without INT8 and with it (model, traced graph, its file, rounded weights).
_LOADING = 1.6
# A training row, whose texts stay on disk: its length, the numbers of its texts and of what answers
# it, its place in the epoch (measured: `benchmarks/rows.py`).
_PER_ROW = 200
# What `finetune.attention` is called, and the tokens of the longest text that it serves.
LEAN, WIDEST = "lean", 128
# Libraries and compiled kernels that are left of training and export when artifacts are scored.
_LATE = 200 * MIB
_EXPORT = {False: 6, True: 12}


@dataclass(frozen=True)
class Training:
    """What the memory of a training step depends on.

    Attributes:
        geometry: Of the model.
        rows: Rows in a batch.
        widths: Tokens of the longest text of each column.
        precision: Of the forward pass; weights stay fp32.
        device: ``cpu`` or ``cuda``.
        attention: ``sdpa``, or ``eager`` or ``lean`` (which keep every attention weight).
        dropout: Whether there is any.
        adapter: What is trained; None: everything.
        chunk: Texts whose activations are held at once (GradCache); None: all of a batch's.
        uneven: Whether batches differ in their widths, as they do unless every text is cut.
        all_rows: Rows in the set.
    """

    geometry: Geometry
    rows: int
    widths: tuple[int, ...]
    precision: Precision
    device: str
    attention: str = "sdpa"
    dropout: bool = False
    adapter: Adapter | None = None
    chunk: int | None = None
    uneven: bool = True
    all_rows: int = 0

    @property
    def mixed(self) -> bool:
        """Whether autocast computes in 16 bits."""
        return self.precision in (Precision.bf16, Precision.fp16)


@dataclass(frozen=True)
class Memory:
    """Bytes by what holds them, all at the same time: when the backward pass begins and after.

    Attributes:
        process: Interpreter, libraries and compiled kernels.
        weights: Of the model, fp32.
        state: Gradients and Adam's moments of what is trained.
        casts: 16-bit copies that autocast makes of the matrices, and the second gradient of the
            vocabulary's table, which two columns make before they are added.
        activations: What the forward pass keeps for the backward pass.
        passing: What a layer computes and does not keep, or its gradients.
        logits: The loss's scores of every query with every text, and their gradients.
        holes: What the CPU's allocator cannot use again.
        rows: What is known of all rows of the set, on a CPU.
    """

    process: int
    weights: int
    state: int
    casts: int
    activations: int
    passing: int
    logits: int
    holes: int
    rows: int

    @property
    def total(self) -> int:
        """Peak of the process (CPU) or of the GPU."""
        return sum(dataclasses.astuple(self))


def training(of: Training) -> Memory:
    """Peak memory of training with an in-batch loss.

    The loss needs the embeddings of all columns before the backward pass can begin, so the
    activations of all columns are held at once, unless they are made in chunks.
    """
    geometry, adapter = of.geometry, of.adapter
    table = geometry.vocabulary * geometry.hidden
    trained = adapter.parameters(geometry) if adapter else geometry.parameters
    on_cpu = of.device == "cpu"
    return Memory(
        process=PROCESS + RUNTIME + (_KERNELS if on_cpu and of.mixed else 0),
        weights=geometry.weights,
        state=_ADAM * trained,
        casts=_casts(of) + (0 if adapter else 4 * table),
        activations=_held(of),
        passing=4 * _rows_at_once(of) * max(of.widths) * (5 * geometry.hidden + 2 * geometry.ffn),
        logits=3 * 4 * of.rows * of.rows * (len(of.widths) - 1),
        holes=int(_share_of_holes(of) * _held(of, in_heap=True)) if on_cpu else 0,
        rows=_PER_ROW * of.all_rows if on_cpu else 0,
    )


def asked(settings: Mapping[str, Any], geometry: Geometry, widths: Sequence[int]) -> Training:
    """What the memory of a step that trains depends on, by its settings; without chunks.

    Args:
        settings: Of the step.
        geometry: Of the model.
        widths: Tokens of the longest text of each column.
    """
    train = settings["train"]
    return Training(
        geometry, -(-train.batch_size // settings["processes"]), tuple(widths),
        Precision(settings["precision"]), settings["device"], attention=settings["attention"],
        dropout=train.dropout > 0, adapter=Adapter.of(settings["adapter"], geometry),
    )  # fmt: skip


def chunk_within(of: Training, available: int) -> int | None:
    """The chunk of ``of``, halved until it trains in ``available`` bytes; 1 where none does."""
    if training(of).total <= available:
        return of.chunk
    chunk = min(of.chunk or of.rows, of.rows)
    while chunk > 1 and training(dataclasses.replace(of, chunk=chunk)).total > available:
        chunk //= 2
    return chunk


def _share_of_holes(of: Training) -> float:
    if not of.uneven:
        return _HOLES_EVEN
    return _HOLES_FROZEN if of.adapter and of.adapter.layers < of.geometry.layers else _HOLES


def _casts(of: Training) -> int:
    """Bytes of the matrices' 16-bit copies: one where they are trained, else one a forward pass."""
    if not of.mixed:
        return 0
    if of.adapter is None:
        return 2 * of.geometry.matrices
    # Autocast keeps copies of trained weights only; those of frozen ones hang on the graph.
    return 2 * of.adapter.layers * of.geometry.per_layer * len(of.widths)


def kept_per_token(of: Training, width: int) -> int:
    """Bytes that one layer keeps of one token for the backward pass.

    BERT's layer with H hidden and F feed-forward numbers. fp32: the inputs of the query, key and
    value projections (one tensor, H), their outputs (3H), the attention's output (H), the inputs of
    both LayerNorms (2H), the input of the feed-forward (H), the input and the output of GELU (2F);
    4 bytes each. Mixed: the LayerNorms' inputs stay fp32; the rest has 2 bytes, and each projection
    gets a cast of its input of its own (3H). For both: two numbers a LayerNorm; of a fused
    attention one a head and a row of the padding mask, else every attention weight; of the lean one
    the mask's row too.

    Beside that LoRA keeps six vectors of its rank. A prefix needs no inputs of the frozen matrices,
    nor GELU's output, but keys and values with the prefix before them.

    `tests/machine/test_estimate.py` holds this against what autograd saves.
    """
    hidden, ffn, heads = of.geometry.hidden, of.geometry.ffn, of.geometry.heads
    size = 2 if of.mixed else 4
    prefix = of.adapter.prefix if of.adapter else 0
    rank = of.adapter.rank if of.adapter else 0
    sixteen = 8 * hidden + 2 * ffn if of.mixed else 6 * hidden + 2 * ffn
    if prefix:
        sixteen = 4 * hidden + ffn + 2 * hidden * prefix // width
    elif rank:
        sixteen += 6 * rank
    kept = 2 * 4 * hidden + size * sixteen + 4 * 4
    seen = prefix + width
    if of.dropout:
        kept += 2 * hidden * (size if of.device == "cpu" else 1)  # what was dropped, twice
        if of.device == "cpu":  # has no fused attention with dropout: weights, noise, product
            return kept + 12 * heads * seen + (6 * hidden if of.mixed else 0)
    if of.attention == "eager" and not prefix:
        return kept + (6 if of.mixed else 4) * heads * seen
    if of.attention == LEAN and not prefix and width <= WIDEST:
        return kept + size * heads * seen + seen
    return kept + 4 * heads + size * seen


def _rows_at_once(of: Training) -> int:
    """Texts of a column that go through the model together."""
    return min(of.rows, of.chunk or of.rows)


def _held(of: Training, *, in_heap: bool = False) -> int:
    """Bytes of the activations of all columns, or of the widest chunk.

    ``in_heap`` leaves out those whose block is large enough to be mapped by itself.
    """
    geometry = of.geometry
    layers = of.adapter.layers if of.adapter else geometry.layers
    # Beside the layers: the input of the embeddings' LayerNorm, the last layer's output, and the
    # mask that the mean is taken with, as wide as that.
    ends = 3 * 4 * geometry.hidden
    chunked = of.chunk is not None and of.chunk < of.rows * len(of.widths)
    rows = _rows_at_once(of)
    size = 2 if of.mixed else 4
    texts = []
    for width in of.widths:
        kept = kept_per_token(of, width)
        block = size * width * rows  # bytes a number of a token
        if in_heap and block * geometry.ffn > _MAPPED:
            kept -= size * geometry.ffn * (1 if of.adapter and of.adapter.prefix else 2)
        if in_heap and block * geometry.hidden > _MAPPED:
            kept = 0
        texts.append(width * (layers * kept + ends))
    return rows * (max(texts) if chunked else sum(texts))


def encoding(geometry: Geometry, tokens: int, width: int) -> int:
    """Peak memory of encoding in fp32: weights, and a batch of ``tokens`` in one layer at a time.

    Alive at once in a layer: its input, query, key, value, the residual (5H), GELU's input and
    output (2F), and the attention's scores and weights (two a head and token of the text). ONNX
    Runtime holds more than that while it loads a graph.
    """
    per_token = 5 * geometry.hidden + 2 * geometry.ffn + 2 * geometry.heads * width
    batch = 4 * tokens * per_token
    return PROCESS + max(geometry.weights + batch, int(_LOADING * geometry.weights))


def evaluation(geometry: Geometry, graphs: int, encoding: int) -> int:
    """Peak memory of scoring artifacts: the torch model is timed beside ONNX Runtime's graphs.

    Args:
        geometry: Of the model.
        graphs: Held at once, of which one encodes.
        encoding: What encoding takes, as `encoding` says.
    """
    others = (graphs - 1) * int(_LOADING * geometry.weights)
    return encoding + _LATE + geometry.weights + others


def export(geometry: Geometry, precisions: Sequence[str]) -> int:
    """Peak memory of an export: copies of the weights, as measured; nothing else comes near."""
    return PROCESS + _EXPORT[is_quantised(precisions)] * geometry.weights


def is_quantised(precisions: Sequence[str]) -> bool:
    """Say whether one of them is an INT8 form."""
    return any("int8" in name for name in precisions)


def largest_batch(of: Training, available: int) -> int:
    """Rows of the largest batch that trains in ``available`` bytes; 0 where none does."""
    low, high = 0, 1 << 20
    while low < high:
        middle = (low + high + 1) // 2
        fits = training(dataclasses.replace(of, rows=middle)).total <= available
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
