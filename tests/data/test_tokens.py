import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from finetune.data import tokens
from finetune.inference.script import converter
from finetune.records import Pair, write_json, write_jsonl
from finetune.script import OpenCC
from finetune.sets import EvaluationSet, write_set
from finetune.steps.reporting import tokens_of

CONVERTS = {"simplified": converter("t2s"), "traditional": converter("s2tw")}
WORDS = {"[UNK]": 0, "房": 1, "东": 2, "国": 3, "國": 4, "a": 5}


def tokenizer():
    made = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return made


def test_tokens_a_character_unknown_ones_and_texts_that_are_cut():
    found = tokens.report(tokenizer(), {"x": ["房东国", "a"], "none": []}, 2, CONVERTS)
    simplified, traditional = found["rows"]
    assert (simplified["set"], simplified["script"], simplified["texts"]) == ("x", "simplified", 2)
    assert (simplified["tokens_per_character"], simplified["unknown"], simplified["cut"]) == (
        1,
        0,
        0.5,
    )
    # 房東國: 東 is not in the vocabulary, one of four tokens.
    assert (traditional["script"], traditional["unknown"], traditional["cut"]) == (
        "traditional", 0.25, 0.5
    )  # fmt: skip
    assert found["unknown"]["simplified"] == {"characters": 0, "times": 0, "frequent": "", "of": 4}
    assert found["unknown"]["traditional"] == {
        "characters": 1, "times": 1, "frequent": "東", "of": 4
    }  # fmt: skip


def test_a_word_of_several_characters_is_fewer_tokens_than_characters():
    made = Tokenizer(models.Unigram([("<unk>", 0.0), ("法律", -1.0), ("法", -5.0)], unk_id=0))
    (row, _) = tokens.report(made, {"x": ["法律法"]}, 9, CONVERTS)["rows"]
    assert row["tokens_per_character"] == pytest.approx(2 / 3)
    assert tokens.unknown_id(made) == 0


def test_a_tokenizer_without_an_unknown_piece_knows_everything():
    made = Tokenizer(models.BPE({"a": 0}, []))
    assert tokens.unknown_id(made) is None
    assert tokens.unknown_characters(made, {"龘": 3}) == {}


def test_the_most_frequent_of_the_unknown_comes_first():
    counts = tokens.characters(["东丙乙乙房丙丙"], converter("keep"))
    assert list(tokens.unknown_characters(tokenizer(), counts).items()) == [("丙", 3), ("乙", 2)]


@pytest.mark.parametrize(
    ("char", "others"), [("东", {"東"}), ("產", {"产"}), ("干", {"幹", "乾"}), ("天", set())]
)
def test_counterparts(char, others):
    assert set(tokens.counterparts(char)) & {"東", "产", "幹", "乾"} <= others
    assert not others or set(tokens.counterparts(char)) & others


def test_the_texts_of_a_run(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "export/bundle").mkdir(parents=True)
    tokenizer().save(str(tmp_path / "export/bundle/tokenizer.json"))
    pair = Pair("1", "房", "东", "s", ("国国",))
    write_jsonl(tmp_path / "data/train.jsonl", [pair])
    select = EvaluationSet("dev", {"q": "a"}, {"d": "东东"}, {"q": {"d": 1}})
    write_set(tmp_path / "sets/select/dev", select)
    pairs, sets = tmp_path / "data", tmp_path / "sets"
    assert sorted(tokens.domain_texts([pairs])) == ["东", "国国", "房"]
    assert sorted(tokens.domain_texts([pairs], sets)) == ["a", "东", "东东", "国国", "房"]
    (tmp_path / "characters").mkdir()
    write_json(tmp_path / "characters/characters.json", {"東": "东"})
    inputs = {name: tmp_path / name for name in ("data", "export", "characters")}
    settings = {"script": "both", "opencc": OpenCC("s2hk", [], None, 0.0)}
    found = tokens_of(inputs, [select], 512, "law", settings)
    names = {row["set"]: row["texts"] for row in found["rows"]}
    assert names == {"law, training": 3, "dev, queries": 1, "dev, passages": 1}
    assert found["added"] == {"東": "东"}


@pytest.mark.parametrize(
    ("traditional", "words", "unknown"),
    [("s2tw", "", "裡"), ("s2hk", "", "裏"), ("s2tw", "房\t屋\n里\t內\n", "內屋")],
)
def test_the_report_looks_at_the_traditional_that_the_settings_name(
    tmp_path, traditional, words, unknown
):
    (tmp_path / "bundle").mkdir()
    tokenizer().save(str(tmp_path / "bundle/tokenizer.json"))
    write_jsonl(tmp_path / "train.jsonl", [Pair("1", "房", "a里", "s")])
    (tmp_path / "words.txt").write_text(words, "utf-8")
    inputs = {"data": tmp_path, "export": tmp_path, "dictionary": tmp_path / "words.txt"}
    settings = {"script": "both", "opencc": OpenCC(traditional, [], None, 0.0)}
    found = tokens_of(inputs, [], 512, "law", settings)
    assert found["unknown"]["traditional"]["frequent"] == unknown
