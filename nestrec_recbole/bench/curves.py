"""Training curves as PNG."""

from __future__ import annotations

from pathlib import Path

from nestrec_recbole.bench.run import Run
from nestrec_recbole.files import written_whole


def plot_curves(runs: list[Run], path: Path) -> None:
    """Draw training loss and validation score by epoch, one line a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, score = figure.subplots(1, 2)
    for run in runs:
        epochs = [record["epoch"] + 1 for record in run.history]
        loss.plot(epochs, [record["train_loss"] for record in run.history], label=run.model)
        scored = [record for record in run.history if "valid_score" in record]
        score.plot([r["epoch"] + 1 for r in scored], [r["valid_score"] for r in scored], label=run.model)
    loss.set(xlabel="epoch", ylabel="training loss")
    score.set(xlabel="epoch", ylabel="validation NDCG@10 (U)")
    score.legend()
    with written_whole(path) as draft:
        figure.savefig(draft, dpi=120, format="png")
