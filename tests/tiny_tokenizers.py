"""Small models around a tokenizer of their own."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as pieces
from transformers import PreTrainedTokenizerFast

from finetune import model as models

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip
SCORED = ["<s>", "<pad>", "</s>", "<unk>", "▁", "法律", "押金", "法", "律", "房东", "▁good", "押",
          "金", "<0x41>", "<mask>"]  # fmt: skip


def saved(folder, transformer, tokenizer):
    transformer.save_pretrained(folder / "plain")
    tokenizer.save_pretrained(folder / "plain")
    module = Transformer(str(folder / "plain"), max_seq_length=32)
    pooling = Pooling(module.get_embedding_dimension(), pooling_mode="mean")
    models.save(SentenceTransformer(modules=[module, pooling], device="cpu"), folder / "model")
    return folder / "model"


def scored(processor, vocabulary):
    weighed = [(piece, -1.0 - i / 100) for i, piece in enumerate(vocabulary)]
    backend = Tokenizer(pieces.Unigram(weighed, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processor
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>",
               "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)
