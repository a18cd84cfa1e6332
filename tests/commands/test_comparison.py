"""`finetune compare` on run directories, bundles and model folders."""

import json
import shutil

import pytest
import tiny_runs
from made_runs import finished

from finetune import cli
from finetune.commands import comparison
from finetune.errors import UserError
from finetune.records import write_json


def names(systems):
    return [(each.name, {key: len(runs) for key, runs in each.outcomes.items()})
            for each in systems]  # fmt: skip


def test_runs_are_read_without_encoding(tmp_path):
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two", 0.1, epochs=2)
    assert names(comparison.read([one, two], [])) == [("one", {"dev": 1}), ("two", {"dev": 1})]
    both = comparison.read([two], ["base", "tuned"])
    assert [each.name for each in both] == ["two: base", "two: tuned"]


def test_runs_that_differ_in_the_seed_alone_are_one_system(tmp_path):
    runs = [finished(tmp_path / f"r{seed}", seed=seed) for seed in (1, 2, 3)]
    other = finished(tmp_path / "other", seed=1, recipe="lora")
    found = names(comparison.read([*runs, other], []))
    assert found == [("r1 (seeds 1, 2, 3)", {"dev": 3}), ("other", {"dev": 1})]
    again = finished(tmp_path / "again", seed=3)
    assert [name for name, _ in names(comparison.read([runs[2], again], []))] == ["r3", "again"]


@pytest.mark.parametrize("shown", [[], ["--artifact", "base", "--artifact", "tuned"]])
def test_the_command(tmp_path, capsys, shown):
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two", 0.1, epochs=2)
    out = tmp_path / "c.json"
    assert cli.main(["compare", str(one), str(two), *shown, "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "+10.0" in text and "better" in text
    content = json.loads(out.read_text("utf-8"))
    assert content["reference"] == ("one: base" if shown else "one")
    assert {row["set"] for row in content["comparisons"]} == {"dev"}
    assert len(content["comparisons"]) == (4 if shown else 2) * 3


def test_what_is_no_run(tmp_path, tiny_model, tiny_bundle, capsys):
    run = finished(tmp_path / "run")
    old = finished(tmp_path / "old")
    shutil.rmtree(old / "outcomes")
    for path, phrase in (
        (old, "of an older version"),
        (tmp_path, "no finished run"),
        (tmp_path / "gone", "no finished run"),
        (tiny_model, "name folders on which all are scored"),
        (tiny_bundle, "name folders on which all are scored"),
    ):
        with pytest.raises(UserError, match=phrase):
            comparison.read([run, path], [])
    with pytest.raises(UserError, match="no artifact 'tunde'; did you mean 'tuned'"):
        comparison.read([run], ["tunde"])
    assert cli.main(["compare", str(run), str(tmp_path / "gone")]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_sets_of_one_name_that_are_not_the_same(tmp_path):
    one = finished(tmp_path / "one")
    other = finished(tmp_path / "other", sets={"dev": "xyz"})
    with pytest.raises(UserError, match="dev is not the same set in all runs"):
        comparison.read([one, other], [])


def test_bundles_and_model_folders_are_scored_on_folders(tmp_path, tiny_model, tiny_bundle, capsys):
    dev = tiny_runs.learnable_domain(tmp_path / "domain", tiny_model) / "dev"
    found = comparison.score([tiny_bundle, tiny_model], [], [dev], "report")
    assert [each.name for each in found] == [
        f"{tiny_bundle}: onnx-fp32", f"{tiny_bundle}: onnx-int8-dynamic", f"{tiny_model}: base"
    ]  # fmt: skip
    arguments = [str(tiny_bundle), str(tiny_model), "--artifact", "onnx-fp32", "--data", str(dev)]
    with pytest.raises(UserError, match="bundles have them"):
        comparison.score([tiny_model], ["onnx-fp32"], [dev], "all")
    assert cli.main(["compare", *arguments]) == 2
    run = tmp_path / "run"
    shutil.copytree(tiny_bundle, run / "bundle")
    shutil.copytree(tiny_model, run / "model")
    write_json(run / "report.json", {})
    found = comparison.score([run], ["tuned", "onnx-int8-dynamic"], [dev], "all")
    assert [each.name for each in found] == [f"{run}: tuned", f"{run}: onnx-int8-dynamic"]
    with pytest.raises(UserError, match="a run holds no base"):
        comparison.score([run], ["base"], [dev], "all")
    capsys.readouterr()
    assert cli.main(["compare", str(tiny_bundle), "--data", str(dev)]) == 0
    assert "inside the noise" in capsys.readouterr().out
