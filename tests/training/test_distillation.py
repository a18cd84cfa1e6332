import json

import numpy as np
import pytest
import tiny_runs
import torch
from transformers import DistilBertConfig, DistilBertModel

from finetune import model as models
from finetune import pipeline, publishing
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.records import Pair, read_dicts, write_jsonl
from finetune.training import distillation
from finetune.training.losses import build


@pytest.mark.parametrize(
    ("count", "kept", "expected"),
    [
        (12, 6, [0, 1, 2, 3, 10, 11]),
        (12, 4, [0, 1, 2, 11]),
        (12, 3, [0, 1, 11]),
        (24, 6, [0, 1, 2, 3, 22, 23]),
        (4, 2, [0, 3]),
        (4, 3, [0, 1, 3]),
        (4, 1, [0]),
    ],
)
def test_layers_in_the_middle_are_left_out(count, kept, expected):
    assert distillation.outer(count, kept) == expected


def test_no_layer_is_taken_twice():
    for count in range(2, 49):
        for kept in range(1, count):
            found = distillation.outer(count, kept)
            assert len(set(found)) == kept and found == sorted(found) and max(found) < count


def student_of(teacher, layers, out):
    model = models.load(teacher)
    distillation.keep_layers(model, layers)
    models.save(model, out)


def test_a_student_has_its_teachers_layers_and_all_else(deep_model, tmp_path):
    student_of(deep_model, 3, tmp_path / "student")
    teacher, student = models.load(deep_model), models.load(tmp_path / "student")
    ours, theirs = student.state_dict(), teacher.state_dict()
    assert models.inner(student).config.num_hidden_layers == 3
    assert not any(".layer.3." in name for name in ours)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name.replace(".layer.2.", ".layer.3.")])
    assert student.prompts == teacher.prompts
    assert student.max_seq_length == teacher.max_seq_length == 64
    assert len(models.inner(teacher).encoder.layer) == 4


@pytest.mark.parametrize("layers", [4, 12])
def test_a_student_must_have_fewer_layers(deep_model, tmp_path, layers):
    with pytest.raises(UserError, match=f"distill.layers={layers}: the teacher has 4"):
        student_of(deep_model, layers, tmp_path / "student")


def test_a_model_of_another_make_is_told(deep_model, tmp_path):
    model = models.load(deep_model)
    model[0].model = DistilBertModel(DistilBertConfig(dim=32, n_heads=4, hidden_dim=64))
    model[0].model.resize_token_embeddings(len(model.tokenizer))
    model.save(str(tmp_path / "other"))
    with pytest.raises(UserError, match="layers of a DistilBertModel cannot be taken out"):
        student_of(tmp_path / "other", 2, tmp_path / "student")


@pytest.fixture
def encoded(tmp_path):
    """Two queries on one passage, a second passage, and two more of the corpus."""
    data, embed = tmp_path / "data", tmp_path / "embed"
    data.mkdir()
    embed.mkdir()
    pairs = [("房东", "押金"), ("老板", "工资"), ("租", "押金"), ("房东", "工资")]
    write_jsonl(data / "train.jsonl", (Pair(str(n), q, p, "s") for n, (q, p) in enumerate(pairs)))
    pool = ["押金", "工资", "法律" * 20, "合同"]
    write_jsonl(embed / "pool.jsonl", ({"text": text} for text in pool))
    write_jsonl(embed / "queries.jsonl", ({"text": text} for text in ("房东", "老板", "租")))
    np.save(embed / "queries.npy", np.array([[0], [1], [2]], np.float32))
    np.save(embed / "pool.npy", np.array([[10], [11], [12], [13]], np.float32))
    return data, embed


def learned(encoded, student, limit=100, max_length=64, seed=0):
    rows = distillation.lessons(
        *encoded, student, limit=limit, max_length=max_length, seed=seed
    )  # fmt: skip
    return {row.text: float(row.vector[0]) for row in rows}


def test_lessons_are_texts_with_their_prompts_and_the_teachers_vectors(encoded, deep_model):
    assert learned(encoded, deep_model) == {
        "问房东": 0, "问老板": 1, "问租": 2, "押金": 10, "工资": 11, "法律" * 20: 12, "合同": 13
    }  # fmt: skip


