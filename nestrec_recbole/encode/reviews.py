"""The item field ``review``: without the reviews of what is predicted, under the split it was made for only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nestrec_recbole.data.domains import has_target
from nestrec_recbole.errors import NestRecError

FIELD = "review"
LEAVE_ONE_OUT = "leave_one_out"
# Settings that leave interactions out, so that others are predicted, and values that leave none out.
_FILTERS = ("rm_dup_inter", "val_interval", "user_inter_num_interval", "item_inter_num_interval", "domains")
_NONE: tuple[Any, ...] = (None, "", {}, [], "[0,inf)")


def check_reviews(config: Any, fields: Iterable[str]) -> None:
    """Refuse reviews that ``nestrec convert --review-text`` chose for other validation and test data than these.

    Parameters
    ----------
    config : recbole.config.Config
    fields : iterable of str
        The item fields that are wanted.

    Raises
    ------
    NestRecError
        ``review`` is among them, and the split is not the one in ``dataset.json``, or interactions are filtered.
    """
    path = Path(config["data_path"]) / "dataset.json"
    if FIELD not in fields or not path.is_file():
        return
    about = json.loads(path.read_text(encoding="utf-8"))
    if not about.get("options", {}).get("review_text"):
        return
    split = about.get("split") or {"kind": LEAVE_ONE_OUT, "rows": {}}
    for what, way_out in (
        (_other_split(config, split), "convert with --split and train on its benchmark_filename"),
        (_filter(config), "filter in `nestrec convert`"),
    ):
        if what:
            raise NestRecError(
                f"{path}: item field {FIELD!r} was made for {split['kind']}, and under {what} a target's own review "
                f"may be in it; {way_out}, or leave {FIELD!r} out of item_fields"
            )


def _filter(config: Any) -> str | None:
    return next((f"{name} {config[name]}" for name in _FILTERS if config[name] not in _NONE), None)


def _other_split(config: Any, split: dict[str, Any]) -> str | None:
    """What the data is split by, where that is not the ``split`` that was converted for."""
    files, division = config["benchmark_filename"], config["eval_args"]["split"]
    if files:
        is_same = files[0] == "train" and set(files) <= set(split["rows"])
        return None if is_same else f"benchmark_filename {files}"
    if has_target(config):
        return f"target_domain {config['target_domain']}"
    is_same = split["kind"] == LEAVE_ONE_OUT and division == {"LS": "valid_and_test"}
    return None if is_same else f"eval_args.split {division}"
