import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from finetune.config.choices import Kind
from finetune.config.pairs import Domain
from finetune.data.card import Allows, Card, Origin, read_card
from finetune.errors import UserError

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "data_cards").glob("*.md"))
DOMAINS = sorted((ROOT / "configs/domain").glob("*.yaml"))
# Sets that stand beside a domain: mixed into its training, or asked against forgetting.
MIXED = {
    name: each
    for path in sorted((ROOT / "configs/mix").glob("*.yaml"))
    for name, each in OmegaConf.to_container(OmegaConf.load(path)).items()
}
MODELS = {path.stem: OmegaConf.load(path) for path in (ROOT / "configs/model").glob("*.yaml")}


def stem(path: Path) -> str:
    return path.stem


@pytest.fixture(params=CARDS, ids=stem)
def card(request):
    return read_card(request.param)


def named_in(path: Path) -> set[str]:
    """The sets under ``paths.data`` and of the hub that a file of configuration names."""
    lines = path.read_text(encoding="utf-8").splitlines()
    given = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    local = re.findall(r"\$\{paths\.data\}/(?:sts/)?(\w+)", given)
    return {*local, *re.findall(r": (\w[\w-]+/[\w.-]+)@", given)}


def test_every_set_that_a_config_names_has_a_card_and_every_card_a_config():
    files = [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "recipes").glob("*.yaml")]
    named = {path.stem for path in DOMAINS} | set(MIXED) | set().union(*map(named_in, files))
    assert sorted(path.stem for path in CARDS) == sorted(named)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("general: ${paths.data}/lcqmc_general", "lcqmc_general"),
        ("train: C-MTEB/BQ@0123abc:train", "C-MTEB/BQ"),
        ("train: ${paths.data}/sts/afqmc/train.jsonl", "afqmc"),
    ],
)
def test_sets_are_found_wherever_a_config_names_them(tmp_path, line, name):
    (tmp_path / "mine.yaml").write_text(line + "\n")
    assert named_in(tmp_path / "mine.yaml") == {name}


def test_no_card_without_a_licence_line(card):
    assert set(card.licence) == {origin.name for origin in card.source}
    assert card.licence_line.startswith(card.allows.value)
    assert all(name in card.licence_line for name in card.licence)


def test_what_is_allowed_is_what_the_strictest_licence_allows(card):
    lines = [line.lower() for line in card.licence.values()]
    if any("research only" in line for line in lines):
        assert card.allows is Allows.research_only
    elif any("unknown" in line for line in lines):
        assert card.allows is Allows.unknown
    else:
        assert card.allows is Allows.commercial


def test_contamination_names_models_that_exist(card):
    assert set(card.contamination) <= set(MODELS)


def test_a_model_that_declares_a_source_of_the_card_is_named(card):
    names = {origin.name.lower() for origin in card.source}
    declared = {
        model
        for model, config in MODELS.items()
        if names & {name.lower() for name in config.trained_on}
    }
    assert declared <= set(card.contamination)


FILES = {
    Kind.pairs: ("corpus.jsonl", "queries.jsonl", "qrels.tsv"),
    Kind.scored: ("train.jsonl", "test.jsonl"),
}


@pytest.mark.parametrize("path", DOMAINS, ids=stem)
def test_a_domain_has_the_keys_of_the_schema_and_its_card_tells_its_files(path):
    raw = OmegaConf.create({"paths": {"data": "DATA"}, "domain": OmegaConf.load(path)})
    OmegaConf.resolve(raw)
    domain = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Domain), raw.domain))
    assert domain.name == path.stem
    assert set(raw.domain) == set(OmegaConf.structured(Domain))
    told = " ".join(read_card(ROOT / f"data_cards/{path.stem}.md").files)
    if domain.train and domain.dev:
        dev = domain.dev.relative_to("DATA").as_posix()
        expected = [Path(domain.train).relative_to("DATA").as_posix()]
        expected += [f"{dev}/{name}" for name in FILES[domain.kind]]
        assert [name for name in expected if name not in told] == []


@pytest.mark.parametrize("name", sorted({name for name, each in MIXED.items() if each["train"]}))
def test_the_card_of_a_mixed_set_tells_its_files(name):
    raw = OmegaConf.create({"paths": {"data": "DATA"}, "mix": MIXED[name]})
    told = " ".join(read_card(name).files)
    assert Path(raw.mix.train).relative_to("DATA").as_posix() in told
    assert [each for each in FILES[Kind.pairs] if f"{name}/{each}" not in told] == []


@pytest.mark.parametrize("path", DOMAINS, ids=stem)
def test_what_a_domain_holds_is_what_its_card_evaluates(path):
    task = read_card(ROOT / f"data_cards/{path.stem}.md").task.value
    assert {"pairs": "retrieval", "scored": "similarity"}[OmegaConf.load(path).kind] == task


@pytest.mark.parametrize("path", DOMAINS, ids=stem)
def test_columns_of_the_domain_are_told_by_its_card(path):
    card = read_card(ROOT / f"data_cards/{path.stem}.md")
    assert set(OmegaConf.load(path).columns.values()) <= set(card.columns)


