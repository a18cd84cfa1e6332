"""What a step is expected to take, and of training and written queries how that is worked out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.config import writing
from finetune.config.ranges import GENERATORS
from finetune.data.documents import read_documents
from finetune.errors import UserError
from finetune.machine import estimate, hardware, processes, rates
from finetune.machine.estimate import Training
from finetune.machine.geometry import Geometry, forward_flops, training_passes
from finetune.planning.facts import Facts
from finetune.records import Passage
from finetune.stage import Step

_PADDED = 1.1  # tokens of a length-bucketed batch with its padding, over those without
# Tokens that a language model counts for a Chinese character: DeepSeek's documentation says 0.6,
# that of Qwen 1.5 to 1.8 characters a token.
_PER_CHARACTER = 0.65
_PASSAGE, _QUERY = 300, 30  # characters, about, of a passage that nobody has read and of a query
_CHEAP = 16 * 1024**2  # bytes of documents, which take three seconds to read
_MOST_TOKENS = ("max_tokens", "max_completion_tokens")  # of a reply, as endpoints call it
_CHECKPOINTS = 3  # on disk at once: the best, the last, and the one being written


@dataclass(frozen=True)
class Cost:
    """What a step is expected to take; None where it is not known.

    Attributes:
        seconds: Wall clock.
        memory: Bytes at the peak, of the GPU where ``gpu``, else of all processes of this machine.
        disk: Bytes written, those of checkpoints that go again included.
        gpu: Whether the memory is the GPU's.
        lower: What to change where the memory is too much.
        asks: What is asked of others, and its price, in words.
    """

    seconds: float | None = None
    memory: int | None = None
    disk: int | None = None
    gpu: bool = False
    lower: str = ""
    asks: str = ""


def generate(step: Step, facts: Facts) -> Cost:
    """Forecast what written queries cost, each asked for once; rules take no time to speak of."""
    writer = step.settings.get("writer")
    if writer is None:
        return Cost(0.0, None, 0)
    endpoint, (passages, length) = step.outside["endpoint"], _passages(step, facts)
    requests = _requests(step, passages)
    if requests is None:
        return Cost()
    tokens_in = requests * _PER_CHARACTER * (len(writer["prompt"]) + length)
    limits = [writer["options"].get(name) for name in _MOST_TOKENS]
    most = next((each for each in limits if type(each) is int), None)
    tokens_out = requests * (most or _PER_CHARACTER * writer["queries"] * _QUERY)
    told = f"at most {tokens_out:,}" if most else f"about {_rounded(tokens_out)}"
    asks = (f"at most {requests:,} requests to {endpoint.url} of about {_rounded(tokens_in)} tokens"
            f" and {told} in reply")  # fmt: skip
    price = writing.cost(tokens_in, tokens_out, (endpoint.price_in, endpoint.price_out))
    if not math.isnan(price):
        asks += f", up to about {price:,.2f} {step.outside['currency']} without repetitions"
    return Cost(None, None, 0, asks=asks)  # how fast the endpoint is, nobody knows


def _rounded(tokens: float) -> str:
    return f"{float(f'{tokens:.2g}'):,.0f}"


def _passages(step: Step, facts: Facts) -> tuple[int | None, float]:
    """Passages that there are at most (None where nobody knows), and characters of one, about."""
    if step.files:
        found = _documents(step.files["documents"])
        texts = [each.title + each.heading + each.indexed for each in found]
        count = len(texts)
    elif facts.data is None:
        return None, _PASSAGE
    else:  # the corpus, and positives that are not in it
        texts = [text for (text,) in facts.data.passages.sample]
        count = facts.data.passages.count + facts.data.rows.count
    return (count, float(np.mean([len(each) for each in texts]))) if texts else (None, _PASSAGE)


def _documents(source: Path) -> list[Passage]:
    """The passages of documents; none where they are large, or cannot be read."""
    files = source.rglob("*") if source.is_dir() else [source]
    try:
        if sum(each.stat().st_size for each in files if each.is_file()) > _CHEAP:
            return []
        return read_documents(source, dropped=[], tell=False)
    except (OSError, UserError):  # the step says so
        return []


def _requests(step: Step, passages: int | None) -> int | None:
    """Passages that are asked about at most; None where nothing is known that limits them."""
    writer, made = step.settings["writer"], step.settings["generate"]
    limits = [writer["limit"], passages]
    pairs = [each for each in (made.pairs, step.settings["limit"]) if each is not None]
    if pairs:
        others = sum(getattr(made, name) for name in GENERATORS)
        share = writing.wanted(min(pairs), writer["share"], others)
        limits.append(math.ceil(share / writer["queries"]))
    return min((each for each in limits if each is not None), default=None)


def train(step: Step, facts: Facts) -> Cost:
    """Forecast a training; where nobody has seen the data, its memory with the longest texts."""
    geometry, found, guarded = facts.geometry_of(step), facts.rows(step), facts.guarded()
    if geometry is None:
        return Cost()
    settings = step.settings["train"]
    cut = None if found is None else np.minimum(found[1], settings.max_length)
    of = replace(_training(step, geometry, cut), all_rows=0 if found is None else found[0])
    lower = f"train.batch_size={settings.batch_size} or train.max_length={settings.max_length}"
    if of.chunk is not None and of.chunk > 1:
        lower = f"hardware.chunk={of.chunk}"
    on_gpu = of.device == "cuda"  # one for each process
    memory = estimate.training(of).total * (1 if on_gpu else processes.on_this_machine())
    cost = Cost(None, memory, None, on_gpu, lower)
    if found is None or cut is None or guarded is None or facts.data is None:
        return cost
    text = forward_flops(geometry, cut.ravel().tolist()) / cut.size
    mixed = sum(each.weight for each in step.settings.get("mix", {}).values())  # of the batches
    passes = training_passes(geometry, of.adapter, settings.epochs, chunked=of.chunk is not None)
    flops = text * _PADDED * passes * found[0] * cut.shape[1] / (1 - mixed)
    scorings = 1 + settings.checkpoints
    flops += scorings * guarded * facts.forward(facts.data.passages, geometry)  # whole texts
    rate = shared_rate("train", step, of.precision.value)
    tokens = found[0] * float(cut.mean(axis=0).sum())
    return replace(cost, seconds=flops / rate, disk=_disk(step, of, tokens))


def _training(step: Step, geometry: Geometry, cut: NDArray[np.int64] | None) -> Training:
    """What its memory depends on; ``cut`` are tokens of examples, ``[examples, columns]``."""
    settings = step.settings["train"]
    widths = [settings.max_length] * 2 if cut is None else cut.max(axis=0).tolist()
    if step.settings.get("mix"):  # nobody has looked at the texts of the other sets
        widths[:2] = [settings.max_length] * 2
    uneven = cut is None or bool((cut.min(axis=0) < cut.max(axis=0)).any())
    of = replace(estimate.asked(step.settings, geometry, widths), uneven=uneven)
    if not _splits(step.settings["loss"]):
        return of
    chunk = step.outside.get("chunk")
    of = replace(of, chunk=chunk if chunk and chunk < of.rows * len(widths) else None)
    room = _room(of.device)
    return of if room is None else replace(of, chunk=estimate.chunk_within(of, room))


def _room(device: str) -> int | None:
    """Bytes that each process may take; into which training lowers its chunk."""
    if device == "cuda":
        gpus = hardware.gpus()
        return gpus[0].free if gpus else None
    free = hardware.available_memory()
    return None if free is None else free // processes.on_this_machine()


def _splits(loss: Mapping[str, Any]) -> bool:
    """Whether a loss can work in chunks; as `finetune.training.losses.in_chunks`, without torch."""
    name = str(loss["_target_"]).rpartition(".")[2]
    wrapped = name == "MatryoshkaLoss" and _splits(loss["loss"])
    return wrapped or name == "MultipleNegativesRankingLoss"


def _disk(step: Step, of: Training, tokens: float) -> int:
    """Bytes of the model, and of what lies beside it meanwhile: checkpoints, LoRA's activations."""
    if of.adapter is None:
        return (_CHECKPOINTS * 3 + 1) * of.geometry.weights  # with Adam's two moments
    known = tokens * of.geometry.hidden * (2 if of.mixed else 4)
    limit = float(step.settings["adapter"].get("cache_gb", 0)) * 1e9
    return of.geometry.weights + int(min(limit, known) if step.settings["train"].epochs > 1 else 0)


def shared_rate(work: str, step: Step, precision: str = "fp32") -> float:
    """Rate of all processes of the run: on a CPU those of one machine share its threads."""
    device = step.settings["device"]
    on_cpu = device == "cpu" or work.startswith("onnx")
    many = processes.count() // (processes.on_this_machine() if on_cpu else 1)
    return many * rates.rate(work, device, step.settings["threads"], precision)
