import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_runs
import torch
from killed_runs import FORKS, folder_of, killed_at, with_values, without
from tiny_models import difference, weights

from finetune import model as models
from finetune import pipeline
from finetune.config.choices import Precision
from finetune.config.compose import compose
from finetune.data.beir import read_folder
from finetune.records import Mined, Pair, read_dicts
from finetune.sets import half
from finetune.training import checkpoints
from finetune.training import train as training
from finetune.training.batching import BucketSampler
from finetune.training.mixing import MixedSampler

LOSS = {
    "_target_": "sentence_transformers.sentence_transformer.losses.MultipleNegativesRankingLoss",
    "scale": 50.0,
}


@pytest.fixture(scope="module")
def domain(tiny_model, tmp_path_factory) -> Path:
    return tiny_runs.learnable_domain(tmp_path_factory.mktemp("learn") / "domain", tiny_model)


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


def settings(**changes) -> training.Plan:
    changes = {"epochs": 6, "batch_size": 8, "max_length": 32, "learning_rate": 3e-3} | changes
    config = compose(["recipes=full", *(f"train.{k}={v}" for k, v in changes.items())])
    return training.Plan(config.train, dict(LOSS), Precision.fp32, "cpu", 1, 42)


def curves(folder: Path) -> list[dict]:
    return list(read_dicts(folder / training.CURVES))


def score(folder: Path, select) -> float:
    return training.Guard(select, Precision.fp32)(models.load(folder))["ndcg@10"]


