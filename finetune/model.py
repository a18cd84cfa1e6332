"""Build, load and save models; the one module that knows their layout on disk."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import PreTrainedModel

from finetune import hub
from finetune.adapter.frozen import BERT_LIKE
from finetune.adapter.prefix import PrefixTransformer
from finetune.attention import LEAN
from finetune.config import Model
from finetune.config.choices import Hub
from finetune.errors import UserError
from finetune.inference.batches import tokenised
from finetune.inference.encoder import check_texts
from finetune.machine import hardware, processes
from finetune.records import read_json, write_json

log = logging.getLogger(__name__)

_OUR_MODULES = {f"{PrefixTransformer.__module__}.{PrefixTransformer.__name__}": PrefixTransformer}
# What loading raises on folders that are no model, damaged, or would need code of theirs.
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, UnpicklingError,
               SafetensorError)  # fmt: skip


def build_base(model: Model, out: Path) -> None:
    """Write the base model as one sentence-transformers folder, whatever it came as.

    Everything after this step sees one layout: safetensors, ``modules.json``, the prompts and the
    length of ``configs/model``, no pooler.

    Raises:
        UserError: When the model cannot be had, or is none.
    """
    if model.hub is Hub.starter:
        from finetune.starter import build_starter

        build_starter(out)
        return
    source = hub.fetch(model)
    loaded = _read(source, model)
    check_vocabulary(loaded, source)
    loaded.max_seq_length = min(model.max_length, positions(loaded))
    _tell_prompts(loaded.prompts, model)
    # sentence-transformers' encode_document looks for "document".
    loaded.prompts = {**model.prompts, "document": model.prompts["passage"]}
    save(loaded, out)


def _tell_prompts(saved: Mapping[str, str | None], model: Model) -> None:
    """Say that a model was saved with other prompts than those it is used with from now on."""
    query = saved.get("query") or ""
    passage = saved.get("passage") or saved.get("document") or ""
    asked = model.prompts["query"], model.prompts["passage"]
    if (query or passage) and (query, passage) != asked:
        log.warning(
            "model.prompts: %s was saved with query %r and passage %r, and is used with %r and %r; "
            "if it was trained with the first: 'model.prompts={query: \"%s\", passage: \"%s\"}'",
            model.name, query, passage, *asked, query, passage,
        )  # fmt: skip


def load(folder: Path, device: str = "cpu", attention: str = "sdpa") -> SentenceTransformer:
    """Load a sentence-transformers folder in fp32, without a pooler.

    ``attention`` names one of transformers' implementations (flash attention needs autocast), or
    ``lean`` (`finetune.attention`), which takes the place of sdpa in models like BERT.

    Raises:
        UserError: When weights of the transformer are missing.
    """
    # sdpa is not asked for: transformers takes it by itself, where the architecture has it.
    asked = {} if attention in ("sdpa", LEAN) else {"attn_implementation": attention}
    # As with trust_remote_code, but for our own class only: a folder's code is never run.
    model = SentenceTransformer._load_with_module_classes(
        str(folder), _OUR_MODULES, device=device, local_files_only=True, model_kwargs=asked
    )
    _check_weights(model, folder / read_json(folder / "modules.json")[0]["path"])
    within = inner(model)
    # Not of a model with a prefix, whose attention is its own.
    fused = within.config._attn_implementation == "sdpa"
    if attention == LEAN and fused and isinstance(within, BERT_LIKE):
        within.set_attn_implementation(LEAN)
    return _without_pooler(model)


def save(model: SentenceTransformer, folder: Path) -> None:
    """Save as a plain sentence-transformers folder that loads without a random pooler anywhere."""
    model.save(str(folder), create_model_card=False, safe_serialization=True)
    if pooler := _no_pooler(model):
        # sentence-transformers hands these to transformers when it loads, and forgets them when it
        # saves; without them BERT gets a pooler of random weights.
        path = folder / "sentence_bert_config.json"
        settings = read_json(path)
        settings["model_kwargs"] = pooler
        write_json(path, settings)


def inner(model: SentenceTransformer) -> PreTrainedModel:
    """Return the transformers model inside."""
    return cast(PreTrainedModel, model[0].model)


def positions(model: SentenceTransformer) -> int:
    """Return how many tokens the model has positions for, or its length where it counts none."""
    within = inner(model)
    count = getattr(within.config, "max_position_embeddings", None)
    if count is None:
        return int(model.max_seq_length or 512)
    table = getattr(getattr(within, "embeddings", None), "position_embeddings", None)
    # The RoBERTa family and MPNet count from padding_idx + 1.
    padding = getattr(table, "padding_idx", None)
    return int(count) - (0 if padding is None else padding + 1)


def check_vocabulary(model: SentenceTransformer, source: Path | str) -> None:
    """Refuse a tokenizer of another model; a few rows to spare are common.

    Raises:
        UserError: When there are more tokens than rows, or less than half as many.
    """
    tokens, rows = len(model.tokenizer), inner(model).config.vocab_size
    if tokens > rows or tokens < rows // 2:
        raise UserError(
            f"{source}: the tokenizer has {tokens:,} tokens and the model {rows:,} rows; they do "
            "not belong together. Copy vocab.txt or tokenizer.json of this very model beside it"
        )


class TorchEncoder:
    """A `finetune.inference.Encoder` on torch: for ``base`` and ``tuned`` folders, and on GPUs.

    Args:
        model: The model.
        autocast: Number format to compute in; None for fp32.
        tokens: How many a batch may hold, padding included; None: as the profile that fits.
        together: All processes of a step that computes together encode the same texts at once:
            each computes a share of the batches, and gets all vectors, those of one process.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        autocast: torch.dtype | None = None,
        tokens: int | None = None,
        together: bool = False,
    ) -> None:
        self.model = model
        self.autocast = autocast
        self.together = together
        profile = hardware.settings_of(hardware.fitting(model.device.type))
        self._budget = int(tokens or profile["encode_tokens"])

    @property
    def dim(self) -> int:
        """Length of a vector."""
        dim = self.model.get_embedding_dimension()
        if dim is None:
            raise ValueError("the model does not say how long its vectors are")
        return dim

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "passage",
        *,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Encode texts in length-sorted batches under a fixed token budget.

        Args:
            texts: ``n`` texts.
            prompt: ``query`` or ``passage``.
            progress: Called with the number of texts after each batch.

        Returns:
            ``[n, dim]`` unit vectors, row i for text i.
        """
        check_texts(texts)
        prefix = self.model.prompts.get(prompt) or ""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        training = self.model.training
        self.model.eval()
        batches = tokenised((prefix + text for text in texts), self.model.tokenizer,
                            self.model.max_seq_length, self._budget)  # fmt: skip
        for rows, ids in processes.dealt(batches) if self.together else batches:
            vectors[rows] = self._run(ids)
            if progress is not None:
                progress(len(rows))
        self.model.train(training)
        if self.together:
            processes.add_up(vectors)  # the others' rows are zeros here
        return vectors

    @torch.inference_mode()
    def _run(self, ids: list[list[int]]) -> NDArray[np.float32]:
        device = self.model.device
        features = self.model.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(device)
        with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
            embedding = self.model(dict(features))["sentence_embedding"]
        return torch.nn.functional.normalize(embedding.float(), dim=-1).cpu().numpy()


def _read(source: Path, model: Model) -> SentenceTransformer:
    try:
        if (source / "modules.json").is_file():
            return load(source)
        transformer = Transformer(
            str(source), max_seq_length=model.max_length,
            config_kwargs={"local_files_only": True}, model_kwargs={"local_files_only": True},
            processor_kwargs={"local_files_only": True},
        )  # fmt: skip
        pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=model.pooling)
        loaded = SentenceTransformer(modules=[transformer, pooling], device="cpu")
        _check_weights(loaded, source)
        return _without_pooler(loaded)
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{source}: not a model that sentence-transformers can load ({reason}); expected "
            "config.json, a tokenizer and model.safetensors or pytorch_model.bin"
        ) from error


def _no_pooler(model: SentenceTransformer) -> dict[str, bool]:
    """What to tell transformers so that it makes no pooler, where it makes any."""
    makes_one = "add_pooling_layer" in inspect.signature(type(inner(model)).__init__).parameters
    return {"add_pooling_layer": False} if makes_one else {}


def _without_pooler(model: SentenceTransformer) -> SentenceTransformer:
    """Drop BERT's pooler: unused here, and random where the checkpoint has none."""
    if getattr(inner(model), "pooler", None) is not None:
        setattr(inner(model), "pooler", None)  # noqa: B010 (no such field in the general type)
    return model


def _check_weights(model: SentenceTransformer, folder: Path) -> None:
    """Refuse weights that lack a layer, which transformers fills with random numbers.

    Only it knows under which names of a file it finds a layer, so it is asked again, on the
    device that holds no numbers.
    """
    transformer: Any = type(inner(model))  # its types do not know output_loading_info
    _, found = transformer.from_pretrained(
        folder, config=inner(model).config, local_files_only=True, device_map="meta",
        output_loading_info=True, **_no_pooler(model),
    )  # fmt: skip
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise UserError(
            f"{folder}: the weights lack {len(missing)} tensor(s) that config.json asks for "
            f"({shown}); they would be random. Copy the whole model again, or correct config.json "
            "(num_hidden_layers)"
        )
