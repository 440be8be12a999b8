"""What settings are for: each role is a tuple of names, and no setting has two.

Whoever must know which settings are alike (those that all models share, that a benchmark holds equal, that a search
must leave alone, that a checkpoint is compared by) puts its list together from these.
"""

from __future__ import annotations

# -- what the data is -----------------------------------------------------------------------------------------------

DATA_PLACE = ("data_path",)
FEATURE_PLACE = ("feature_path",)
FILES = (  # how files are read, and which of their interactions count
    "field_separator",
    "seq_separator",
    "USER_ID_FIELD",
    "ITEM_ID_FIELD",
    "TIME_FIELD",
    "encoding",
    "benchmark_filename",
    "rm_dup_inter",
    "val_interval",
    "filter_inter_by_user_or_item",
    "user_inter_num_interval",
    "item_inter_num_interval",
)
NUMBERS = ("normalize_all",)  # whether they are rescaled
COLUMNS = ("load_col",)  # some models of RecBole read other files too
ITEM_FIELDS = ("item_fields",)
HISTORY_LENGTH = ("MAX_ITEM_LIST_LENGTH",)  # what a model sees of a history: its own affair
DOMAIN_FIELD = ("domain_field",)
KEPT_DOMAINS = ("domains",)

# -- what is held out -----------------------------------------------------------------------------------------------

HELD_OUT = (
    "hidden_items",
    "hidden_users",
    "hidden_seed",
    "shuffle_ties",
    "tie_seed",
    "eval_args",
    "target_domain",
)
HISTORIES = ("protocol",)  # whether they hold what is later than a target; the targets are the same

# -- how it is ranked -----------------------------------------------------------------------------------------------

RANKED = ("topk", "candidates", "candidate_seed")
REPEATS = ("repeatable",)  # whether seen items are ranked: RecBole says so for each kind of model
METRICS = ("metrics", "valid_metric")

# -- where and how a run goes, which changes nothing of what comes out ------------------------------------------------

START = ("init_from",)  # counts by what is in the file, not by its name
LEFT_BESIDE = ("plot_curves", "save_ranks")  # the checkpoint
MACHINE = (
    "checkpoint_dir",
    "checkpoint_last",
    "checkpoint_steps",
    "eval_batch_size",
    "config_files",
    "show_progress",
    "state",
    "log_wandb",
    "wandb_project",
    "worker",
    "device",
    "gpu_id",
    "use_gpu",
    "local_rank",
    "world_size",
    "nproc",
    "ip",
    "port",
    "offset",
    "single_spec",
)

WHAT_DATA_IS = (
    *DATA_PLACE,
    *FEATURE_PLACE,
    *FILES,
    *NUMBERS,
    *COLUMNS,
    *ITEM_FIELDS,
    *HISTORY_LENGTH,
    *DOMAIN_FIELD,
    *KEPT_DOMAINS,
)
WHAT_IS_MEASURED = (*HELD_OUT, *HISTORIES, *RANKED, *REPEATS, *METRICS)
WHERE_IT_RUNS = (*START, *LEFT_BESIDE, *MACHINE)
ALL = (*WHAT_DATA_IS, *WHAT_IS_MEASURED, *WHERE_IT_RUNS)

# Settings that say where and how to run, and change nothing of what comes out.
ELSEWHERE = (*DATA_PLACE, *FEATURE_PLACE, *WHERE_IT_RUNS)

# What is the same for every model, RecBole's too: data, protocol, metrics and what a run leaves, not how it trains.
SHARED = (
    *DATA_PLACE,
    *FEATURE_PLACE,
    *ITEM_FIELDS,
    *NUMBERS,
    *COLUMNS,
    *DOMAIN_FIELD,
    *KEPT_DOMAINS,
    *HELD_OUT,
    *HISTORIES,
    *RANKED,
    *METRICS,
    *LEFT_BESIDE,
)
