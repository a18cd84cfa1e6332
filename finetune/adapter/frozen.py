"""The frozen lower layers of a model, run once a text: their outputs are kept on disk.

A frozen layer without dropout gives a text the same output in every epoch, so that training needs
it once. What is kept is one text's hidden states without padding, found by its token ids.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import BertModel, PreTrainedTokenizerBase, RobertaModel, XLMRobertaModel
from transformers.masking_utils import create_bidirectional_mask

from finetune.adapter import is_trained
from finetune.disk import distinct
from finetune.inference.batches import tokenised
from finetune.machine import hardware
from finetune.progress import bar

log = logging.getLogger(__name__)

# These have `embeddings` and `encoder.layer`, and a layer takes hidden states and a mask.
BERT_LIKE = (BertModel, RobertaModel, XLMRobertaModel)


class Activations:
    """Hidden states by token ids, in a file without a name: a killed process leaves none behind.

    Read with ``pread``: mapped pages would count as memory of the process.

    Args:
        folder: On the disk that holds the file.
        width: Length of one token's hidden state.
        dtype: What they are stored in: the training's, as the layers above multiply in it anyway.
        limit: Bytes that the file may have.
    """

    def __init__(self, folder: Path, width: int, dtype: torch.dtype, limit: int) -> None:
        self.dtype = dtype
        self._row = width * dtype.itemsize
        self._width = width
        self._limit = limit
        self._file = tempfile.TemporaryFile(dir=folder)
        self._size = 0
        self._offsets: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._offsets)

    def add(self, ids: Tensor, states: Tensor) -> bool:
        """Keep ``[len(ids), width]``; False, and nothing is kept, when there is no room."""
        content = states.to(self.dtype).contiguous().view(torch.uint8).numpy()
        if self._size + content.nbytes > self._limit:
            return False
        self._file.write(content.data)
        self._file.flush()  # `get` does not look into the buffer
        self._offsets[_key(ids)] = self._size
        self._size += content.nbytes
        return True

    def get(self, ids: Tensor) -> Tensor | None:
        """``[len(ids), width]``, or None when the text is not kept."""
        offset = self._offsets.get(_key(ids))
        if offset is None:
            return None
        content = bytearray(os.pread(self._file.fileno(), len(ids) * self._row, offset))
        return torch.frombuffer(content, dtype=self.dtype).view(len(ids), self._width)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


class Lower(nn.Module):
    """Embeddings and lower layers in the place of a model's embeddings: token ids to hidden states.

    Always in evaluation mode, without a graph. A text that is not kept is computed in its batch.

    Args:
        model: BERT-like; its embeddings and lower layers move in here.
        count: How many layers.
        end: Token id that ends every text; what stands behind is padding, whichever its id.
        kept: Outputs known already.
    """

    def __init__(self, model: Any, count: int, end: int, kept: Activations) -> None:
        super().__init__()
        self.embeddings = model.embeddings
        self.layers = nn.ModuleList(model.encoder.layer[:count])
        self.config = model.config
        self.end = end
        self.kept = kept
        self.computed = 0  # texts that had to be computed in a forward pass
        model.embeddings = self
        for index in range(count):
            model.encoder.layer[index] = _Passed()
        self.eval()

    def train(self, mode: bool = True) -> "Lower":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, input_ids: Tensor, **others: Any) -> Tensor:
        """``[batch, sequence]`` int64 -> ``[batch, sequence, hidden]`` float32; padding is 0."""
        texts = self._texts(input_ids)
        found = [self.kept.get(text) for text in texts]
        missing = [index for index, states in enumerate(found) if states is None]
        hidden = torch.zeros(*input_ids.shape, self.config.hidden_size, dtype=self.kept.dtype)
        for row, states in zip(hidden, found, strict=True):
            if states is not None:
                row[: len(states)] = states
        hidden = hidden.to(input_ids.device)
        if missing:
            self.computed += len(missing)
            width = max(len(texts[index]) for index in missing)
            # Through the same number format as what is kept, so that both train alike.
            hidden[missing, :width] = self.compute(input_ids[missing, :width]).to(hidden.dtype)
        return hidden.float()

    @torch.no_grad()
    def compute(self, input_ids: Tensor) -> Tensor:
        """Run the embeddings and the layers: ``[batch, sequence, hidden]``."""
        lengths = _lengths(input_ids, self.end)
        mask = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
        hidden = self.embeddings(input_ids=input_ids)
        bias = create_bidirectional_mask(self.config, hidden, mask)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return hidden

    def restore(self, model: Any) -> None:
        """Put embeddings and layers back where they were."""
        model.embeddings = self.embeddings
        for index, layer in enumerate(self.layers):
            model.encoder.layer[index] = layer
        self.kept.close()

    def _texts(self, input_ids: Tensor) -> list[Tensor]:
        """Each row's token ids, on the CPU, without padding."""
        ids = input_ids.cpu()
        lengths = _lengths(ids, self.end).tolist()
        return [row[:length] for row, length in zip(ids, lengths, strict=True)]


