import random

import datasketch
import numpy as np
import pytest

from finetune.data import near

LEAST = 0.7
TEXT = "因为房东去年春天拒绝退还我的押金金额是3500元请问可以要求他赔偿吗"


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("请问", ""),
        ("因为", "由于"),
        ("吗", "呢"),
        ("可以", "能"),
        ("的押", "押"),
        ("房东", "现在房东"),
        ("房东", "房房东"),  # a character twice
        ("金额", "额金"),  # two that changed places
    ],
)
def test_words_without_content_and_slips_make_no_other_text(old, new):
    assert near.alike(TEXT, changed(old, new), LEAST)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("3500", "3501"),
        ("3500", "5300"),
        ("拒绝", "没有拒绝"),
        ("可以", "不可以"),
        ("可以", "必须"),
        ("可以", "应"),
        ("房东", "中介"),
        ("他赔", "我赔"),
        ("押金", "定金"),
        ("3500", "33500"),
    ],
)
def test_numbers_negations_and_content_words_do(old, new):
    assert not near.alike(TEXT, changed(old, new), LEAST)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("劳动合同试用期三个月怎么算", "劳动合同试用期三月怎么算"),
        ("医院下午一点可以挂号吗", "医院下午可以挂号吗"),
        ("驾校本地人报名要什么材料", "驾校本人报名要什么材料"),
        ("驾照考试科目二不过怎么处理", "驾照考试科目二过了怎么处理"),
        ("去年年底的工资公司怎么算", "年底的工资公司怎么算"),
        ("公司应付账款的处理流程", "公司应收账款的处理流程"),
        ("劳动仲裁和解的流程是什么", "劳动仲裁了解的流程是什么"),
        ("朋友欠钱还钱的时候怎么写收据", "朋友欠钱要钱的时候怎么写收据"),
    ],
)
def test_light_characters_within_words_do_too(one, other):
    assert not near.alike(one, other, LEAST)


def test_of_least_1_all_bigrams_count():
    assert near._jaccard(TEXT, changed("请问", "")) > LEAST
    assert not near.alike(TEXT, changed("请问", ""), 1.0)


def test_texts_that_share_too_few_bigrams_are_apart():
    assert not near.alike("押金", "请问押金可以要求退还吗现在", LEAST)
    assert near.alike("押金", "押金", LEAST)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("离婚财产怎么分割", "离婚财产如何分割"),
        ("被公司辞退怎么办", "被公司辞退咋办"),
        ("蚂蚁借呗多久会到账", "蚂蚁借呗多久能到账"),
        ("身份证过期了可以使用借呗吗", "身份证过期可以使用借呗么"),
        ("我借呗逾期一天有什么影响吗", "借呗逾期一天有影响么"),
        ("怎么将借呗变成网商贷", "怎么把借呗变成网商贷"),
        ("离婚协议应该写哪些财产", "离婚协议应当写哪些财产"),
        ("胃痛应该吃什么药", "胃痛要吃什么药"),
        ("商家应该按照几倍价格赔偿", "商家应该按几倍价格赔偿"),
        ("早期肺癌查出来怎么治", "早期肺癌查出怎么治"),
        ("如何给苹果账户充值", "怎样为苹果账户充值"),
        ("花呗支付时有手续费吗", "花呗支付有手续费么"),
    ],
)
def test_short_questions_are_near_where_all_that_is_asked_is_the_same(first, second):
    assert near.alike(first, second, LEAST) and not near.alike(first, second, 1.0)
    others = [*texts(20), second]
    assert list(near.between([first], others, LEAST)) == [(0, 20)]
    assert list(near.within([first, *others], LEAST)) == [(0, 21)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("离婚财产怎么分割", "离婚孩子怎么分割"),
        ("被公司辞退怎么办", "没被公司辞退怎么办"),
        ("第15条怎么说", "第16条如何说"),
        ("孩子被老师打伤", "孩子把老师打伤"),
        ("我打伤他要赔多少钱", "他打伤我要赔多少钱"),
        ("从北京到上海的机票", "到北京从上海的机票"),
        ("试用期满必须签劳动合同吗", "试用期满可以签劳动合同吗"),
        ("怎么离婚", "如何离婚"),  # too little to tell what is asked
        ("关闭了花呗，还可以再开通吗", "关闭花呗能否再开通"),  # too little is shared
    ],
)
def test_short_questions_are_apart_where_it_is_not(first, second):
    assert not near.alike(first, second, LEAST)
    assert list(near.between([first], [second], LEAST)) == []


def test_the_signatures_are_those_of_datasketch():
    """The same permutations and the same minima, for all texts at once."""
    texts = ["房东不退押金", "押", TEXT]
    ours = near._signatures(texts)
    hashes, starts = near._bigrams(texts)
    for row, (start, end) in enumerate(zip(starts, [*starts[1:], len(hashes)], strict=True)):
        theirs = datasketch.MinHash(64, seed=1, scheme="affine32", hashfunc=lambda h: h)
        raw = _unmixed(texts[row])
        theirs.update_batch(raw)
        assert len(raw) == end - start
        np.testing.assert_array_equal(ours[row], theirs.hashvalues)


def _unmixed(text: str) -> list[int]:
    codes = [ord(char) for char in text + "\n"]
    return [(a * 0x9E3779B1 + b) % 2**32 for a, b in zip(codes, codes[1:], strict=False)]


def texts(count: int) -> list[str]:
    draw = random.Random(0)
    words = "房东押金工资老板网店商品离婚财产孩子抚养学校老师医院医生合同规定快递手机发票".strip()
    return ["".join(draw.choices(words, k=35)) for _ in range(count)]


def test_near_duplicates_are_found_among_many_and_only_those():
    base = texts(1500)
    edited = [text[:10] + "请问" + text[10:] for text in base[::5]]
    found = set(near.within([*base, *edited], LEAST))
    wanted = {(5 * index, 1500 + index) for index in range(300)}
    assert found <= wanted and len(found) >= 0.98 * len(wanted)


def test_near_duplicates_between_two_lists():
    base = texts(300)
    others = [base[7] + "呢", "完全不同的一句话在这里"]
    assert list(near.between(base, others, LEAST)) == [(7, 0)]
    assert list(near.between(base, [], LEAST)) == list(near.between([], base, LEAST)) == []


def test_one_text_and_short_texts():
    assert list(near.within(["问"], LEAST)) == []
    assert list(near.within(["问", "答", "问题"], LEAST)) == []


def test_texts_without_letters_may_hold_line_ends():
    rows = ["？\n！", "…\n\n", TEXT, f"请问{TEXT}"]
    assert list(near.within(rows, LEAST)) == [(2, 3)]
