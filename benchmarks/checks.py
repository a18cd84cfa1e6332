"""The checks of the data: planted faults that they must find, and a million pairs.

python benchmarks/checks.py [--pairs 1000000]

Faults: 5,000 generated pairs without duplicates, a tenth of which differ from another in a number,
a negation or a content word only, and 500 planted ones. Pairs: all checks that need no model on
50,000, on ``--pairs``, and on 200,000 whose answers are ten times as long, each in a process of its
own; a twentieth answers two queries, and a fiftieth has a fault, which must be told, or stand in
the file of dropped rows. Writes ``benchmarks/results/checks.json``.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.runs import RESULTS
from opencc import OpenCC

from finetune.commands.checking import check, configuration
from finetune.config.choices import Duplicates
from finetune.data import leaks
from finetune.data.prepare import inspect, load_train
from finetune.data.rows import DUPLICATE
from finetune.records import read_dicts

BASE, TRAPS = 5_000, 500
KINDS = {"exact": 100, "punctuation": 100, "script": 100, "near": 200}
EVALUATED = 1_000
REPEATED = 20  # every so many pairs, one with the answer of the pair before it
FAULTY = 50  # every so many rows, one with a fault of the next kind
LEFT = {"near duplicates": 0.05}  # share that may be left, by the bar; of other faults none
LONG = 200_000, 10  # pairs, and how often an answer says everything

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


def faults(seed: int = 0) -> dict[str, Any]:
    """Plant faults and count which are found."""
    draw = random.Random(seed)
    rows = list(pairs(BASE - TRAPS, seed))
    rows += [row for row in (trap(each, draw) for each in draw.sample(rows, TRAPS)) if row]
    converters = [OpenCC(name).convert for name in ("s2t", "s2tw", "s2hk")]
    change: dict[str, Callable[[str], str]] = {
        "exact": lambda text: text,
        "punctuation": lambda text: punctuated(text, draw),
        "script": lambda text: draw.choice(converters)(text),
        "near": lambda text: edited(text, draw),
    }
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    chosen = draw.sample(range(len(rows)), len(kinds))
    planted = {}
    for kind, place in zip(kinds, chosen, strict=True):
        row = dict(rows[place])
        both = ["query", "positive"]
        sides = draw.choice([both, both[:1], both[1:]]) if kind == "near" else both
        row |= {side: change[kind](row[side]) for side in sides}
        rows.append(row)
        planted[len(rows)] = kind, place + 1
    found, false = _found(rows)
    hit = {kind: sum(line in found and found[line] == first
                     for line, (own, first) in planted.items() if own == kind)
           for kind in KINDS}  # fmt: skip
    alarms = sum(line not in planted for line in found) + false
    return {"rows": len(rows), "traps": TRAPS, "planted": KINDS, "found": hit,
            "recall": {kind: hit[kind] / KINDS[kind] for kind in KINDS},
            "false_alarms": alarms, "false_alarm_rate": alarms / BASE}  # fmt: skip


def _found(rows: list[dict[str, str]]) -> tuple[dict[int, int], int]:
    """The line that each duplicate collided with, near ones too; other rows that were dropped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        _write(path, rows)
        config = configuration(str(path), None, [])
        loaded, _ = inspect(load_train(config.domain, config.check), config.check)
    from finetune.data import groups

    line = [loaded.lines[each.id] for each in loaded.pairs]
    grouped = groups.group(loaded.pairs, lambda count: None)
    near = groups.near_pairs(loaded.pairs, grouped, config.check.near, lambda count: None)
    found = {line[j]: line[i] for i, j in near}
    other = 0
    for each in loaded.dropped:
        if each.reason in DUPLICATE.values():
            found[each.line] = int(each.collided_with.rpartition(":")[2])
        else:
            other += 1
    return found, other


def repeating(rows: Iterator[dict[str, str]], times: int) -> Iterator[dict[str, str]]:
    """The pairs, some with the answer of the one before, and each answer said so often."""
    answer = ""
    for index, row in enumerate(rows):
        answer = answer if index % REPEATED == REPEATED - 1 else row["positive"] * times
        yield {**row, "positive": answer}


