"""From a tuned model to a bundle: export, quantise, compare with torch, and only then publish."""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from finetune.config import Export, Quantize
from finetune.errors import UserError
from finetune.export.onnx import export_onnx, pooling_name
from finetune.export.parity import Comparison, misses, told
from finetune.export.quantized import FORMS, Quantizer
from finetune.inference import BundleFile, BundleInfo, Encoder, OnnxEncoder
from finetune.inference.bundle import MODEL_FILE, TOKENIZER_FILE, sha256
from finetune.model import check_vocabulary, positions
from finetune.script import KEEP

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a bundle says about itself that its model folder does not know.

    Attributes:
        name: What the user calls the model.
        base_model: Hub id or path of the model that was tuned.
        base_revision: Its revision, or ``unknown``.
        licence: Licence of the base, which the tuned model inherits.
        script: Conversion of every text before it is tokenised.
    """

    name: str
    base_model: str
    base_revision: str
    licence: str
    script: str = KEEP


def export_bundle(
    model: SentenceTransformer,
    reference: Encoder,
    texts: Sequence[str],
    out: Path,
    origin: Origin,
    export: Export,
    threads: int | None = None,
    dims: Sequence[int] = (),
    *,
    quantize: Quantize | None = None,
    calibration: Sequence[str] = (),
    source: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Write a bundle whose every model was compared with the reference first.

    A model that is too far from the reference is left out, and why is logged and returned; the
    others go on. The bundle is made beside `out` and renamed at the end: a failure leaves nothing
    at `out`.

    Args:
        model: What to export; left as it was.
        reference: The same model on torch in fp32, converting texts as the bundle will; its
            vectors are what the artifacts must give.
        texts: Texts of the domain, at least 2 different ones; 500 tell enough.
        out: The bundle's folder; must not exist, or be empty.
        origin: What the bundle says of where the model comes from.
        export: Which models it holds, and how close to the reference each must come.
        threads: Threads of the runtimes in the comparison; None takes every CPU.
        dims: Lengths that the model was trained to be cut to; its own may be among them.
        quantize: How INT8 models are made; not needed where there are none.
        calibration: Texts of the domain that INT8 models are fitted to, best not among `texts`.
        source: Where the model lies, which is told where nothing can be published.

    Returns:
        By precision, the values of `Parity` (where vectors are cut, of the length at which each is
        worse), ``bytes``, the size of the model file, ``misses``: the floors that kept it from
        being published, empty where it was; and of INT8 ``quality``: what stays fp32, and why.

    Raises:
        UserError: The model cannot be exported, its vocabulary does not fit it, or no artifact is
            close enough to the reference; nothing is published then.
    """
    check_vocabulary(model, source or origin.name)
    comparison = Comparison(reference, texts, export.dim)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as temporary:
        folder = Path(temporary) / "bundle"
        info = _write_fp32(model, folder, origin, dims)
        if "fp16" in export.precisions:
            export_onnx(model, folder / "fp16" / MODEL_FILE, half=True)
            plan = {"fp16": "transformer", "fp32": "pooling and what follows"}
            info = _with(info, folder, "fp16", plan)
        if quantized := [name for name in export.precisions if name in FORMS]:
            quantizer = Quantizer(
                folder / info.precisions["fp32"].file, OnnxEncoder.load(folder, "fp32", threads),
                calibration or texts, _required(quantize), comparison,
                threads=threads,
            )  # fmt: skip
            for name in quantized:
                plan = quantizer.write(name, folder / name / MODEL_FILE)
                info = _with(info, folder, name, plan)
        found = _check_models(comparison, info, folder, export, threads, source)
        good = [name for name in export.precisions if not found[name]["misses"]]
        _keep(replace(info, default_dim=export.dim), folder, good)
        folder.rename(out)
    log.info("published %s with %s", out, ", ".join(BundleInfo.read(out).precisions))
    return found


def bundle_prompts(prompts: Mapping[str, str | None]) -> dict[str, str]:
    """Return the prompts of a bundle: ``query``, and ``passage``, which others call document."""
    passage = prompts.get("passage") or prompts.get("document") or ""
    return {"query": prompts.get("query") or "", "passage": passage}


def _plain_tokenizer(model: SentenceTransformer) -> Tokenizer:
    """Return a copy of the model's tokeniser without truncation and padding: the reader sets both.

    Raises:
        UserError: It is no fast tokeniser.
    """
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(
            f"the tokenizer is a {type(tokenizer).__name__}, which has no tokenizer.json; save "
            "the model with a fast tokenizer"
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
    dim, most = model.get_embedding_dimension(), positions(model)
    if dim is None:
        raise ValueError("the model does not say how long its vectors are")
    file = folder / "fp32" / MODEL_FILE
    export_onnx(model, file)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    info = BundleInfo(
        **asdict(origin),
        dim=dim,
        max_length=min(most, model.max_seq_length or most),
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


def _with(info: BundleInfo, folder: Path, precision: str, plan: Mapping[str, Any]) -> BundleInfo:
    """Add the model that was written for a precision."""
    entry = BundleFile.of(folder / precision / MODEL_FILE, folder, plan)
    info = replace(info, precisions={**info.precisions, precision: entry})
    info.write(folder)
    return info


def _required(quantize: Quantize | None) -> Quantize:
    if quantize is None:
        raise ValueError("INT8 models are asked for, and quantize is None; say how they are made")
    return quantize


def _keep(info: BundleInfo, folder: Path, precisions: Sequence[str]) -> BundleInfo:
    """Drop what was made on the way to the wanted precisions, and what is not good enough."""
    for name in info.precisions.keys() - set(precisions):
        shutil.rmtree(folder / name)
    info = replace(info, precisions={name: info.precisions[name] for name in precisions})
    info.write(folder)
    return info


def _check_models(
    comparison: Comparison,
    info: BundleInfo,
    folder: Path,
    export: Export,
    threads: int | None,
    source: Path | None,
) -> dict[str, dict[str, Any]]:
    """Compare each model of a folder with the reference.

    Raises:
        UserError: None is close enough.
    """
    found, failed = {}, {}
    for name in export.precisions:
        parity = comparison(OnnxEncoder.load(folder, name, threads))
        log.info("%s against torch: %s", name, parity)
        missed = misses(parity, export.floors[name])
        entry = info.precisions[name]
        found[name] = {**asdict(parity), "bytes": entry.bytes, "misses": missed}
        if "quality" in entry.plan:
            found[name]["quality"] = entry.plan["quality"]
        if missed:
            failed[name] = (
                f"{name} is not published: compared with torch on {parity.texts} texts, "
                f"{told(parity, missed)}"
            )
    if len(failed) == len(found):
        floors = ", ".join(f"export.floors.{name}" for name in found)
        lies = f"; the model itself lies in {source}" if source else ""
        raise UserError(
            *failed.values(),
            f"export.precisions: none of {', '.join(found)} can be published{lies}; add another "
            f"format to export.precisions, or lower {floors}",
        )
    for line in failed.values():
        log.error(line)
    return found