@pytest.fixture(scope="module")
def trained(tiny_model, rows, select, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    return out, training.train(tiny_model, rows, select, settings(), out)


def test_training_improves_the_select_half_and_says_by_how_much(trained, tiny_model, select):
    out, result = trained
    assert result["improved"] and result["best"] > 0.8 > result["base"] + 0.6
    assert result["base"] == pytest.approx(score(tiny_model, select), abs=1e-9)
    assert result["best"] == pytest.approx(score(out / "model", select), abs=1e-9)
    assert result["steps"] == 48  # 64 pairs, 8 a batch, 6 epochs
    assert result["pairs_per_second"] > 0
    assert json.loads((out / training.RESULT).read_text()) == result


def test_rows_that_are_in_no_batch_are_counted_and_many_are_told(
    trained, tiny_model, rows, select, tmp_path, caplog
):
    assert trained[1]["rows_left_out"] == 0  # 8 batches of 8
    plan = settings(epochs=1, batch_size=24)
    result = training.train(tiny_model, rows, select, plan, tmp_path)
    assert result["rows_left_out"] == 16 and result["steps"] == 2
    (told,) = [each for each in caplog.messages if "in no batch" in each]
    assert told.startswith("train.batch_size=24: 16 of 64 rows (25 %) are in no batch of an epoch")
    assert "16 are too few to fill another (train.batch_size=21 leaves out 1), 0 have" in told


def test_rows_of_mixed_sets_that_are_in_no_batch_are_told_of_each(caplog):
    def of(kinds):
        """Ten rows, of which those of a kind have one answer."""
        own = [[n % kinds] for n in range(10)]
        return BucketSampler(np.ones(10), own, own.__getitem__, batch_size=5, seed=0)

    fed = SimpleNamespace(dataset={"own": None, "other": None},
                          batches=MixedSampler([of(10), of(2)], [0.5], 0))  # fmt: skip
    assert training._unused(fed) == 0
    (told,) = caplog.messages
    assert "6 of 10 rows of other (60 %) are in no batch of an epoch" in told


def test_the_guard_reads_as_much_of_a_text_as_the_published_model(
    tiny_model, rows, select, tmp_path
):
    """And training less."""
    long = replace(select, corpus={key: f"{'房东不退押金' * 4}{text}"
                                   for key, text in select.corpus.items()})  # fmt: skip
    result = training.train(tiny_model, rows, long, settings(max_length=16, epochs=1), tmp_path)
    assert result["base"] == pytest.approx(score(tiny_model, long), abs=1e-9)
    assert result["best"] == pytest.approx(score(tmp_path / "model", long), abs=1e-9)
    cut = models.load(tiny_model)
    cut.max_seq_length = 16
    assert abs(training.Guard(long, Precision.fp32)(cut)["ndcg@10"] - result["base"]) > 0.01


def test_memory_is_that_of_the_device_that_trains(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    assert checkpoints.memory_in_use("cuda") == 7 < checkpoints.memory_in_use("cpu")


def test_the_saved_model_is_plain_and_keeps_length_prompts_and_no_pooler(trained, tiny_model):
    out, _ = trained
    model, base = models.load(out / "model"), models.load(tiny_model)
    assert model.max_seq_length == base.max_seq_length == 64  # 32 in training
    assert model.prompts == base.prompts
    assert not any("pooler" in name for name in weights(out / "model"))
    assert sorted(p.name for p in out.iterdir()) == ["curves.jsonl", "model", "training.json"]
    files = {str(p.relative_to(out / "model")) for p in (out / "model").rglob("*") if p.is_file()}
    assert files == {str(p.relative_to(tiny_model)) for p in tiny_model.rglob("*") if p.is_file()}


def test_curves_tell_loss_and_score_by_step(trained):
    out, result = trained
    rows = curves(out)
    scored = {row["step"]: row["eval_ndcg@10"] for row in rows if "eval_ndcg@10" in row}
    assert list(scored) == [0, 10, 20, 30, 40, 48]
    assert scored[0] == result["base"] and max(scored.values()) == result["best"]
    assert scored[result["best_step"]] == result["best"]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 24 and np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert len({(row["step"], "loss" in row) for row in rows}) == len(rows)
    for row in rows:
        assert ("loss" in row) == ("pairs_per_second" in row) == ("memory_mb" in row)
    assert all(row["pairs_per_second"] > 0 and row["memory_mb"] > 10 for row in rows
               if "loss" in row)  # fmt: skip


def test_the_same_seed_gives_the_same_weights(trained, tiny_model, rows, select, tmp_path):
    training.train(tiny_model, rows, select, settings(), tmp_path)
    assert difference(trained[0] / "model", tmp_path / "model") == 0


def test_the_best_checkpoint_is_saved_not_the_last(tiny_model, rows, select, tmp_path, monkeypatch):
    scripted, seen = iter([0.1, 0.2, 0.9, 0.3, 0.2, 0.1]), []

    def guard(self, model, *args, **kwargs):
        value = next(scripted)
        seen.append((value, {name: t.clone() for name, t in model.state_dict().items()}))
        return {"ndcg@10": value}

    monkeypatch.setattr(training.Guard, "__call__", guard)
    result = training.train(tiny_model, rows, select, settings(), tmp_path)
    assert (result["base"], result["best"], result["best_step"]) == (0.1, 0.9, 20)
    (best,) = [state for value, state in seen if value == 0.9]
    last = seen[-1][1]
    saved = models.load(tmp_path / "model").state_dict()
    assert all(torch.equal(saved[name], best[name]) for name in saved)
    assert any(not torch.equal(saved[name], last[name]) for name in saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 1e-12},  # too small to move anything
        {"learning_rate": 0.9, "warmup": 0},  # wrecks the model
    ],
)
def test_where_nothing_beats_the_base_the_base_is_kept(
    trained, rows, select, tmp_path, caplog, changes
):
    base = trained[0] / "model"
    result = training.train(base, rows, select, settings(**changes), tmp_path)
    assert result["improved"] is False and result["best"] <= result["base"]
    assert difference(tmp_path / "model", base) == 0
    assert models.load(tmp_path / "model").max_seq_length == 64
    assert "not improved" in caplog.text and not (tmp_path / "checkpoints").exists()