def spoilt(
    rows: Iterator[dict[str, str]], asked: Sequence[str], planted: Counter[str]
) -> Iterator[str]:
    """The rows as lines, one in so many with a fault; counts how many of each were planted.

    Args:
        rows: Pairs.
        asked: Queries of the evaluation.
        planted: Where they are counted, by the reason or the finding under which they are told.
    """
    draw, convert = random.Random(3), OpenCC("s2tw").convert
    faults: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
        "duplicate": lambda row: row,
        DUPLICATE[Duplicates.punctuation]: lambda row: _both(row, lambda t: punctuated(t, draw)),
        DUPLICATE[Duplicates.script]: lambda row: _both(row, convert),
        "near duplicates": lambda row: {**row, "query": edited(row["query"], draw)},
        leaks.LEAK: lambda row: {**row, "query": draw.choice(asked)},
        "empty text": lambda row: {**row, "positive": " "},
        "not JSON": lambda row: row,
        "HTML remains": lambda row: {**row, "query": f"<b>{row['query']}</b>&nbsp;"},
    }
    last: dict[str, str] = {}
    for index, row in enumerate(rows):
        if index % FAULTY == FAULTY - 1:
            name = list(faults)[index // FAULTY % len(faults)]
            planted[name] += 1
            row = faults[name](last if "duplicate" in name else row)
            line = json.dumps(row, ensure_ascii=False)
            yield line[:-2] if name == "not JSON" else line
        else:
            last = row
            yield json.dumps(row, ensure_ascii=False)


def _both(row: dict[str, str], change: Callable[[str], str]) -> dict[str, str]:
    return {side: change(text) for side, text in row.items()}


def many(count: int, times: int) -> dict[str, Any]:
    """Check so many pairs against an evaluation set, as ``finetune check`` does."""
    planted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path, dev = Path(folder) / "pairs.jsonl", Path(folder) / "dev"
        dropped = Path(folder) / "dropped.jsonl"
        dev.mkdir()
        asked = list(pairs(EVALUATED, 2))
        lines = spoilt(repeating(pairs(count, 1), times), [row["query"] for row in asked], planted)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        _write(dev / "queries.jsonl", ({"id": str(i), "text": row["query"]}
                                       for i, row in enumerate(asked)))  # fmt: skip
        _write(dev / "corpus.jsonl", ({"id": str(i), "text": row["positive"]}
                                      for i, row in enumerate(asked)))  # fmt: skip
        (dev / "qrels.tsv").write_text("".join(f"{i}\t{i}\t1\n" for i in range(EVALUATED)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, used = time.perf_counter(), time.process_time()
        report = check(configuration(str(path), dev, []), dropped)
        listed = Counter(row["reason"] for row in read_dicts(dropped))
    seconds, used = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if report["pairs"] + listed.total() != count or listed != Counter(report["dropped"]):
        raise SystemExit("rows are missing")
    told = listed + Counter({each["name"]: each["count"] for each in report["findings"]})
    missed = {name: count for name, count in (planted - told).items()
              if count > LEFT.get(name, 0) * planted[name]}  # fmt: skip
    if missed:
        raise SystemExit(f"planted and not found: {missed}")
    return {
        "pairs": count, "times": times, "planted": planted, "kept": report["pairs"],
        "dropped": report["dropped"],
        "findings": {each["name"]: each["count"] for each in report["findings"]},
        "seconds": round(seconds, 1), "cpu_seconds": round(used, 1),
        "pairs_per_second": round(count / seconds), "pairs_per_cpu_second": round(count / used),
        "peak_gib": round(peak / 2**20, 2), "before_gib": round(before / 2**20, 2),
    }  # fmt: skip


def _write(path: Path, rows: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--child", type=int, nargs=2, help="measure here, and print JSON")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(many(*arguments.child)))
        return 0
    result: dict[str, Any] = {"faults": faults(), "many": []}
    print(json.dumps(result["faults"], indent=1))
    for sizes in ((50_000, 1), LONG, (arguments.pairs, 1)):
        command = [sys.executable, __file__, "--child", *map(str, sizes)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result["many"].append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(result["many"][-1]))
    path = RESULTS / "checks.json"
    path.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
