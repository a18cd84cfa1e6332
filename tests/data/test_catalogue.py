"""Holds data_cards/public to ``published_sets.json``: no id, revision or licence from memory."""

import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from finetune.config.compose import compose
from finetune.data.card import read_card
from finetune.data.catalogue import FOLDER, Catalogue, PublicSet, find, read_catalogue
from finetune.data.contamination import plain
from finetune.data.hub import is_hub_id
from finetune.errors import UserError
from finetune.evaluation import cmteb

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads((Path(__file__).parent / "published_sets.json").read_text("utf-8"))
NAMES = sorted(set(PUBLISHED) - {"about"})
FACTS = [(name, fact) for name in NAMES for fact in PUBLISHED[name]]
GITHUB = "github.com/"
TRAINED_ON = {path.stem: OmegaConf.load(path).trained_on
              for path in (ROOT / "configs/model").glob("*.yaml")}  # fmt: skip


@cache
def sets(name) -> dict[str, PublicSet]:
    return {each.name: each for each in read_catalogue(name).sets}


def commands() -> list[tuple[PublicSet, str]]:
    found = [(each, re.search(r"python train\.py .*", each.use))
             for name in NAMES for each in sets(name).values()]  # fmt: skip
    return [(each, match[0]) for each, match in found if match]


@pytest.fixture(params=FACTS, ids=lambda param: f"{param[0]}-{param[1]['name']}")
def listed(request):
    """A set as its catalogue has it, and what was published of it."""
    name, fact = request.param
    return sets(name)[fact["name"]], fact


def test_every_task_that_a_config_evaluates_has_a_card():
    named = {
        task
        for path in (ROOT / "configs/evaluate").glob("*.yaml")
        for task in OmegaConf.load(path).get("cmteb_tasks", [])
    }
    assert named
    assert sorted(named - set(sets("cmteb"))) == []
    assert list(sets("cmteb")) == list(cmteb.TASKS)


def test_every_published_set_is_listed_and_no_other():
    assert sorted(path.stem for path in FOLDER.glob("*.md")) == NAMES
    for name in NAMES:
        assert list(sets(name)) == [fact["name"] for fact in PUBLISHED[name]]


def test_the_id_is_the_published_one(listed):
    each, fact = listed
    if fact["id"] is not None:
        assert each.id == fact["id"]
    elif each.id != "unknown":
        assert each.id.startswith(GITHUB) and each.id.removeprefix(GITHUB) in fact["source"]


def test_the_revision_is_the_published_one(listed):
    each, fact = listed
    if fact["revision"] is not None:
        assert each.revision == fact["revision"]
    elif each.revision != "unknown":
        (commit,) = re.findall(r"\b[0-9a-f]{7,40}\b", each.revision)
        assert f"@ {commit}" in fact["source"]


def test_the_licence_is_the_published_one(listed):
    each, fact = listed
    stated = fact["licence"]
    # What others flag is no licence: it stands behind the word unknown.
    if stated is None or re.search("not specified|m3e card|card flags", stated):
        assert re.fullmatch(r"unknown( \(.+\))?", each.licence)
    else:
        assert each.licence == stated


def test_nothing_more_is_allowed_than_the_licence_says():
    everything = [each for name in NAMES for each in sets(name).values()]
    free = {each.licence for each in everything if each.allows == "commercial"}
    assert [each for each in sorted(free) if not re.match("(?i)apache|mit|cc-by-4", each)] == []
    strict = {each.allows for each in everything if re.search("BY-NC|^README: non", each.licence)}
    assert strict == {"research-only"}


def test_a_model_that_declares_a_set_is_named():
    missing = [
        (each.name, model)
        for name in NAMES for each in sets(name).values() for model, seen in TRAINED_ON.items()
        if ({plain(each.name), plain(each.id.split("/")[-1])} & set(map(plain, seen))) - {"unknown"}
        and model not in re.findall(r"[\w-]+", each.contamination)
    ]  # fmt: skip
    assert missing == []


def test_the_source_of_the_facts_is_told(listed):
    each, fact = listed
    assert each.source == fact["source"]


@pytest.mark.parametrize("fact", PUBLISHED["cmteb"], ids=lambda fact: fact["name"])
def test_a_task_tells_what_it_is_scored_by(fact):
    pairs = fact["type"] == "PairClassification"  # published and reported as average precision
    metric = "cosine_ap" if pairs else fact["main_score"]
    expected = f"{fact['type']}: {metric} on {', '.join(fact['splits'])}"
    assert sets("cmteb")[fact["name"]].use == expected
    assert cmteb.TASKS[fact["name"]] == fact["type"]


