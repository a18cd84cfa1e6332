"""A char-BERT so small that tests can train it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CHARS = "的一是了我不在人有他这上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学之都好看起发当没成只如事把还用第样道想作种开美总从无情己面最女但现前些所同日手又行意动房东租合同公司工资老板退押金商品网店质量法律规定赔偿离婚财产父母孩子抚养学校老师医院医生药?？。,，1234567890abcdefghijklmnopqrstuvwxyz"  # noqa: E501


def tiny_transformers(folder: Path, layers: int = 2, words: Sequence[str] = ()) -> Path:
    """Write a plain transformers folder: config, weights without a pooler, vocab.txt."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(CHARS), *words]
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False)
    # Larger weights than a fresh BERT's, so that different texts get different vectors.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, "torch.Tensor"]:
    """The tensors of a model folder."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def difference(one: Path, other: Path) -> float:
    """The largest between the weights of two model folders."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
