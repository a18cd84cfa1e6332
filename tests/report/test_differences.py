"""Differences between systems, by cases worked by hand."""

import json

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.evaluation.artifacts import Outcome
from finetune.report.comparison import System, compare, save, show

BASE = np.tile([0.2, 0.4, 0.6, 0.8], 10)


def outcome(values, metrics=("ndcg@10", "mrr@10"), ids=None):
    ids = ids or tuple(f"q{n}" for n in range(len(values)))
    return Outcome(tuple(ids), {metric: np.asarray(values) for metric in metrics}, ())


def system(name, *runs, sets=("s",), **more):
    return System(name, {each: tuple(outcome(run, **more) for run in runs) for each in sets})


def of(lines, name, metric="ndcg@10", part="s"):
    return next(x for x in lines if (x.system, x.metric, x.set) == (name, metric, part))


def test_better_worse_and_noise():
    rng = np.random.default_rng(0)
    noisy = BASE + rng.normal(0, 0.1, 40)
    noisy += BASE.mean() - noisy.mean() + 0.001
    lines = compare([system("one", BASE), system("up", BASE + 0.1), system("down", BASE - 0.1),
                     system("same", noisy)])  # fmt: skip
    first, up, down, same = (of(lines, name) for name in ("one", "up", "down", "same"))
    assert (first.value, first.n, first.seeds) == (pytest.approx(0.5), 40, 1)
    assert first.delta is first.p_value is first.verdict is None
    assert up.delta == pytest.approx(0.1) and up.verdict == "better"
    assert down.delta == pytest.approx(-0.1) and down.verdict == "worse"
    assert same.verdict == "inside the noise" and same.delta == pytest.approx(0.001)
    # 2.80 x .1 / sqrt(40)
    assert same.smallest == pytest.approx(0.0443, rel=0.3)
    # Three comparisons: the smallest p-values of 1 / 10001 count three times.
    assert up.p_holm == pytest.approx(3 * up.p_value) == 3 / 10_001


def test_one_difference_among_many_comparisons_is_noise():
    rng = np.random.default_rng(3)
    others = [system(f"s{n}", BASE + rng.normal(0, 0.1, 40)) for n in range(12)]
    lines = [x for x in compare([system("one", BASE), *others]) if x.metric == "ndcg@10"]
    assert min(x.p_value for x in lines if x.p_value is not None) < 0.05
    assert {x.verdict for x in lines} == {None, "inside the noise"}


def test_seeds_that_disagree_are_noise_where_one_of_them_would_not_be():
    alone = compare([system("one", BASE), system("tuned", BASE + 0.06)])
    assert of(alone, "tuned").verdict == "better"
    seeds = [BASE + 0.06, BASE - 0.05, BASE + 0.08]
    lines = compare([system("one", BASE), system("tuned", *seeds)])
    found = of(lines, "tuned")
    assert found.seeds == 3 and found.delta == pytest.approx(0.03)
    assert found.verdict == "inside the noise" and found.delta_low < 0 < found.delta_high
    # Of the mean of three seeds, which lie .07 apart: 4.303 standard errors, of t with 2 degrees of
    # freedom, to be significant, and .842 to be it 4 times in 5.
    assert found.smallest == pytest.approx((4.303 + 0.842) * 0.07 / np.sqrt(3), rel=0.05)


def test_slices_are_compared_and_are_a_family_of_their_own():
    ids = [f"{kind}-{n}" for kind in ("a", "b") for n in range(20)]
    gain = np.repeat([0.1, 0.0], 20)
    lines = compare([system("one", BASE, ids=ids), system("two", BASE + gain, ids=ids)])
    assert of(lines, "two", part="s/a").verdict == "better"
    assert of(lines, "two", part="s/b").verdict == "inside the noise"
    assert of(lines, "two").p_holm == of(lines, "two").p_value


def test_only_what_all_were_measured_on(caplog):
    lines = compare([system("one", BASE, sets=("s", "t")), system("two", BASE)])
    assert {line.set for line in lines} == {"s"} and "t: not measured for all" in caplog.text


@pytest.mark.parametrize(
    ("systems", "phrase"),
    [
        ([system("one", BASE)], "one system only"),
        ([system("one", BASE), system("two", BASE, sets=("t",))], "no set on which all"),
        ([system("one", BASE), system("two", BASE[:20])], "not measured on the same queries"),
        ([system("one", BASE), system("two", BASE, metrics=("spearman",))], "by the same metrics"),
    ],
)
def test_what_cannot_be_compared(systems, phrase):
    with pytest.raises(UserError, match=phrase):
        compare(systems)


def test_the_table_and_the_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    lines = compare([system("one", BASE), system("up [x]", BASE + 0.11, BASE + 0.11),
                     system("flat", BASE)])  # fmt: skip
    show(lines)
    shown = capsys.readouterr().out
    for part in ("s (40 queries)", "50.0", "up [x]", "+11.0", "mean of 2 seeds", "better",
                 "inside the noise (from about 0.0 on it would show)"):  # fmt: skip
        assert part in shown
    save(lines, tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert content["reference"] == "one" and len(content["comparisons"]) == len(lines) == 6
    assert content["comparisons"][1]["delta"] == pytest.approx(0.11)
