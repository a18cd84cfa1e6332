"""Made questions with answers that never repeat, and ways to write one otherwise."""

import random
from collections.abc import Iterator
from typing import Any

WHO = (
    "房东 租客 老板 同事 邻居 前夫 婆婆 中介 物业 医生 护士 老师 校长 商家 快递员 保险公司 "
    "银行 包工头 开发商 学校 医院 工厂 法院 朋友 亲戚 客户 供应商 司机 保姆 教练"
).split()
WHAT = (
    "押金 工资 房租 学费 货款 定金 保险金 医药费 彩礼 抚养费 赔偿款 奖金 借款 退款 公积金 "
    "社保 房产 车位 手机 电脑 冰箱 洗衣机 电动车 家具 衣服 合同 发票 收据 证明 档案"
).split()
DID = (
    "拖欠 拒绝 扣留 弄丢 损坏 转让 隐瞒 伪造 退回 更换 出租 抵押 继承 分割 冻结 起诉 投诉 "
    "举报 调解 公证 申请 取消 延期 修理 检查 登记 注销 审批 报销 垫付"
).split()
WHERE = (
    "北京 上海 广州 深圳 成都 重庆 武汉 西安 杭州 南京 天津 苏州 长沙 郑州 青岛 沈阳 大连 "
    "厦门 昆明 合肥 福州 济南 南昌 贵阳 太原 兰州 海口 银川 南宁 石家庄"
).split()
WHEN = (
    "去年春天 上个月 昨天下午 今年年初 国庆期间 疫情之后 搬家那天 签约当晚 毕业以后 离职前夕 "
    "结婚那年 住院期间 装修的时候 出差途中 开学之前 过年的时候 周末晚上 试用期内 怀孕期间 "
    "退休之前"
).split()
OPEN = [
    "{when}{who}在{where}{did}了我的{what}",
    "我{when}把{what}交给{where}的{who}，他却{did}了{what2}",
    "{where}的{who}说要{did}{what}",
    "因为{what}的事，{who}{when}{did}了{what2}",
    "{who}和{who2}在{where}为了{what}{did}{what2}",
    "听说{where}可以{did}{what}，{who}{when}已经去了",
]
MIDDLE = [
    "金额是{n}元，已经过了{m}天",
    "当时{who2}没有{did2}{what2}",
    "双方约定{m}天内付清{n}元",
    "我手里有{n}张{what2}的照片和{who2}的录音",
    "{who2}答应过{did2}，但是{m}个月都没有消息",
    "损失大概{n}元，{who2}也不肯{did2}",
]
ASK = [
    "这种情况我应该怎么办？",
    "请问可以要求{who}赔偿吗？",
    "我能不能去{where2}{did2}？",
    "应该找什么部门{did2}呢？",
    "这样做有什么后果？",
    "需要准备哪些{what2}？",
]
REPLY = [
    "根据规定，{who}{did}{what}的，应当在{m}天内向{where}的主管部门说明；",
    "{what}属于个人财产，{who}无权{did}；",
    "您可以保留{what2}作为证据，向{where2}的法院提出，时效为{n}天；",
    "建议先与{who2}协商，协商不成再{did2}{what2}；",
    "如果{who}已经{did}，{who2}承担连带责任，标准为每天{m}元；",
]


def slots(draw: random.Random) -> dict[str, Any]:
    """Words and numbers of a pair."""
    who, what, did, where = (draw.sample(each, 2) for each in (WHO, WHAT, DID, WHERE))
    return {"who": who[0], "who2": who[1], "what": what[0], "what2": what[1], "did": did[0],
            "did2": did[1], "where": where[0], "where2": where[1], "when": draw.choice(WHEN),
            "n": draw.randint(100, 99_999), "m": draw.randint(2, 90)}  # fmt: skip


def pair(draw: random.Random, words: dict[str, Any]) -> dict[str, str]:
    """A pair of three clauses each."""
    query = "，".join(draw.choice(each) for each in (OPEN, MIDDLE, ASK))
    positive = "".join(draw.sample(REPLY, 3))
    return {"query": query.format(**words), "positive": positive.format(**words)}


def pairs(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Different pairs: no two have the same numbers, words and clauses."""
    draw = random.Random(seed)
    seen: set[int] = set()
    while len(seen) < count:
        row = pair(draw, slots(draw))
        if hash(row["query"]) not in seen and len(row["query"]) >= 30:
            seen.add(hash(row["query"]))
            yield row


def trap(row: dict[str, str], draw: random.Random) -> dict[str, str] | None:
    """The pair with another number, negation or content word."""
    query = row["query"]
    changes = [("没有", "已经"), ("可以", "不可以"), ("可以", "必须"), ("答应过", "没答应"),
               ("应该", "可以"), ("个月", "月")]  # fmt: skip
    changes += [(word, draw.choice([each for each in words if each != word]))
                for words in (WHO, WHAT, DID, WHERE) for word in words]  # fmt: skip
    changes += [(digit, str((int(digit) + 1) % 10)) for digit in "123456789"]
    fitting = [(old, new) for old, new in changes if old in query]
    old, new = draw.choice(fitting)
    return {**row, "query": query.replace(old, new, 1)}


def punctuated(text: str, draw: random.Random) -> str:
    """The text in other punctuation, width and white space."""
    changed = text.translate(str.maketrans("，？；", draw.choice([",?;", "。！，", "  、"])))
    wide = {ord(str(digit)): chr(0xFF10 + digit) for digit in range(10)}
    return draw.choice(
        [changed, changed.translate(wide), " ".join(changed[:9]) + changed[9:] + "。"]
    )


# Edits of at most two characters.
EXCHANGED = [
    ("怎么办", "咋办"), ("可以", "能"), ("能不能", "能否"), ("应该", "应当"), ("请问", ""),
    ("什么", "啥"), ("呢", "呀"), ("吗", "么"), ("因为", "由于"), ("的", ""), ("了", ""),
    ("已经", "已"), ("这种", "这个"), ("但是", "可是"), ("和", "与"), ("如果", "若"),
    ("您", "你"), ("，他却", "，却"), ("也", ""),
]  # fmt: skip
ADDED = "请问 您好 就 都 呢 啊 吧 的话 其实 现在 那个 嗯 目前".split()


def edited(text: str, draw: random.Random) -> str:
    """The text with one edit that changes no number, negation or content word."""
    fitting = [(old, new) for old, new in EXCHANGED if old in text]
    how = draw.random()
    if how < 0.5 and fitting:
        old, new = draw.choice(fitting)
        return text.replace(old, new, 1)
    if how < 0.8:
        clauses = text.split("，")
        place = draw.randrange(len(clauses))
        clauses[place] = draw.choice(ADDED) + clauses[place]
        return "，".join(clauses)
    place = draw.choice([i for i in range(len(text) - 1) if text[i : i + 2].isalpha()
                         and not set(text[i : i + 2]) & set("不没无")])  # fmt: skip
    if how < 0.9:  # a doubled character
        return text[:place] + text[place] + text[place:]
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]  # two changed places