def test_training_texts_come_before_passages_of_the_corpus(encoded, deep_model):
    training = {"问房东", "问老板", "问租", "押金", "工资"}
    assert learned(encoded, deep_model, limit=5).keys() == training
    drawn = [tuple(learned(encoded, deep_model, limit=3, seed=seed)) for seed in range(5)]
    assert all(set(each) < training for each in drawn) and len(set(drawn)) > 1
    assert drawn[0] == tuple(learned(encoded, deep_model, limit=3, seed=0))


def test_texts_that_training_would_cut_are_left_out(encoded, deep_model):
    assert "法律" * 20 not in learned(encoded, deep_model, max_length=41)  # 40, [CLS] and [SEP]
    assert "法律" * 20 in learned(encoded, deep_model, max_length=42)
    with pytest.raises(UserError, match=r"train.max_length=3: each of 7 texts"):
        learned(encoded, deep_model, max_length=3)


def test_the_loss_worked_by_hand():
    class Given(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": features["vectors"]}

    config = compose(["recipes=distill"])
    loss = build(config.loss, Given())
    students = {"vectors": torch.tensor([[2.0, 0], [0, 1], [3, 4]])}
    teachers = torch.tensor([[1.0, 0], [1, 0], [1, 0]])
    # Cosines 1, 0 and 0.6: losses 0, 1 and 0.4.
    assert float(loss([students], teachers)) == pytest.approx(1.4 / 3)


def test_a_teacher_that_is_not_there():
    with pytest.raises(UserError, match="distill.teacher=/none: no such folder; name a model"):
        pipeline.run(compose(["recipes=distill", "domain=statutes", "distill.teacher=/none"]))


@pytest.fixture
def foreign(deep_model, tmp_path):
    """A run of another model: with other prompts, a shorter length, its own name and licence."""
    model = models.load(deep_model)
    model.prompts = {"query": "老师", "passage": "学校", "document": "学校"}
    models.save(model, tmp_path / "run/model")
    line = ["recipes=full", "model=m3e-base", "model.max_length=48"]
    config = compose([*line, "model.prompts={query: 老师, passage: 学校}"])
    publishing.settings(config, tmp_path / "run")
    return tmp_path / "run/model"


def taught(foreign, domain, tmp_path, *more):
    line = tiny_runs.overrides(foreign, domain, tmp_path, "distill", *more)
    kept = [each for each in line if not each.startswith("model")]
    return [*kept, f"distill.teacher={foreign}", "distill.layers=2", "model=starter"]


def test_a_teacher_of_another_family_is_what_its_run_says(foreign, domain, tmp_path):
    line = taught(foreign, domain, tmp_path, "until=embed", f"run_dir={tmp_path}/student")
    pipeline.run(compose(line))
    (embedded,) = (tmp_path / "cache/embed").glob("[!.]*")
    texts = [row["text"] for row in read_dicts(embedded / "pool.jsonl")]
    expected = models.TorchEncoder(models.load(foreign)).encode(texts)
    np.testing.assert_allclose(np.load(embedded / "pool.npy"), expected, atol=1e-4)
    steps = {s.name: s for s in pipeline.steps_of(pipeline.resolve(compose(line)))}
    for name in ("base", "report"):
        model = steps[name].settings["model"]
        assert (model.name, model.max_length) == ("m3e-base", 48)
        assert model.licence.startswith("non-commercial") and "lawzhidao" in model.trained_on
    assert (model.hub.value, model.path) == ("local", foreign)


def test_a_teacher_without_its_run_must_have_the_prompts_of_the_model(foreign, tmp_path, caplog):
    alone = foreign.rename(tmp_path / "alone")
    line = ["recipes=distill", "domain=statutes", f"distill.teacher={alone}"]
    with pytest.raises(UserError, match=r"prompts {'query': '老师'.*model=starter has.*add model="):
        pipeline.resolve(compose(line))
    named = compose([*line, "model=custom", "model.prompts={query: 老师, passage: 学校}"])
    assert pipeline.resolve(named).model.path == alone
    assert caplog.messages == []
    # What sentence-transformers writes of a model that it was told no prompts of.
    config = alone / "config_sentence_transformers.json"
    config.write_text(json.dumps({"prompts": {"query": "", "document": ""}}))
    assert pipeline.resolve(compose(line)).model.prompts["query"] == "query: "
    assert "does not say its prompts; it is encoded with those of model=starter" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "phrase"),
    [
        (["recipes=full", "distill=layers6"], "cannot learn a teacher's vectors; set loss=distill"),
        (["recipes=full", "loss=distill"], "there is none: set distill=layers6"),
        (["recipes=distill", "mine=positive_aware"], "not negatives; set mine=none"),
        (["recipes=distill", "mix=custom", "mix.custom.train=x"], "alone; leave mix out"),
        (["recipes=distill", "merge=interpolate"], "cannot be merged with its larger teacher"),
        (["recipes=distill", "distill.texts=0"], "distill.texts=0: must be greater than 0"),
        (["recipes=distill", "distill.layers=-1"], "distill.layers=-1: must be 0 or more"),
    ],
)
def test_settings_that_do_not_go_together(overrides, phrase):
    with pytest.raises(UserError) as caught:
        compose(overrides)
    assert phrase in str(caught.value)


