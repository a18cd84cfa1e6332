"""Who is champion: versions of a model in a real registry, and the questions they were asked."""

import pytest
from made_outcomes import QUALITY, write_outcome

from finetune.records import write_json
from finetune.tracking import aliases

MODEL = "statutes-starter"
PASSED, FAILED, OPEN = ("passed", "failed", "inconclusive")


@pytest.fixture
def enter(client, tmp_path):
    """Register a version whose queries got ``QUALITY`` and more; return who holds which alias."""
    client.create_registered_model(MODEL)
    experiment = client.create_experiment("statutes")

    def entered(more, gates=(("gain", PASSED), ("int8", OPEN)), digest="same texts"):
        run_id = client.create_run(experiment).info.run_id
        outcome = tmp_path / run_id / "outcomes" / "onnx-int8-dynamic" / "statutes.jsonl"
        write_outcome(outcome, [value + more for value in QUALITY])
        write_json(outcome.parents[1] / "sets.json", {"statutes": digest})
        for path in (outcome, outcome.parents[1] / "sets.json"):
            client.log_artifact(run_id, str(path), "outcomes")
        version = client.create_model_version(MODEL, f"runs:/{run_id}/bundle", run_id)
        report = {"gates": [{"name": name, "status": status} for name, status in gates]}
        aliases.move(client, version, report, outcome)
        held = client.get_registered_model(MODEL).aliases
        return {alias: int(number) for alias, number in held.items()}

    return entered


def test_the_first_that_passes_is_champion_and_a_better_one_takes_its_place(enter):
    assert enter(0.0, gates=[("gain", FAILED)]) == {}
    assert enter(0.0, gates=[("gain", OPEN)]) == {}
    assert enter(0.0, gates=[("gain", PASSED), ("int8", FAILED)]) == {}
    assert enter(0.0) == {"champion": 4}
    assert enter(0.0) == {"champion": 4, "challenger": 5}, "no better than the champion"
    assert enter(-0.1) == {"champion": 4, "challenger": 6}
    assert enter(0.1) == {"champion": 7, "challenger": 6}
    assert enter(0.3, gates=[("gain", PASSED), ("general", FAILED)]) == {
        "champion": 7, "challenger": 6,
    }  # fmt: skip


def test_other_questions_decide_nothing(enter):
    assert enter(0.0) == {"champion": 1}
    assert enter(0.2, digest="other texts") == {"champion": 1, "challenger": 2}


def test_a_champion_stays_it_when_its_run_is_recorded_again(enter, client, tmp_path):
    enter(0.0)
    version = client.get_model_version_by_alias(MODEL, "champion")
    report = {"gates": [{"name": "distill", "status": PASSED}]}
    aliases.move(client, version, report, tmp_path / "nothing.jsonl")
    assert int(client.get_model_version_by_alias(MODEL, "champion").version) == 1


def test_a_challenger_that_becomes_champion_is_no_challenger(enter, client, tmp_path):
    enter(0.0)
    enter(-0.05)
    version = client.get_model_version(MODEL, "2")
    better = tmp_path / "again" / "onnx-int8-dynamic" / "statutes.jsonl"
    write_outcome(better, [value + 0.2 for value in QUALITY])
    write_json(better.parents[1] / "sets.json", {"statutes": "same texts"})
    aliases.move(client, version, {"gates": [{"name": "gain", "status": PASSED}]}, better)
    held = client.get_registered_model(MODEL).aliases
    assert {alias: int(number) for alias, number in held.items()} == {"champion": 2}
