"""Settings as text are read, not run."""

from __future__ import annotations

import ast
from typing import Any

from nestrec_recbole.compat.once import replace_once

_HARMLESS = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Load, ast.UnaryOp, ast.unaryop)
_SETTINGS = (str, int, float, list, tuple, dict)
_ARITHMETIC = (ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


def read_literals_only() -> None:
    """``Config`` runs every text setting, file names from the command line included, through ``eval``."""
    from recbole.config import Config

    def convert(self: Config, config_dict: dict[str, Any]) -> dict[str, Any]:
        for key, value in config_dict.items():
            if isinstance(value, str):
                config_dict[key] = literal(value)
        return config_dict

    replace_once(Config, "_convert_config_dict", convert)


def literal(text: str) -> Any:
    """A number, list, tuple, dict, truth value or sum of numbers written as text; any other text is itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        tree = ast.parse(text.strip(" \t"), mode="eval")
        if all(isinstance(node, _HARMLESS + _ARITHMETIC) for node in ast.walk(tree)):
            value = eval(compile(tree, "<setting>", "eval"), {"__builtins__": {}})  # numbers and containers only
            return value if value is None or isinstance(value, _SETTINGS) else text
    except (SyntaxError, ValueError, TypeError, ZeroDivisionError, RecursionError, MemoryError):
        pass
    return text
