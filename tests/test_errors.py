"""What a message holds may come from anybody: it does nothing to a terminal."""

import pytest

from align.errors import UserError, escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 你好", "plain é 你好"),
        ("\x1b[2J\x1b[31mred\x1b]0;title\x07", "\\x1b[2J\\x1b[31mred\\x1b]0;title\\x07"),
        ("two\nlines", "two\nlines"),
        ("back\rwards\b\x7f\x00", "back\\x0dwards\\x08\\x7f\\x00"),
        ("\u202eright to left", "\\x202eright to left"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_a_message_has_no_control_characters(text, shown):
    assert escaped(text) == str(UserError(text)) == f"{UserError(text)}" == shown


def test_what_a_chat_template_raises_reaches_the_terminal_as_text(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from align.data.tokens.chat_template import apply_template

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    tokenizer.chat_template = "{{ raise_exception('\x1b[2Jgone') }}"
    with pytest.raises(UserError) as caught:
        apply_template(tokenizer, [{"role": "user", "content": "a"}])
    assert "\\x1b[2Jgone" in str(caught.value) and "\x1b" not in str(caught.value)
