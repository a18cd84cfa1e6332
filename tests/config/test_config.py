import dataclasses
import functools
import inspect
import json
import re
import shlex
import typing
from pathlib import Path

import pytest
import yaml

from finetune.config import Config, check, ranges, to_dict
from finetune.config.check import target_problems
from finetune.config.choices import Kind, Precision
from finetune.config.compose import GROUPS, ROOT, choices, compose, known_keys
from finetune.config.pairs import Mixed
from finetune.errors import UserError, nearest

PARTS = {f.name: f.type for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)}
KINDS = {
    name: yaml.safe_load((ROOT / f"configs/domain/{name}.yaml").read_text("utf-8"))["kind"]
    for name in choices("domain")
}
# configs/tune is no part of a run; tests/test_ranges.py covers it.
FILES = sorted(p for p in (ROOT / "configs").glob("*/*.yaml") if p.parent.name != "tune")


def problems(*overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        compose(overrides)
    return list(caught.value.problems)


def together() -> list:
    """Each recipe with a domain of either kind, and each domain with a recipe of either kind.

    The others, over a hundred of a third of a second each, are slow.
    """
    return [
        pytest.param(recipe, domain, marks=(
            () if domain in ("legal", "stsb_zh") or recipe in ("full", "cosent")
            else pytest.mark.slow))
        for recipe in choices("recipes") for domain in choices("domain")
    ]  # fmt: skip


@functools.cache
def learns_from(recipe: str) -> str:
    return check.kind_of(compose([f"recipes={recipe}"]).loss).value


@pytest.mark.parametrize(("recipe", "domain"), together())
def test_every_recipe_composes_with_every_domain_whose_rows_it_can_learn_from(recipe, domain):
    line = [f"recipes={recipe}", f"domain={domain}", "paths.data=/data"]
    wanted, held = learns_from(recipe), KINDS[domain]
    if wanted == held:
        config = compose(line)
        assert (config.recipe, config.domain.name) == (recipe, domain)
        json.dumps(to_dict(config))
        return
    told = next(each for each in problems(*line) if each.startswith(f"recipes={recipe}: its loss"))
    assert f"domain={domain} holds" in told and f"domain.kind={wanted}" in told
    listed = told.split("choose a domain that holds ")[1].split(": ")[1].split(" (")[0]
    assert listed.split(", ") == [name for name, kind in KINDS.items() if kind == wanted]


def test_another_loss_lets_a_recipe_learn_from_the_other_rows():
    assert compose(["recipes=full", "domain=stsb_zh", "loss=cosent"]).domain.kind is Kind.scored
    assert compose(["recipes=cosent", "domain=legal", "loss=mnrl"]).domain.kind is Kind.pairs
    for loss in ("AnglELoss", "CosineSimilarityLoss"):
        target = f"loss._target_=sentence_transformers.sentence_transformer.losses.{loss}"
        assert compose(["recipes=full", "domain=atec", target]).loss["scale"] == 50


def test_scored_pairs_are_neither_mined_nor_generated():
    mined, generated = problems("recipes=cosent", "mine=positive_aware", "generate=documents")
    assert mined == "mine.rounds=1: scored pairs take no negatives; set mine=none"
    assert generated.startswith("generate.use=join: makes pairs") and "generate=none" in generated


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_part_composes_and_has_just_the_keys_of_its_schema(path):
    group = path.parent.name
    content = yaml.safe_load(path.read_text("utf-8"))
    recipe = "full"
    if content.get("kind") == "scored" or check.kind_of(content) is Kind.scored:
        recipe = "cosent"
    elif path.stem == "distill" or group == "distill" and path.stem != "none":
        recipe = "distill"  # a student needs its loss, and the loss a teacher
    elif path.stem == "matryoshka":
        recipe = "matryoshka"  # the export's length is one that the loss trains
    config = compose([f"recipes={recipe}", f"{group}={path.stem}"])
    if group in PARTS:
        keys = {f.name for f in dataclasses.fields(PARTS[group])}
        variant = content.pop("defaults", [None])[0] == "default"  # holds only what differs
        assert set(content) < keys if variant else set(content) == keys
        assert getattr(config, group) is not None
    elif group == "mix":
        assert set(content) == set(config.mix)
        for each in content.values():
            assert set(each) == {f.name for f in dataclasses.fields(Mixed)}
    else:
        assert group in ("adapter", "loss") and getattr(config, group) == content
        assert content == {} or list(target_problems(group, content)) == []


def test_every_group_of_the_defaults_list_can_be_named():
    defaults = yaml.safe_load((ROOT / "configs/default.yaml").read_text("utf-8"))["defaults"]
    named = {key for each in defaults if isinstance(each, dict) for key in each}
    assert named == set(GROUPS)
    assert all(choices(group) for group in GROUPS)


def test_the_root_of_the_configs_has_just_the_keys_of_its_schema():
    content = yaml.safe_load((ROOT / "configs/default.yaml").read_text("utf-8"))
    assert set(content) - {"defaults"} == {f.name for f in dataclasses.fields(Config)} - set(GROUPS)
    assert set(content["paths"]) == {f.name for f in dataclasses.fields(PARTS["paths"])}


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("recipes=contrastiv", "contrastive"),
        ("domain=leagl", "legal"),
        ("model=m3e-bas", "m3e-base"),
        ("hardware=h10", "h100"),
        ("mine=positive-aware", "positive_aware"),
        ("train.epoch=3", "train.epochs"),
        ("trian.epochs=3", "train.epochs"),
        ("evaluate.sample=300", "evaluate.samples"),
        ("domian=legal", "domain"),
        ("seeds=1", "seed"),
        ("+learning_rate=1", "train.learning_rate"),
        ("+train.lr_rate=1", "train.learning_rate"),
        ("loss.scal=20", "loss.scale"),
        ("adapter=lorra", "lora"),
        ("model.prompts.quary=a", "model.prompts.query"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(override, meant):
    recipe = [] if override.startswith("recipes") else ["recipes=full"]
    (problem,) = problems(*recipe, override)
    assert problem.startswith(override)
    assert f"did you mean '{meant}'?" in problem


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("adapter.layer=3", "adapter.layers"),
        ("adapter.peft.lora_alfa=8", "adapter.peft.lora_alpha"),
    ],
)
def test_a_typo_in_an_adapter(override, meant):
    (problem,) = problems("recipes=lora", override)
    assert problem.startswith(override) and f"did you mean '{meant}'?" in problem


