"""From a tuned model to a bundle: export, quantise, compare with torch, and only then publish."""

import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from finetune.errors import UserError
from finetune.export.int8 import quantize_dynamic
from finetune.export.onnx import export_onnx, inner_model, pooling_name
from finetune.export.parity import FLOORS, Parity, check_parity, compare
from finetune.inference import BundleFile, BundleInfo, Encoder, OnnxEncoder
from finetune.inference.bundle import MODEL_FILE, TOKENIZER_FILE, sha256

log = logging.getLogger(__name__)

# Outliers sit in the same channels in every text, most at special tokens: few texts show them.
_CALIBRATION_TEXTS = 64


@dataclass(frozen=True)
class Origin:
    """What a bundle says about itself that its model folder does not know.

    Attributes:
        name: What the user calls the model.
        base_model: Hub id or path of the model that was tuned.
        base_revision: Its revision, or ``unknown``.
        licence: Licence of the base, which the tuned model inherits.
    """

    name: str
    base_model: str
    base_revision: str
    licence: str


def export_bundle(
    model: SentenceTransformer,
    reference: Encoder,
    texts: Sequence[str],
    out: Path,
    origin: Origin,
    precisions: Sequence[str],
    threads: int | None = None,
    dims: Sequence[int] = (),
) -> dict[str, dict[str, Any]]:
    """Write a bundle whose every model was compared with the reference first.

    The bundle is made beside `out` and renamed at the end: a failure leaves nothing at `out`.

    Args:
        model: What to export; left as it was.
        reference: The same model on torch in fp32; its vectors are what the artifacts must give.
        texts: Texts of the domain, at least 2 different ones; 500 tell enough.
        out: The bundle's folder; must not exist, or be empty.
        origin: What the bundle says of where the model comes from.
        precisions: Which models it holds: ``fp32``, ``int8-dynamic``.
        threads: Threads of ONNX Runtime in the comparison; None takes every CPU.
        dims: Lengths that the model was trained to be cut to; its own may be among them.

    Returns:
        By precision, the values of `Parity` and ``bytes``, the size of the model file.

    Raises:
        UserError: The model cannot be exported, or its vocabulary does not fit it.
        ValueError: `precisions` names one that is unknown, or none.
        RuntimeError: An artifact is too far from the reference; nothing is published.
    """
    _check_precisions(precisions)
    distinct = list(dict.fromkeys(texts))  # equal ones would make nearest neighbours luck
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as temporary:
        folder = Path(temporary) / "bundle"
        info = _write_fp32(model, folder, origin, dims)
        if "int8-dynamic" in precisions:
            info = _add_int8(info, folder, distinct, threads)
        parities = _check_models(reference, distinct, folder, precisions, threads)
        info = _keep(info, folder, precisions)
        folder.rename(out)
    log.info("published %s with %s", out, ", ".join(precisions))
    return {
        name: {**asdict(parity), "bytes": info.precisions[name].bytes}
        for name, parity in parities.items()
    }


def bundle_prompts(prompts: Mapping[str, str | None]) -> dict[str, str]:
    """Return the prompts of a bundle: ``query``, and ``passage``, which others call document."""
    passage = prompts.get("passage") or prompts.get("document") or ""
    return {"query": prompts.get("query") or "", "passage": passage}


def _check_precisions(precisions: Sequence[str]) -> None:
    unknown = [name for name in precisions if name not in FLOORS]
    if unknown or not precisions:
        raise ValueError(
            f"precisions is {list(precisions)}; expected at least one of {', '.join(FLOORS)}"
        )


def _plain_tokenizer(model: SentenceTransformer) -> Tokenizer:
    """Return a copy of the model's tokeniser without truncation and padding: the reader sets both.

    Raises:
        UserError: It is no fast tokeniser, or belongs to another model.
    """
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(
            f"the tokenizer is a {type(tokenizer).__name__}, which has no tokenizer.json; save "
            "the model with a fast tokenizer"
        )
    tokens, rows = len(tokenizer), int(inner_model(model).config.vocab_size)
    # Models often have a few rows to spare (multilingual-e5: 250,002 tokens, 250,037 rows).
    if not rows // 2 <= tokens <= rows:
        raise UserError(
            f"the tokenizer has {tokens:,} tokens and the model {rows:,} embedding rows: they do "
            "not belong together; put the tokenizer.json of this very model beside it"
        )
    plain = Tokenizer.from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    return plain


