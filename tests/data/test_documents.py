import json
import os

import pytest

from finetune.data.documents import from_texts, read_documents
from finetune.errors import UserError
from finetune.records import Passage


def test_markdown_is_cut_at_its_headings_under_the_title(tmp_path):
    (tmp_path / "a.md").write_text(
        "# 退货说明\n\n开头一段。\n\n## 七天无理由\n\n签收七天内可退。\n须保持完好。\n\n"
        "## 运费\n\n商家承担。\n",
        "utf-8",
    )
    assert read_documents(tmp_path) == [
        Passage("a.md#0", "退货说明", "", "开头一段。"),
        Passage("a.md#1", "退货说明", "七天无理由", "签收七天内可退。\n须保持完好。"),
        Passage("a.md#2", "退货说明", "运费", "商家承担。"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "over"),
    [
        ("a.md", "前\n\n# 一章\n甲\n\n# 二章\n乙", [("一章", ""), ("一章", ""), ("一章", "二章")]),
        ("a.md", "---\ntitle: 题\n---\n# 题\n甲\n# 一章\n乙", [("题", ""), ("题", "一章")]),
        ("题.md", "甲", [("题", "")]),
        ("README.md", "甲", [("", "")]),
        ("2024-03-15_final_v2.txt", "甲", [("", "")]),
        ("a.txt", "---\ntitle: 题\n---\n甲", [("", "")]),
    ],
)
def test_a_document_has_one_title_that_somebody_may_ask_with(tmp_path, name, text, over):
    (tmp_path / name).write_text(text, "utf-8")
    assert [(each.title, each.heading) for each in read_documents(tmp_path)] == over


def test_texts_of_a_folder_are_cleaned_as_rows_are(tmp_path):
    lines = [
        "\ufeff# 退货\x00说明",
        "\x01## \u200b七天\x0b无理由",
        "甲\x00\n\u200b\n乙\x1f丙",
        "## \u200e",
        "丁",
    ]
    (tmp_path / "a.md").write_text("\n".join(lines), "utf-8")
    assert read_documents(tmp_path) == [
        Passage("a.md#0", "退货说明", "七天 无理由", "甲\n乙 丙"),
        Passage("a.md#1", "退货说明", "", "丁"),
    ]


def test_files_of_other_kinds_are_counted(tmp_path, caplog):
    (tmp_path / "a.md").write_text("签收后七天内可以申请退货。", encoding="utf-8")
    for name in ("b.docx", "c.docx", "d.pdf", "README", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    assert len(read_documents(tmp_path)) == 1
    assert "4 files are not read (2 .docx, 1 without an ending, 1 .pdf)" in caplog.text


def test_a_name_that_is_not_utf8_is_no_title(tmp_path):
    (tmp_path / os.fsdecode("退货.txt".encode("gb18030"))).write_text("正文", "utf-8")
    (passage,) = read_documents(tmp_path)
    assert passage == Passage(r"\udccd˻\udcf5.txt#0", "", "", "正文")


def test_a_text_file_is_called_by_its_name_and_a_hash_is_no_heading(tmp_path):
    for folder in ("sub", ".git"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".git/not.txt").write_text("不读", "utf-8")
    (tmp_path / "sub/说明.txt").write_text("# 不是标题\n第一段。", "utf-8")
    (passage,) = read_documents(tmp_path)
    assert passage == Passage("sub/说明.txt#0", "说明", "", "# 不是标题\n第一段。")


def test_short_paragraphs_are_joined(tmp_path):
    paragraphs = ["短" * 100, "短" * 100, "短" * 150]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs), "utf-8")
    lengths = [len(each.text.replace("\n", "")) for each in read_documents(tmp_path)]
    assert lengths == [200, 150]


def test_long_paragraphs_are_cut_at_the_ends_of_sentences(tmp_path):
    sentence = "他问：“" + "问" * 90 + "？”"
    texts = [sentence * 7, "句" * 400 + "。", "行" * 200 + "\n" + "行" * 200]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, "utf-8")
    assert [each.text for each in read_documents(tmp_path)] == [
        sentence * 3, sentence * 3, sentence, texts[1], "行" * 200, "行" * 200,
    ]  # fmt: skip


