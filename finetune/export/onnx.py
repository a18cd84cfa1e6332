"""A sentence-transformers model as one ONNX graph: tokens in, unit vectors out."""

import copy
import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from torch import Tensor, nn

from finetune.adapter.frozen import BERT_LIKE
from finetune.errors import UserError
from finetune.export.files import save
from finetune.export.shapes import keep_leading
from finetune.machine.estimate import LEAN
from finetune.model import inner

log = logging.getLogger(__name__)

# LayerNormalization is one operator from 17 on; ONNX Runtime reads 17 since 1.12.
OPSET = 17
# What may follow the transformer: each reads and writes `sentence_embedding` and traces as it is.
_HEADS = (Dense, LayerNorm, Normalize)
# Attention that the exporter cannot trace, or traces into more nodes than eager attention. Any
# other name is a function the project registered itself (prefix tuning) and must stay.
_REPLACED_ATTENTION = ("sdpa", LEAN, "flash_attention_2", "flash_attention_3", "flex_attention")


class _Graph(nn.Module):
    """What is traced: the inner model, its pooling and heads, and normalisation.

    Args:
        model: A checked model in fp32 on the CPU.
        half: Make the transformer compute in fp16. Pooling and what follows stay in fp32: sums over
            hundreds of tokens need it, and it is no part of the time.
    """

    def __init__(self, model: SentenceTransformer, half: bool) -> None:
        super().__init__()
        self.inner = inner(model).half() if half else inner(model)
        self.heads = nn.ModuleList(list(model)[1:])
        parameters = inspect.signature(self.inner.forward).parameters
        self.has_token_types = "token_type_ids" in parameters

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[batch, sequence]`` int64 twice -> ``[batch, dim]`` float32, unit length."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.has_token_types:
            # All texts are of type 0. One constant that broadcasts folds into one row to add.
            inputs["token_type_ids"] = torch.zeros((1, 1), dtype=torch.int64)
        if isinstance(self.inner, BERT_LIKE) and self.inner.config._attn_implementation == "eager":
            inputs["attention_mask"] = self._added(attention_mask)
        hidden = self.inner(**inputs).last_hidden_state
        if hidden.dtype != torch.float32:
            hidden = hidden.float()
        features: dict[str, Tensor] = {"token_embeddings": hidden, "attention_mask": attention_mask}
        for head in self.heads:
            features = head(features)
        return nn.functional.normalize(features["sentence_embedding"], dim=-1)

    def _added(self, attention_mask: Tensor) -> Tensor:
        """The mask as attention adds it, ``[batch, 1, 1, sequence]``, which transformers lets be.

        What it would make itself, ``[batch, 1, sequence, sequence]`` by some forty nodes, says no
        more: every token may see the same ones.
        """
        hidden = (1 - attention_mask[:, None, None, :]).to(self.inner.dtype)
        return hidden * torch.finfo(self.inner.dtype).min


def export_onnx(model: SentenceTransformer, file: Path, *, half: bool = False) -> None:
    """Write a model as an ONNX file, fp32 or (`half`) fp16; the model itself is left as it was.

    The graph takes ``input_ids`` and ``attention_mask`` (``[batch, sequence]`` int64, any size,
    padded on the right) and gives ``sentence_embedding`` (``[batch, dim]`` float32). Pooling,
    Dense and LayerNorm modules are inside, and so is a normalisation to unit length, which is
    added where the model ends without one: cosine and inner product are the same thing everywhere
    in the project. A pooler that nothing reads does not reach the graph.

    Raises:
        UserError: The model has a module or a setting the graph cannot hold.
    """
    problems = unsupported(model)
    if problems:
        raise UserError(*problems)
    graph = _Graph(copy.deepcopy(model).cpu().float(), half).eval()
    if graph.inner.config._attn_implementation in _REPLACED_ATTENTION:
        graph.inner.set_attn_implementation("eager")
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two rows of different length: nothing in the trace may depend on a batch without padding.
    ids = torch.full((2, 8), int(graph.inner.config.pad_token_id or 0) + 1)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    # Of a graph over 2 GB the exporter makes many files.
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        traced = Path(folder) / file.name
        with torch.inference_mode(), _quiet():
            torch.onnx.export(
                graph,
                (ids, mask),
                str(traced),  # a Path would be taken for an open file
                dynamo=False,
                opset_version=OPSET,
                input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                dynamic_axes={
                    "input_ids": {0: "batch", 1: "sequence"},
                    "attention_mask": {0: "batch", 1: "sequence"},
                    "sentence_embedding": {0: "batch"},
                },
            )
        proto = onnx.load(traced)
    _strip_identities(proto.graph)
    if isinstance(graph.inner, BERT_LIKE):
        keep_leading(proto.graph)
    save(proto, file)
    log.info("exported %s", file)


def unsupported(model: SentenceTransformer) -> list[str]:
    """Return why a model cannot be exported, one sentence a reason; empty if it can."""
    modules = list(model)
    if not modules or not isinstance(modules[0], Transformer):
        first = type(modules[0]).__name__ if modules else "nothing"
        return [f"the model starts with {first}; export needs a Transformer module first"]
    problems = [
        f"module {index} is {type(module).__name__}; export supports "
        f"{', '.join(kind.__name__ for kind in (Pooling, *_HEADS))} after the Transformer"
        for index, module in enumerate(modules[1:], start=1)
        if not isinstance(module, (Pooling, *_HEADS))
    ]
    pooling = [module for module in modules if isinstance(module, Pooling)]
    if len(pooling) != 1:
        problems.append(f"the model has {len(pooling)} Pooling modules; export needs exactly one")
    if any(not module.include_prompt for module in pooling):
        problems.append(
            "Pooling has include_prompt=False; the graph does not know where a prompt ends: "
            "train and export with include_prompt=True"
        )
    return problems


def pooling_name(model: SentenceTransformer) -> str:
    """Return the pooling mode of a model; several that are concatenated are joined by ``+``."""
    mode = next(module.pooling_mode for module in model if isinstance(module, Pooling))
    return mode if isinstance(mode, str) else "+".join(mode)


def _strip_identities(graph: onnx.GraphProto) -> None:
    """Replace ``Identity`` of an initialiser by the initialiser.

    The exporter shares equal weights this way (LayerNorms that are still all ones). Fusions then
    no longer see that an input is constant.
    """
    constants = {initializer.name for initializer in graph.initializer}
    aliases = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in constants
    }
    kept = [node for node in graph.node if not (node.output and node.output[0] in aliases)]
    for node in kept:
        node.input[:] = [aliases.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer: it warns at each Python branch on a shape, which tests hold instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=UserWarning)
        yield