class _Passed(nn.Module):
    """Stands where a layer was that `Lower` runs now, so that the others keep their names."""

    def forward(self, hidden_states: Tensor, *others: Any, **more: Any) -> Tensor:
        return hidden_states


def obstacle(model: SentenceTransformer, count: int) -> str | None:
    """Say why a model's lower layers cannot be run apart; None when they can."""
    inner: Any = model[0].model
    tokenizer = model.tokenizer
    if not isinstance(inner, BERT_LIKE):
        return f"{type(inner).__name__} is not built like BERT"
    if any(is_trained(part) for part in (inner.embeddings, *inner.encoder.layer[:count])):
        return "a part of them is trained"
    if model[0].can_flatten_inputs:
        return "flash attention joins the texts of a batch"
    # `Lower` sees token ids only: all that is padding must be told from them.
    end = end_of(tokenizer)
    if tokenizer.padding_side != "right" or end in (None, 0, tokenizer.pad_token_id):
        return "its tokenizer does not end a text with a token of its own and pad on the right"
    return None


def end_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token id that a tokenizer ends texts with; None where it ends them with their own."""
    found: list[int] = tokenizer("")["input_ids"]
    return found[-1] if found else None


def remember(
    model: SentenceTransformer, lower: Lower, texts: Sequence[str], autocast: torch.dtype | None
) -> None:
    """Compute what `lower` gives for texts and keep it, in order, until the file is full.

    In batches that depend on nothing but the texts: a run that was killed finds the same again.
    """
    budget = hardware.settings_of(hardware.fitting(model.device.type))["encode_tokens"]
    batches = tokenised(distinct(texts), model.tokenizer, model.max_seq_length, budget)
    with (
        bar("frozen layers", sum(1 for _ in distinct(texts))) as progress,
        torch.autocast(model.device.type, autocast, enabled=autocast is not None),
    ):
        for _, rows in batches:
            padded = model.tokenizer.pad({"input_ids": rows}, return_tensors="pt")["input_ids"]
            states = lower.compute(padded.to(model.device)).cpu()
            for ids, state in zip(rows, states, strict=True):
                if not lower.kept.add(torch.tensor(ids), state[: len(ids)]):
                    log.warning(
                        "frozen layers: their outputs are kept for the first %d texts and computed "
                        "anew for others; raise adapter.cache_gb to keep all", len(lower.kept),
                    )  # fmt: skip
                    return
            progress(len(rows))


def _lengths(input_ids: Tensor, end: int) -> Tensor:
    """Tokens of each row up to the one that ends its text.

    Not up to padding: joining columns of other widths, the library pads with 0, whatever the model.
    """
    positions = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    return ((input_ids == end) * positions).amax(dim=1)


def _key(ids: Tensor) -> bytes:
    return hashlib.blake2b(ids.numpy().tobytes(), digest_size=16).digest()
