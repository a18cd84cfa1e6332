import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import yaml
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from finetune import pipeline
from finetune.config import Config, to_dict
from finetune.config.check import PRECISIONS
from finetune.config.choices import Hub, Kind, Source
from finetune.config.compose import ROOT, choices, compose, known_keys
from finetune.config.pairs import Mixed
from finetune.data.card import Task, read_card
from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder
from finetune.model import TorchEncoder, inner, load
from finetune.records import read_dicts
from finetune.sets import half
from finetune.stage import hash_path, plan

RECIPES = ("contrastive", "full")


@pytest.fixture(scope="module")
def arguments(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")

    def make(recipe="full", *more):
        return tiny_runs.overrides(tiny_model, domain, work, recipe, *more)

    return make


@pytest.fixture(scope="module", params=RECIPES)
def finished(request, arguments, tmp_path_factory):
    """A finished run: recipe, run directory, what run() returned, command line."""
    run_dir = tmp_path_factory.mktemp(request.param) / "run"
    line = arguments(request.param, f"run_dir={run_dir}")
    report = pipeline.run(compose(line))
    return request.param, run_dir, report, line


# --- the result of a run ---


def test_the_run_directory_holds_what_the_contract_names(finished):
    _, run_dir, _, _ = finished
    names = """config.yaml report.json report.html README.md
        bundle/bundle.json bundle/tokenizer.json bundle/fp32/model.onnx
        bundle/int8-dynamic/model.onnx model/modules.json model/model.safetensors
        model/tokenizer.json""".split()
    for name in names:
        assert (run_dir / name).stat().st_size > 0, name


def test_the_report_has_the_shape_of_the_contract(finished, domain):
    recipe, run_dir, returned, _ = finished
    report = json.loads((run_dir / "report.json").read_text("utf-8"))
    assert report == returned
    rows = report["scores"]
    assert {row["artifact"] for row in rows} == {
        "base", "tuned", "onnx-fp32", "onnx-int8-dynamic"
    }  # fmt: skip
    asked = [row["id"] for row in read_dicts(domain / "dev/queries.jsonl")]
    for row in rows:
        assert set(row) == {"artifact", "set", "metric", "value", "n", "ci_low", "ci_high",
                            "delta", "p_value", "delta_low", "delta_high", "p_holm"}  # fmt: skip
        assert row["set"] == "dev" and row["metric"] in ("ndcg@10", "mrr@10", "recall@100")
        assert 0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1
        # Selected and reported on different queries.
        assert row["n"] == sum(half(query) == "report" for query in asked) < len(asked)
        assert (row["delta"] is None) == (row["p_value"] is None) == (row["artifact"] == "base")
    assert len(rows) == 12
    assert report["data"]["cut by training"] == {
        "texts": 0, "of": 2 * report["data"]["pairs"], "share of tokens": 0.0,
        "setting to raise": "train.max_length=32",
    }  # fmt: skip
    for row in report["speed"]:
        assert row["latency_ms"] > 0 and row["texts_per_second"] > 0 and row["bytes"] > 0
    (timed,) = report["machine"]["timed_on"]
    assert timed["machine"] and timed["threads"] == 1
    assert timed["artifacts"] == ["base", "tuned", "onnx-fp32", "onnx-int8-dynamic"]
    assert {gate["name"] for gate in report["gates"]} == {"gain", "int8", "latency"}
    for gate in report["gates"]:
        assert gate["status"] in ("passed", "failed", "inconclusive")
        assert isinstance(gate["value"], float) and isinstance(gate["threshold"], float)
    names = ["sets", "data", "base", "export-base", "corpus", "embed", "mine", "pool", "train",
             "export", "evaluate-base", "evaluate", "report"]  # fmt: skip
    if recipe == "full":
        names.remove("mine")
    assert [stage["name"] for stage in report["stages"]] == names
    for stage in report["stages"]:
        assert set(stage) == {"name", "key", "seconds", "cached"}
        assert stage["seconds"] >= 0 and len(stage["key"]) == 16


def test_what_each_query_got_stays_with_the_run_and_can_be_compared(finished):
    from finetune.commands import comparison
    from finetune.report.comparison import compare

    _, run_dir, report, _ = finished
    lines = compare(comparison.read([run_dir], ["base", "tuned"]))
    (tuned,) = [x for x in lines if x.system.endswith(": tuned") and x.metric == "ndcg@10"]
    (row,) = [r for r in report["scores"] if (r["artifact"], r["metric"]) == ("tuned", "ndcg@10")]
    assert tuned.value == pytest.approx(row["value"]) and tuned.n == row["n"]
    assert tuned.delta == pytest.approx(row["delta"])
    thresholds = json.loads((run_dir / "thresholds.json").read_text("utf-8"))
    assert thresholds == json.loads((run_dir / "bundle/thresholds.json").read_text("utf-8"))
    assert thresholds == report["thresholds"]
    assert thresholds.keys() == {"tuned", "onnx-fp32", "onnx-int8-dynamic"}
    assert report["similarity"].keys() == {"base", *thresholds}


def value(report, artifact, metric="ndcg@10"):
    (row,) = [r for r in report["scores"] if (r["artifact"], r["metric"]) == (artifact, metric)]
    return row["value"]


def test_training_helped_on_questions_it_never_saw(finished):
    _, _, report, _ = finished
    assert value(report, "tuned") > value(report, "base") + 0.3
    assert {gate["name"]: gate["status"] for gate in report["gates"]}["gain"] == "passed"
    assert value(report, "onnx-fp32") == pytest.approx(value(report, "tuned"), abs=1e-6)
    assert report["training"]["improved"] is True


def test_the_model_loads_in_plain_sentence_transformers(finished):
    _, run_dir, _, _ = finished
    model = SentenceTransformer(str(run_dir / "model"), device="cpu")
    assert model.max_seq_length == 64  # trained at 32
    assert inner(model).pooler is None
    assert not any("pooler" in name for name in load_file(run_dir / "model/model.safetensors"))
    assert model.prompts == {"query": "问", "passage": "", "document": ""}
    theirs = model.encode(["房东押金"], prompt_name="query", normalize_embeddings=True)
    ours = TorchEncoder(load(run_dir / "model")).encode(["房东押金"], "query")
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_the_bundle_encodes_as_the_model_does(finished):
    recipe, run_dir, _, _ = finished
    texts = ["房东不退押金", "法律", "老板" * 50, "x"]
    exact = TorchEncoder(load(run_dir / "model")).encode(texts, "query")
    for precision, floor in (("fp32", 0.99999), ("int8-dynamic", 0.99)):
        vectors = OnnxEncoder.load(run_dir / "bundle", precision).encode(texts, "query")
        assert (vectors * exact).sum(axis=1).min() > floor
    info = BundleInfo.read(run_dir / "bundle")
    assert (info.dim, info.max_length, info.pooling) == (32, 64, "mean")
    assert info.prompts == {"query": "问", "passage": ""} and info.licence == "unknown"
    assert info.name == f"{recipe}-custom-custom"


def test_the_config_that_was_used_is_kept_and_runs_again(finished):
    recipe, run_dir, _, line = finished
    kept = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    assert kept == to_dict(pipeline.resolve(compose(line)))
    assert kept["recipe"] == recipe and kept["hardware"]["device"] == "cpu"


def test_the_second_run_is_all_cache_hits_and_quick(finished):
    _, run_dir, first, line = finished
    before = {p: hash_path(p) for p in run_dir.rglob("*") if p.is_file()}
    start = time.perf_counter()
    again = pipeline.run(compose(line))
    assert time.perf_counter() - start < 5
    assert all(stage["cached"] for stage in again["stages"])
    assert {**again, "stages": []} == {**first, "stages": []}
    changed = {p.name for p, digest in before.items() if hash_path(p) != digest}
    assert changed <= {"report.json", ".lock"}


def test_a_run_without_tracking_imports_no_mlflow_and_leaves_no_file(tiny_model, domain, tmp_path):
    (tmp_path / "here").mkdir()
    line = tiny_runs.overrides(tiny_model, domain, tmp_path, "full", "train.epochs=1")
    code = f"""
import sys
import finetune.cli
code = finetune.cli.train({line!r})
sys.exit(9 if "mlflow" in sys.modules else code)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "here", env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    assert list((tmp_path / "here").iterdir()) == [], "nothing where it was started"
    assert not [path for path in tmp_path.rglob("*") if "mlflow" in path.name.lower()]
    assert len(list((tmp_path / "runs").glob("*/report.json"))) == 1


def test_recipes_share_what_they_have_in_common(finished, arguments):
    keys = [
        {each.step.name: each.key for each in planned(compose(arguments(recipe)))}
        for recipe in RECIPES
    ]
    shared = [name for name in keys[1] if keys[0][name] == keys[1][name]]
    assert shared == ["sets", "data", "base", "export-base", "corpus", "embed", "evaluate-base"]


def test_what_is_published_is_linked_not_copied(finished):
    _, run_dir, _, line = finished
    config = pipeline.resolve(compose(line))
    trained = next(each for each in planned(config) if each.step.name == "train")
    assert (run_dir / "model/model.safetensors").samefile(
        trained.folder / "model/model.safetensors"
    )


def test_mined_negatives_come_with_an_audit(arguments):
    config = pipeline.resolve(compose(arguments("contrastive")))
    pipeline.run(dataclasses.replace(config, until="mine"))
    folder = next(each.folder for each in planned(config) if each.step.name == "mine")
    audits = list(read_dicts(folder / "audit.jsonl"))
    kept = list(read_dicts(folder / "train.jsonl"))
    counts = json.loads((folder / "summary.json").read_text("utf-8"))
    assert len(audits) == 64 and counts["pairs"] == len(kept) > 32
    assert counts["pairs"] + counts["pairs without enough negatives"] == 64
    reasons = sum(sum(audit["reasons"].values()) for audit in audits)
    assert reasons == counts["known positive"] + counts["too close to the positive"]
    by_id = {audit["id"]: audit for audit in audits}
    for row in kept:
        assert row["negatives"] == [text for text, _ in by_id[row["id"]]["kept"]]


# --- ways to stop ---


def test_until_stops_after_a_step(arguments, tmp_path):
    line = arguments("full", "until=pool", f"run_dir={tmp_path}/run")
    assert pipeline.run(compose(line)) is None
    assert (tmp_path / "run/config.yaml").is_file()
    assert not (tmp_path / "run/report.json").exists()


@pytest.mark.parametrize(
    ("recipe", "until", "phrase"),
    [
        ("full", "trian", "did you mean 'train'?"),
        ("full", "mine", "choose from: sets, data, base, export-base, corpus, embed, pool"),
        ("contrastive", "xyz", "embed, mine, pool"),
    ],
)
def test_a_step_that_the_plan_does_not_name(arguments, recipe, until, phrase):
    with pytest.raises(UserError) as caught:
        pipeline.run(compose(arguments(recipe, f"until={until}")))
    assert f"until={until}: no such step" in str(caught.value) and phrase in str(caught.value)


@pytest.mark.parametrize(
    ("name", "until"),
    [
        (name, [])
        for name in sorted(set(choices("domain")) - {"custom", "statutes", "statutes_full"})
    ]
    + [("legal", ["until=train"]), ("legal", ["until=nonsense"])],
)
def test_without_paths_data_the_card_says_what_is_expected(name, until):
    recipe = "cosent" if read_card(name).task is Task.similarity else "full"
    with pytest.raises(UserError) as caught:
        pipeline.resolve(compose([f"recipes={recipe}", f"domain={name}", *until]))
    (problem,) = caught.value.problems
    assert problem.startswith(f"domain={name}: set paths.data=<folder>")
    files = read_card(name).files
    assert files and all(file in problem for file in files)


def test_a_custom_domain_says_all_that_is_missing():
    with pytest.raises(UserError) as caught:
        pipeline.run(compose(["recipes=full", "domain=custom"]))
    assert [p.split(":")[0] for p in caught.value.problems] == ["domain.train", "domain.dev"]


def test_data_that_is_not_where_paths_data_says(tmp_path):
    with pytest.raises(UserError) as caught:
        pipeline.run(compose(["recipes=full", "domain=legal", f"paths.data={tmp_path}"]))
    assert f"{tmp_path}/legal" in str(caught.value) and "no such folder" in str(caught.value)


def test_a_model_that_is_none_ends_before_any_work(arguments, tmp_path):
    line = arguments("full", f"model.path={tmp_path}", f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match="not a model"):
        pipeline.run(compose(line))
    assert not (tmp_path / "run").exists()


def test_a_typo_in_the_loss_ends_before_the_model_is_read(arguments, tmp_path):
    line = arguments("full", "+loss.scal=3", f"paths.cache={tmp_path}", f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match="did you mean 'scale'"):
        pipeline.run(compose(line))
    assert not (tmp_path / "base").exists()


def test_pairs_without_negatives_are_never_filled_up(arguments):
    line = arguments("contrastive", "mine.candidates=1", "mine.negatives=1")
    with pytest.raises(UserError, match=r"raise mine.candidates=1.*recipes=full"):
        pipeline.run(compose(line))


# --- keys ---

# Leaves that are in no key, because they cannot change a result.
OUTSIDE = {
    "until",  # where to stop
    "run_dir",  # where results are shown
    "paths.data",  # only through the paths that domains build from it, which count
    "paths.cmteb",  # only through the folders of its tasks, which count
    "paths.cache",  # where steps keep their outputs
    "paths.runs",  # where run directories go
    "hardware.name",  # device, precision and threads count
    "hardware.chunk",  # how many texts are held in memory at once; the gradients are the same
    "writer.url",  # where the model is served, not which it is
    "writer.key_env",
    "writer.concurrency",  # how it is asked
    "writer.timeout",
    "writer.retries",
    "hardware.workers",  # who prepares the batches, not what is in them
    "tracking.kind",  # who watches
    "tracking.uri",
    "tracking.experiment",
    "tracking.name",
    "tracking.parent",
}
CONTAINERS = {"paths", "domain", "generate", "writer", "pseudo", "check", "opencc", "encode",
              "model", "noise", "mine", "augment", "distill", "train", "merge", "hardware",
              "export", "quantize", "evaluate", "report", "tracking"}  # fmt: skip
LEAVES = [key for key in known_keys() if key not in CONTAINERS]


@pytest.fixture(scope="module")
def copies(tiny_model, domain, tmp_path_factory):
    """Other files for the keys that name files."""
    folder = tmp_path_factory.mktemp("copies")
    shutil.copytree(domain, folder / "domain")
    train = folder / "domain/train.jsonl"
    train.write_text(train.read_text("utf-8") + '{"query": "新", "positive": "答"}\n', "utf-8")
    queries = folder / "domain/dev/queries.jsonl"
    queries.write_text(queries.read_text("utf-8") + '{"id": "new", "text": "新"}\n', "utf-8")
    dictionary = folder / "words.txt"
    dictionary.write_text("房东\t屋主\n", "utf-8")
    terms = folder / "terms.tsv"
    terms.write_text("房东\tlandlord\n", "utf-8")
    shutil.copytree(tiny_model, folder / "model")
    (folder / "model/README.md").write_text("other")
    shutil.copytree(domain / "dev", folder / "general")
    return {
        "evaluate.general": folder / "general", "mine.filter": str(folder / "model"),
        "domain.train": str(train), "domain.dev": folder / "domain/dev",
        "domain.test": folder / "domain/dev", "model.path": folder / "model",
        "domain.documents": folder / "domain", "opencc.dictionary": dictionary,
        "augment.terms": terms, "domain.queries": terms,
        "distill.teacher": folder / "model",
    }  # fmt: skip


def other(key, value, copies):
    """Another value of the same type."""
    special = {
        **copies, "limit": 7, "until": "train", "run_dir": Path("x"), "paths.data": Path("x"),
        "paths.cmteb": Path("x"), "evaluate.max_latency_ms": 5.0,
        "evaluate.machine_price": 0.5,
        "model.id": "o/n", "model.revision": "x", "model.hub": Hub.huggingface,
        "hardware.chunk": 3, "script": "both", "evaluate.scripts": False,
        "domain.sources": ["s"], "export.precisions": ["fp32"], "export.dim": 64, "mine.rounds": 0,
        "merge.weights": [0.5], "tracking.name": "x", "tracking.parent": "x",
        "writer.key_env": "K", "writer.limit": 7, "writer.price_in": 1.0, "writer.price_out": 1.0,
        "mix": {"other": Mixed(copies["domain.train"], {}, Kind.pairs, 0.2, None, None)},
    }  # fmt: skip
    if key in special:
        return special[key]
    if isinstance(value, Enum):
        return next(each for each in type(value) if each is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "another"]
    if isinstance(value, dict):
        return {**value, "another": "x"}
    return type(value)(f"{value}x")


def replaced(config, key, copies):
    first, _, rest = key.partition(".")
    part = getattr(config, first)
    if not rest:
        return dataclasses.replace(config, **{first: other(key, part, copies)})
    value = other(key, getattr(part, rest), copies)
    return dataclasses.replace(config, **{first: dataclasses.replace(part, **{rest: value})})


def planned(config: Config):
    return plan(pipeline.steps_of(pipeline.resolve(config)), config.paths.cache)


def keys(config: Config):
    return {each.step.name: each.key for each in plan(pipeline.steps_of(config), Path("cache"))}


@pytest.fixture(scope="module")
def with_every_step(arguments, copies):
    """A run of all that a run can do, but distil."""
    line = [*arguments("contrastive", "merge=interpolate", "script=mix:0.5", "augment=all"),
            "generate=documents", "writer.url=http://a/v1", "writer.model=m", "pseudo.use=join",
            f"domain.queries={copies['domain.dev'] / 'queries.jsonl'}"]  # fmt: skip
    return compose(line)


@pytest.mark.parametrize("key", LEAVES)
def test_every_leaf_of_the_configuration_changes_a_key_or_is_listed(
    with_every_step, arguments, copies, key
):
    distils = key.startswith("distill.")
    config = compose(arguments("distill")) if distils else with_every_step
    if key == "domain.source":
        pytest.importorskip("finetune.data.statutes")
    changed = keys(replaced(config, key, copies))
    assert (changed == keys(config)) == (key in OUTSIDE)


@pytest.fixture(scope="module")
def before(arguments):
    return keys(compose(arguments("contrastive")))


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("seed=43", "pool"),
        ("limit=20", "data"),
        ("check.bad_rows=drop", "data"),
        ("model.max_length=48", "base"),
        ("model.pooling=cls", "base"),
        ("hardware.threads=2", "export-base"),
        ("mine.relative_margin=0.2", "mine"),
        ("mine.negatives=2", "mine"),
        ("mine.search=exact", "mine"),
        ("train.guard_share=0.2", "pool"),
        ("train.batch_size=16", "train"),
        ("train.learning_rate=1e-4", "train"),
        ("train.max_length=16", "train"),
        ("hardware.precision=bf16", "train"),
        ("hardware.attention=eager", "train"),
        ("hardware.compile=true", "train"),
        ("hardware.encode_tokens=512", "corpus"),
        ("loss.scale=20", "train"),
        ("export.parity_texts=50", "export"),
        ("export=fp16", "export"),
        ("export.floors.int8-dynamic.min_cosine=0.9", "export"),
        ("quantize.range_texts=500", "export"),
        ("evaluate.speed_texts=21", "evaluate-base"),
        ("evaluate.alpha=0.01", "report"),
    ],
)
def test_the_first_step_that_a_value_changes(before, arguments, override, first):
    after = keys(compose(arguments("contrastive", override)))
    changed = [name for name in before if before[name] != after[name]]
    assert changed[0] == first
    if first not in ("report", "evaluate-base", "export"):
        assert "train" in changed and "evaluate" in changed


def test_seeds_share_the_data_without_a_limit_and_always_what_the_base_gets(arguments):
    def shared(*words):
        first, second = (keys(compose(arguments("contrastive", *words, f"seed={seed}")))
                         for seed in (1, 2))  # fmt: skip
        return {name for name in first if first[name] == second[name]}

    base = {"sets", "base", "export-base", "corpus", "evaluate-base"}
    assert shared() == base | {"data", "embed", "mine"} and shared("limit=20") == base


@pytest.mark.parametrize(
    "word", ["limit=20", "domain.sources=[train]", "check.leak=strict", "noise=rank",
             "mine.rounds=2", "script=mix:0.5"]
)  # fmt: skip
def test_what_changes_the_pairs_leaves_the_base_what_it_got(arguments, word):
    measured = "evaluate.scripts=true"
    one, other = (keys(compose(arguments("contrastive", measured, *more))) for more in ([], [word]))
    assert one["export"] != other["export"]
    for name in ("sets", "export-base", "corpus", "evaluate-base"):
        assert one[name] == other[name]


def test_new_content_in_a_file_of_the_same_name(arguments, domain, tmp_path):
    shutil.copytree(domain, tmp_path / "domain")
    line = arguments("full", f"domain.train={tmp_path}/domain/train.jsonl",
                     f"domain.dev={tmp_path}/domain/dev")  # fmt: skip
    before = keys(compose(line))
    path = tmp_path / "domain/dev/qrels.tsv"
    path.write_text(path.read_text().replace("\t1\n", "\t2\n", 1))
    after = keys(compose(line))
    assert after["sets"] != before["sets"] and after["data"] != before["data"]
    assert keys(compose(line))["base"] == before["base"]


def test_the_plan_is_a_pure_function_of_the_configuration(arguments):
    config = compose(arguments("contrastive"))
    assert keys(config) == keys(compose(arguments("contrastive")))
    assert [s.name for s in pipeline.steps_of(config)] == list(keys(config))


def test_steps_read_only_steps_before_them(arguments):
    for recipe in choices("recipes"):
        seen = set()
        for step in pipeline.steps_of(compose(arguments(recipe))):
            assert set(step.inputs.values()) <= seen and step.name not in seen
            seen.add(step.name)
        assert {"data", "train", "export", "evaluate", "report"} <= seen


def test_the_statutes_need_no_files(arguments):
    pytest.importorskip("finetune.data.statutes")
    config = compose(["recipes=full", "domain=statutes"])
    assert config.domain.source is Source.statutes
    assert pipeline.resolve(config).domain == config.domain


def test_the_precisions_that_can_be_asked_for_can_be_exported():
    assert set(PRECISIONS) == set(compose(["recipes=full", "export=all"]).export.precisions)