def test_a_card_is_found_by_its_domain():
    assert read_card("legal") == read_card(ROOT / "data_cards/legal.md")


FRONT = {
    "name": "toy",
    "task": "retrieval",
    "language": "zh",
    "script": "both",
    "source": [{"name": "a", "id": "owner/a", "revision": "0.1"}],
    "licence": {"a": "MIT"},
    "allows": "commercial",
    "columns": {"query": "问题", "positive": "回答"},
    "sizes": {"train": 3, "dev": "unknown"},
    "pairs": {"train": "as given"},
    "known_flaws": ["small"],
    "contamination": {},
    "files": [],
}


def written(folder, front, prose="# 玩具\n\ntext\n"):
    path = folder / "toy.md"
    text = front if isinstance(front, str) else yaml.safe_dump(front, allow_unicode=True)
    path.write_text(f"---\n{text}---\n{prose}", encoding="utf-8")
    return path


def test_a_valid_card(tmp_path):
    card = read_card(written(tmp_path, FRONT))
    assert isinstance(card, Card)
    assert card.source == (Origin("a", "owner/a", "0.1"),)
    assert card.sizes == {"train": 3, "dev": "unknown"}
    assert card.licence_line == "commercial (a: MIT)"


def test_a_rule_in_the_prose_does_not_end_the_front_matter(tmp_path):
    card = read_card(written(tmp_path, FRONT))
    assert read_card(written(tmp_path, FRONT, "one\n\n---\n\nlanguage: en\n")) == card


@pytest.mark.parametrize("key", sorted(FRONT))
def test_a_missing_key_is_named(tmp_path, key):
    front = {name: value for name, value in FRONT.items() if name != key}
    with pytest.raises(UserError, match=f"toy.md:1: {key} is missing"):
        read_card(written(tmp_path, front))


@pytest.mark.parametrize("key", sorted(set(FRONT) - {"contamination", "files"}))
def test_an_empty_value_is_no_fact(tmp_path, key):
    empty = type(FRONT[key])()
    with pytest.raises(UserError, match=rf"toy.md:\d+: {key}"):
        read_card(written(tmp_path, FRONT | {key: empty}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"license": "MIT"}, "unknown key 'license'; did you mean 'licence'?"),
        ({"name": "other"}, "name=other: expected toy"),
        ({"task": "guess"}, "task=guess: expected one of retrieval, similarity"),
        ({"allows": "all"}, "expected one of commercial, research-only, unknown"),
        ({"allows": ["commercial"]}, "expected one of commercial"),
        ({"language": 3}, "language=3: expected a text"),
        ({"known_flaws": "none"}, "expected a list of texts"),
        ({"sizes": {"train": "many"}}, "whole numbers or 'unknown'"),
        ({"sizes": {"train": True}}, "whole numbers or 'unknown'"),
        ({"sizes": {"train": -1}}, "whole numbers or 'unknown'"),
        ({"source": [{"name": "a", "id": "b"}]}, "a list of {name, id, revision}"),
        ({"source": [{"name": "a", "id": "b", "revision": 0.1}]}, "quote numbers"),
        ({"source": None}, "a list of {name, id, revision}"),
        ({"licence": {"b": "MIT"}}, "source 'a' has no licence line"),
        ({"licence": {"a": "MIT", "b": "MIT"}}, "licence of 'b': no such source"),
        ({"licence": None}, "a mapping of texts to texts"),
        ({"licence": {"a": ""}}, "a mapping of texts to texts"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected(tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        read_card(written(tmp_path, FRONT | change))
    assert message in str(caught.value)


def test_all_problems_are_told_at_once_with_their_lines(tmp_path):
    text = "name: other\ntask: guess\n" + yaml.safe_dump(
        {key: value for key, value in FRONT.items() if key not in ("name", "task", "pairs")}
    )
    with pytest.raises(UserError) as caught:
        read_card(written(tmp_path, text))
    places = sorted(problem.split(": ")[0].rsplit(":", 1)[1] for problem in caught.value.problems)
    assert places == ["1", "2", "3"]  # pairs is missing, name, task


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: expected YAML front matter"),
        (b"# no front matter\n", ":1: expected YAML front matter"),
        (b"---\nname: toy\n", ":1: expected YAML front matter"),
        (b"---\nname: [\n---\n", "front matter is not YAML"),
        (b"---\nname: a: b\n---\n", ":2: front matter is not YAML"),
        (b"---\nname: \x00\n---\n", "front matter is not YAML"),
        (b"---\n- a list\n---\n", ":2: front matter must be 'key: value' lines"),
        (b"---\nname: \xff\n---\n", "not UTF-8 (byte 10)"),
    ],
)
def test_a_file_that_is_no_card(tmp_path, content, message):
    path = tmp_path / "toy.md"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_card(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_card_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such data card"):
        read_card(tmp_path / "toy.md")


def test_no_torch():
    code = "import sys, finetune.data.card; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
