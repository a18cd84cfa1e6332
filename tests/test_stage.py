import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.stage import MANIFEST, Step, execute, hash_path, own_folder, plan, publish

# A fresh interpreter: a forked one would share the lock files of this one.
SPAWN = multiprocessing.get_context("spawn")


def double(settings, inputs, out):
    """Write twice the number that the step before wrote, or that the settings give."""
    before = int((inputs["number"] / "n").read_text()) if "number" in inputs else settings["start"]
    (out / "n").write_text(str(2 * before))
    with Path(settings.get("log", os.devnull)).open("a") as log:
        log.write("called\n")


def slow(settings, inputs, out):
    Path(settings["log"]).with_name("started").touch()
    time.sleep(settings["seconds"])
    double({"start": 1, **settings}, inputs, out)


def fail(settings, inputs, out):
    (out / "half").write_text("half")
    raise ValueError("no")


def chain(start=1, version=1, **more):
    return [
        Step("first", double, version, {"start": start, **more}),
        Step("second", double, 1, {"seed": 1}, {"number": "first"}),
    ]


def run(steps, cache):
    done = {}
    for planned in plan(steps, cache):
        done[planned.step.name] = execute(planned, {k: d.folder for k, d in done.items()})
    return done


def keys(steps):
    return [planned.key for planned in plan(steps, Path("x"))]


def test_steps_hand_on_what_they_made(tmp_path):
    done = run(chain(start=3), tmp_path)
    assert (done["second"].folder / "n").read_text() == "12"
    assert done["first"].folder.parent == done["second"].folder.parent == tmp_path / "double"


def test_what_is_outside_the_key_is_handed_over_and_changes_no_key(tmp_path):
    log = tmp_path / "log"
    logged = [Step("first", double, 1, {"start": 3}, outside={"log": str(log)})]
    assert keys(logged) == keys([Step("first", double, 1, {"start": 3})])
    run(logged, tmp_path)
    assert log.read_text() == "called\n"


def test_the_second_time_nothing_is_called(tmp_path):
    log = tmp_path / "log"
    first = run(chain(log=str(log)), tmp_path / "cache")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    second = run(chain(log=str(log)), tmp_path / "cache")
    assert log.read_text() == "called\n"
    assert [d.cached for d in first.values()] == [False, False]
    assert [d.cached for d in second.values()] == [True, True]
    assert {d.name: d.seconds for d in second.values()} == {
        d.name: round(d.seconds, 3) for d in first.values()
    }
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}


def test_a_step_that_changes_takes_those_behind_it_along():
    base = keys(chain())
    assert keys(chain()) == base
    for changed in (chain(start=2), chain(version=2), chain(log="elsewhere")):
        assert all(one != other for one, other in zip(base, keys(changed), strict=True))
    second = Step("second", double, 1, {"seed": 2}, {"number": "first"})
    assert keys([chain()[0], second])[0] == base[0]
    assert keys([chain()[0], second])[1] != base[1]


def test_two_seeds_two_keys():
    assert len({keys([Step("a", double, 1, {"seed": seed})])[0] for seed in range(100)}) == 100


def test_the_name_and_the_inputs_count():
    one = Step("mine", double, 1, {})
    assert keys([one]) != keys([Step("mine-2", double, 1, {})])
    a, b = Step("a", double, 1, {"start": 1}), Step("b", double, 1, {"start": 1})
    reads_a, reads_b = (Step("c", double, 1, {}, {"number": name}) for name in "ab")
    assert keys([a, b, reads_a])[-1] != keys([a, b, reads_b])[-1]


def test_the_content_of_files_counts_and_their_dates_do_not(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("一")
    step = Step("data", double, 1, {}, files={"train": path})
    before = keys([step])
    os.utime(path, (1, 1))
    assert keys([step]) == before
    path.write_text("二")
    assert keys([step]) != before


def test_an_input_that_is_no_step_is_a_mistake_of_ours():
    with pytest.raises(KeyError, match="gone"):
        plan([Step("a", double, 1, {}, {"number": "gone"})], Path("x"))


def test_a_step_finds_its_files_under_their_names_wherever_they_lie(tmp_path):
    keys = set()
    for place in ("here", "there"):
        text = tmp_path / place
        text.write_text("x")
        (planned,) = plan([Step("first", copied, 1, {}, files={"in": text})], tmp_path / "cache")
        keys.add(planned.key)
        assert (execute(planned, {}).folder / "copy").read_text() == "x"
    assert len(keys) == 1


def copied(settings, inputs, out):
    (out / "copy").write_text(inputs["in"].read_text())


def test_the_manifest_tells_how_the_output_was_made(tmp_path):
    text = tmp_path / "in.txt"
    text.write_text("x")
    step = Step("first", double, 7, {"start": 1}, files={"in": text})
    (planned,) = plan([step], tmp_path / "cache")
    execute(planned, {})
    manifest = json.loads((planned.folder / MANIFEST).read_text("utf-8"))
    assert manifest["step"] == "first" and manifest["call"] == "double"
    assert manifest["version"] == 7 and manifest["settings"] == {"start": 1}
    assert manifest["key"] == planned.key == planned.folder.name
    assert manifest["files"]["in"] == {"path": str(text), "sha256": hash_path(text)}
    assert manifest["outputs"] == {"n": hash_path(planned.folder / "n")}
    assert manifest["libraries"]["numpy"] and manifest["seconds"] >= 0
    assert not planned.partial.exists()


def test_a_step_that_fails_leaves_its_partial_folder_and_no_manifest(tmp_path):
    (planned,) = plan([Step("a", fail, 1, {})], tmp_path)
    with pytest.raises(ValueError, match="no"):
        execute(planned, {})
    assert not planned.cached and not planned.folder.exists()
    assert [p.name for p in planned.partial.iterdir()] == ["half"]


@pytest.mark.parametrize("resumes", [False, True])
def test_only_a_step_that_resumes_sees_what_was_left(tmp_path, resumes):
    (planned,) = plan([Step("a", double, 1, {"start": 1}, resumes=resumes)], tmp_path)
    planned.partial.mkdir(parents=True)
    (planned.partial / "checkpoint").write_text("x")
    execute(planned, {})
    assert (planned.folder / "checkpoint").exists() == resumes
    assert (planned.folder / "n").read_text() == "2"


def full_disk(settings, inputs, out):
    raise settings["error"]


@pytest.mark.parametrize(
    ("error", "free", "told"),
    [
        (OSError(28, "No space left on device"), 1 << 40, True),
        (RuntimeError("Error while serializing: No space left on device"), 1 << 40, True),
        (RuntimeError("[enforce fail at inline_container.cc] unexpected pos"), 4096, True),
        (RuntimeError("[enforce fail at inline_container.cc] unexpected pos"), 1 << 40, False),
        (UserError("a mistake in the data"), 4096, False),
    ],
)
def test_a_full_disk_is_told_from_other_failures(tmp_path, monkeypatch, error, free, told):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, free))
    (planned,) = plan([Step("a", full_disk, 1, {"error": "x"})], tmp_path)
    object.__setattr__(planned.step, "settings", {"error": error})
    with pytest.raises(OSError if told else type(error)) as caught:
        execute(planned, {})
    if told:
        assert caught.value.errno == 28 and caught.value.filename == str(planned.partial)


