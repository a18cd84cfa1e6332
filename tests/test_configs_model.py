"""Holds configs/model to ``published_models.json``: no revision or licence from memory."""

import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from finetune.config import Model
from finetune.config.choices import Hub

ROOT = Path(__file__).parents[1]
PUBLISHED = json.loads((Path(__file__).parent / "published_models.json").read_text("utf-8"))
PATHS = sorted((ROOT / "configs/model").glob("*.yaml"))
# Translations and derivations of a set, which mteb lists but which were not trained on.
VARIANT = re.compile(r"(-PL|-NL|-Fa|HardNegatives)$|^Nano")
# Not published for these; the comment in the config tells where the value comes from.
POOLING_ELSEWHERE = {"m3e-large": "mean", "stella-base-zh-v2": "mean"}
# mteb gives the position table (514) of which XLM-R uses all but 2.
LENGTH_ELSEWHERE = {"multilingual-e5-base": 512, "multilingual-e5-large": 512}
# Declared outside mteb, in the source that the config's comment names.
ALSO_TRAINED_ON = {
    "bge-large-zh": {"Multi-CPR", "nli-zh"},
    "text2vec-base-chinese": {"STSB", "nli_zh"},
    "stella-base-zh-v2": {
        "SimCLUE", "BQ", "LCQMC", "PAWSX", "DuRetrieval", "AFQMC", "STSB", "Cmnli", "Ocnli",
    },
}  # fmt: skip
# The same set under the name that configs and cards use.
SAME_SET = {"Chinese STS-B (train)": "STSB", "simclue": "SimCLUE"}


def load(path: Path) -> Model:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Model), OmegaConf.load(path)))


MODELS = {path.stem: load(path) for path in PATHS}
FROM_A_HUB = {name: model for name, model in MODELS.items() if model.hub is Hub.huggingface}


@pytest.fixture(params=sorted(FROM_A_HUB))
def model(request):
    return FROM_A_HUB[request.param]


@pytest.fixture
def published(model):
    return PUBLISHED["models"][model.id]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_config_has_the_keys_of_the_schema_and_its_own_name(path):
    assert set(OmegaConf.load(path)) == set(OmegaConf.structured(Model))
    assert load(path).name == path.stem


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_states_licence_prompts_pooling_and_length(name):
    model = MODELS[name]
    assert model.licence
    assert set(model.prompts) == {"query", "passage"}
    assert model.pooling in ("mean", "cls")
    assert model.max_length >= 128
    assert model.path is None
    assert len(set(model.trained_on)) == len(model.trained_on)


def test_every_published_model_here_has_a_config():
    assert sorted(model.id for model in FROM_A_HUB.values()) == sorted(PUBLISHED["models"])


def test_revision_is_the_published_commit(model, published):
    assert model.revision == published["revision"]["value"]
    assert model.revision is None or re.fullmatch("[0-9a-f]{40}", model.revision)


def test_licence_is_the_published_one(model, published):
    stated = published["licence"]["value"]
    if stated is None:
        assert model.licence == "unknown"
    elif stated.startswith("no SPDX id"):
        assert model.licence in stated
    else:
        assert model.licence == stated


def test_prompts_are_the_published_ones(model, published):
    stated = published["prompts"]["value"]
    assert model.prompts == {"query": stated["query"], "passage": stated["document"]}


def test_pooling_is_the_published_one(model, published):
    stated = published["pooling"]["value"]
    if stated is None:
        assert model.pooling == POOLING_ELSEWHERE[model.name]
    else:
        assert model.pooling == stated.split(",")[0]  # LaBSE: "cls, then Dense …"


def test_length_is_the_published_one(model, published):
    expected = LENGTH_ELSEWHERE.get(model.name, published["max_tokens"]["value"])
    assert model.max_length == expected


def test_training_sets_are_the_declared_ones(model, published):
    declared = published["training_data_declared"]["value"]
    if declared is None:
        assert model.trained_on == ["unknown"]
        return
    expected = {SAME_SET.get(name, name) for name in declared if not VARIANT.search(name)}
    if model.name.startswith("m3e-"):
        expected |= set(PUBLISHED["m3e_table"]["sets"].values())
    assert set(model.trained_on) == expected | ALSO_TRAINED_ON.get(model.name, set())


@pytest.mark.parametrize("name", ["m3e-small", "m3e-base", "m3e-large"])
def test_m3e_is_for_research_only_and_saw_three_test_sets(name):
    assert "non-commercial" in MODELS[name].licence
    assert {"BQ", "LCQMC", "PAWSX"} <= set(MODELS[name].trained_on)


def test_the_starter_is_the_small_e5():
    starter, origin = MODELS["starter"], MODELS["multilingual-e5-small"]
    for key in ("id", "pooling", "max_length", "prompts", "licence", "trained_on"):
        assert getattr(starter, key) == getattr(origin, key)
    assert starter.hub is Hub.starter


def test_nothing_is_known_about_a_model_of_the_users_own():
    custom = MODELS["custom"]
    assert (custom.hub, custom.id, custom.revision) == (Hub.local, None, None)
    assert (custom.licence, custom.trained_on) == ("unknown", ["unknown"])


@pytest.mark.parametrize("hub_id", sorted(PUBLISHED["models"]))
def test_every_published_fact_has_its_source(hub_id):
    for key, fact in PUBLISHED["models"][hub_id].items():
        assert fact["value"] is None or fact["source"], key
