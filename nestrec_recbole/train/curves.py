"""Training curves as PNG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nestrec_recbole.files import written_whole

History = Sequence[Mapping[str, float]]  # of a trainer: a record per epoch


def plot_curves(histories: Mapping[str, History], path: str | Path) -> None:
    """Draw loss and validation metrics by epoch, and write them whole or not at all; no window opens.

    One panel for the training loss, one for NDCG and one for Recall (Hit where that is not there) at the largest k,
    where they were computed, else one for the validation score. A colour is a run, a dashed line is protocol F.

    Parameters
    ----------
    histories : mapping of str to History
        Name of a run to the ``history`` of its trainer.
    path : str or Path
    """
    from matplotlib.figure import Figure  # not pyplot: that would look for a screen

    metrics = _metrics({key for history in histories.values() for record in history for key in record})
    figure = Figure(figsize=(4.5 * (1 + len(metrics)), 3.5), layout="constrained")
    panels = figure.subplots(1, 1 + len(metrics), squeeze=False)[0]
    for number, (name, history) in enumerate(histories.items()):
        for panel, key in zip(panels, ("train_loss", *metrics), strict=True):
            for suffix, style in (("", "-"), ("_f", "--")):
                points = [(record["epoch"] + 1, record[key + suffix]) for record in history if key + suffix in record]
                if points:
                    marker = "o" if len(points) == 1 else ""
                    label = name + (" (F)" if suffix else "")
                    panel.plot(*zip(*points, strict=True), style, color=f"C{number}", marker=marker, label=label)
    for panel, key in zip(panels, ("training loss", *metrics), strict=True):
        panel.set(xlabel="epoch", ylabel=key.replace("valid_", "validation "))
        panel.xaxis.get_major_locator().set_params(integer=True)
    if panels[-1].lines:
        panels[-1].legend()
    with written_whole(path) as draft:
        figure.savefig(draft, dpi=120, format="png")


def _metrics(keys: Iterable[str]) -> list[str]:
    """The keys of the panels beside the loss: of each metric the one with the largest k."""
    largest: dict[str, tuple[int, str]] = {}
    for key in keys:
        metric, _, k = key.partition("@")
        if k.isdecimal():
            largest[metric] = max(largest.get(metric, (0, "")), (int(k), key))
    named = ["valid_ndcg", "valid_recall" if "valid_recall" in largest else "valid_hit"]
    found = [largest[metric][1] for metric in named if metric in largest]
    return found or ["valid_score"]