def test_json_lines_may_have_titles(tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [{"text": "正文"}, {"text": " 正文\x00二 ", "title": "题\x07", "heading": "节\x0c一"}]
    file.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    assert read_documents(file) == [
        Passage("1", "", "", "正文"),
        Passage("2", "题", "节 一", "正文二"),
    ]


@pytest.mark.parametrize("row", ['{"text": ""}', '{"title": "x"}', '{"text": 3}',
                                 '{"text": "a", "title": null}'])  # fmt: skip
def test_a_row_without_text_is_told_by_its_line(tmp_path, row):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "好"}\n' + row, "utf-8")
    with pytest.raises(UserError, match=r"texts\.jsonl:2: no text; expected"):
        read_documents(file)


@pytest.mark.parametrize("field", ["title", "heading", "text"])
def test_half_of_a_character_is_told_by_its_line(tmp_path, field):
    file = tmp_path / "texts.jsonl"
    row = {"text": "正文"} | {field: "好\ud83d"}
    file.write_text('{"text": "好"}\n' + json.dumps(row), "utf-8")
    with pytest.raises(UserError, match=rf"texts\.jsonl:2: {field} holds \\ud83d at character 2"):
        read_documents(file)


@pytest.fixture
def manuals(tmp_path):
    """A folder with one file that can be read, and three that cannot, of many lines each."""
    (tmp_path / "a.md").write_text("签收后七天内可以申请退货。", "utf-8")
    for name in ("b.md", "c.txt"):
        (tmp_path / name).write_bytes("退货说明\n".encode("gb18030") * 400)
    (tmp_path / "d.md").write_bytes("退货说明\n".encode("utf-16") * 400)
    return tmp_path


def test_each_file_that_is_not_utf8_is_told_once(manuals):
    with pytest.raises(UserError) as caught:
        read_documents(manuals)
    *told, way_out = caught.value.problems
    assert [line.split(": ")[0].rpartition("/")[2] for line in told] == [
        "b.md:1", "c.txt:1", "d.md:1",
    ]  # fmt: skip
    assert all("iconv -f GB18030 -t UTF-8" in line for line in told[:2]) and "UTF-16" in told[2]
    assert "check.bad_rows=drop" in way_out
    with pytest.raises(UserError) as caught:
        read_documents(manuals / "c.txt")
    assert len(caught.value.problems) == 2 and "c.txt:1: " in str(caught.value)


def test_files_that_are_not_utf8_are_left_out_and_told(manuals, caplog):
    dropped = []
    assert [each.id for each in read_documents(manuals, dropped)] == ["a.md#0"]
    assert [(row.source.rpartition("/")[2], row.reason) for row in dropped] == [
        ("b.md", "not UTF-8"), ("c.txt", "not UTF-8"), ("d.md", "not readable"),
    ]  # fmt: skip
    assert "left out: 2 not UTF-8, 1 not readable; the first: " in caplog.text
    (manuals / "a.md").unlink()
    with pytest.raises(UserError, match=r"no text found(.|\n)*b\.md:1: byte 0x"):
        read_documents(manuals, [])


def test_rows_and_lines_that_cannot_be_used_are_left_out(tmp_path):
    rows, lines, dropped = tmp_path / "a.jsonl", tmp_path / "a.txt", []
    rows.write_text('{"text": "好"}\n{"body": "x"}\n{"text": "\\ud83d"}\n{"text": "行"}', "utf-8")
    lines.write_bytes("好\n".encode() + "退货\n".encode("gb18030") + "行".encode())
    for file in (rows, lines):
        assert [each.text for each in read_documents(file, dropped)] == ["好", "行"]
    assert [(row.line, row.reason) for row in dropped] == [
        (2, "no text"), (3, "lone surrogate"), (2, "not UTF-8"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["leer", "a.pdf", "fehlt.jsonl"])
def test_what_holds_no_documents_is_told(tmp_path, name):
    (tmp_path / "leer").mkdir()
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match="expected|no such file"):
        read_documents(tmp_path / name)


def test_texts_that_stand_alone_have_neither_title_nor_heading():
    assert from_texts(["甲", "乙"]) == [Passage("0", "", "", "甲"), Passage("1", "", "", "乙")]


def test_a_text_file_that_is_named_itself_has_a_text_a_line(tmp_path):
    (tmp_path / "log.txt").write_text("怎么退货\n\n \u200b\n运费\x00谁出\n", "utf-8")
    assert read_documents(tmp_path / "log.txt") == [
        Passage("1", "", "", "怎么退货"),
        Passage("4", "", "", "运费谁出"),
    ]
