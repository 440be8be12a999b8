"""GatedFusionRec as it is by default against the published model, on ml-100k: ``python benchmarks/fusion.py``.

Leave-one-out, the whole catalogue, both protocols. Titles, genres and years are the content. Width and depth are the
same in all rows, so that what differs is how they are trained.
"""

from __future__ import annotations

from typing import Any

from seeded import fill, parser

SHAPE = {"dataset": "ml-100k", "hidden_size": 64, "n_layers": 2, "n_heads": 2, "inner_size": 256}
EVERY_POSITION = {**SHAPE, "learning_rate": 0.002, "epochs": 20, "stopping_step": 5}
# An epoch of it has one target per user, a hundredth of the others: it is given more, and validated less often.
ORIGINAL = {**SHAPE, "model": "GatedFusionRec", "preset": "original", "eval_step": 5}
FITTED = {"cosine": True, "hidden_dropout_prob": 0.3, "learning_rate": 0.002, "epochs": 30, "stopping_step": 5}
RUNS: dict[str, dict[str, Any]] = {
    "FastSASRec, ids only": {"model": "FastSASRec", **EVERY_POSITION},
    "GatedFusionRec": {"model": "GatedFusionRec", **EVERY_POSITION},
    "GatedFusionRec, recency_scale: 0.5": {"model": "GatedFusionRec", "recency_scale": 0.5, **EVERY_POSITION},
    "preset: original": {**ORIGINAL, "learning_rate": 0.001, "epochs": 100, "stopping_step": 3},
    "preset: original, cosine scores, dropout 0.3": {**ORIGINAL, **FITTED},
}


def main() -> None:
    """Run what is missing, and write the results and the table."""
    given = parser(__doc__, RUNS)
    given.add_argument("--features", metavar="FOLDER", help="where encoded fields are kept")
    options = given.parse_args()
    fill("fusion", "python benchmarks/fusion.py", RUNS, options, {"feature_path": options.features})


if __name__ == "__main__":
    main()