def execute_in_child(cache, log, seconds):
    steps = [Step("slow", slow, 1, {"log": str(log), "seconds": seconds})]
    execute(plan(steps, cache)[0], {})


def start(target, *arguments):
    process = SPAWN.Process(target=target, args=arguments)
    process.start()
    return process


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def test_two_processes_make_a_thing_once(tmp_path, caplog):
    log = tmp_path / "log"
    child = start(execute_in_child, tmp_path / "cache", log, 1.0)
    wait_for(tmp_path / "started")
    caplog.set_level("INFO")
    begin = time.monotonic()
    (planned,) = plan([Step("slow", slow, 1, {"log": str(log), "seconds": 1.0})],
                      tmp_path / "cache")  # fmt: skip
    done = execute(planned, {})
    child.join()
    assert done.cached and log.read_text() == "called\n"
    assert time.monotonic() - begin > 0.2
    assert f"another run (process {child.pid} on" in caplog.text and "waiting" in caplog.text


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    log = tmp_path / "log"
    child = start(execute_in_child, tmp_path / "cache", log, 60)
    wait_for(tmp_path / "started")
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    step = Step("slow", slow, 1, {"log": str(log), "seconds": 60})
    (planned,) = plan([step], tmp_path / "cache")
    assert planned.partial.is_dir() and not planned.cached
    # The same key with a function that returns at once.
    object.__setattr__(planned.step, "call", double)
    object.__setattr__(planned.step, "settings", {"start": 1, "log": str(log)})
    assert not execute(planned, {}).cached
    assert log.read_text() == "called\n"


def hold_folder(folder, flag):
    with own_folder(folder):
        flag.touch()
        time.sleep(60)


def test_a_run_directory_has_one_owner_at_a_time(tmp_path):
    run_dir, flag = tmp_path / "run", tmp_path / "held"
    child = start(hold_folder, run_dir, flag)
    wait_for(flag)
    with pytest.raises(UserError) as caught, own_folder(run_dir):
        pass
    (problem,) = caught.value.problems
    assert f"run_dir={run_dir}: in use by another run (process {child.pid} on" in problem
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with own_folder(run_dir):
        assert str(os.getpid()) in (run_dir / ".lock").read_text()
    with own_folder(run_dir):
        pass


def test_publish_links_files_and_replaces_what_was_there(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    (source / "deep/weights").write_text("new")
    (target / "old").mkdir(parents=True)
    publish(source, target)
    assert [str(p.relative_to(target)) for p in target.rglob("*")] == ["deep", "deep/weights"]
    assert (target / "deep/weights").samefile(source / "deep/weights")
    (tmp_path / "README.md").write_text("old")
    publish(source / "deep/weights", tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == "new"


def test_weights_beside_a_graph_are_copied_for_onnx_takes_no_links(tmp_path):
    source = tmp_path / "step"
    source.mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (source / name).write_text(name)
    publish(source, tmp_path / "bundle")
    links = {path.name: path.stat().st_nlink for path in (tmp_path / "bundle").iterdir()}
    assert links == {"model.onnx": 2, "model.onnx.data": 1}
    assert (tmp_path / "bundle/model.onnx.data").read_text() == "model.onnx.data"


def test_publish_copies_where_links_cannot_be_made(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("x")
    publish(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_path(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_hash_of_a_folder_is_that_of_its_names_and_contents(tmp_path):
    def folder(name, **files):
        root = tmp_path / name
        for path, text in files.items():
            file = root / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return hash_path(root)

    base = folder("a", x="1", deep__y="2")
    assert folder("b", deep__y="2", x="1") == base
    assert folder("c", x="2", deep__y="1") != base
    assert folder("d", x="1", y="2") != base
    assert folder("e", x="1", deep__y="2", z="") != base
    (tmp_path / "a/.cache").mkdir()
    (tmp_path / "a/.cache/z").write_text("hidden")
    assert hash_path(tmp_path / "a") == base