def test_labels_that_are_noise_do_not_harm_the_base(trained, rows, select, tmp_path):
    base = trained[0] / "model"
    order = np.random.default_rng(0).permutation(len(rows))
    noise = [Pair(row.id, row.query, rows[other].positive, "s")
             for row, other in zip(rows, order, strict=True)]  # fmt: skip
    result = training.train(base, noise, select, settings(), tmp_path)
    scored = [row["eval_ndcg@10"] for row in curves(tmp_path) if "eval_ndcg@10" in row]
    assert scored[-1] < scored[0] - 0.05  # the noise did harm
    assert score(tmp_path / "model", select) >= result["base"]
    assert result["improved"] == (result["best"] > result["base"])


class Probe(torch.nn.Module):
    """A loss that notes the texts it is given."""

    seen: list[list[str]] = []

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features, labels):
        tokenizer = self.model.tokenizer
        self.seen.append([
            "".join(tokenizer.convert_ids_to_tokens(column["input_ids"][0], True))
            for column in features
        ])  # fmt: skip
        assert max(column["input_ids"].shape[1] for column in features) <= 32
        return sum(self.model(column)["sentence_embedding"].sum() for column in features) * 0


def test_the_loss_sees_query_positive_and_negatives_with_their_prompts(
    tiny_model, select, tmp_path
):
    model = models.load(tiny_model)
    model.prompts = {"query": "看", "passage": "说", "document": "说"}
    models.save(model, tmp_path / "base")
    rows = [Mined(str(n), f"押金{n}", "房东" * 40, ("工资", "离婚"), (1, 1, 1), "s")
            for n in range(8)]  # fmt: skip
    plan = settings(epochs=1)
    plan.loss.clear()
    plan.loss["_target_"] = "test_training.Probe"
    Probe.seen.clear()
    training.train(tmp_path / "base", rows, select, plan, tmp_path)
    assert Probe.seen
    for query, positive, *negatives in Probe.seen:
        assert query.startswith("看押金") and positive.startswith("说房东房东")
        assert negatives == ["说工资", "说离婚"]


def test_labelled_negatives_of_different_number_train(tiny_model, rows, select, tmp_path):
    uneven = [Pair(r.id, r.query, r.positive, "s", ("工资", "离婚")[: 1 + n % 2])
              for n, r in enumerate(rows)]  # fmt: skip
    plan = settings(epochs=1)
    plan.loss.clear()
    plan.loss["_target_"] = "test_training.Probe"
    Probe.seen.clear()
    training.train(tiny_model, uneven, select, plan, tmp_path)
    assert {len(texts) for texts in Probe.seen} == {4}  # filled up from other rows


def test_answers_known_from_pairs_that_are_not_trained_on_never_meet_their_query(
    tiny_model, rows, select, tmp_path, monkeypatch
):
    # Each query is also answered by the next row's positive, which no training row says.
    others = [Pair(f"o{n}", row.query, rows[(n + 1) % 64].positive, "s")
              for n, row in enumerate(rows)]  # fmt: skip
    drawn = []
    whole = BucketSampler.__iter__

    def noting(self):
        for batch in whole(self):
            drawn.append(batch)
            yield batch

    monkeypatch.setattr(BucketSampler, "__iter__", noting)
    training.train(tiny_model, rows, select, settings(epochs=1), tmp_path, others)
    assert drawn
    assert not any((n + 1) % 64 in batch for batch in drawn for n in batch)


def test_bf16_trains_and_saves_fp32(tiny_model, rows, select, tmp_path):
    plan = settings(epochs=1)
    plan = training.Plan(plan.train, plan.loss, Precision.bf16, "cpu", 1, 42)
    training.train(tiny_model, rows, select, plan, tmp_path)
    assert {tensor.dtype for tensor in weights(tmp_path / "model").values()} == {torch.float32}


def test_worker_processes_change_nothing(trained, tiny_model, rows, select, tmp_path):
    training.train(tiny_model, rows, select, replace(settings(), workers=1), tmp_path)
    assert difference(trained[0] / "model", tmp_path / "model") == 0


