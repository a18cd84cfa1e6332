"""Queries from an endpoint: a stand-in answers as the real ones do, and as they should not."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from endpoints import completion, passage

from finetune.config.compose import compose
from finetune.config.writing import Writer, cost, problems, read_prompt, settings, wanted
from finetune.data import endpoint
from finetune.data.replies import Replies
from finetune.data.written import Writing, _queries, write
from finetune.errors import UserError
from finetune.records import Pair, Passage
from finetune.steps.reporting import written

PASSAGES = [
    Passage(f"p{n}", "租房", "押金", f"第{n}条，出租人应当在租期届满后退还押金。") for n in range(6)
]
KEY = "sk-secret-of-the-test"


@pytest.fixture
def server(endpoint_stand_in, monkeypatch):
    monkeypatch.setattr(endpoint, "_PAUSE", 0.01)
    return endpoint_stand_in


@pytest.fixture
def writing(server, tmp_path):
    def make(**changes):
        known = {
            "url": server.url, "model": "m", "key_env": None, "share": 1.0, "queries": 1,
            "limit": None, "prompt": "问：{queries} {passage}", "options": {"temperature": 0.5},
            "price_in": None, "price_out": None, "concurrency": 1, "timeout": 5.0, "retries": 2,
        }  # fmt: skip
        return Writing(Writer(**(known | changes)), tmp_path / "cache/replies.sqlite")

    return make


def test_passages_are_asked_about_and_replies_become_pairs(server, writing):
    pairs, told = write(writing(), PASSAGES, 4, seed=0)
    assert told == {
        "replies": 4, "refused": 0, "left out": {}, "tokens in": 400, "tokens out": 40,
    }  # fmt: skip
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    number = passage(body)
    text = f"租房\n押金\n第{number}条，出租人应当在租期届满后退还押金。"
    messages = [{"role": "user", "content": f"问：1 {text}"}]
    assert body == {"model": "m", "temperature": 0.5, "messages": messages}
    assert pairs[0] == Pair(
        f"written-p{number}-0", f"第{number}个房东不还钱怎么办？", PASSAGES[int(number)].text,
        "generated-written",
    )  # fmt: skip
    again, _ = write(writing(concurrency=8), PASSAGES, 4, seed=0)
    assert again == pairs and len(server.seen) == 4


def test_another_prompt_model_or_option_asks_anew_and_another_place_does_not(server, writing):
    write(writing(), PASSAGES, 2, seed=0)
    same = server.url + "/chat/completions"
    for changes, calls in (
        ({"url": same, "timeout": 9.0}, 2), ({"model": "n"}, 4), ({"options": {}}, 6),
        ({"prompt": "{passage}"}, 8), ({}, 8),
    ):  # fmt: skip
        write(writing(**changes), PASSAGES, 2, seed=0)
        assert len(server.seen) == calls


def test_the_seed_draws_and_the_limit_counts_passages(server, writing):
    found = {seed: {pair.positive for pair in write(writing(), PASSAGES, 3, seed)[0]}
             for seed in range(4)}  # fmt: skip
    assert len({frozenset(each) for each in found.values()}) > 1
    pairs, told = write(writing(limit=2), PASSAGES, 6, seed=0)
    assert len(pairs) == told["replies"] == 2
    server.answers = [(200, {}, completion("1. 房东跑了咋办\n2. 押金能要回来吗"))] * 2
    pairs, told = write(writing(queries=2), PASSAGES, 3, seed=0)
    assert told["replies"] == 2 and len(pairs) == 3  # two passages are enough


def test_a_busy_server_is_asked_again(server, writing, caplog):
    server.answers = [(429, {"Retry-After": "0"}, b"slow down"), (503, {}, b"")]
    pairs, told = write(writing(), PASSAGES, 1, seed=0)
    assert len(pairs) == 1 and told["replies"] == 1 and len(server.seen) == 3
    assert "answers 429 slow down; trying again" in caplog.text


def test_a_server_that_stays_busy_is_told(server, writing):
    server.answers = [(429, {}, b"quota")] * 3
    with pytest.raises(UserError, match=r"writer\.url=.*answers 429 quota, 3 times.*goes on where"):
        write(writing(), PASSAGES, 1, seed=0)
    assert len(server.seen) == 3


def test_the_pause_is_the_servers_or_doubles(server, writing, monkeypatch):
    pauses = []
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", pauses.append)
    later, much_later = ({"Retry-After": each} for each in ("7", "9999"))
    server.answers = [(429, later, b""), (500, {}, b""), (429, much_later, b"")]
    asked = {"messages": [{"content": "第1条"}]}
    endpoint.Endpoint(writing(retries=3).writer).ask(asked, stop)
    assert pauses == [7.0, 0.02, 120.0]


@pytest.mark.parametrize(
    "content", [b"<html>", b"{}", b'{"choices": []}', b"[1]", b'{"choices": [{"message": 3}]}', b""]
)
def test_what_is_no_completion_is_asked_again_and_then_told(server, writing, content):
    server.answers = [(200, {}, content)]
    assert len(write(writing(), PASSAGES, 1, seed=0)[0]) == 1
    server.answers = [(200, {}, content)] * 3
    with pytest.raises(UserError, match="the reply is no chat completion"):
        write(writing(model="other"), PASSAGES, 1, seed=0)


def test_a_server_that_does_not_answer_in_time(server, writing):
    waited = threading.Event()
    server.before = lambda: waited.wait(5)
    with pytest.raises(UserError, match=r"no answer within writer\.timeout=0\.2 s, 1 times"):
        write(writing(timeout=0.2, retries=0), PASSAGES, 1, seed=0)
    waited.set()


def test_a_server_that_is_away(server, writing):
    away = writing(url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(UserError, match=r"writer\.url=http://127\.0\.0\.1:9/v1: no connection"):
        write(away, PASSAGES, 1, seed=0)


@pytest.mark.parametrize(
    ("status", "phrase"),
    [(401, "writer.key_env"), (404, "ends in /v1"), (402, "credit"), (307, "OpenAI-compatible")],
)
def test_what_no_patience_mends_is_told_at_once(server, writing, status, phrase):
    server.answers = [(status, {"Location": "http://127.0.0.1:9"}, b'{"error": "no"}')]
    with pytest.raises(UserError) as caught:
        write(writing(), PASSAGES, 1, seed=0)
    assert f'answers {status} {{"error": "no"}}' in str(caught.value)
    assert phrase in str(caught.value) and len(server.seen) == 1


def test_a_refused_text_is_left_out(server, writing):
    server.answers = [(200, {}, completion("房东不退钱咋办")), (400, {}, b"inappropriate")]
    pairs, told = write(writing(), PASSAGES, 3, seed=0)
    assert len(pairs) == 2 and (told["replies"], told["refused"]) == (2, 1)


@pytest.mark.parametrize(("count", "asked"), [(2, 2), (30, 10)])
@pytest.mark.parametrize("words", ["no such option", "content filter"])
def test_refusals_alone_end_a_run_in_the_endpoints_words(server, writing, count, asked, words):
    server.answers = [(400, {}, words.encode())] * 30
    texts = [Passage(str(n), "", "", f"第{n}条") for n in range(count)]
    expected = f"answers 400 {words}; {asked} texts asked about, and no reply: correct the option"
    with pytest.raises(UserError, match=expected):
        write(writing(), texts, count, seed=0)


def test_a_few_refusals_before_the_first_reply_end_no_run(server, writing):
    server.answers = [(400, {}, b"content filter")] * 5
    pairs, told = write(writing(), PASSAGES, 6, seed=0)
    assert len(pairs) == 1 and (told["replies"], told["refused"]) == (1, 5)


def test_what_came_before_a_failure_is_not_asked_for_again(server, writing):
    server.answers = [(200, {}, completion("押金不退怎么办"))] * 2 + [(401, {}, b"revoked")]
    with pytest.raises(UserError, match="revoked"):
        write(writing(), PASSAGES, 6, seed=0)
    del server.answers[:]
    _, told = write(writing(), PASSAGES, 6, seed=0)
    assert told["replies"] == 6 and told["tokens in"] == 600
    asked = Counter(passage(body) for *_, body in server.seen)
    assert sum(asked.values()) == 7 and sorted(asked.values()) == [1, 1, 1, 1, 1, 2]


def test_a_killed_run_asks_nothing_twice(server, writing, tmp_path):
    made = writing()
    code = (
        "from pathlib import Path; import pickle, sys; from finetune.data.written import write;"
        "write(*pickle.loads(Path(sys.argv[1]).read_bytes()), 6, 0)"
    )
    (tmp_path / "job").write_bytes(pickle.dumps((made, PASSAGES)))
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "job")])

    def kill():
        if len(server.seen) == 4:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()

    server.before = kill
    assert child.wait(60) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while len(server.seen) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    pairs, _ = write(made, PASSAGES, 6, seed=0)
    assert len(pairs) == 6
    asked = Counter(passage(body) for *_, body in server.seen)
    assert sorted(asked.values()) == [1, 1, 1, 1, 1, 2]  # the one that was never answered


def test_the_key_is_sent_and_lies_nowhere(server, writing, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("THE_KEY", KEY)
    keyed = writing(key_env="THE_KEY")
    server.answers = [(500, {}, f"bad key {KEY}".encode())]
    write(keyed, PASSAGES, 2, seed=0)
    assert {headers["Authorization"] for _, headers, _ in server.seen} == {f"Bearer {KEY}"}
    assert "bad key ***" in caplog.text and KEY not in caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(KEY.encode() not in path.read_bytes() for path in files)
    server.answers = [(403, {}, KEY.encode())]
    with pytest.raises(UserError) as caught:
        write(writing(key_env="THE_KEY", model="n"), PASSAGES, 1, seed=0)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "phrase"),
    [(None, "export THE_KEY=<key>"), (" ", "not set"), ("钥匙", "copy the key")],
)
def test_a_key_that_cannot_be_sent(writing, monkeypatch, value, phrase):
    monkeypatch.delenv("THE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("THE_KEY", value)
    with pytest.raises(UserError, match=phrase) as caught:
        write(writing(key_env="THE_KEY"), PASSAGES, 1, seed=0)
    assert "钥匙" not in str(caught.value)


def test_a_run_whose_replies_are_all_known_needs_neither_key_nor_server(server, writing):
    write(writing(), PASSAGES, 2, seed=0)
    away = writing(url="http://127.0.0.1:9/v1", key_env="NOT_SET")
    assert len(write(away, PASSAGES, 2, seed=0)[0]) == 2


@pytest.mark.parametrize(
    ("line", "query"),
    [
        ("1. 房东不还钱怎么办？", "房东不还钱怎么办？"),
        ("2、“押金能要回来吗？”", "押金能要回来吗？"),
        ("（三）老板拖着不给钱", "老板拖着不给钱"),
        ("- 问题2：能退吗", "能退吗"),
        ("**Q1: 房东跑了找谁**", "房东跑了找谁"),
        ("1.5万元押金要得回来吗", "1.5万元押金要得回来吗"),
        ("10:30退房要不要加钱", "10:30退房要不要加钱"),
        ("HTTP接口报500咋办", "HTTP接口报500咋办"),
        ("1、3月5日交的押金能退吗", "3月5日交的押金能退吗"),
        ("2）12月的房租没交怎么办", "12月的房租没交怎么办"),
        ("第2个：房租迟交几天可以吗", "房租迟交几天可以吗"),
        ("第一个问题：房租迟交几天可以吗", "房租迟交几天可以吗"),
        ("1、2、3号楼漏水谁来修", "1、2、3号楼漏水谁来修"),
        ("第3条、第4条有什么区别", "第3条、第4条有什么区别"),
        ("<think>要问\n押金</think>\n房东耍赖怎么办", "房东耍赖怎么办"),
        ("先想想\n押金怎么问</think>\n房东耍赖怎么办", "房东耍赖怎么办"),
    ],
)
def test_numbering_quotes_and_thoughts_go(line, query):
    left_out = Counter()
    reply = endpoint.Reply(line, 1, 1)
    assert _queries(reply, PASSAGES[0], 1, left_out) == [query] and not left_out


@pytest.mark.parametrize(
    "text",
    [
        '["房东跑了咋办", "押金能退吗"]',
        '```json\n[\n  "房东跑了咋办",\n  "押金能退吗"\n]\n```',
        '好的：\n{"questions": ["1. 房东跑了咋办", "押金能退吗"]}',
        '["房东跑了咋办\\n押金能退吗"]',
        '[\n"房东跑了咋办",\n"押金能退吗",',  # cut off
    ],
)
def test_an_array_of_queries_is_taken_apart(text):
    found = _queries(endpoint.Reply(text, 1, 1), PASSAGES[0], 2, Counter())
    assert found == ["房东跑了咋办", "押金能退吗"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "empty reply"),
        ("  \n\u200b", "empty reply"),
        ("<think>说到一半", "empty reply"),
        ("How do I get my deposit back?", "not Chinese"),
        ("敷金は返りますか", "not Chinese"),
        ("好的，以下是一个问题：", "an introduction"),
        ("押" * 101, "too long"),
        ("请问怎么办？", "says nothing"),
        ("['房东跑了咋办', '押金能退吗']", "JSON"),
        ('["房东跑了咋办", "押金能退', "JSON"),
        ('{"问题": "押金能退吗"}', "JSON"),
        ('"问题": "押金能退吗",', "JSON"),
        ("请问出租人应当在租期届满后退还押金吗？", "a copy of the passage"),
    ],
)
def test_what_is_no_query_is_counted(text, wrong):
    left_out = Counter()
    assert _queries(endpoint.Reply(text, 1, 1), PASSAGES[0], 1, left_out) == []
    assert left_out == {wrong: 1}


def test_a_question_about_a_term_of_the_passage_is_no_copy_and_surplus_is_counted():
    left_out = Counter()
    reply = endpoint.Reply("什么是租期届满？\n什么是，租期届满\n押金怎么退\n房东是谁", 1, 1)
    assert _queries(reply, PASSAGES[0], 2, left_out) == ["什么是租期届满？", "押金怎么退"]
    assert left_out == {"twice": 1, "more than asked for": 1}


def test_replies_without_usage_are_counted(server, writing):
    bare = json.dumps({"choices": [{"message": {"content": "钱能退吗"}}], "usage": None}).encode()
    server.answers = [(200, {}, bare), (200, {}, completion("押金退多少", (5, 2)))]
    _, told = write(writing(), PASSAGES, 2, seed=0)
    assert (told["tokens in"], told["tokens out"], told["replies without tokens"]) == (5, 2, 1)


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_the_line_that_a_reply_was_cut_in_is_no_query(server, writing, caplog, finish):
    server.answers = [(200, {}, completion("押金退多少\n房东要涨我的", finish=finish))]
    pairs, told = write(writing(queries=2), PASSAGES[:1], 2, seed=0)
    assert [pair.query for pair in pairs] == ["押金退多少"] and told["left out"] == {}
    assert "1 replies were cut off; raise writer.options.max_tokens" in caplog.text


@pytest.mark.parametrize(
    ("text", "finish", "why"),
    [
        (None, "stop", "empty reply"),
        ("```\n```", "stop", "empty reply"),
        ("<think>先想\n一想", "length", "cut off"),
        ("房东要涨我的", "length", "cut off"),
    ],
)
def test_a_reply_without_a_line_is_asked_for_again_by_the_next_run(
    server, writing, text, finish, why
):
    server.answers = [(200, {}, completion(text, finish=finish))]
    pairs, told = write(writing(), PASSAGES[:1], 1, seed=0)
    assert pairs == [] and told["left out"] == {why: 1}
    assert (told["replies"], told["refused"], told["tokens in"]) == (1, 0, 100)
    assert len(write(writing(), PASSAGES[:1], 1, seed=0)[0]) == 1 and len(server.seen) == 2


def test_an_empty_reply_that_was_kept_once_is_asked_for_again(server, writing, monkeypatch):
    monkeypatch.setattr("finetune.data.written.digest", lambda _: "it")
    replies = Replies(writing().replies)
    replies.put("it", endpoint.Reply("", 1, 1))
    replies.close()
    assert len(write(writing(), PASSAGES[:1], 1, seed=0)[0]) == 1 and len(server.seen) == 1


@pytest.mark.parametrize(
    ("count", "tokens"), [(7, 7), (7.0, 7), (7.5, None), ("7", None), (True, None), (None, None)]
)
def test_tokens_are_whole_numbers(count, tokens):
    usage = {"prompt_tokens": count, "completion_tokens": 1}
    content = json.dumps({"choices": [{"message": {"content": "钱"}}], "usage": usage})
    assert endpoint._read(content.encode()).tokens_in == tokens


@pytest.mark.parametrize(
    ("more", "prices", "paid"),
    [
        ({}, (1000.0, 2000.0), {"cost in CNY when asked for": 3.0}),
        ({"replies without tokens": 1}, (1000.0, 2000.0),
         {"cost in CNY when asked for": "unknown"}),
        ({}, (1000.0, None), {}),
    ],
)  # fmt: skip
def test_a_cost_that_nobody_counted_is_unknown(tmp_path, more, prices, paid):
    told = {"tokens in": 1000, "tokens out": 1000, **more}
    (tmp_path / "summary.json").write_text(json.dumps({"written": told}), "utf-8")
    of = {"in": prices[0], "out": prices[1], "currency": "CNY"}
    assert written(tmp_path, of) == told | paid


def test_half_a_character_in_a_reply_is_replaced(server, writing):
    server.answers = [(200, {}, completion("钱\ud83d能退吗"))]
    pairs, _ = write(writing(), PASSAGES, 1, seed=0)
    assert pairs[0].query == "钱?能退吗"


def test_the_cost_and_the_share_by_hand():
    assert cost(2_000_000, 100_000, (0.5, 2.0)) == pytest.approx(1.2)
    assert cost(1, 1, (None, 2.0)) != cost(1, 1, (None, 2.0))  # NaN
    assert wanted(3000, 1.0, 5.0) == 500 and wanted(10, 2.0, 0.0) == 10


# --- settings ---


def test_off_by_default_and_no_part_of_a_key_then():
    writer = compose(["recipes=documents"]).writer
    assert not writer.asked and settings(writer) == {}
    assert list(problems(writer, makes_pairs=False)) == []


def test_what_decides_the_replies_and_what_does_not():
    line = ["recipes=documents", "writer.url=http://a/v1", "writer.model=m"]
    first = settings(compose(line).writer)
    assert set(first["writer"]) == {"model", "share", "queries", "limit", "options", "prompt"}
    same = ["writer.url=http://b/v1", "writer.key_env=K", "writer.price_in=3", "writer.retries=0"]
    assert settings(compose([*line, *same]).writer) == first
    more = settings(compose([*line, "writer.options.seed=3"]).writer)["writer"]["options"]
    assert more == first["writer"]["options"] | {"seed": 3}


def test_a_prompt_in_a_file_counts_by_its_content(tmp_path):
    (tmp_path / "prompt.txt").write_text("就{passage}提问", "utf-8")
    assert read_prompt(str(tmp_path / "prompt.txt")) == "就{passage}提问"
    (tmp_path / "bad.txt").write_text("就资料提问", "utf-8")
    with pytest.raises(UserError, match=r"no \{passage\} in this file"):
        read_prompt(str(tmp_path / "bad.txt"))
    with pytest.raises(UserError, match=r"holds no \{passage\}, and is no UTF-8 file"):
        read_prompt("请提问" * 99)


def test_the_default_prompt_asks_for_what_is_checked():
    prompt = compose(["recipes=documents"]).writer.prompt
    assert prompt.count("{passage}") == 1 and prompt.count("{queries}") == 1


@pytest.mark.parametrize(
    ("overrides", "phrase"),
    [
        (["writer.key_env=sk-abc"], "expected the name of an environment variable"),
        (["writer.url=ftp://a", "writer.model=m"], "expected an address such as http://"),
        (["writer.url=http://本机/v1", "writer.model=m"], "expected an address such as http://"),
        (["writer.url=http://me:pw@host/v1", "writer.model=m"], "holds a password"),
        (["writer.url=http://a/v1"], "writer.model: not set"),
        (["generate=none", "writer.url=http://a/v1", "writer.model=m"], "add generate=documents"),
    ],
)
def test_settings_that_cannot_work(overrides, phrase):
    with pytest.raises(UserError) as caught:
        compose(["recipes=full", "generate=documents", *overrides])
    (problem,) = caught.value.problems
    assert phrase in problem and "sk-abc" not in problem and "pw" not in problem