def _write_fp32(
    model: SentenceTransformer, folder: Path, origin: Origin, dims: Sequence[int]
) -> BundleInfo:
    """Write a bundle that holds fp32 only; the other precisions are made from it."""
    tokenizer = _plain_tokenizer(model)
    dim = model.get_embedding_dimension()
    if dim is None:
        raise ValueError("the model does not say how long its vectors are")
    file = folder / "fp32" / MODEL_FILE
    export_onnx(model, file)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    info = BundleInfo(
        **asdict(origin),
        dim=dim,
        max_length=_max_length(model),
        prompts=bundle_prompts(model.prompts),
        pooling=pooling_name(model),
        normalize=True,
        pad_id=model.tokenizer.pad_token_id or 0,
        tokenizer_sha256=sha256(folder / TOKENIZER_FILE),
        precisions={"fp32": BundleFile.of(file, folder)},
        dims=tuple(sorted({each for each in dims if each < dim}, reverse=True)),
    )
    info.write(folder)
    return info


def _add_int8(
    info: BundleInfo, folder: Path, texts: Sequence[str], threads: int | None
) -> BundleInfo:
    """Quantise the fp32 model of a bundle, with the first texts to find outliers."""
    encoder = OnnxEncoder.load(folder, "fp32", threads)
    first = texts[:_CALIBRATION_TEXTS]
    feeds = [feed for half, prompt in _halves(first) for _, feed in encoder.batches(half, prompt)]
    file = folder / "int8-dynamic" / MODEL_FILE
    plan = quantize_dynamic(folder / info.precisions["fp32"].file, file, feeds)
    entry = BundleFile.of(file, folder, plan)
    info = replace(info, precisions={**info.precisions, "int8-dynamic": entry})
    info.write(folder)
    return info


def _keep(info: BundleInfo, folder: Path, precisions: Sequence[str]) -> BundleInfo:
    """Drop what was made on the way to the wanted precisions."""
    for name in info.precisions.keys() - set(precisions):
        shutil.rmtree(folder / name)
    info = replace(info, precisions={name: info.precisions[name] for name in precisions})
    info.write(folder)
    return info


def _max_length(model: SentenceTransformer) -> int:
    """Return the model's length in tokens, or what its positions allow if that is less."""
    inner = inner_model(model)
    positions = getattr(inner.config, "max_position_embeddings", None)
    if positions is None:
        return int(model.max_seq_length or 512)
    table = getattr(getattr(inner, "embeddings", None), "position_embeddings", None)
    # The RoBERTa family counts from padding_idx + 1, so it has that many positions less.
    padding = getattr(table, "padding_idx", None)
    usable = int(positions) - (0 if padding is None else padding + 1)
    return min(usable, model.max_seq_length or usable)


def _check_models(
    reference: Encoder,
    texts: Sequence[str],
    folder: Path,
    precisions: Iterable[str],
    threads: int | None,
) -> dict[str, Parity]:
    """Compare each model of a folder with the reference; raise at the first that fails."""
    exact = _encode(reference, texts)
    parities = {}
    for precision in precisions:
        encoder = OnnxEncoder.load(folder, precision, threads)
        parity = compare(exact, _encode(encoder, texts))
        log.info("%s against torch: %s", precision, parity)
        check_parity(parity, precision)
        parities[precision] = parity
    return parities


def _encode(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    return np.concatenate([encoder.encode(half, prompt) for half, prompt in _halves(texts)])


def _halves(texts: Sequence[str]) -> list[tuple[Sequence[str], str]]:
    """Take every other text as a query, the rest as passages, so that both prompts are seen."""
    return [(texts[::2], "query"), (texts[1::2], "passage")]