@pytest.mark.parametrize("attention", ["eager", "lean"])
def test_another_attention_is_used_and_learns_the_same(
    trained, tiny_model, rows, select, tmp_path, monkeypatch, attention
):
    used, load = [], models.load

    def loading(folder, *more):
        model = load(folder, *more)
        used.append(models.inner(model).config._attn_implementation)
        return model

    monkeypatch.setattr(models, "load", loading)
    result = training.train(
        tiny_model, rows, select, replace(settings(), attention=attention), tmp_path
    )
    assert used[0] == attention
    assert result["best"] == pytest.approx(trained[1]["best"], abs=0.02)
    assert models.inner(models.load(tmp_path / "model")).config._attn_implementation == "sdpa"


@pytest.mark.slow
def test_a_compiled_model_learns_the_same_and_is_saved_plain(
    trained, tiny_model, rows, select, tmp_path
):
    result = training.train(tiny_model, rows, select, replace(settings(), compile=True), tmp_path)
    assert result["best"] == pytest.approx(trained[1]["best"], abs=0.02)
    assert weights(tmp_path / "model").keys() == weights(trained[0] / "model").keys()


def test_fewer_pairs_than_a_batch(tiny_model, rows, select, tmp_path):
    result = training.train(tiny_model, rows[:3], select, settings(epochs=2), tmp_path)
    assert result["steps"] == 2


# --- stopped early ---


def scripted(monkeypatch, scores):
    """Let the guard find these scores, of the base and of each checkpoint."""
    values = iter(scores)
    monkeypatch.setattr(training.Guard, "__call__", lambda *a, **k: {"ndcg@10": next(values)})


@pytest.mark.parametrize(
    ("patience", "scores", "steps", "best_step"),
    [
        (2, [0.1, 0.2, 0.9, 0.3, 0.4], 40, 20),  # none of two reached what came before
        (1, [0.1, 0.2, 0.1], 20, 10),
        (2, [0.1, 0.5, 0.5, 0.5], 30, 10),  # as good is no better
        (2, [0.1, 0.2, 0.1, 0.3, 0.2, 0.4], 48, 48),  # it rises again in time
        (3, [0.9, 0.5, 0.4, 0.3, 0.2], 40, 10),  # never above the base
        (2, [0.1, 0.2, 0.3, 0.9, 0.3, 0.4], 48, 30),  # its patience ends with the training
    ],
)
def test_training_stops_when_the_select_score_falls(
    tiny_model, rows, select, tmp_path, monkeypatch, caplog, patience, scores, steps, best_step
):
    caplog.set_level("INFO", logger="finetune")
    scripted(monkeypatch, scores)
    result = training.train(tiny_model, rows, select, settings(patience=patience), tmp_path)
    assert (result["steps"], result["best_step"]) == (steps, best_step)
    assert result["stopped_at"] == (steps if steps < 48 else None)
    assert result["improved"] == (max(scores[1:]) > scores[0])
    noted = [row["step"] for row in curves(tmp_path) if "stopped" in row]
    assert noted == ([steps] if steps < 48 else [])
    assert (f"stopped at step {steps} of 48" in caplog.text) == (steps < 48)


def test_what_an_adapter_computes_ahead_counts_as_training(
    tiny_model, rows, select, tmp_path, monkeypatch
):
    seconds = [0]
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    monkeypatch.setattr(
        training, "_attach", lambda *a: seconds.append(seconds.pop() + 100) or (lambda out: None)
    )
    result = training.train(tiny_model, rows, select, settings(epochs=1, checkpoints=1), tmp_path)
    assert result["pairs_per_second"] == 0.64  # 64 pairs


def test_stopping_early_keeps_what_the_best_checkpoint_was(
    tiny_model, rows, select, tmp_path, monkeypatch
):
    """The schedule is that of the whole training: the same steps give the same weights."""
    for name, patience in (("whole", 9), ("stopped", 2)):
        (tmp_path / name).mkdir()
        scripted(monkeypatch, [0.1, 0.2, 0.9, 0.3, 0.4, 0.5])
        training.train(tiny_model, rows, select, settings(patience=patience), tmp_path / name)
    assert difference(tmp_path / "whole/model", tmp_path / "stopped/model") == 0


