import json
from pathlib import Path

import pytest
import tiny_runs
from safetensors.torch import load_file

from finetune import pipeline
from finetune.config.compose import compose
from finetune.records import read_dicts, read_json
from finetune.stage import Step, plan
from finetune.steps import rounds


@pytest.fixture(scope="module")
def arguments(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")

    def make(*more):
        return tiny_runs.overrides(tiny_model, domain, work, "contrastive", "train.epochs=2", *more)

    return make


def steps(*line):
    return {step.name: step for step in pipeline.steps_of(compose(line))}


# --- the plan ---


def test_each_round_mines_with_the_model_so_far_and_trains_on_from_it(arguments):
    found = steps(*arguments("mine.rounds=3"))
    names = [name for name in found if name.split("-")[0] in ("embed", "mine", "train")]
    assert names == ["embed", "mine", "train", "embed-2", "mine-2", "train-2", "embed-3",
                     "mine-3", "train-3"]  # fmt: skip
    assert found["export-2"].inputs == {"model": "train", "sets": "sets"}
    assert found["embed-2"].inputs == {
        "model": "train", "export": "export-2", "sets": "sets", "pairs": "data"
    }  # fmt: skip
    assert found["mine-2"].inputs == {"embed": "embed-2", "pairs": "data"}
    assert found["train-2"].inputs == {"model": "train", "pairs": "mine-2", "select": "pool"}
    assert found["train-3"].inputs == {"model": "train-2", "pairs": "mine-3", "select": "pool"}
    seeds = [found[name].settings["seed"] for name in ("train", "train-2", "train-3")]
    assert seeds == [42, 43, 44]
    assert found["train-2"].resumes
    for name in ("export", "evaluate"):
        assert found[name].inputs["model"] == "train-3"
    assert found["report"].inputs["train-3"] == "train-3"


def test_more_rounds_change_nothing_in_those_before(arguments):
    keys = [
        {each.step.name: each.key for each in plan(list(steps(*line).values()), Path("cache"))}
        for line in (arguments(), arguments("mine.rounds=2"), arguments("mine.rounds=3"))
    ]
    for name in ("embed", "mine", "pool", "train"):
        assert keys[0][name] == keys[1][name] == keys[2][name]
    for name in ("embed-2", "mine-2", "train-2"):
        assert keys[1][name] == keys[2][name]


def test_a_seed_at_the_end_of_what_numpy_takes():
    first = [Step(name, print, 1, {"seed": 2**32 - 1}) for name in "abcd"]
    assert rounds.later(first, 2)[-1].settings["seed"] == 0


def test_the_merge_takes_the_last_rounds_model(arguments):
    found = steps(*arguments("mine.rounds=2", "merge=interpolate"))
    assert found["merge"].inputs == {"model": "base", "tuned": "train-2", "select": "merge-pool"}
    assert found["export"].inputs["model"] == "merge"


# --- told as one ---


def trained(folder, base, best, best_step, improved, steps=10):
    folder.mkdir()
    content = {"base": base, "best": best, "best_step": best_step, "improved": improved,
               "steps": steps, "stopped_at": None, "pairs_per_second": 1.0}  # fmt: skip
    (folder / "training.json").write_text(json.dumps(content))
    rows = [{"step": 0, "eval_ndcg@10": base}, {"step": steps, "eval_ndcg@10": best}]
    (folder / "curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        # base, best, step of the best, improved: of each round
        ([(0.2, 0.5, 4, True), (0.5, 0.6, 8, True)], (0.2, 0.6, 18, True)),
        ([(0.2, 0.5, 4, True), (0.5, 0.4, 8, False)], (0.2, 0.5, 4, True)),
        ([(0.2, 0.1, 4, False), (0.2, 0.3, 8, True)], (0.2, 0.3, 18, True)),
        ([(0.2, 0.1, 4, False), (0.2, 0.15, 8, False)], (0.2, 0.15, 18, False)),
    ],
)
def test_what_training_came_to_over_all_rounds(tmp_path, told, expected):
    inputs = {}
    for number, row in enumerate(told, 1):
        name = "train" if number == 1 else f"train-{number}"
        inputs[name] = trained(tmp_path / name, *row)
    found = rounds.training(inputs)
    assert (found["base"], found["best"], found["best_step"], found["improved"]) == expected
    assert found["steps"] == 20 and found["train-2"]["best"] == told[1][1]


def test_curves_of_all_rounds_follow_each_other(tmp_path):
    inputs = {"train": trained(tmp_path / "one", 0.2, 0.5, 4, True, steps=10),
              "train-2": trained(tmp_path / "two", 0.5, 0.6, 8, True, steps=7)}  # fmt: skip
    path = rounds.curves(inputs, tmp_path)
    assert [row["step"] for row in read_dicts(path)] == [0, 10, 10, 17]
    del inputs["train-2"]
    assert rounds.curves(inputs, tmp_path) == tmp_path / "one/curves.jsonl"
    assert "train" not in rounds.training(inputs)


# --- a whole run ---


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("rounds") / "run"
    config = pipeline.resolve(compose(arguments("mine.rounds=2", f"run_dir={run_dir}")))
    report = pipeline.run(config)
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    return report, run_dir, {each.step.name: each.folder for each in planned}


def test_a_run_of_two_rounds_ends_better_than_the_base(finished):
    report, run_dir, folders = finished
    told = [read_json(folders[name] / "training.json") for name in ("train", "train-2")]
    # The second round's guard starts from what the first one kept.
    assert told[1]["base"] == pytest.approx(max(told[0]["base"], told[0]["best"]), abs=1e-9)
    training = report["training"]
    assert training["improved"] and training["base"] == told[0]["base"]
    assert training["steps"] == told[0]["steps"] + told[1]["steps"]
    assert set(report["mining"]) == {"round 1", "round 2"}
    assert {gate["name"]: gate["status"] for gate in report["gates"]}["gain"] == "passed"
    published = load_file(run_dir / "model/model.safetensors")
    last = load_file(folders["train-2"] / "model/model.safetensors")
    assert all((published[key] == last[key]).all() for key in last)
    page = (run_dir / "report.html").read_text("utf-8")
    assert "round 2 · pairs" in page and "train-2 · best" in page


def test_the_second_round_mines_other_negatives(finished):
    _, _, folders = finished
    first, second = (
        {row["id"]: row["negatives"] for row in read_dicts(folders[name] / "train.jsonl")}
        for name in ("mine", "mine-2")
    )
    shared = first.keys() & second.keys()
    assert shared and any(first[key] != second[key] for key in shared)


def test_every_round_is_cached(finished, arguments):
    _, run_dir, _ = finished
    again = pipeline.run(compose(arguments("mine.rounds=2", f"run_dir={run_dir}")))
    assert all(stage["cached"] for stage in again["stages"])
