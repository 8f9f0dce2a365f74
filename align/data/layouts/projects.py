"""Layouts that only one project writes: GSM8K's solutions, MOSS's plugins, FastChat's answers, BFCL's questions."""

import re
from collections.abc import Mapping
from typing import Any

from align.data.layouts.answers import assistant, user
from align.data.layouts.conversations import messages_of
from align.data.layouts.prompts import system_of
from align.records import (
    LATER_TURNS,
    Demonstration,
    Message,
    Prompt,
    Record,
    RecordError,
    UnpairedPreference,
    as_tools,
    shown,
)

Row = Mapping[str, Any]


def gsm8k_solutions(row: Row, wanted: str) -> list[Record]:
    """GSM8K's example_model_solutions: a question and, for each of several models, a solution and `is_correct`."""
    solutions = {name: value for name, value in row.items() if isinstance(value, Mapping)}
    if not solutions:
        raise RecordError(
            "solution", f"is missing: no field holds a solution and is_correct (fields {', '.join(row)})"
        )
    question = row.get("question")
    if not isinstance(question, str):
        raise RecordError("question", f"is {shown(question)}, not a string" if question is not None else "is missing")
    prompt = [user(question)]
    records: list[Record] = []
    for name, value in solutions.items():
        answer = [{"role": "assistant", "content": value.get("solution")}]
        try:
            record = {"prompt": prompt, "completion": answer, "label": value.get("is_correct")}
            records.append(UnpairedPreference.from_row(record))
        except RecordError as error:
            raise RecordError(f"{name}: {error.field}", error.why) from error
    return records


_MARKER = re.compile(r"^\s*<\|[^|]*\|>:\s?|\s*<eo[a-z]>\s*$")
_API = re.compile(r"API:\s*(\w+)\((\w+)\)")
_CALL = re.compile(r'(\w+)\("((?:[^"\\]|\\.)*)"\)')


def moss(row: Row, wanted: str) -> list[Record]:
    """MOSS's `chat` of turns with plugins: inner thoughts become reasoning, commands and results calls of tools.

    Source: https://github.com/OpenMOSS/MOSS, SFT_data/conversations/conversation_with_plugins.
    """
    chat = row.get("chat")
    if not isinstance(chat, Mapping) or not chat or not all(re.fullmatch(r"turn_\d+", str(name)) for name in chat):
        raise RecordError("chat", f"is {shown(chat)}, not turn_1, turn_2 and so on")
    apis = dict(_API.findall(row["meta_instruction"])) if isinstance(row.get("meta_instruction"), str) else {}
    turns = system_of(row)
    for name in sorted(chat, key=lambda turn: int(turn.removeprefix("turn_"))):
        turn, field = chat[name], f"chat.{name}"
        if not isinstance(turn, Mapping):
            raise RecordError(field, f"is {shown(turn)}, not what Human and MOSS say")
        said = {key: _plain(turn.get(key), f"{field}.{key}") for key in ("Human", "MOSS")}
        thoughts, commands, results = (
            _plain(turn.get(key, "None"), f"{field}.{key}") for key in ("Inner Thoughts", "Commands", "Tool Responses")
        )
        thinks = {"reasoning_content": thoughts} if thoughts not in ("", "None") else {}
        turns.append(user(said["Human"]))
        if commands not in ("", "None"):
            calls = _CALL.findall(commands)
            if not calls:
                raise RecordError(f"{field}.Commands", f'is {shown(commands)}, not a call such as Search("words")')
            made = [
                {"type": "function", "function": {"name": tool, "arguments": {apis.get(tool, "input"): argument}}}
                for tool, argument in calls
            ]
            turns.append({"role": "assistant", **thinks, "tool_calls": made})
            turns.append({"role": "tool", "content": results})
            thinks = {}
        turns.append({**assistant(said["MOSS"], f"{field}.MOSS"), **thinks})
    return [Demonstration.from_row({"prompt": turns[:-1], "completion": turns[-1:]})]