# --- a run ---


@pytest.fixture(scope="module")
def line(deep_model, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")
    domain = tiny_runs.learnable_domain(work / "domain", deep_model)

    def make(recipe, *more):
        name = f"run_dir={work}/{recipe}"
        return tiny_runs.overrides(deep_model, domain, work, recipe, name, *more)

    return make, work


def tokens(folder):
    return models.inner(models.load(folder)).config.vocab_size


@pytest.fixture(scope="module")
def finished(line):
    """A teacher that was tuned, and its student."""
    make, work = line
    pipeline.run(compose(make("full", "until=export")))
    (teacher,) = (work / "cache/train").glob("[!.]*/model")
    arguments = make(
        "distill", "distill.layers=2", f"distill.vocabulary={tokens(teacher) - 20}",
        f"distill.teacher={teacher}", "train.epochs=30",
        "train.batch_size=16",
    )  # fmt: skip
    return teacher, pipeline.run(compose(arguments)), arguments


def test_a_student_comes_close_to_its_teacher(finished, line):
    teacher, report, _ = finished
    found = {row["artifact"]: row for row in report["scores"] if row["metric"] == "ndcg@10"}
    assert found["base"]["value"] > 0.5  # the tuned teacher, not the model of the configuration
    assert found["tuned"]["value"] > 0.8 * found["base"]["value"]
    select = [row["eval_ndcg@10"] for row in curves(line) if "eval_ndcg@10" in row]
    assert max(select) > select[0] + 0.1
    assert report["training"]["improved"] is True
    student = models.load(line[1] / "distill/model")
    assert len(models.inner(student).encoder.layer) == 2
    assert tokens(line[1] / "distill/model") == len(student.tokenizer) == tokens(teacher) - 20
    texts = ["房东不退押金", "老板不发工资"]
    ours, theirs = (models.TorchEncoder(m).encode(texts) for m in (student, models.load(teacher)))
    assert (ours * theirs).sum(1).min() > 0.8


def curves(line):
    (folder,) = (line[1] / "cache/distill").glob("[!.]*")
    return list(read_dicts(folder / "curves.jsonl"))


def test_the_gate_asks_what_is_kept_and_how_fast(finished, line):
    _, report, _ = finished
    gates = {gate["name"]: gate for gate in report["gates"]}
    assert set(gates) == {"distill", "int8", "latency"}
    found = {
        row["artifact"]: row["value"] for row in report["scores"] if row["metric"] == "ndcg@10"
    }
    assert gates["distill"]["value"] == pytest.approx(found["tuned"] / found["base"])
    assert gates["distill"]["threshold"] == 0.95
    assert report["verdict"].startswith("Keeps ") and "times its speed" in report["verdict"]
    assert any("2 layers and 1" in note for note in report["notes"])
    (timed,) = (line[1] / "cache/evaluate").glob("*/outcomes/tuned")
    speeds = json.loads((timed.parents[1] / "speed.json").read_text())
    (base,) = [row for row in report["speed"] if row["artifact"] == "base"]
    # Timed in the step that timed the student.
    assert base["texts_per_second"] == speeds["base"]["texts_per_second"]
    assert base["bytes"] > speeds["tuned"]["bytes"]


def test_the_plan_of_a_distillation(finished, line):
    _, report, arguments = finished
    names = [stage["name"] for stage in report["stages"]]
    assert names == ["sets", "data", "base", "export-base", "corpus", "embed", "pool", "student",
                     "train", "export", "evaluate-base", "evaluate", "report"]  # fmt: skip
    again = pipeline.run(compose(arguments))
    assert all(stage["cached"] for stage in again["stages"])


def test_no_more_layers_than_the_teacher_has(line):
    with pytest.raises(UserError, match="distill.layers=6: the teacher has 4"):
        pipeline.run(compose(line[0]("distill", "until=train")))
