import pytest

from finetune.data.markdown import HEADING, read


@pytest.mark.parametrize(("text", "title", "lines"), [
    ("---\ntitle: \"退款\"\ntags: [售后]\n---\n\n# 安装\n文", "退款", ["# 安装", "文"]),
    ("---\nlayout: page\n...\n# 安装\n文", "安装", ["# 安装", "文"]),
    ("---\n正文\n---\n后", "", ["正文", "后"]),
    ("前\n```python\n# 注释\n```\n后", "", ["前", "后"]),
    ("````\n```\n# 注释\n```\n````\n后\n~~~\n# 注释", "", ["后"]),
    ("见 ```code``` 处\n# 题", "题", ["见 ```code``` 处", "# 题"]),
    ("前<!-- 内部\n# 备注\n```\n-->后\n# 题", "题", ["前后", "# 题"]),
    ("安装\n====\n文\n\n步骤\n---\n乙", "安装", ["# 安装", "文", "## 步骤", "乙"]),
    ("- 项\n---\n甲\n乙\n---\n***\n丙", "", ["- 项", "甲", "乙", "丙"]),
    ("| 等级 | 费率 |\n|:-- | --- |\n| 普通 | 3% |\n文", "", ["等级 费率", "普通 3%", "文"]),
    ("等级 | 费率\n--|--\n普通 | 3%", "", ["等级 费率", "普通 3%"]),
    ("不是 | 表", "", ["不是 | 表"]),
    ("[![图](a.png)](b) 见[规则](u(1).md '题')。![](c.png)", "", ["图 见规则。"]),
    ("## C# ##\n# 题 #\n# 另题", "题", ["## C# ##", "# 题 #", "# 另题"]),
])  # fmt: skip
def test_what_is_text_stays(text, title, lines):
    found = read(text)
    assert (found[0], [line for line in found[1] if line]) == (title, lines)


@pytest.mark.parametrize(
    ("line", "said"), [("## C# ##", "C#"), ("# 题", "题"), ("#题", None), ("####### 题", None)]
)
def test_headings(line, said):
    found = HEADING.match(line)
    assert (found and found[2]) == said
