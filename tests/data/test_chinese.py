"""Chinese text, which has no spaces: personal numbers, near duplicates, languages, characters shown as they are."""

import json
import random

import numpy as np
import pytest

from align.cli import main
from align.data.quality import patterns
from align.data.quality.near_duplicates import benchmark_grams, near_groups, ngram_hashes, signature, word_hashes
from align.data.readers.read import read_rows
from align.records import readable_json, shown
from tests.data.data_command import change, check, clean, found, write
from tests.data.test_check import shared


@pytest.mark.parametrize(
    "name, text",
    [
        ("phones", "请拨打13812345678咨询"),
        ("phones", "电话：+86 138-1234-5678。"),
        ("phones", "座机010-62345678转2"),
        ("phones", "手机号是555-010-7788吗"),
        ("identity_numbers", "身份证号11010519491231002X已登记"),
        ("identity_numbers", "号码440308199901010012，"),
        ("identity_numbers", "his number 219-09-9999 was"),
        ("emails", "邮箱zhang.wei@example.org是我的"),
        ("secrets", "密钥AKIAABCDEFGHIJKLMNOP不要外传"),
    ],
)
def test_what_names_a_person_is_found_next_to_chinese_characters(tmp_path, capsys, name, text):
    rows = clean(40)
    rows[17] = change(rows[17], "chosen", text)
    finding = found(check(capsys, write(tmp_path / "rows.jsonl", rows)))[name]
    assert finding["rows"] == ["17"] and finding["examples"][0][1] == f"chosen: {text}"
    assert patterns.snippet(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "编号110105194912310021",
        "订单20240506138123456789",
        "共15000000000元",
        "比例1:3812345678",
        "2024-05-06 10:20:30",
    ]
    + ["000-12-3456", "版本1.13812345678"],
)
def test_other_numbers_are_not(text):
    assert patterns.IDENTITY.search(text) is None and patterns.PHONE.search(text) is None


def test_words_are_characters_where_nothing_else_parts_them():
    assert patterns.words_of("服用Aspirin 100mg后，请多休息") == [
        *("服", "用", "aspirin", "100mg", "后", "，", "请", "多", "休", "息")
    ]
    assert patterns.words_of("Plain words") == ["plain", "words"]
    assert patterns.opening_of("您好，根据您描述的情况，建议") == "您好，根据您描述"
    assert patterns.opening_of("As a doctor, I would say") == "as a doctor, i"
    assert patterns.refusal("抱歉，我无法回答这个问题。") and patterns.refusal("作为一个AI语言模型，")


def zhongjing():
    rows = [row for _, row in read_rows(shared("zhongjing-zh-medical/CMtMedQA_test.json"))]
    return [row["instruction"] + row["output"] for row in rows]


def test_near_duplicates_in_zhongjing_are_found_by_characters():
    texts = zhongjing()[:150]
    draw = random.Random(0)
    # spaces, line ends and Latin names in a Chinese text part no words
    loose = ["".join(letter + draw.choice(["", "", "", "", " ", "\n"]) for letter in text) for text in texts]
    changed = []
    for text in loose:
        at = draw.randrange(len(text) - 2)
        changed.append(text[:at] + "某" + text[at + 2 :])
    hashed = np.concatenate([signature(word_hashes(text)) for text in [*loose, *changed]])
    groups = near_groups(hashed)
    found_pairs = {pair for group in groups for pair in [tuple(group)] if len(pair) == 2}
    assert len(found_pairs & {(i, i + len(texts)) for i in range(len(texts))}) >= 0.95 * len(texts)
    assert len(near_groups(hashed[: len(texts)])) == 0  # different dialogues are not near each other


def test_a_benchmark_inside_a_chinese_text_is_found():
    texts = zhongjing()
    grams = benchmark_grams([texts[3][20:60]], 13)
    hits = [np.isin(ngram_hashes(word_hashes(text), 13), grams).any() for text in texts[:20]]
    assert [number for number, hit in enumerate(hits) if hit] == [3]


def test_an_answer_that_repeats_a_chinese_question_is_found(tmp_path, capsys):
    question = "得了感冒以后应该吃什么药才能好得快"
    rows = [
        {"prompt": question, "completion": f"您问：{question}？请多喝水。"},
        {"prompt": "感冒怎么办", "completion": "感冒怎么办"},
    ]
    assert found(check(capsys, write(tmp_path / "rows.jsonl", rows)))["prompt_in_answer"]["rows"] == ["0"]


def test_the_language_of_chinese_with_latin_names():
    assert patterns.language_of("建议服用acetaminophen和dextromethorphan hydrobromide，每日三次") == "Chinese"
    assert patterns.language_of("The word 你好 means hello and is what you say to a friend") == "English"
    languages = [patterns.language_of(text) for text in zhongjing()]
    assert set(languages) == {"Chinese"}


def test_json_for_people_shows_every_script_and_nothing_that_hides():
    assert readable_json({"名": "值", "n": [1.5, None]}) == '{"名": "值", "n": [1.5, null]}'
    nasty = "\x1b[31m \x9b \u202e \ufeff \ud800 \u2028"
    text = readable_json({"a": nasty})
    assert text.isascii() and text.isprintable() and json.loads(text) == {"a": nasty}
    assert shown(nasty).isascii()
    with pytest.raises(TypeError):
        readable_json(object())


def test_chinese_is_shown_as_it_is(tmp_path, capsys):
    rows = [{"提示": "感冒怎么办？", "回答": "多喝水"}] * 3
    file = write(tmp_path / "病历.jsonl", rows)
    assert main(["data", "check", str(file)]) == 2
    out, err = capsys.readouterr()
    assert "提示, 回答" in err and "\\u" not in out + err
    chosen = [{"role": "assistant", "content": " 多喝水 "}]
    rows = [row | {"chosen": chosen} for row in clean(2)]
    for options in ([], ["--json"], ["--html", str(tmp_path / "report.html")]):
        assert main(["data", "check", str(write(tmp_path / "病历.jsonl", rows)), *options]) == 0
        out, err = capsys.readouterr()
        assert "病历.jsonl" in out and "多喝水" in out and "\\u" not in out + err
    assert "多喝水" in (tmp_path / "report.html").read_text("utf-8")