def _plain(value: Any, field: str) -> str:
    """What is said in a part of a MOSS turn, without `<|Human|>: ` before and `<eoh>` after it."""
    if not isinstance(value, str):
        raise RecordError(field, f"is {shown(value)}, not a string")
    return _MARKER.sub("", value).strip()


def fastchat_answers(row: Row, wanted: str) -> list[Record]:
    """FastChat's model answers, `choices` of `turns`, next to the questions' `turns` (--beside question.jsonl).

    Source: https://github.com/lm-sys/FastChat, fastchat/llm_judge/data/mt_bench/model_answer.
    """
    questions, choices = row.get("turns"), row.get("choices")
    if not isinstance(choices, list) or not choices:
        raise RecordError("choices", f"is {shown(choices)}, not a list of answers")
    if not isinstance(questions, list) or not all(isinstance(question, str) for question in questions):
        raise RecordError(
            "turns",
            "is missing: the answers name their question by question_id alone; put the questions next to them with "
            "--beside question.jsonl",
        )
    records: list[Record] = []
    for position, choice in enumerate(choices):
        answers = choice.get("turns") if isinstance(choice, Mapping) else None
        field = f"choices[{position}].turns"
        if not isinstance(answers, list) or len(answers) != len(questions):
            raise RecordError(field, f"is {shown(answers)}, not {len(questions)} answers")
        turns: list[Message] = []
        for question, answer in zip(questions, answers, strict=True):
            turns += [user(question), assistant(answer, field)]
        records.append(Demonstration.from_row({"prompt": turns[:-1], "completion": turns[-1:]}))
    return records


def bfcl(row: Row, wanted: str) -> list[Record]:
    """BFCL's `question`, a list of messages for each turn, and `function`: a prompt with tools and its later turns.

    Source: https://github.com/ShishirPatil/gorilla, berkeley-function-call-leaderboard.
    """
    question, functions = row.get("question"), row.get("function")
    if isinstance(question, str):
        first: Any = [user(question)]
    else:
        first = question[0] if isinstance(question, list) and question else None
        first = question if isinstance(first, Mapping) else first
    if not isinstance(first, list) or not first:
        raise RecordError("question", f"is {shown(question)}, not a list of messages for each turn")
    given = as_tools([functions] if isinstance(functions, Mapping) else functions, "function")
    tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in given or []]
    prompt = {"prompt": messages_of(first, "question"), "tools": tools, LATER_TURNS: later_questions(row)}
    return [Prompt.from_row(prompt)]


def later_questions(row: Row) -> list[str]:
    """What the user of a BFCL row asks after the first turn; empty where a turn is not one message of the user."""
    question = row["question"]
    turns = question[1:] if isinstance(question, list) and question and isinstance(question[0], list) else []
    said = [turn[0].get("content") for turn in turns if _is_question(turn)]
    return said if len(said) == len(turns) else []


def _is_question(turn: Any) -> bool:
    is_single = isinstance(turn, list) and len(turn) == 1 and isinstance(turn[0], Mapping)
    return is_single and turn[0].get("role") == "user" and isinstance(turn[0].get("content"), str)


def is_fastchat(row: Row) -> bool:
    """Whether a row holds a model's answers as FastChat writes them."""
    choices = row.get("choices")
    return isinstance(choices, list) and any(isinstance(choice, Mapping) and "turns" in choice for choice in choices)


def is_bfcl(row: Row) -> bool:
    """Whether a row holds a question of BFCL with the functions that may be called."""
    functions = row.get("function")
    functions = [functions] if isinstance(functions, Mapping) else functions
    return (
        isinstance(row.get("question"), list | str)
        and isinstance(functions, list)
        and any(isinstance(tool, Mapping) and "parameters" in tool for tool in functions)
    )


def is_moss(row: Row) -> bool:
    """Whether a row holds a conversation as MOSS writes it."""
    chat = row.get("chat")
    return isinstance(chat, Mapping) and "turn_1" in chat