@pytest.mark.parametrize(("each", "command"), commands())
def test_a_command_line_is_one_and_reads_the_set(each, command):
    config = compose(shlex.split(command)[2:])
    domain = config.domain
    if domain.name == "custom":
        words = set(re.findall(r"\w+", each.columns))
        assert set(domain.columns.values()) <= words
        if is_hub_id(domain.train):
            source, split = domain.train.split(":")
            assert source == f"{each.id}@{each.revision}"
            assert f"{split}: " in each.size
    else:
        sizes = read_card(domain.name).sizes
        assert domain.sources or list(config.mix) == ["general"]
        assert all(f"train, {source}" in sizes for source in domain.sources or ())


def test_some_set_of_every_domain_can_be_trained_on():
    able = {each for each, _ in commands()}
    assert [name for name in NAMES if not able & set(sets(name).values())] == ["cmteb"]


def test_a_repository_that_a_data_card_names_too_has_the_same_commit():
    known = {each.id: each.revision for name in NAMES for each in sets(name).values()}
    cards = [read_card(path) for path in sorted((ROOT / "data_cards").glob("*.md"))]
    both = {
        origin.id: (origin.revision, known[GITHUB + origin.id])
        for card in cards for origin in card.source if GITHUB + origin.id in known
    }  # fmt: skip
    assert len(both) >= 5
    assert [name for name, (short, whole) in both.items() if not whole.startswith(short)] == []


def test_a_set_is_found_by_its_hub_id():
    path, each = find("C-MTEB/BQ")
    assert path.parent == FOLDER
    assert (each.id, each.revision) == ("C-MTEB/BQ", "e3dda5e115e487b39ec7e618c0c6a29137052a55")
    assert find("nobody/nothing") is None


SET = dict.fromkeys(PublicSet.__dataclass_fields__, "unknown") | {"name": "a", "licence": "MIT"}


def written(folder, front):
    path = folder / "toy.md"
    text = yaml.safe_dump(front, sort_keys=False)
    path.write_text(f"---\n{text}---\n# 玩具\n", encoding="utf-8")
    return path


def test_a_valid_catalogue(tmp_path):
    path = written(tmp_path, {"name": "toy", "sets": [SET]})
    assert read_catalogue(path) == Catalogue("toy", (PublicSet(**SET),))


@pytest.mark.parametrize("key", sorted(SET))
def test_a_fact_that_is_missing_or_empty_is_named_with_its_line(tmp_path, key):
    other = {name: value for name, value in SET.items() if name != key}
    with pytest.raises(UserError, match=f"toy.md:16: .*{key} is missing; write 'unknown'"):
        read_catalogue(written(tmp_path, {"name": "toy", "sets": [SET, other]}))
    with pytest.raises(UserError, match=f"toy.md:4: .*{key}='': expected a text"):
        read_catalogue(written(tmp_path, {"name": "toy", "sets": [SET | {key: ""}]}))


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ({"name": "toy"}, ":1: sets is missing"),
        ({"sets": [SET]}, ":1: name is missing"),
        ({"name": "other", "sets": [SET]}, ":2: name=other: expected toy"),
        ({"name": "toy", "sets": [SET], "set": 1}, "unknown key 'set'; did you mean 'sets'?"),
        ({"name": "toy", "sets": []}, ":3: sets: expected a list of {name, id, "),
        ({"name": "toy", "sets": ["a"]}, ":3: sets: expected a list of {name, id, "),
        ({"name": "toy", "sets": {"a": SET}}, ":3: sets: expected a list of {name, id, "),
        (
            {"name": "toy", "sets": [SET | {"license": "MIT"}]},
            ":4: a: unknown key 'license'; did you mean 'licence'?",
        ),
        ({"name": "toy", "sets": [SET | {"revision": 0.1}]}, "revision=0.1: expected a text"),
        ({"name": "toy", "sets": [SET | {"allows": "all"}]}, "allows=all: expected one of commer"),
        ({"name": "toy", "sets": [SET, dict(SET)]}, ":16: a: a set of this name stands above"),
    ],
)
def test_a_wrong_catalogue_is_told_with_its_line(tmp_path, front, message):
    with pytest.raises(UserError) as caught:
        read_catalogue(written(tmp_path, front))
    assert message in str(caught.value)


def test_a_missing_catalogue_is_a_user_error():
    with pytest.raises(UserError, match="no such data card"):
        read_catalogue("nothing")
