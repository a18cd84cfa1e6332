import pytest

from finetune.config.compose import compose
from finetune.data import findings, leaks
from finetune.data.loaded import Loaded
from finetune.records import Pair, Scored

CHECK = compose(["recipes=full"]).check
PLAIN = [(f"第{n}个问题是怎么回事", f"第{n}个答案在这里写明") for n in range(100, 140)]


def loaded(rows, **negatives):
    pairs = [Pair(str(n), q, p, "s", negatives.get(f"n{n}", ())) for n, (q, p) in enumerate(rows)]
    return Loaded(pairs, (), origin="a.jsonl", lines={pair.id: int(pair.id) + 1 for pair in pairs})


def look(rows, suspects=None, **negatives):
    found = findings.look(loaded(rows, **negatives), suspects or {}, CHECK)
    return {each.name: each for each in found}


def test_nothing_is_found_in_plain_pairs():
    assert look(PLAIN) == {}
    assert findings.look(Loaded((), ()), {}, CHECK) == []


def test_near_duplicates_name_the_row_that_they_repeat():
    first = ("房东拒绝退还押金怎么办", "押金应当在合同终止以后退还")
    found = look(
        [first, *PLAIN, (f"请问{first[0]}", first[1]), (first[0], "另外一个全然不同的答案")]
    )
    near = found["near duplicates"]
    assert (near.count, near.of, near.warning) == (1, 43, False)
    assert near.examples[0].place == "a.jsonl:42"
    assert near.examples[0].other.startswith("a.jsonl:1: 房东")


def test_a_negative_that_is_a_positive_elsewhere():
    rows = [("问甲", "答一"), ("問甲。", "答二"), *PLAIN]
    found = look(rows, n1=("答一！", "答三"))
    conflict = found["conflicting labels"]
    assert conflict.count == 1 and conflict.warning
    assert (conflict.examples[0].place, conflict.examples[0].other) == ("a.jsonl:1", "a.jsonl:2")
    assert found["given negatives"].count == 1


def test_boilerplate_answers_questions_that_have_nothing_in_common():
    asked = ["快递几天到", "发票能开吗", "尺码偏大么", "颜色有红的没", "会员怎么退", "电池多久没电",
             "屏幕碎了", "能便宜点不", "赠品漏发", "地址写错", "密码忘记", "保修几年"]  # fmt: skip
    greeting = [(text, "您好，有什么可以帮您？") for text in asked]
    article = [(f"离婚{text}", "夫妻双方自愿离婚的，应当签订书面离婚协议") for text in asked]
    found = look([*greeting, *article])["boilerplate positives"]
    assert (found.count, found.warning) == (12, True)
    assert found.examples[0].text.startswith("您好") and "快递" in found.examples[0].other


def test_boilerplate_in_other_words_is_the_same():
    asked = ["快递几天到", "发票能开吗", "尺码偏大么", "颜色有红的没", "会员怎么退", "电池多久没电",
             "屏幕碎了", "能便宜点不", "赠品漏发", "地址写错", "密码忘记", "保修几年"]  # fmt: skip
    said = ["尊敬的客户，请问有什么可以帮到您的？", "尊敬的客户，请问有什么可以帮到您呢？"]
    look_like = [(text, said[row % 2]) for row, text in enumerate(asked)]
    other = [(text, f"尊敬的客户，您的第{row % 2}笔订单请问有什么可以帮到您？")
             for row, text in enumerate(asked)]  # fmt: skip
    assert look(look_like)["boilerplate positives"].count == 12
    assert "boilerplate positives" not in look(other)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("これは日本語です", "kana"),
        ("한국어 문장", "hangul"),
        ("How do I get my deposit back", "mostly English"),
        ("答案<br>在这里", "HTML remains"),
        ("押金应当退还�", "broken encoding"),
        ("头髮", "both scripts in one text"),
    ],
)
def test_what_is_in_a_text(text, name):
    found = look([*PLAIN[:10], ("问题", text)])[name]
    assert found.count == 1 and found.examples[0].place == "a.jsonl:11"
    if name in ("kana", "hangul", "mostly English"):
        assert found.warning and "model=multilingual-e5-base" in found.fix


def test_compatibility_characters_are_counted_by_text_and_shown_with_what_they_stand_for():
    rows = [("面积①，㎡", "好，是！对？不；（甲）：乙"), *PLAIN[:10], ("Ａ１是什么", "ｶﾀｶﾅ①①")]
    found = look(rows)["compatibility characters"]
    assert (found.count, found.of, found.unit, found.warning) == (3, 24, "texts", False)
    assert [(each.place, each.text, each.other) for each in found.examples] == [
        ("a.jsonl:1", "面积①，㎡", "① → 1, ㎡ → m2"),
        ("a.jsonl:12", "Ａ１是什么", "Ａ → A, １ → 1"),
        ("a.jsonl:12", "ｶﾀｶﾅ①①", "ｶ → カ, ﾀ → タ, ﾅ → ナ, ① → 1"),
    ]


def test_a_base_that_reads_other_languages_is_not_advised_again():
    rows = loaded([*PLAIN[:10], ("问题", "한국어 문장")])
    (found,) = findings.look(rows, {}, CHECK, multilingual=True)
    assert (found.name, found.count, found.warning) == ("hangul", 1, False)
    assert "model=" not in found.fix and "multilingual" in found.meaning


def test_a_share_below_the_limit_is_a_note():
    assert not look([*PLAIN * 3, ("問題い", "これは日本語")])["kana"].warning


def test_a_set_in_both_scripts_is_a_warning():
    rows = [(f"问题{n}", f"答{n}") for n in range(10)] + [
        (f"問題{n}", f"回應{n}") for n in range(10)
    ]
    assert look(rows)["Traditional"].warning


def test_leaks_that_were_not_dropped_are_shown():
    found = look(PLAIN, {"0": (leaks.LEAK, "dev: query 1"), "1": (leaks.GOLD, "dev: passage 2")})
    assert found[leaks.LEAK].warning and not found[leaks.GOLD].warning
    assert found[leaks.LEAK].examples[0].other == "dev: query 1"


def test_scored_pairs_are_looked_at_too():
    rows = [Scored(str(n), "한국어", f"第{n}句", 1.0, "s") for n in range(100, 130)]
    found = {each.name for each in findings.look(Loaded(rows, ()), {}, CHECK)}
    assert found == {"hangul"}