# --- killed and started again ---


def checkpoint(folder: Path, step: int, whole: bool = True, marked: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "1_Pooling").mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "1_Pooling/config.json"):
        (path / name).write_text("x")
    if marked:
        state = SimpleNamespace(global_step=step)
        checkpoints.MarkComplete().on_save(SimpleNamespace(output_dir=folder), state, None)
    if not whole:
        (path / "optimizer.pt").unlink()
    return path


def test_the_newest_whole_checkpoint_is_taken_and_broken_ones_go(tmp_path):
    older = checkpoint(tmp_path, 90)
    newest = checkpoint(tmp_path, 100)
    half_deleted = checkpoint(tmp_path, 110, whole=False)
    half_written = checkpoint(tmp_path, 120, marked=False)
    assert checkpoints.last_complete(tmp_path) == newest  # 100, though "90" sorts behind it
    assert older.exists() and not half_deleted.exists() and not half_written.exists()
    assert checkpoints.last_complete(tmp_path / "none") is None


def test_a_finished_training_is_not_repeated(tiny_model, rows, select, tmp_path):
    checkpoint(tmp_path / "checkpoints", 48)
    (tmp_path / training.RESULT).write_text('{"improved": true}')
    found = training.train(tmp_path / "no model", rows, select, settings(), tmp_path)
    assert found == {"improved": True}
    assert [p.name for p in tmp_path.iterdir()] == [training.RESULT]


class Killed(Exception):
    pass


def killed_after(monkeypatch, calls):
    """Die when the n-th checkpoint is marked whole."""
    whole, count = checkpoints.MarkComplete.on_save, [0]

    def on_save(*args, **kwargs):
        whole(*args, **kwargs)
        count[0] += 1
        if count[0] == calls:
            raise Killed

    monkeypatch.setattr(checkpoints.MarkComplete, "on_save", on_save)


@pytest.mark.parametrize("kill", [1, 2, 3])
def test_a_stopped_training_that_was_killed_stops_where_it_would_have(
    tiny_model, rows, select, tmp_path, monkeypatch, kill
):
    plan, scores = settings(patience=2), [0.1, 0.9, 0.3, 0.4]
    for name in ("quiet", "killed"):
        (tmp_path / name).mkdir()
    scripted(monkeypatch, scores)
    quiet = training.train(tiny_model, rows, select, plan, tmp_path / "quiet")
    with monkeypatch.context() as patch:
        scripted(patch, scores)
        killed_after(patch, kill)
        with pytest.raises(Killed):
            training.train(tiny_model, rows, select, plan, tmp_path / "killed")
    scripted(monkeypatch, scores[kill + 1 :])
    again = training.train(tiny_model, rows, select, plan, tmp_path / "killed")
    assert quiet["steps"] == 30 == quiet["stopped_at"]
    assert {**again, "pairs_per_second": 0} == {**quiet, "pairs_per_second": 0}
    assert difference(tmp_path / "killed/model", tmp_path / "quiet/model") == 0
    told = [[(row["step"], *sorted(row.keys() - {"time"})) for row in curves(tmp_path / name)]
            for name in ("killed", "quiet")]  # fmt: skip
    assert told[0] == told[1]


def test_a_training_killed_after_its_last_checkpoint_takes_no_further_step(
    tiny_model, rows, select, tmp_path, monkeypatch
):
    plan = settings(epochs=1.5, checkpoints=2)  # 12 steps end in the middle of an epoch
    for name in ("quiet", "killed"):
        (tmp_path / name).mkdir()
    quiet = training.train(tiny_model, rows, select, plan, tmp_path / "quiet")
    with monkeypatch.context() as patch:
        killed_after(patch, 2)
        with pytest.raises(Killed):
            training.train(tiny_model, rows, select, plan, tmp_path / "killed")
    again = training.train(tiny_model, rows, select, plan, tmp_path / "killed")
    assert again["steps"] == quiet["steps"] == 12 and again["best"] == quiet["best"]
    assert difference(tmp_path / "killed/model", tmp_path / "quiet/model") == 0


