"""Prefix tuning: in every layer, tokens also attend to a few trained keys and values.

They are concatenated inside attention, so that no token changes its position (peft's own prefix
does that, and is lost under gradient checkpointing). Reference: Li and Liang, Prefix-Tuning,
https://arxiv.org/abs/2101.00190.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune.adapter import Finish, Reads
from finetune.adapter.frozen import BERT_LIKE
from finetune.errors import UserError

FILE = "prefix.safetensors"
ATTENTION = "finetune_prefix"
_NAMES = ("prefix_k", "prefix_v")
_PLACE = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
_TEXTS = 64  # the average key of a layer hardly changes with more


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over the module's prefix and the tokens.

    Args:
        module: The attention module, with ``prefix_k`` and ``prefix_v`` (``[heads, length, dim]``).
        query: ``[batch, heads, sequence, dim]``, as `key` and `value`.
        key: See `query`.
        value: See `query`.
        attention_mask: ``[batch, 1, sequence, sequence]``, True where a token may be seen.
        **kwargs: Of sdpa.
    """
    key, value = (
        torch.cat([prefix.to(states.dtype).expand(states.shape[0], -1, -1, -1), states], dim=2)
        for prefix, states in ((module.prefix_k, key), (module.prefix_v, value))
    )
    if attention_mask is not None:
        length = module.prefix_k.shape[1]
        attention_mask = nn.functional.pad(attention_mask, (length, 0), value=True)
        if torch.onnx.is_in_onnx_export():
            # The exporter would turn booleans into fp32, whatever the rest computes in.
            hidden = torch.where(attention_mask, 0.0, torch.finfo(query.dtype).min)
            attention_mask = hidden.to(query.dtype)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class PrefixTransformer(Transformer):
    """A transformer with a prefix. ``modules.json`` names this class, so that none loads without.

    Beside the files of a `Transformer`, whose weights are the base's, lies ``prefix.safetensors``.
    ``config.json`` names the attention function above: plain transformers, which does not read
    ``modules.json``, ends with an error where `finetune` has not registered it. Texts are never put
    one after the other without padding, as for flash attention: all would see all others.
    """

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> Self:
        """Load the transformer, and its prefix.

        Raises:
            FileNotFoundError: There is no prefix.
        """
        place = {name: kwargs[name] for name in _PLACE if name in kwargs}
        file = cls.load_file_path(model_name_or_path, FILE, **place)
        if file is None:
            raise FileNotFoundError(f"{model_name_or_path}: no {FILE}, without which the model is "
                                    "another one")  # fmt: skip
        module = super().load(model_name_or_path, *args, **kwargs)
        module.can_flatten_inputs = False
        insert(module.model, load_file(file))
        return module

    @classmethod
    def around(cls, transformer: Transformer) -> "PrefixTransformer":
        """Make one of a loaded transformer; it shares everything with it."""
        module = cls.__new__(cls)
        module.__dict__.update(transformer.__dict__)
        module.can_flatten_inputs = False
        return module

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the transformer as if it had no prefix, and the prefix beside it."""
        self.model.config.attn_implementation = ATTENTION  # transformers itself does not save it
        self.model._keys_to_ignore_on_save = set(_prefix(self.model))
        super().save(output_path, *args, **kwargs)
        prefix = {name: p.detach().cpu().contiguous() for name, p in _prefix(self.model).items()}
        save_file(prefix, Path(output_path) / FILE)


@dataclass(frozen=True)
class Prefix:
    """Trained keys and values, and nothing else trained.

    Attributes:
        length: How many in each layer.
    """

    length: int

    def attach(self, model: SentenceTransformer, reads: Reads) -> Finish:
        """Add a prefix that starts as averages of what the training texts' tokens have.

        Measured on the starter with 16 (cosine to the base's vectors; NDCG@10 of the base .921):
        averages .996 and .920; single tokens' keys and values .986 and .879; small random numbers
        .919 and .834. All the same average would stay the same in training, so each is another
        part of the tokens'. A model that has a prefix (of a warm-up) goes on with it.

        Raises:
            UserError: The model is not built like BERT.
        """
        inner: Any = model[0].model
        if not isinstance(inner, BERT_LIKE):
            raise UserError(
                f"adapter=prefix: {type(inner).__name__} is not built like BERT, which is all that "
                "prefix tuning supports; use recipes=lora"
            )
        model.requires_grad_(False)
        own = _prefix(inner)
        if own:
            for parameter in own.values():
                parameter.requires_grad_(True)
            return lambda out: None
        step = max(1, len(reads.rows) // _TEXTS)
        inner.set_attn_implementation("sdpa")  # flash attention computes nothing in fp32
        model[0] = PrefixTransformer.around(model[0])
        insert(inner, averages(model, reads.rows[::step][:_TEXTS], self.length))
        return lambda out: None


def insert(model: PreTrainedModel, prefix: Mapping[str, Tensor]) -> None:
    """Add a prefix, by parameter name, and the attention that reads it."""
    for name, tensor in prefix.items():
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner).register_parameter(own, nn.Parameter(tensor))
    model.set_attn_implementation(ATTENTION)


@torch.no_grad()
def averages(model: SentenceTransformer, texts: Sequence[str], length: int) -> dict[str, Tensor]:
    """Average keys and values of texts' tokens in each layer.

    Every ``length``-th token goes into the same average.

    Returns:
        By parameter name, ``[heads, length, dim]``.
    """
    inner: Any = model[0].model
    sums: dict[str, Tensor] = {}
    place = 0  # of the text's first token in the row of all tokens

    def add(name: str, states: Tensor) -> None:
        """``[1, sequence, hidden]`` of one text."""
        total = sums.setdefault(name, states.new_zeros(length, states.shape[-1]))
        at = torch.arange(place, place + states.shape[1], device=states.device) % length
        total.index_add_(0, at, states[0])

    hooks = []
    for index, layer in enumerate(inner.encoder.layer):
        attention = layer.attention.self
        for own, linear in zip(_NAMES, (attention.key, attention.value), strict=True):
            name = f"encoder.layer.{index}.attention.self.{own}"
            hooks.append(linear.register_forward_hook(
                lambda module, given, states, name=name: add(name, states)))  # fmt: skip
    training = model.training
    model.eval()
    for text in texts:
        features = model.preprocess([text])
        model({key: value.to(model.device) if isinstance(value, Tensor) else value
               for key, value in features.items()})  # fmt: skip
        place += features["input_ids"].shape[1]
    model.train(training)
    for hook in hooks:
        hook.remove()
    tokens = torch.bincount(torch.arange(place) % length, minlength=length).clamp(min=1)
    heads = inner.config.num_attention_heads
    return {
        name: (total / tokens[:, None].to(total.device)).view(length, heads, -1).transpose(0, 1)
        .contiguous()
        for name, total in sums.items()
    }  # fmt: skip


def _prefix(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if n.rpartition(".")[2] in _NAMES}
