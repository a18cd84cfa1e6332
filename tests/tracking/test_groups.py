"""The MLflow run above others, in a real store."""

import dataclasses

import pytest

from finetune import tracking
from finetune.config.choices import Tracker
from finetune.errors import UserError


def runs(client) -> dict:
    found = client.search_runs([client.get_experiment_by_name("statutes").experiment_id])
    return {run.info.run_name: run for run in found}


def parent_of(run) -> str | None:
    return run.data.tags.get("mlflow.parentRunId")


def below(config, group):
    return dataclasses.replace(
        config, tracking=dataclasses.replace(config.tracking, parent=group.run_id)
    )


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "sweep-01234567"
    path.mkdir()
    return path


def test_runs_stand_below_their_group(config, run_dir, report, client, folder):
    (folder / "table.json").write_text("[]")
    with tracking.group(config.tracking, folder, {"seed": "1,2"}) as group:
        assert client.get_run(group.run_id).info.status == "RUNNING"
        with tracking.track(below(config, group), run_dir) as run:
            run.finish(report)
        group.finish({"best/ndcg@10": 0.5}, [folder / "table.json"], "| a |")
    found = runs(client)
    assert set(found) == {folder.name, run_dir.name}
    assert parent_of(found[run_dir.name]) == group.run_id == found[folder.name].info.run_id
    above = found[folder.name]
    assert above.info.status == "FINISHED" and parent_of(above) is None
    assert above.data.params == {"seed": "1,2"}
    assert above.data.metrics == {"best/ndcg_at_10": 0.5}
    assert above.data.tags["mlflow.note.content"] == "| a |"
    assert [item.path for item in client.list_artifacts(group.run_id)] == ["table.json"]


def test_a_repeated_call_finds_its_group(config, client, folder):
    with tracking.group(config.tracking, folder, {}) as first:
        pass
    with tracking.group(config.tracking, folder, {}) as second:
        assert client.get_run(second.run_id).info.status == "RUNNING"
    assert first.run_id == second.run_id
    client.delete_run(first.run_id)
    with tracking.group(config.tracking, folder, {}) as third:
        assert third.run_id != first.run_id


def test_a_run_that_was_recorded_alone_moves_below_its_group(
    config, run_dir, report, client, folder, caplog
):
    caplog.set_level("INFO")
    with tracking.track(config, run_dir) as run:
        run.finish(report)
    alone = runs(client)[run_dir.name]
    assert parent_of(alone) is None
    with tracking.group(config.tracking, folder, {}) as group:
        with tracking.track(below(config, group), run_dir) as run:
            run.finish(report)
    moved = runs(client)[run_dir.name]
    assert moved.info.run_id == alone.info.run_id and parent_of(moved) == group.run_id
    assert "this run is recorded already" in caplog.text


def test_a_group_whose_block_fails_has_failed(config, client, folder):
    with pytest.raises(ValueError, match="x"), tracking.group(config.tracking, folder, {}) as group:
        raise ValueError("x")
    assert client.get_run(group.run_id).info.status == "FAILED"


def test_without_its_server_the_runs_go_on(config, folder, caplog):
    away = dataclasses.replace(config.tracking, uri="http://127.0.0.1:9")
    with tracking.group(away, folder, {}) as group:
        group.finish({"best": 1.0}, [])
    assert group.run_id is None
    assert caplog.text.count("the runs go on without one above them") == 1


def test_no_group_where_nothing_is_tracked(config, folder):
    none = dataclasses.replace(config.tracking, kind=Tracker.none)
    with tracking.group(none, folder, {}) as group:
        group.finish({"best": 1.0}, [])
    assert group.run_id is None and list(folder.iterdir()) == []


def test_a_group_needs_an_address_too(config, folder):
    wrong = dataclasses.replace(config.tracking, uri="./mlruns")
    with pytest.raises(UserError, match="expected a database"):
        with tracking.group(wrong, folder, {}):
            pass
