"""The table of strings, and a page in Chinese."""

import copy
import dataclasses
import json
import re
import string

import pytest

from finetune import report
from finetune.config.choices import Lang
from finetune.report.words import Said, say, table, translated

CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Words that are the same in both languages: names of metrics, formats, artifacts and keys.
SAME = {"name.int8"}


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", table())
def test_every_string_is_there_in_both_languages(key):
    found = table()[key]
    assert found.keys() == {"en", "zh"}
    assert names(found["zh"]) <= names(found["en"])
    assert not CHINESE.search(found["en"])
    words = re.sub(r"{\w+}", "", found["zh"])
    assert CHINESE.search(words) or key in SAME or not re.search(r"\w{2}", words)


def test_a_sentence_is_english_and_can_be_said_in_chinese():
    first = Said("verdict.better", set="statutes", points="8.1", half="1.9")
    said = Said("verdict.whole", first=first, general=Said("verdict.unchanged"),
                int8=Said("verdict.int8-loses", points="0.2"))  # fmt: skip
    assert said == (
        "Better than the base on statutes by 8.1 ± 1.9 points; general ability unchanged; "
        "INT8 loses 0.2."
    )
    assert translated(Lang.zh, said) == (
        "在 statutes 上比基础模型高 8.1 ± 1.9 分；通用能力不变；INT8 损失 0.2。"
    )
    assert translated(Lang.zh, copy.deepcopy(said)) == translated(Lang.zh, said)
    assert translated(Lang.zh, "from elsewhere") == "from elsewhere"
    assert json.loads(json.dumps({"verdict": said})) == {"verdict": said}
    assert say(Lang.zh, "counted.pairs") == "个句对"


def test_the_page_in_chinese(facts, tmp_path):
    for lang in Lang:
        (tmp_path / lang.value).mkdir()
        report.build(dataclasses.replace(facts, lang=lang), tmp_path / lang.value)
    english, chinese = (tmp_path / lang.value for lang in (Lang.en, Lang.zh))
    page = (chinese / "report.html").read_text("utf-8")
    assert '<html lang="zh-CN">' in page
    assert "<h1>在 statutes 上比基础模型高 " in page and "INT8 无损失。</h1>" in page
    assert "提升：通过" in page and "INT8：通过" in page
    for heading in re.findall(r"<h[23]>([^<]+)", page):
        assert CHINESE.search(heading) or heading.strip().startswith("statutes"), heading
    for caption in re.findall(r"<figcaption>([^<]+)", page):
        assert CHINESE.search(caption), caption
    # What programs, the hubs and MLflow read is the same in either language.
    for name in ("report.json", "README.md"):
        assert (chinese / name).read_bytes() == (english / name).read_bytes()
