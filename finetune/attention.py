"""Attention as plain products, which a CPU trains faster with than with torch's fused kernel.

On CPUs the backward pass of that kernel takes a third of a training step with short texts. The
products here stay in the format of the tokens (eager attention of transformers takes softmax to
fp32 and back), and keep each attention weight for the backward pass: where texts are long, or
nothing is learned, the fused kernel runs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune.machine.estimate import LEAN, WIDEST

__all__ = ["LEAN", "attend"]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return ``softmax(query keyᵀ scaling) value``, ``[batch, sequence, heads, dim]``.

    Args:
        module: The attention module.
        query: ``[batch, heads, sequence, dim]``, as `key` and `value`.
        key: See `query`.
        value: See `query`.
        attention_mask: ``[batch, 1, sequence, sequence]``, True where a token may be seen.
        dropout: Probability with which an attention weight is dropped.
        scaling: Of the scores; None for ``dim ** -0.5``.
        **kwargs: Of sdpa.
    """
    if not query.requires_grad or key.shape[2] > WIDEST:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * scale) @ key.transpose(2, 3)
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        weights = nn.functional.dropout(scores.softmax(-1), dropout, training=dropout > 0)
        return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(LEAN, attend)
AttentionMaskInterface.register(LEAN, sdpa_mask)
