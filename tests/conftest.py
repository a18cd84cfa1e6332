"""Small real things that tests share: a 2-layer char-BERT, its bundle, a domain of pairs."""

import copy
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import tiny_runs
from endpoints import StandIn
from tiny_models import CHARS, tiny_transformers

from finetune import hub
from finetune.config import compose


@pytest.fixture(autouse=True, scope="session")
def the_same_words_are_composed_once():
    """Hydra takes a quarter of a second, and a third of the tests' command lines came before."""
    with pytest.MonkeyPatch.context() as patch:
        once = cache(compose.hydra_compose)
        patch.setattr(compose, "hydra_compose",
                      lambda name, words: copy.deepcopy(once(name, tuple(words))))  # fmt: skip
        yield


@pytest.fixture(autouse=True)
def each_test_asks_the_hub_itself():
    """What a revision stands for is remembered as long as a command runs."""
    hub.commit.cache_clear()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A sentence-transformers folder: BERT of 2 layers, hidden 32, a vocabulary of characters."""
    return tiny_sentences(tmp_path_factory.mktemp("tiny"), layers=2)


@pytest.fixture
def logs_as_they_were():
    with tiny_runs.logs_as_they_were():
        yield


@pytest.fixture
def endpoint_stand_in():
    """An OpenAI-compatible endpoint on this machine (`endpoints.StandIn`)."""
    stand_in = StandIn()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


@pytest.fixture(scope="session")
def deep_model(tmp_path_factory) -> Path:
    """The same with 4 layers and 30 words, of which a student can leave some out."""
    words = [f"word{number}" for number in range(30)]
    return tiny_sentences(tmp_path_factory.mktemp("deep"), layers=4, words=words)


def tiny_sentences(work: Path, layers: int, words: Sequence[str] = ()) -> Path:
    """Write a sentence-transformers folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    from finetune.model import save

    plain = tiny_transformers(work / "plain", layers, words)
    torch.manual_seed(0)
    transformer = Transformer(str(plain), max_seq_length=64)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    model.prompts = {"query": "问", "passage": "", "document": ""}
    folder = work / "model"
    save(model, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model, tmp_path_factory) -> Path:
    """The bundle of the tiny model, fp32 and INT8."""
    from finetune import model as models
    from finetune.export import Origin, export_bundle

    loaded = models.load(tiny_model)
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    origin = Origin("tiny", "tests/tiny", "unknown", "mit")
    texts = [
        f"{a}{b}" for a in ("房东不退押金", "老板不发工资", "网店商品质量") for b in CHARS[:20]
    ]
    settings = tiny_runs.export_settings("fp32", "int8-dynamic")
    export_bundle(loaded, models.TorchEncoder(loaded), texts, out, origin, **settings)
    return out


@pytest.fixture
def tiny_domain(tmp_path) -> Path:
    """A folder with train.jsonl and a BEIR-shaped dev folder of 24 queries."""
    folder = tmp_path / "domain"
    folder.mkdir()
    topics = [
        "房东押金",
        "工资老板",
        "网店商品",
        "离婚财产",
        "孩子抚养",
        "学校老师",
        "医院医生",
        "合同规定",
    ]
    rows = [
        {"query": f"{topic}{CHARS[i]}怎么说", "positive": f"{topic}的法律规定是{CHARS[i + 20]}"}
        for topic in topics for i in range(6)
    ]  # fmt: skip
    write_lines(folder / "train.jsonl", rows)
    dev = folder / "dev"
    dev.mkdir()
    queries = [{"id": f"q-{n}", "text": f"{topics[n % 8]}{CHARS[n + 30]}如何"} for n in range(24)]
    corpus = [{"id": f"d{n}", "text": f"{topics[n % 8]}法律{CHARS[n + 40]}"} for n in range(40)]
    write_lines(dev / "queries.jsonl", queries)
    write_lines(dev / "corpus.jsonl", corpus)
    qrels = "".join(f"q-{n}\td{n % 8}\t1\n" for n in range(24))
    (dev / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels, encoding="utf-8")
    return folder


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write JSON Lines."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def domain(tiny_model, tmp_path_factory) -> Path:
    """A domain of its own for each test file, on which the tiny model can improve."""
    return tiny_runs.learnable_domain(tmp_path_factory.mktemp("learn") / "domain", tiny_model)
