"""Models of four layers, small enough to train in a test, in the layouts that real ones have."""

from pathlib import Path

import pytest
import tiny_runs
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from finetune import model as models
from finetune.config.choices import Precision
from finetune.config.compose import compose
from finetune.data.beir import read_folder
from finetune.records import Pair, read_dicts
from finetune.sets import half
from finetune.training import train as training

KINDS = {
    "bert": (BertConfig, BertModel),
    "roberta": (RobertaConfig, RobertaModel),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel),
    "distilbert": (DistilBertConfig, DistilBertModel),
}
TEXTS = ["房东不退押金怎么办", "法律", "老板不发工资？" * 8, "", "离婚[PAD]财产", "公司", "房[PAD]"]
LOSS = {
    "_target_": "sentence_transformers.sentence_transformer.losses.MultipleNegativesRankingLoss",
    "scale": 50.0,
}


@pytest.fixture(scope="session")
def make_base(tiny_model, tmp_path_factory):
    """Return a function from the name of a layout to a model folder; "dense": BERT with a head."""
    made: dict[str, Path] = {}

    def make(kind: str = "bert") -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "model"
            models.save(_model(kind, tiny_model, made[kind].parent / "plain"), made[kind])
        return made[kind]

    return make


def _model(kind: str, tiny: Path, folder: Path) -> SentenceTransformer:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config_class, model_class = KINDS["bert" if kind == "dense" else kind]
    config = config_class(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=66, pad_token_id=tokenizer.pad_token_id,
        **({"n_heads": 4, "dim": 32, "n_layers": 4, "hidden_dim": 64} if "dist" in kind else {}),
    )  # fmt: skip
    torch.manual_seed(0)
    model = model_class(config) if "dist" in kind else model_class(config, add_pooling_layer=False)
    with torch.no_grad():  # larger than a fresh model's, so that texts differ
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    heads = [Dense(32, 16)] if kind == "dense" else []
    modules = [Transformer(str(folder), max_seq_length=64), Pooling(32, "mean"), *heads]
    made = SentenceTransformer(modules=modules, device="cpu")
    made[0].model.pooler = None  # random, where there is one
    made.prompts = {"query": "问", "passage": "", "document": ""}
    return made


@pytest.fixture(scope="module")
def rows(domain):
    return [
        Pair(str(n), row["query"], row["positive"], "s")
        for n, row in enumerate(read_dicts(domain / "train.jsonl"))
    ]


@pytest.fixture(scope="module")
def select(domain):
    whole = read_folder(domain / "dev")
    return whole.only({query for query in whole.queries if half(query) == "select"})


@pytest.fixture(scope="session")
def plan():
    """Return a function from a recipe and changed values to what training is told."""

    def make(recipe: str, *changes: str, precision: Precision = Precision.fp32) -> training.Plan:
        torch.set_num_threads(1)
        small = {"train.epochs": 3, "train.batch_size": 8, "train.max_length": 32,
                 "train.checkpoints": 3, "train.learning_rate": 0.02}  # fmt: skip
        if recipe == "lora":
            small |= {"adapter.layers": 2, "adapter.peft.r": 4}
        given = dict(change.split("=", 1) for change in changes)
        line = [f"{key}={value}" for key, value in (small | given).items()]
        config = compose([f"recipes={recipe}", *line])
        return training.Plan(
            config.train, dict(LOSS), precision, "cpu", 1, config.seed, dict(config.adapter)
        )

    return make


@pytest.fixture(scope="module")
def domain(tiny_model, tmp_path_factory) -> Path:
    return tiny_runs.learnable_domain(tmp_path_factory.mktemp("learn") / "domain", tiny_model)
