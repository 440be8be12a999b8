"""From the settings of a suite to RecBole's config: every model under one protocol."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from recbole.config import Config
from recbole.utils import get_model

from nestrec_recbole import plugin
from nestrec_recbole.bench.keys import PROTOCOL
from nestrec_recbole.process_state import keeping_visible_gpus
from nestrec_recbole.settings.roles import SHARED
from nestrec_recbole.train.prepare import configure

REFERENCE = "FastSASRec"  # any model of this package without item fields: its defaults are those of all of them
# `load_col` is for the door to share: some models of RecBole read other files too.
_SHARED = [key for key in dict.fromkeys((*PROTOCOL, *SHARED)) if key != "load_col"]


def resolve(model: str, dataset: str, settings: Mapping[str, Any]) -> Config:
    """Build the config of a run, with RecBole's own defaults for the settings that are a model's of RecBole."""
    with keeping_visible_gpus():
        return configure(model, dataset, under_protocol(model, dataset, settings))


def under_protocol(model: str, dataset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give a model of RecBole's the protocol of this package where ``settings`` say nothing."""
    if plugin.is_ours(model):
        return dict(settings)
    ours = _internal(REFERENCE, dataset)
    return {**{key: ours[key] for key in _SHARED if key in ours}, **settings}


def defaults(model: str, dataset: str) -> dict[str, Any]:
    """Every setting a model knows, with its default."""
    own = _internal(model, dataset)
    if plugin.is_ours(model):
        return own
    ours = _internal(REFERENCE, dataset)
    return {**own, **{key: ours[key] for key in _SHARED if key in ours}}


@functools.cache
def _internal(model: str, dataset: str) -> dict[str, Any]:
    config = Config.__new__(Config)  # a whole one would refuse defaults that some models of RecBole cannot run with
    config.external_config_dict, config.cmd_config_dict = {}, {}
    config.yaml_loader = config._build_yaml_loader()
    config._init_parameters_category()
    config._load_internal_config_dict(model, get_model(model), dataset)
    return config.internal_config_dict
