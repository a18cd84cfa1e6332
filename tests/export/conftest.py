"""Models of other shapes, made from the tiny one."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer, BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

SHAPES = ("mean", "cls", "max", "lasttoken", "mean+max", "dense", "normalize", "xlm-roberta")

# Lengths from 1 to 60 characters, most of them outside the tiny vocabulary's sight of one another.
TEXTS = [
    ("房东不退押金怎么办？", "公司不发工资", "网店商品质量", "a", "离婚后财产和孩子")[n % 5]
    + "的一是了我不在人有他这上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下"[
        : n * 7 % 50
    ]
    + "学校老师医院医生药"[n % 9 :]
    for n in range(40)
]


@pytest.fixture
def tiny(tiny_model) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_model), device="cpu")


@pytest.fixture
def make_model(tiny, tmp_path):
    """Return a function from the name of a shape to a model."""

    def make(shape: str) -> SentenceTransformer:
        torch.manual_seed(1)
        first = tiny[0]
        if shape == "xlm-roberta":
            first = xlm_roberta(tiny, tmp_path / "xlm")
        mode = "mean" if shape in ("dense", "normalize", "xlm-roberta") else shape.split("+")
        pooling = Pooling(32, mode)
        heads = {"dense": [Dense(32, 24), Dense(24, 16)], "normalize": [Normalize()]}
        model = SentenceTransformer(modules=[first, pooling, *heads.get(shape, [])], device="cpu")
        model.prompts = dict(tiny.prompts)
        return model

    return make


def xlm_roberta(tiny: SentenceTransformer, folder: Path) -> Transformer:
    """Positions from padding_idx + 1, one token type, and room for 64 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(tiny[0].auto_model.config._name_or_path)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=65 + tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id, type_vocab_size=1,
    )  # fmt: skip
    model = XLMRobertaModel(config, add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.mul_(20)  # so that a wrong position shows
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Transformer(str(folder), max_seq_length=64)


@pytest.fixture(scope="session")
def realistic(tmp_path_factory) -> SentenceTransformer:
    """A random BERT with the geometry of m3e-small: 4 layers of 512."""
    torch.manual_seed(0)
    return random_bert(tmp_path_factory.mktemp("realistic"), layers=4, hidden=512)


def random_bert(folder: Path, layers: int, hidden: int) -> SentenceTransformer:
    characters = [chr(0x4E00 + n) for n in range(3000)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    from transformers import BertTokenizerFast

    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, intermediate_size=4 * hidden,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={token: n for n, token in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    modules = [Transformer(str(folder), max_seq_length=128), Pooling(hidden, "mean")]
    return SentenceTransformer(modules=modules, device="cpu")
