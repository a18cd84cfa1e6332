import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.terms import around, decided, read_dictionary, read_terms, swapped
from finetune.errors import UserError
from finetune.inference.script import converter

TO_TAIWAN, TO_SIMPLIFIED = converter("s2tw"), converter("t2s")


def test_protected_words_stay_and_all_else_is_converted():
    convert = around(TO_TAIWAN, ["里仁书局"], {})
    assert convert("里仁书局在这里出书") == "里仁书局在這裡出書"
    assert convert("书局里仁") == "書局裡仁"  # not the word


def test_where_protected_words_overlap_both_stay():
    convert = around(TO_TAIWAN, ["东里", "里书"], {})
    assert TO_TAIWAN("东里书") == "東里書"
    assert convert("东里书店") == "东里书店"
    assert convert("里书里") == "里书裡"


def test_the_longer_of_two_words_that_begin_together_is_protected():
    for words in (["劳动", "劳动合同法"], ["劳动合同法", "劳动"]):
        convert = around(TO_TAIWAN, words, {})
        assert convert("劳动合同法与劳动争议") == "劳动合同法與劳动爭議"


def test_a_word_that_repeats_itself_is_protected_throughout():
    convert = around(TO_TAIWAN, ["书书"], {})
    assert convert("书书书") == "书书书" and convert("书国书书") == "書國书书"


def test_words_of_a_dictionary_come_before_those_of_opencc():
    assert TO_TAIWAN("软件") == "軟件"
    convert = around(TO_TAIWAN, [], {"软件": "軟體", "软件包": "套件"})
    assert convert("软件与软件包") == "軟體與套件"


def test_no_word_of_a_dictionary_reaches_into_a_protected_one():
    convert = around(TO_TAIWAN, ["软件园"], {"软件": "軟體", "动软": "x"})
    assert convert("软件园的软件") == "软件园的軟體"
    assert convert("动软件园") == "動软件园"


def test_an_entry_that_holds_a_protected_word_does_not_count():
    words = {"劳动合同法": "勞工法", "甲": "劳动合同法", "里仁": "里仁", "劳动": "勞工", "乙": "里"}
    found = decided(words, ["劳动合同法", "里仁"])
    assert found == {"劳动合同法": "劳动合同法", "甲": "劳动合同法"}


WORDS = st.lists(st.text("里书国东a .[]^\\", min_size=1, max_size=3), max_size=4)


@given(WORDS, st.text("里书国东a .[]^\\-", max_size=12))
def test_every_character_of_every_protected_word_stays(words, text):
    covered = {place for word in words for start in range(len(text))
               if text.startswith(word, start)
               for place in range(start, start + len(word))}  # fmt: skip
    converted = around(lambda part: "X" * len(part), words, {})(text)
    wanted = "".join(char if place in covered else "X" for place, char in enumerate(text))
    assert converted == wanted


def test_a_dictionary_is_read_as_opencc_writes_it(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# names\n软件\t軟體 軟件\n\n 鼠标 \t 滑鼠\n软件\t另\n", encoding="utf-8-sig")
    words = read_dictionary(path)
    assert words == {"软件": "軟體", "鼠标": "滑鼠"}
    assert swapped(words) == {"軟體": "软件", "滑鼠": "鼠标"}
    assert around(TO_SIMPLIFIED, [], swapped(words))("軟體與滑鼠墊") == "软件与鼠标垫"


def test_a_folder_of_dictionaries_is_one(tmp_path):
    with pytest.raises(UserError, match=r"opencc.dictionary=.*: no .txt file in it"):
        read_dictionary(tmp_path)
    (tmp_path / "b.txt").write_text("软件\t另\n鼠标\t滑鼠\n", "utf-8")
    (tmp_path / "a.txt").write_text("软件\t軟體\n", "utf-8")
    (tmp_path / "notes.md").write_text("x", "utf-8")
    assert read_dictionary(tmp_path) == {"软件": "軟體", "鼠标": "滑鼠"}
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("软件\n", "utf-8")
    with pytest.raises(UserError) as caught:
        read_dictionary(tmp_path)
    assert len(caught.value.problems) == 2


def test_mistakes_of_a_dictionary_are_told_with_their_lines(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("软件\t軟體\n鼠标 滑鼠\n\t滑鼠\n打印\t \n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_dictionary(path)
    assert [each.split(": ")[0] for each in caught.value.problems] == [
        f"{path}:2", f"{path}:3", f"{path}:4"
    ]  # fmt: skip
    with pytest.raises(UserError, match="no such file"):
        read_dictionary(tmp_path / "none.txt")
    path.write_bytes("软件\t軟體".encode("gb18030"))
    with pytest.raises(UserError, match="not UTF-8 at byte 0; save it as UTF-8: iconv "):
        read_dictionary(path)


def test_terms_in_two_columns(tmp_path):
    path = tmp_path / "terms.tsv"
    path.write_text("\ufeff# 法律\n违约金\tliquidated damages\n\n合同\t contract \n", "utf-8")
    assert read_terms(path) == [("违约金", "liquidated damages"), ("合同", "contract")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"augment.terms=.*: no such file; expected a term, a tab"),
        ("# 法律\n", "holds no terms"),
        ("合同 contract\n", r"terms.tsv:1: '合同 contract'; expected a term, a tab"),
        ("甲\t\n \t乙\n", r"terms.tsv:1: (.|\n)*terms.tsv:2: "),
    ],
)
def test_terms_that_are_none(content, told, tmp_path):
    path = tmp_path / "terms.tsv"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=told):
        read_terms(path)
