"""What a stage demands of the tokenizers of its inputs, read from their files, without torch.

A model reads the tokens, the special tokens and the chat template that it was trained with; two models whose
probabilities are compared read the same.
"""

import importlib.util
from collections.abc import Collection
from pathlib import Path

from align.artifacts.inputs import Input
from align.artifacts.model_json import read_json
from align.artifacts.tokenizer_files import chat_template as own_template
from align.artifacts.tokenizer_files import drift, fingerprint, template_drift, vocabulary
from align.config.paths import local_path
from align.data.tokens.loss_mask import GENERATION, unmarked
from align.errors import UserError

# Tokenizer classes of transformers that bring no special token of their own, and those that bring all but padding.
GENERIC_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")
WITHOUT_PAD = ("gpt2", "GPT2Tokenizer", "GPT2TokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast")
DRIFTED = {"vocabulary": "vocabulary", "special_tokens": "idea of special tokens", "chat_template": "chat template"}


def check_drift(policy: Input, ref_model: Input, accept: Collection[str] = ()) -> None:
    """Policy and reference read the same tokens in the same template: else their probabilities are not comparable.

    Args:
        accept: aspects that may differ, `model.accept_drift`.
    """
    if policy.digest == ref_model.digest:
        return
    for aspect, words in drift(policy.path, ref_model.path).items():
        if aspect not in accept:
            raise UserError(
                f"the tokenizer of the reference {ref_model.ref} has another {DRIFTED[aspect]} than that of "
                f"{policy.ref}: {words}. Name a reference of the same family, inputs.ref_model=<what the policy was "
                f"trained from>, or accept it: 'model.accept_drift=[{aspect}]'"
            )


def check_template(policy: Input, chat_template: str | None, accept: Collection[str] = ()) -> None:
    """A template that the config gives is the one that the model was trained with, or its first.

    Args:
        chat_template, accept: `model.chat_template`, `model.accept_drift`.
    """
    if chat_template is None or "chat_template" in accept:
        return
    given = local_path(chat_template).read_text("utf-8")
    if words := template_drift(own_template(policy.path), given):
        raise UserError(
            f"{policy.ref} comes with a chat template, and model.chat_template={chat_template} is another: {words}. "
            "Leave it out (model.chat_template=null), or replace the model's: 'model.accept_drift=[chat_template]'"
        )


def check_recorded(role: str, given: Input) -> None:
    """The tokenizer in an artifact is the one that it was published with, as its manifest has it."""
    recorded = given.manifest.notes.get("tokenizer") if given.manifest else None
    if recorded is not None and recorded != fingerprint(given.path):
        now = fingerprint(given.path)
        differ = ", ".join(name for name in now if now[name] != recorded.get(name))
        raise UserError(
            f"input {role}={given.text}: the tokenizer in {given.path} is not the one that {given.ref} was published "
            f"with ({differ}); restore the files: align artifacts verify {given.ref} says which"
        )


def check_embeddings(role: str, given: Input) -> None:
    """The model has a row of embeddings for every token."""
    config = read_json(given.path / "config.json")
    rows = config.get("text_config", config).get("vocab_size")
    tokens = vocabulary(given.path)
    if rows is not None and tokens and max(tokens.values()) >= rows:
        token = max(tokens, key=tokens.get)
        raise UserError(
            f"input {role}={given.text}: token {token!r} has the id {tokens[token]} and the model has {rows} rows of "
            "embeddings: it is another model's tokenizer, or the embeddings were never resized. If no text has that "
            "token: 'model.accept_drift=[vocabulary]'"
        )


def check_tokenizer(given: Input, *, conversational: bool, chat_template: str | None, pad_token: str | None) -> None:
    """The tokenizer has EOS and pad tokens and, for conversational data, a chat template; the config may supply two.

    A tokenizer class may have tokens that its files do not name: what is missing is said here only where the class is
    known to have none, and otherwise by `models.load.load_tokenizer`.

    Args:
        conversational: the rows are lists of messages.
        chat_template, pad_token: `model.chat_template`, `model.pad_token`.
    """
    config = read_json(given.path / "tokenizer_config.json")
    special = read_json(given.path / "special_tokens_map.json")
    eos, pad = (config.get(role) or special.get(role) for role in ("eos_token", "pad_token"))
    # GPT-2's own repository names no class
    kind = config.get("tokenizer_class") or read_json(given.path / "config.json").get("model_type")
    if eos is None and kind in GENERIC_TOKENIZERS:
        raise UserError(
            f"the tokenizer of {given.ref} has no EOS token, so no completion could ever end; name one as eos_token "
            "in its tokenizer_config.json, or use another model"
        )
    if pad is None and pad_token is None and kind in (*GENERIC_TOKENIZERS, *WITHOUT_PAD):
        example = (eos["content"] if isinstance(eos, dict) else eos) or "<|endoftext|>"
        raise UserError(no_pad_token(given.ref, example))
    if conversational and own_template(given.path) is None and chat_template is None:
        raise UserError(
            f"the data is conversational and the tokenizer of {given.ref} has no chat template; give one: "
            "model.chat_template=conf/model/chat.jinja, or data of plain strings"
        )


def check_assistant_turns(given: Input, *, conversational: bool, chat_template: str | None) -> None:
    """`trainer.assistant_only_loss` can be kept to: rows are conversations, and the template marks who says what.

    Args:
        conversational, chat_template: as in `check_tokenizer`.
    """
    if not conversational:
        raise UserError(
            "trainer.assistant_only_loss=true and the data is plain strings, in which nobody speaks; set it to false, "
            "or give conversations"
        )
    template = own_template(given.path)
    if template is None and chat_template is not None:
        template = local_path(chat_template).read_text("utf-8")
    if template is not None and not GENERATION.search(template) and template not in _templates_trl_marks():
        raise UserError(unmarked(given.ref))


def _templates_trl_marks() -> set[str]:
    """The chat templates for which TRL has another that marks what the assistant says, read without importing TRL."""
    spec = importlib.util.find_spec("trl")
    folder = Path(spec.submodule_search_locations[0]) / "chat_templates"
    marked = (file for file in folder.glob("*.jinja") if file.with_stem(f"{file.stem}_training").is_file())
    return {file.read_text("utf-8") for file in marked}


def no_pad_token(name: str, example: str) -> str:
    """The sentence on a tokenizer without padding; `example` is a token of its vocabulary."""
    return (
        f"the tokenizer of {name} has no pad token; name one of its vocabulary, for instance "
        f"'model.pad_token=\"{example}\"'"
    )