@pytest.mark.parametrize(
    "override",
    ["adapter.layers=0", "adapter.layers=many", "adapter.layers=1.5", "adapter.layers=true",
     "adapter.peft.r=0", "adapter.cache_gb=-1", "adapter.cache_gb=much", "adapter.cache_gb=.nan",
     "adapter.peft=3"],
)  # fmt: skip
def test_numbers_of_an_adapter_that_cannot_work(override):
    (problem,) = problems("recipes=lora", override)
    assert problem.startswith(override.split("=")[0]) and "must be" in problem


def test_a_prefix_of_no_length():
    (problem,) = problems("recipes=prefix", "adapter.length=0")
    assert problem == "adapter.length=0: must be a whole number, 1 or more"


def test_all_typos_are_told_at_once():
    found = problems("recipes=ful", "domain=leagl", "sed=1", "train.epoch=1", "hardware=tpu")
    assert [each.split("=")[0] for each in found] == [
        "recipes", "domain", "sed", "train.epoch", "hardware"
    ]  # fmt: skip


def test_all_wrong_types_and_values_are_told_at_once():
    found = problems(
        "recipes=full", "train.epochs=many", "seed=1.5", "hardware.precision=fp8",
        "check.bad_rows=keep", "domain.full=maybe", "export.precisions=fp32",
    )  # fmt: skip
    assert {re.split("[:=]", each)[0] for each in found} == {
        "train.epochs", "seed", "hardware.precision", "check.bad_rows", "domain.full",
        "export.precisions",
    }  # fmt: skip
    assert any("auto, fp32, bf16, fp16" in each for each in found)