def test_a_base_that_was_half_copied_is_copied_again(tiny_model, rows, select, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{")
    plan = settings(learning_rate=1e-12, epochs=1)
    assert not training.train(tiny_model, rows, select, plan, tmp_path)["improved"]
    assert difference(tmp_path / "model", tiny_model) == 0
    assert models.load(tmp_path / "model").get_embedding_dimension() == 32


@pytest.fixture(scope="module")
def uninterrupted(tiny_model, domain, tmp_path_factory):
    """A whole run: its command line, its cache, its run directory."""
    work = tmp_path_factory.mktemp("whole")
    arguments = tiny_runs.overrides(
        tiny_model, domain, work, "full", f"run_dir={work}/run", "train.checkpoints=5"
    )
    pipeline.run(compose(arguments))
    return arguments, work


# One of each kind; those that differ by the epoch or the file alone take CI too long.
SLOW = ("second epoch", "fourth epoch", "checkpoint not marked", "last checkpoint marked",
        "manifest not written")  # fmt: skip


@pytest.mark.parametrize(
    "point",
    [pytest.param(point, marks=pytest.mark.slow if point in SLOW else ())
     for point in tiny_runs.TRAINING],
)  # fmt: skip
def test_a_training_that_was_killed_ends_with_the_same_weights(uninterrupted, tmp_path, point):
    arguments, work = uninterrupted
    changes = without(work, tmp_path, ["train", "export", "evaluate", "report"])
    arguments = with_values(arguments, [*changes, "until=train"])
    killed_at(point, arguments)
    folder = folder_of("train", arguments)
    assert not folder.exists()
    pipeline.run(compose(arguments))
    whole = work / "cache/train" / folder.name
    assert difference(folder / "model", whole / "model") <= 1e-6
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in whole.iterdir())

    def told(folder):
        result = json.loads((folder / training.RESULT).read_text())
        return {k: v for k, v in result.items() if k != "pairs_per_second"}

    def steps(folder):
        return [(row["step"], "loss" in row) for row in curves(folder)]

    assert told(folder) == told(whole)
    assert steps(folder) == steps(whole) and len(steps(folder)) == len(set(steps(folder)))


def test_killed_again_and_again_after_training_the_run_still_completes(uninterrupted, tmp_path):
    arguments, work = uninterrupted
    changes = without(work, tmp_path, ["export", "evaluate", "report"])
    arguments = with_values(arguments, changes)
    for point in tiny_runs.AFTERWARDS:
        killed_at(point, arguments)
    report = pipeline.run(compose(arguments))
    whole = json.loads((work / "run/report.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in report["stages"]] == [row["name"] for row in whole["stages"]]

    def files(run):
        return sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file())

    assert files(tmp_path / "run") == files(work / "run")
    assert difference(tmp_path / "run/model", work / "run/model") == 0
    leftovers = [p for p in (tmp_path / "cache").glob("*/*") if p.name.startswith(".partial")]
    assert leftovers == []
    for each in (tmp_path / "cache").glob("*/*/manifest.json"):
        other = work / "cache" / each.relative_to(tmp_path / "cache")
        one, two = (sorted(json.loads(p.read_text())["outputs"]) for p in (each, other))
        assert one == two


def test_killed_at_random_moments_the_run_completes_with_the_same_weights(uninterrupted, tmp_path):
    arguments, work = uninterrupted
    arguments = with_values(arguments, [f"paths.cache={tmp_path}/cache", f"run_dir={tmp_path}/run"])
    moments = np.random.default_rng(7).uniform(0.1, 2.0, 4)
    for moment in moments:
        child = FORKS.Process(target=tiny_runs.run, args=(arguments,))
        child.start()
        child.join(float(moment))
        child.kill()
        child.join()
    pipeline.run(compose(arguments))
    assert difference(tmp_path / "run/model", work / "run/model") <= 1e-6
