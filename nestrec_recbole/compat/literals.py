"""Settings as text are read, not run, and every one of the command line is."""

from __future__ import annotations

import ast
import sys
from logging import getLogger
from typing import Any

from nestrec_recbole.compat.once import replace_once
from nestrec_recbole.errors import NestRecError

# Settings that are names: of 2024-11-22, one takes no sum.
TEXTS = ("data_path", "feature_path", "init_from", "checkpoint_dir", "target_domain")
_HARMLESS = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Load, ast.UnaryOp, ast.unaryop)
_SETTINGS = (str, int, float, list, tuple, dict)
_ARITHMETIC = (ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


def read_literals_only() -> None:
    """``Config`` runs every text setting, file names from the command line included, through ``eval``."""
    from recbole.config import Config

    def convert(self: Config, config_dict: dict[str, Any]) -> dict[str, Any]:
        for key, value in config_dict.items():
            if isinstance(value, str):
                read = literal(value)
                config_dict[key] = value if key in TEXTS and read is not None else read
        return config_dict

    def load_cmd_line(self: Config) -> dict[str, Any]:
        """As RecBole's, which passes over words with two ``=``, a path among them."""
        if "ipykernel_launcher" in sys.argv[0]:
            return {}
        found: dict[str, Any] = {}
        for word in sys.argv[1:]:
            key, equals, value = word.removeprefix("--").partition("=")
            if not (word.startswith("--") and equals):
                getLogger().warning("command line argument %r is no --key=value and sets nothing", word)
            elif found.setdefault(key, value) != value:
                raise NestRecError(f"--{key} is given twice: {found[key]} and {value}")
        return self._convert_config_dict(found)

    replace_once(Config, "_convert_config_dict", convert)
    replace_once(Config, "_load_cmd_line", load_cmd_line)


def literal(text: str) -> Any:
    """A number, list, tuple, dict, truth value or sum of numbers written as text; any other text is itself.

    In a list or dict a word needs no quotes, which a shell would take: ``[NDCG,Recall]``, ``{distribution: uniform}``.
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        tree = _Quoted().visit(ast.parse(text.strip(" \t"), mode="eval"))
        if all(isinstance(node, _HARMLESS + _ARITHMETIC) for node in ast.walk(tree)):
            value = eval(compile(tree, "<setting>", "eval"), {"__builtins__": {}})  # numbers and containers only
            return value if value is None or isinstance(value, _SETTINGS) else text
    except (SyntaxError, ValueError, TypeError, ZeroDivisionError, RecursionError, MemoryError):
        pass
    return text


class _Quoted(ast.NodeTransformer):
    """Puts quotes around the words that are elements of lists and dicts."""

    def visit_List(self, node: ast.List) -> ast.AST:
        node.elts = [_word(one) for one in node.elts]
        return self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        node.keys = [key and _word(key) for key in node.keys]
        node.values = [_word(one) for one in node.values]
        return self.generic_visit(node)


def _word(node: ast.expr) -> ast.expr:
    if not isinstance(node, ast.Name):
        return node
    value = node.id.lower() == "true" if node.id.lower() in ("true", "false") else node.id
    return ast.copy_location(ast.Constant(value), node)