@pytest.mark.parametrize(
    ("override", "phrase"),
    [
        ("limit=0", "greater than 0"),
        ("limit=-3", "greater than 0"),
        ("seed=-1", "0 or more"),
        ("seed=4294967296", "at most"),
        ("train.epochs=0", "greater than 0"),
        ("train.epochs=nan", "greater than 0"),
        ("train.epochs=inf", "at most 1000"),
        ("train.learning_rate=0", "greater than 0"),
        ("train.batch_size=1", "greater than 1"),
        ("train.checkpoints=0", "greater than 0"),
        ("train.max_length=7", "greater than 7"),
        ("train.dropout=1.5", "at most 0.9"),
        ("model.max_length=4", "greater than 7"),
        ("mine.candidates=-1", "0 or more"),
        ("evaluate.min_gain=2", "at most 1"),
        ("evaluate.max_int8_drop=-0.1", "0 or more"),
        ("train.warmup=1.5", "at most 1"),
        ("train.warmup=-0.5", "0 or more"),
        ("train.guard_share=2", "at most 1"),
        ("train.patience=0", "greater than 0"),
        ("mine.rounds=11", "at most 10"),
        ("mine.filter_margin=-0.1", "0 or more"),
        ("merge.weights=[0.5,1.5]", "1.5 is no share"),
        ("merge.weights=[0]", "0 is no share"),
        ("merge.keep_gain=2", "at most 1"),
        ("evaluate.max_general_drop=2", "at most 1"),
        ("evaluate.samples=99", "greater than 99"),
        ("evaluate.alpha=5", "at most 1"),
        ("export.precisions=[fp32,int4]", "choose from: fp32, fp16, int8-dynamic"),
        ("export.precisions=[]", "choose from: fp32, fp16, int8-dynamic"),
        ("~export.floors.int8-dynamic", "not set; it says how close"),
        ("+export.floors.fp32.min_cosin=1.0", "did you mean 'min_cosine'?"),
        ("quantize.range_percentile=101", "at most 100"),
        ("quantize.range_texts=0", "greater than 0"),
        ("quantize.max_fp32=2", "at most 1"),
        ("model.pooling=max", "choose from: mean, cls"),
        ("hardware.device=tpu", "choose from: auto, cpu, cuda"),
        ("hardware.threads=-2", "0 or more"),
        ("+model.prompts.title=a", "expected query and passage"),
        ("~model.prompts.passage", "expected query and passage"),
        ("~train.epochs", "not set"),
        ("train.epochs=null", "train.epochs"),
        ("domain=null", "choose from"),
        ("train.epochs=1,2", "add -m"),
    ],
)
def test_values_that_cannot_work(override, phrase):
    (problem,) = problems("recipes=full", override)
    assert problem.startswith(override.lstrip("+~").split("=")[0].removesuffix(".passage")
                              .removesuffix(".title"))  # fmt: skip
    assert phrase in problem


def test_more_negatives_than_candidates():
    (problem,) = problems("recipes=contrastive", "mine.candidates=1", "mine.negatives=2")
    assert "mine.negatives=2" in problem and "raise mine.candidates" in problem


@pytest.mark.parametrize(
    ("overrides", "phrases"),
    [
        (["mix.custom.weight=0"], ["mix.custom.weight=0.0: must be greater than 0"]),
        (["mix.custom.weight=1"], ["less than 1", "mix: weights add up to 1;"]),
        (["mix.custom.weight=much"], ["mix.custom.weight=much: expected a number"]),
        (["mix.custom.kind=scored"], ["mix.custom.kind=scored: ", "+loss@mix.custom.loss=cosent"]),
        (["+loss@mix.custom.loss=cosent"], ["mix.custom.kind=pairs: ", "of the kind scored"]),
        (["mix.custom.prompts={query: a}"], ["mix.custom.prompts: has ['query']"]),
        (["+mix.custom.wait=1"], ["mix.custom.wait: "]),
        (["mix.custom.wieght=1"], ["did you mean 'mix.custom.weight'?"]),
        (["+mix.domain=${mix.custom}"], ["mix.domain: the name of the domain's own rows"]),
        (["mix=[custom,generel]"], ["mix=generel: unknown mix; did you mean 'general'?"]),
    ],
)
def test_mixed_sets_that_cannot_work(overrides, phrases):
    told = "; ".join(problems("recipes=full", "mix=custom", *overrides))
    for phrase in phrases:
        assert phrase in told


