"""Near duplicates among millions of texts: MinHash finds what looks alike, words decide.

Two texts are near duplicates when they share most of their bigrams and differ in nothing but words
that carry no content (的, 请问, 怎么 for 如何), a doubled character or two that changed places. A
number, a negation or a content word makes another text: 第15条 is not 第16条, however alike. In a
short question such words are many of its bigrams (花呗怎么还款, 花呗如何还款): where all others are
the same, fewer need be shared.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.data.clean import fingerprint
from finetune.data.folding import folded

Codes = NDArray[np.uint32]
Band = TypeVar("Band")

# The probability that two texts that share a share s of their bigrams fall into one bucket of some
# band is 1 - (1 - s^4)^16: 0.99 at 0.7, 0.997 at 0.74.
_BANDS, _ROWS = 16, 4
_NEIGHBOURS = 8  # of a bucket that a text is compared with: keeps time linear where many look alike
_CHUNK = 20_000  # texts at a time
_SLACK = 0.15  # the signatures' estimate is off by so much at most (2.7 standard deviations)
_FEWER = 0.3  # so much less need be shared by texts with the same content
_CONTENT = 4  # characters of it, from which on it tells what a text is about
# Words without content that tell who does it to whom, and whether that is a duty (须) or a choice
# (能); one that is not said changes nothing, but for those that tell doer from sufferer.
_ROLES, _VOICE = re.compile("[我你他她它咱从到由向给对把被须能]"), "把被"
_AS_ONE = {"您": "你", "将": "把", "必须": "须", "应当": "须", "应该": "须", "需要": "须",
           "应": "须", "需": "须", "可以": "能", "能够": "能", "可": "能"}  # fmt: skip
_NAMES = re.compile("|".join(sorted(_AS_ONE, key=len, reverse=True)))

# Among them is what stopwords-iso lists and says nothing of what is asked (谁, 各 and 只有 do).
# No numeral and no negation stands here by itself.
_LIGHT = (
    "请问一下 咨询一下 请教一下 可不可以 问一下 想问问 麻烦问 大家好 一下子 怎么样 怎么办 "
    "为什么 能不能 会不会 是不是 的时候 请问 您好 你好 谢谢 多谢 感谢 麻烦 劳驾 拜托 帮忙 "
    "一下 怎样 怎么 如何 为何 什么 甚么 是否 能否 可否 可以 能够 应该 应当 需要 必须 还是 "
    "或者 以及 并且 而且 因此 所以 因为 由于 如果 假如 要是 但是 可是 然后 那么 这么 "
    "这样 那样 这个 那个 这些 那些 哪些 哪个 我们 你们 他们 她们 它们 咱们 自己 现在 目前 "
    "其实 到底 究竟 大概 大约 关于 对于 有关 针对 进行 已经 正在 一直 一般 通常 比较 非常 "
    "十分 特别 的话 来说 而言 时候 这种 那种 哪种 哪里 哪儿 这里 那里 这儿 那儿 咋办 咋样 "
    "曾经 刚刚 刚才 另外 此外 同时 首先 其次 总之 例如 比如 譬如 即可 等等 好的 好吧 亲亲 "
    "终究 毕竟 反正 总是 往往 常常 经常 仍然 依然 尽管 虽然 然而 甚至 以至 于是 从而 进而 "
    "既然 一样 样子 乃至 之类 也好 也罢 于是乎 云云 仍旧 以免 以致 任凭 "
    "似的 何况 使得 依据 依照 俺们 倘若 倘使 假使 假若 其中 再者 再说 况且 凡是 但凡 凭借 "
    "出于 加之 即使 即便 反之 反而 只是 可见 向着 呵呵 哎哟 嘿嘿 固然 如下 如上 如同 "
    "如此 如若 尔后 尚且 就是了 就是说 也就是说 就算 岂但 截至 按照 换言之 据此 接着 紧接着 "
    "随后 故而 因而 来着 果然 果真 根据 正是 正如 正巧 此时 当时 那时 这时 这会儿 那会儿 的确 "
    "罢了 而已 继而 至于 虽说 诸如 诸位 各位 说来 说起来 趁着 越是 较为 逐步 通过 遵照 随着 "
    "鉴于 难道 难道说 这般 那般 这么样 那么样 经过 自从 以期 以便 居然 竟然 似乎 好像 貌似 "
    "仿佛 偏偏 索性 干脆 简直 恐怕 或许 也许 兴许 大致 大体 基本上 确实 实在 显然 当然 明明 "
    "马上 立即 立刻 随即 赶紧 赶快 尽快 早已 早就 终于 话说 讲真 说实话 老实说 有点 有点儿 "
    "有些 一些 稍微 略微 极其 相当 尤其 格外 越发 更加 更为 逐渐 渐渐 烦请 敬请 恳请 "
    "求助 求解 求教 在线等 帮我 请 的 之 其 着 过 吗 嘛 呢 吧 啊 呀 哦 啦 呗 嗯 么 "
    "啥 您 你 我 他 她 它 咱 这 那 该 此 就 也 都 又 再 才 很 太 挺 真 更 想 能 可 "
    "是 有 在 对 于 从 到 由 被 把 将 与 及 跟 或 而 且 则 但 因 若 所 以 为 些 咋 怎 "
    "何 已 曾 刚 便 却 即 等 哈 嗨 哎 唉 诶 喂 呐 仍 既 呃 哇 哟 喽 喔 噢 嘿 呵 哩 咧 咯 矣 "
    "焉 亦 俺 们 和 会 了 许多 很多 好多 一起 此种 此类 该种 想问 作为 左右 里面 要 需 应 须 得 给 "
    "去 来 并 时 里 按 均 问下"
)
# Words of content that hold one of these.
_WHOLE = (
    "和解 和谐 和平 了解 会议 会计 会员 社会 协会 工会 机会 去年 去世 来年 未来 来源 "
    "应付 应收 反应 供应 按揭 按摩 平均 人均"
)


def alike(a: str, b: str, least: float) -> bool:
    """True when two folded texts are near duplicates of each other, or equal.

    Args:
        a: A text.
        b: Another.
        least: Jaccard index of their bigrams, from which on they may be; where the content is the
            same, 0.3 less will do.
    """
    if a == b:
        return True
    shared = _jaccard(a, b)
    if shared >= least:
        return _says_the_same(a, b)
    return shared >= _floor(least) and len(content(a)) >= _CONTENT and _same_content(a, b)


def content(text: str) -> str:
    """A folded text without the words that carry no content."""
    return _light().sub(r"\1", text)


def within(
    texts: Sequence[str], least: float, progress: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[int, int]]:
    """Yield the places of near duplicates, the earlier first, each pair once.

    Args:
        texts: Folded texts, none of them twice or empty.
        least: As for `alike`.
        progress: Called with shares of the number of texts, which add up to it.
    """
    signatures = _signatures(texts)
    looked: set[int] = set()
    for floor, band in _floored(least, _contents(texts), _bands(signatures)):
        progress(len(texts) // (1 + _BANDS))
        order = np.argsort(band, kind="stable")
        ranked = band[order]
        for step in range(1, min(_NEIGHBOURS, len(texts) - 1) + 1):
            same = ranked[:-step] == ranked[step:]
            pairs = order[:-step][same], order[step:][same]
            both = signatures, signatures
            yield from _verified(texts, texts, both, pairs, least, floor, looked)


def between(texts: Sequence[str], others: Sequence[str], least: float) -> Iterator[tuple[int, int]]:
    """Yield the places of texts and of those others that they are near duplicates of.

    Args:
        texts: Folded texts, none of them twice or empty.
        others: Folded texts too.
        least: As for `alike`.
    """
    if not texts or not others:
        return
    signatures, known = _signatures(texts), _signatures(others)
    looked: set[int] = set()
    contents = _contents(texts), _contents(others)
    bands = zip(_bands(signatures), _bands(known), strict=True)
    for floor, (band, known_band) in _floored(least, contents, bands):
        order = np.argsort(known_band, kind="stable")
        ranked = known_band[order]
        start = np.searchsorted(ranked, band)
        for step in range(min(_NEIGHBOURS, len(others))):
            place = np.minimum(start + step, len(others) - 1)
            same = (ranked[place] == band) & (start + step < len(others))
            pairs = np.flatnonzero(same), order[place[same]]
            both = signatures, known
            yield from _verified(texts, others, both, pairs, least, floor, looked)


def _verified(
    texts: Sequence[str],
    others: Sequence[str],
    signatures: tuple[Codes, Codes],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    least: float,
    floor: float,
    looked: set[int],
) -> Iterator[tuple[int, int]]:
    """Yield the pairs that are near duplicates and were not looked at before.

    ``floor`` is the index that their signatures must show to be looked at.
    """
    for start in range(0, len(pairs[0]), _CHUNK):
        left, right = (each[start : start + _CHUNK] for each in pairs)
        shared = (signatures[0][left] == signatures[1][right]).mean(axis=1)
        for index in np.flatnonzero(shared >= floor).tolist():
            i, j = int(left[index]), int(right[index])
            if i * len(others) + j not in looked:
                looked.add(i * len(others) + j)
                if alike(texts[i], others[j], least):
                    yield i, j


def _floored(least: float, contents: Band, bands: Iterable[Band]) -> Iterator[tuple[float, Band]]:
    """What to look for near duplicates in, each with what their signatures must show."""
    yield _floor(least) - _SLACK, contents
    for band in bands:
        yield least - _SLACK, band


def _contents(texts: Sequence[str]) -> NDArray[np.uint64]:
    """What texts with the same content share; those with too little of it have their place."""
    found = np.arange(len(texts), dtype=np.uint64)
    for place, words in enumerate(map(content, texts)):
        if len(words) >= _CONTENT:
            found[place] = int.from_bytes(fingerprint(words)[:8], "little")
    return found


def _signatures(texts: Sequence[str]) -> Codes:
    """MinHash signatures ``[n, bands x rows]`` of the texts' bigrams.

    The scheme of datasketch 2 (``affine32``), computed for many texts at once: an object of
    datasketch's a text, and its index, would take a million texts ten times as long and 3 GB.
    """
    count = _BANDS * _ROWS
    draw = np.random.RandomState(1)
    a = draw.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = draw.randint(0, 1 << 32, count, dtype=np.uint32)
    found = np.empty((len(texts), count), dtype=np.uint32)
    for start in range(0, len(texts), _CHUNK):
        hashes, starts = _bigrams(texts[start : start + _CHUNK])
        for k in range(count):
            found[start : start + _CHUNK, k] = np.minimum.reduceat(hashes * a[k] + b[k], starts)
    return found


def _bigrams(texts: Sequence[str]) -> tuple[Codes, NDArray[np.int64]]:
    """Hashes of the bigrams of all texts (the last with a line end), and where each begins."""
    joined = "\n".join(texts) + "\n"
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    sizes = np.array([len(text) + 1 for text in texts])
    inside = np.delete(np.arange(len(codes)), np.cumsum(sizes) - 1)  # a text may hold line ends
    starts = np.concatenate([[0], np.cumsum(sizes[:-1] - 1)])
    return _mixed(codes[inside] * np.uint32(0x9E3779B1) + codes[inside + 1]), starts


def _mixed(values: Codes) -> Codes:
    """The finalizer of MurmurHash3, with which datasketch spreads what it is given."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def _bands(signatures: Codes) -> Iterator[NDArray[np.uint64]]:
    for band in range(_BANDS):
        rows = signatures[:, band * _ROWS : (band + 1) * _ROWS].astype(np.uint64)
        mixed = np.zeros(len(rows), dtype=np.uint64)
        for column in range(_ROWS):
            mixed = (mixed ^ rows[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        yield mixed


def _jaccard(a: str, b: str) -> float:
    first, second = ({*map("".join, zip(x, x[1:] + "\n", strict=True))} for x in (a, b))
    return len(first & second) / len(first | second)


@cache
def _light() -> re.Pattern[str]:
    """Finds words without content in folded texts, the longer before what they begin with."""
    whole, light = (sorted(map(folded, each.split()), key=len, reverse=True)
                    for each in (_WHOLE, _LIGHT))  # fmt: skip
    return re.compile(f"({'|'.join(whole)})|{'|'.join(light)}")


def _says_the_same(a: str, b: str) -> bool:
    """True when the content words, numbers and negations of two texts are the same, in order."""
    one, other = content(a), content(b)
    return _slip(a, b) or (_same_content(a, b) if one == other else _slip(one, other))


def _same_content(a: str, b: str) -> bool:
    """True when the content is the same, and so is who does it to whom, where both say that."""
    if content(a) != content(b):
        return False
    few, many = sorted(map(_roles, (a, b)), key=len)
    voices = [[each for each in roles if each in _VOICE] for roles in (few, many)]
    rest = iter(many)
    return voices[0] == voices[1] and all(each in rest for each in few)


def _roles(text: str) -> list[str]:
    """The words of `_ROLES` in a folded text, each by one name."""
    return _ROLES.findall(_NAMES.sub(lambda found: _AS_ONE[found[0]], text))


def _floor(least: float) -> float:
    """What texts with the same content must share; of 1, which asks for all bigrams, no less."""
    return least if least >= 1 else least - _FEWER


def _slip(a: str, b: str) -> bool:
    """True when a letter stands twice in one of two texts, or two changed places; no numeral."""
    short, long = sorted((a, b), key=len)
    first = next((i for i, (x, y) in enumerate(zip(short, long, strict=False)) if x != y),
                 len(short))  # fmt: skip
    changed = long[first : first + 2]
    if any(char.isnumeric() or not char.isalnum() for char in changed):
        return False
    if len(short) == len(long):
        return short[first : first + 2][::-1] == changed and short[first + 2 :] == long[first + 2 :]
    doubled = 0 < first < len(long) and long[first] == long[first - 1]
    return doubled and short[first:] == long[first + 1 :]
