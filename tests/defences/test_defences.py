"""The tables are true: each piece of code stands once in its file, each test is there. `make defences` does more."""

import ast
from itertools import chain
from pathlib import Path

from tests.defences import AREAS

PROJECT = Path(__file__).resolve().parents[2]


def test_every_defence_stands_in_its_file_and_has_its_test():
    for defence in chain(*AREAS.values()):
        text = (PROJECT / "align" / defence.file).read_text("utf-8")
        without = defence.without_it(text)
        assert without != text, defence
        ast.parse(without)
        file, _, name = defence.test.partition("::")
        names = {node.name for node in ast.walk(ast.parse((PROJECT / "tests" / file).read_text())) if _is_test(node)}
        assert name.partition("[")[0] in names, defence


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