@pytest.mark.parametrize("overrides", [[], ["mix=general", "paths.data=/data"]])
def test_a_key_of_a_set_that_is_not_mixed_in(overrides):
    assert problems("recipes=full", *overrides, "mix.custom.weight=0.1") == [
        "mix.custom.weight=0.1: no such set is mixed in; add mix=<set>, from: custom, general"
    ]


def test_mixed_sets_can_be_several_each_with_its_own_loss():
    config = compose([
        "recipes=full", "mix=[general,custom]", "paths.data=/data", "mix.general.weight=0.3",
        "mix.custom.kind=scored", "+loss@mix.custom.loss=cosent", "mix.custom.columns.a=句子1",
    ])  # fmt: skip
    assert config.mix["general"].train == "/data/general/train.jsonl"
    assert [each.weight for each in config.mix.values()] == [0.3, 0.2]
    assert config.mix["custom"].loss["scale"] == 20 and config.loss["scale"] == 50
    assert config.mix["custom"].columns == {"a": "句子1"}


def test_a_recipe_must_be_named():
    assert problems("domain=legal") == [
        "recipes: none named; choose from: "
        + ", ".join(choices("recipes"))
        + "; begin with recipes=contrastive"
    ]


@pytest.mark.parametrize("argument", ["full", "a b", "recipes=[full", "paths.data=a(1)"])
def test_what_is_no_override_is_told_with_the_form(argument):
    (problem,) = problems("recipes=full", argument)
    assert repr(argument) in problem and "write key=value" in problem


@pytest.mark.parametrize(
    "value",
    ["/data/legal", "../shared/data", "/数据/法律", "~/数据", "a b/c", "x#1", "a=b", "a&b;c",
     "R&D!", "2024-01/甲 乙", "'a, b'", '"甲, 乙"'],
)  # fmt: skip
def test_paths_need_no_quotes(value):
    config = compose(["recipes=full", f"paths.data={value}"])
    assert config.paths.data == Path(value.strip("'\"")).expanduser()


def test_a_home_is_put_into_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = compose(["recipes=full", "run_dir=~/run", "paths.runs=~/runs", "domain=custom",
                      "domain.dev=~/dev", "paths.data=~", "model.path=~/m"])  # fmt: skip
    paths = (config.run_dir, config.paths.runs, config.domain.dev, config.model.path)
    assert paths == tuple(Path("/home/me") / name for name in ("run", "runs", "dev", "m"))
    assert config.evaluate.general == Path("/home/me/general")  # of paths.data
    assert problems("recipes=full", "paths.runs=~no.such.user/runs", "run_dir=~no.such.user") == [
        "paths.runs=~no.such.user/runs: no such home; write the folder out",
        "run_dir=~no.such.user: no such home; write the folder out",
    ]


def test_the_examples_in_the_comments_of_the_configs_work(tmp_path):
    text = (ROOT / "configs/domain/custom.yaml").read_text("utf-8")
    (example,) = re.findall(r"'domain.columns=.*?}'", text)
    config = compose(["recipes=full", "domain=custom", *shlex.split(example)])
    assert config.domain.columns == {"query": "问题", "positive": "回答"}
    (example,) = re.findall(r"or scored ({.*?})", text)
    line = ["recipes=cosent", "domain=custom", "domain.kind=scored", f"domain.columns={example}"]
    assert compose(line).domain.columns == {"a": "句子1", "b": "句子2", "score": "分数"}
    assert compose(["recipes=full", "domain.columns={query: 问, positive: ''}"]).domain.columns == {
        "query": "问",
        "positive": "",
    }


