"""The recipe matryoshka: what a run with vectors that may be cut reports and exports."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_runs
from rich.console import Console
from sentence_transformers import SentenceTransformer

from finetune import cli, pipeline, report
from finetune.commands import scoring
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.evaluation import retrieval
from finetune.inference import BundleInfo, OnnxEncoder, shortened
from finetune.sets import read_set

DIMS = ("", "@16", "@4")
EXPORTED = ("tuned", "onnx-fp32", "onnx-int8-dynamic")


@pytest.fixture(scope="module")
def line(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")

    def make(*more):
        dims = [] if any("matryoshka_dims" in each for each in more) else [
            "loss.matryoshka_dims=[4,32,16]"
        ]  # fmt: skip
        return tiny_runs.overrides(
            tiny_model, domain, work, "matryoshka", f"run_dir={work}/run", *dims, *more
        )

    return make, work


@pytest.fixture(scope="module")
def finished(line):
    make, work = line
    encoded, encode = [], OnnxEncoder.encode

    def counting(self, texts, *args, **kwargs):
        encoded.append(len(texts))
        return encode(self, texts, *args, **kwargs)

    OnnxEncoder.encode = counting
    try:
        pipeline.run(compose(make("until=export")))
        encoded.clear()
        return work / "run", pipeline.run(compose(make())), sum(encoded)
    finally:
        OnnxEncoder.encode = encode


def values(content):
    rows = [row for row in content["scores"] if row["metric"] == "ndcg@10"]
    return {row["artifact"]: row for row in rows}


def test_every_length_of_every_artifact_is_scored(finished):
    _, content, _ = finished
    found = values(content)
    assert list(found) == ["base", *(f"{name}{dim}" for name in EXPORTED for dim in DIMS)]
    base = found.pop("base")["value"]
    for row in found.values():  # all against the whole base
        assert row["delta"] == pytest.approx(row["value"] - base)
    assert found["tuned@16"]["value"] > base + 0.3
    assert found["onnx-fp32@4"]["value"] == found["tuned@4"]["value"]
    assert {row["artifact"] for row in content["speed"]} == {"base", *EXPORTED}


def test_a_short_score_is_that_of_the_cut_vectors(finished, line):
    run_dir, content, _ = finished
    (folder,) = (line[1] / "cache/sets").glob("[!.]*/report/*")
    asked = read_set(folder)
    model = SentenceTransformer(str(run_dir / "model"), device="cpu", truncate_dim=16)
    queries, corpus = (
        model.encode(list(texts.values()), prompt_name=prompt, normalize_embeddings=True)
        for texts, prompt in ((asked.queries, "query"), (asked.corpus, "passage"))
    )
    vectors = {"query": queries, "passage": corpus}
    given = SimpleNamespace(encode=lambda texts, prompt="passage", progress=None: vectors[prompt])
    ranking = retrieval.rank(given, asked)
    expected = retrieval.score(ranking, asked.qrels)["ndcg@10"].mean()
    assert values(content)["tuned@16"]["value"] == pytest.approx(expected, abs=1e-6)


def test_no_text_is_encoded_twice_for_another_length(finished):
    _, content, encoded = finished
    queries = values(content)["base"]["n"]
    graphs = 2  # fp32, which scores `tuned` too, and INT8
    scored = graphs * (queries + 64)
    chosen = graphs * queries  # the select half, as large as the other, for thresholds
    base = queries  # its passages were encoded for mining
    timed = graphs * (1 + 30 + 3 * 20)  # warm-up, single queries, passages in three passes
    assert encoded == scored + chosen + base + timed


def test_the_bundle_knows_its_lengths(finished):
    bundle = finished[0] / "bundle"
    assert BundleInfo.read(bundle).dims == (16, 4)
    whole = OnnxEncoder.load(bundle, "fp32")
    short = OnnxEncoder.load(bundle, "fp32", dim=16)
    assert (whole.dim, short.dim) == (32, 16)
    texts = ["房东不退押金", "法律"]
    np.testing.assert_allclose(
        short.encode(texts, "query"), shortened(whole.encode(texts, "query"), 16), atol=1e-7
    )
    assert OnnxEncoder.load(bundle, "fp32", dim=32).encode([]).shape == (0, 32)
    with pytest.raises(UserError, match="dim 8: .* at 32, 16, 4; train with recipes=matryoshka"):
        OnnxEncoder.load(bundle, "fp32", dim=8)


def test_a_bundle_that_is_published_short(finished, line, tmp_path):
    before = values(finished[1])
    content = pipeline.run(compose(line[0]("export.dim=16", f"run_dir={tmp_path}/run")))
    bundle = tmp_path / "run/bundle"
    assert BundleInfo.read(bundle).default_dim == 16
    by_length = {dim: OnnxEncoder.load(bundle, "fp32", dim=dim).dim for dim in (None, 4, 16, 32)}
    assert by_length == {None: 16, 4: 4, 16: 16, 32: 32}
    assert values(content) == before  # every length is scored, the whole one too
    card = (tmp_path / "run/README.md").read_text(encoding="utf-8")
    assert '"int8-dynamic")  # 16 numbers a vector; dim= asks for others' in card


def test_a_length_that_nothing_was_trained_for(line):
    with pytest.raises(UserError, match="export.dim=64: the model is trained .* 4, 32, 16; choose"):
        compose(line[0]("export.dim=64"))
    with pytest.raises(UserError, match="export.dim=64: .* no length at all"):
        compose(["recipes=full", "export.dim=64"])
    assert compose(["recipes=matryoshka", "export=matryoshka"]).export.dim == 256


def test_the_command_line_cuts(finished, monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("法律\n".encode())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    assert cli.main(["encode", str(finished[0] / "bundle"), "--dim", "4"]) == 0
    found = np.load(io.BytesIO(out.getvalue()))
    assert found.shape == (1, 4) and np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def test_evaluate_lists_the_lengths_of_a_bundle(finished, domain):
    rows = scoring.evaluate(finished[0] / "bundle", [domain / "dev"], "report", None)
    found = {row.artifact: row.value for row in rows if row.metric == "ndcg@10"}
    reported = {name: row["value"] for name, row in values(finished[1]).items() if "onnx" in name}
    assert found == pytest.approx(reported, abs=1e-6)


def test_the_report_shows_lengths_without_flooding_the_tables(finished):
    run_dir, content, _ = finished
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.terminal(content))
    text = console.export_text()
    assert "@" not in text.replace("NDCG@10", "")
    (heads,) = [line.split() for line in text.splitlines() if line.split()[1:2] == ["whole"]]
    assert heads == ["NDCG@10", "whole", "16", "4"]
    page, card = ((run_dir / name).read_text("utf-8") for name in ("report.html", "README.md"))
    assert "<td>tuned@16</td>" not in page and "by length of the vector" in page
    assert "| artifact | whole | 16 | 4 |" in card and "tuned@16" not in card
    assert (run_dir / "plots/lengths.svg").is_file()
    assert {gate["name"] for gate in content["gates"]} == {"gain", "int8", "latency"}


def test_lengths_beyond_the_model_end_before_any_training(line):
    make, work = line
    told = r"dims: 48; the vectors of model=custom have 32 numbers: leave out what is longer"
    with pytest.raises(UserError, match=told):
        pipeline.run(compose(make("loss.matryoshka_dims=[48,16]", f"paths.cache={work}/other")))
    assert sorted(p.name for p in (work / "other").iterdir()) == ["base", "data", "export", "sets"]


@pytest.mark.parametrize("dims", ["[0]", "16", "[a]", "[16.5]", "[true]"])
def test_what_is_no_list_of_lengths(dims):
    with pytest.raises(UserError, match=r"loss.matryoshka_dims=.*expected lengths of vectors"):
        compose(["recipes=matryoshka", f"loss.matryoshka_dims={dims}"])


def test_a_typo_in_the_loss_inside(line):
    with pytest.raises(UserError, match="loss.loss.scal"):
        compose(line[0]("loss.loss.scal=3"))
    with pytest.raises(UserError, match=r"loss.loss.scal: .*did you mean 'scale'"):
        pipeline.run(compose(line[0]("+loss.loss.scal=3", "train.epochs=5")))


def test_other_recipes_write_no_lengths(tiny_bundle):
    written = json.loads((tiny_bundle / "bundle.json").read_text("utf-8"))
    assert written.keys().isdisjoint({"dims", "default_dim"})
    with pytest.raises(UserError, match="dim 16: this bundle's vectors were trained"):
        OnnxEncoder.load(tiny_bundle, "fp32", dim=16)
