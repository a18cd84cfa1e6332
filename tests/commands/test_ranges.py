import pytest
import yaml

from finetune.commands import ranges, tune
from finetune.commands.ranges import Range, read_search
from finetune.config.compose import ROOT, choices, compose
from finetune.errors import UserError

FILES = sorted((ROOT / "configs/tune").glob("*.yaml"))


def problems(*overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_search(overrides)
    return list(caught.value.problems)


def test_the_default_search():
    search = read_search(["recipes=full", "seed=7"])
    assert search.trials == 20 and search.fixed == ["recipes=full", "seed=7"]
    assert list(search.space) == ["train.learning_rate", "loss.scale"]
    rate = search.space["train.learning_rate"]
    assert (rate.low, rate.high, rate.log, rate.whole) == (5e-6, 5e-4, True, False)
    assert search.as_is == compose(["recipes=full", "seed=7"])


def test_the_rank_is_searched_where_there_is_one():
    space = read_search(["recipes=lora"]).space
    assert space["adapter.peft.r"].choices == ("4", "8", "16", "32")
    assert "adapter.peft.r" not in read_search(["recipes=prefix"]).space


@pytest.mark.parametrize("recipe", choices("recipes"))
def test_a_search_begins_with_the_run_as_it_is(recipe):
    search = read_search([f"recipes={recipe}"])
    assert tune._values_as_is(search).keys() == search.space.keys() != set()


def test_a_value_outside_the_range_of_the_file_is_in_the_middle_of_its_own():
    rate = read_search(["recipes=prefix"]).space["train.learning_rate"]
    assert (rate.low, rate.high, rate.log, rate.whole) == (5e-4, 5e-2, True, False)
    assert rate.expression == "tag(log, interval(0.0005, 0.05))"


def test_a_whole_number_outside_the_range_stays_whole(monkeypatch):
    space = {"train.batch_size": "choice(4, 8)", "mine.negatives": "int(interval(20, 30))"}
    monkeypatch.setattr(ranges, "_read_file", lambda name: {"trials": 3, "space": space})
    found = read_search(["recipes=contrastive", "mine.candidates=200"]).space
    expected = {"train.batch_size": (3, 320), "mine.negatives": (1, 20)}  # of 32 and 2
    assert {key: (each.low, each.high) for key, each in found.items()} == expected
    assert all(each.whole and each.log for each in found.values())


def test_the_scale_of_a_loss_inside_another_is_searched():
    space = read_search(["recipes=matryoshka"]).space
    assert list(space) == ["train.learning_rate", "loss.loss.scale"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_of_searches(path, monkeypatch):
    content = yaml.safe_load(path.read_text("utf-8"))
    assert set(content) == {"trials", "space"} and path.stem in choices("tune")
    monkeypatch.setattr(ranges, "value_of", lambda config, key: 1.0)  # as if the run had every key
    monkeypatch.setattr(ranges, "compose", lambda overrides: None)
    space = read_search([f"tune={path.stem}"]).space
    assert set(space) == set(content["space"])
    assert all(each.choices or each.low < each.high for each in space.values())


def test_a_key_that_the_run_does_not_have_is_not_searched(monkeypatch):
    space = {"loss.scale": "interval(20, 50)", "adapter.peft.rank_": "choice(4, 8)"}
    monkeypatch.setattr(ranges, "_read_file", lambda name: {"trials": 3, "space": space})
    assert list(read_search(["recipes=full"]).space) == ["loss.scale"]


def test_the_command_line_sets_and_gives_ranges():
    search = read_search([
        "recipes=full", "tune.trials=5", "loss.scale=30", "train.epochs=interval(1,3)",
        "train.batch_size=interval(8,64)", "mine.negatives=range(1,4)", "mine=positive_aware",
        "train.learning_rate=choice(1e-5,2e-5)",
    ])  # fmt: skip
    assert search.trials == 5
    assert search.fixed == ["recipes=full", "loss.scale=30", "mine=positive_aware"]
    assert search.space == {
        "train.epochs": Range("interval(1,3)", low=1, high=3),
        # whole, since the run's own value is
        "train.batch_size": Range("interval(8,64)", low=8, high=64, whole=True),
        "mine.negatives": Range("range(1,4)", choices=("1", "2", "3")),
        "train.learning_rate": Range("choice(1e-5,2e-5)", choices=("1e-05", "2e-05")),
    }


def test_parts_can_be_searched_too():
    search = read_search(["recipes=full,contrastive", "tune.trials=2"])
    assert search.space["recipes"].choices == ("full", "contrastive")
    assert search.as_is.recipe == "full"


@pytest.mark.parametrize(
    ("each", "value", "text"),
    [
        (Range("", low=0, high=1), 0.000123456, "0.000123"),
        (Range("", low=0, high=1), 1.23456e-5, "1.23e-05"),
        (Range("", low=0, high=100), 50.0, "50"),
        (Range("", low=0, high=9999, whole=True), 1234, "1234"),
        (Range("", choices=("a", "b")), "b", "b"),
    ],
)
def test_values_as_the_command_line_has_them(each, value, text):
    assert each.text(value) == text


@pytest.mark.parametrize(
    ("overrides", "phrases"),
    [
        (["recipes=ful"], ["did you mean 'full'?"]),
        (["domain=legal"], ["recipes: none named"]),
        (["recipes=full", "until=train", "run_dir=a"], ["until=train", "run_dir=a"]),
        (["recipes=full", "tune.trails=3"], ["did you mean 'tune.trials'?"]),
        (["recipes=full", "tune=big"], ["choose from: default"]),
        (["recipes=full", "tune.trials=0"], ["expected a whole number"]),
        (["recipes=full", "tune.trials=many"], ["expected a whole number"]),
        (["recipes=full", "train.epoch=interval(1,2)"], ["did you mean 'train.epochs'?"]),
        (["recipes=full", "train.epochs=interval(0,2)"], ["train.epochs=0.0: must be greater"]),
        (["recipes=full", "train.warmup=interval(0,2)"], ["train.warmup=2.0: must be at most 1"]),
        (["recipes=full", "train.warmup=interval(1,0)"], ["expected the lower end first"]),
        (["recipes=full", "train.warmup=tag(log,interval(0,1))"], ["lower end greater than 0"]),
        (["recipes=full", "hardware.device=choice(cpu,tpu)"], ["hardware.device=tpu"]),
        (["recipes=full", "loss.scale=50", "train.learning_rate=2e-5"], ["nothing to search"]),
    ],
)
def test_what_cannot_be_searched(overrides, phrases):
    found = problems(*overrides)
    assert len(found) == len(phrases)
    assert all(phrase in problem for phrase, problem in zip(phrases, found, strict=True))