@pytest.mark.parametrize(
    ("overrides", "columns"),
    [
        (["domain.columns.source=来源"], {"source": "来源"}),
        (["domain.columns={query: 问, source: 来源}"], {"query": "问", "source": "来源"}),
        (["domain.columns={query: 问}", "domain.columns.id=号"], {"query": "问", "id": "号"}),
        (["+domain.columns.id=号"], {"id": "号"}),
        (["++domain.columns.id=号"], {"id": "号"}),
    ],
)
def test_any_field_of_the_rows_can_be_mapped(overrides, columns):
    assert compose(["recipes=full", "domain=custom", *overrides]).domain.columns == columns


def test_values_that_follow_from_others():
    config = compose(["recipes=full", "domain=legal", "paths.data=/数据"])
    assert config.domain.train == "/数据/legal/train.jsonl"
    assert config.domain.dev == Path("/数据/legal")
    assert config.tracking.experiment == "legal"


def test_later_overrides_win_and_types_are_those_of_the_schema():
    config = compose(
        ["recipes=contrastive", "train.epochs=2", "limit=300", "hardware.precision=bf16"]
    )
    assert config.train.epochs == 2.0 and isinstance(config.train.epochs, float)
    assert config.limit == 300 and config.run_dir is None
    assert config.hardware.precision is Precision.bf16
    assert isinstance(config.paths.cache, Path)


def test_recipes_differ_in_what_they_say_they_do():
    assert compose(["recipes=full"]).mine.rounds == 0
    assert compose(["recipes=contrastive"]).mine.rounds == 1


def test_composing_works_from_any_folder_and_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose(["recipes=full"]).recipe == "full"
    assert list(tmp_path.iterdir()) == []


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        compose(["recipes=full"]).seed = 3


@pytest.mark.parametrize(
    ("node", "phrase"),
    [
        ({}, "no _target_"),
        ({"_target_": "nowhere.Loss"}, "nowhere.Loss"),
        ({"_target_": "finetune.training.batching.BucketSampler", "batch_sise": 3}, "'batch_size'"),
        ({"_target_": "finetune.config.Train", "epochs": 3, "_partial_": True}, None),
        ({"_target_": "finetune.config.Train", "epochs": {"_target_": "nowhere.Loss"}}, "nowhere"),
    ],
)
def test_keys_of_a_target_are_held_against_its_signature(node, phrase):
    found = list(target_problems("loss", node))
    assert (phrase in found[0]) if phrase else found == []


def test_the_nearest_name_or_all():
    assert nearest("legl", ["legal", "medical"]) == "did you mean 'legal'?"
    assert nearest("zzz", ["legal", "medical"]) == "choose from: legal, medical"


def test_no_default_stands_in_the_code():
    for part in (*PARTS.values(), Config):
        assert all(
            parameter.default is inspect.Parameter.empty
            for parameter in inspect.signature(part).parameters.values()
        )


def test_every_range_names_a_key():
    assert set(ranges.RANGES) | set(check._CHOICES) <= set(known_keys())


# Numbers without a range, each with the reason.
ELSEWHERE = {
    "opencc.crossed": "script.problems tells its range, and the setting that it needs",
    "export.dim": "check tells the lengths that the loss trains; it is one of these",
}


def test_every_number_has_a_range():
    parts = {"": Config, **{f"{name}.": part for name, part in PARTS.items()}}
    numbers = {
        f"{prefix}{field.name}" for prefix, part in parts.items()
        for field in dataclasses.fields(part)
        if {int, float} & {field.type, *typing.get_args(field.type)}
        and typing.get_origin(field.type) in (None, typing.Union)
    }  # fmt: skip
    assert {"seed", "limit", "train.dropout", "evaluate.max_latency_ms"} <= numbers
    assert numbers - set(ranges.RANGES) == set(ELSEWHERE)


@pytest.mark.parametrize("search", ["ivf", "hnsw"])
def test_a_search_without_its_package_is_told_first(monkeypatch, search):
    line = ["recipes=full", "mine=positive_aware", f"mine.search={search}"]
    monkeypatch.setattr("finetune.config.check.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"mine.search={search}: .*finetune\[search\]"):
        compose(line)
    compose([*line, "mine.search=exact"])
