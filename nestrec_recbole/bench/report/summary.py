"""The results in words: which model is best on each dataset, by how much, whether that holds, and what failed."""

from __future__ import annotations

from dataclasses import dataclass

from nestrec_recbole.bench.report.results import Results
from nestrec_recbole.bench.report.rows import Group, RowResult, spoken
from nestrec_recbole.bench.suite import build_suite
from nestrec_recbole.evaluate.significance import LEVEL
from nestrec_recbole.settings.roles import ELSEWHERE


@dataclass(frozen=True)
class Finding:
    """What is said of one dataset."""

    label: str
    sentences: list[str]


def findings(groups: list[Group], metric: str) -> list[Finding]:
    """A few sentences for each dataset.

    Parameters
    ----------
    groups : list of Group
    metric : str
        The one that is tested, such as ``ndcg@10_f``.
    """
    return [Finding(group.label, list(_sentences(group, metric))) for group in groups]


def not_done(results: Results) -> str:
    """The runs of the suite that have neither finished nor failed, in a sentence; empty where all have."""
    if not results.missing:
        return ""
    seeds: dict[str, list[str]] = {}
    for row, data, seed in results.missing:
        seeds.setdefault(f"{row} on {data}", []).append(str(seed))
    named = ", ".join(f"{name} (seed{'s' * (len(of) > 1)} {', '.join(of)})" for name, of in seeds.items())
    return f"{len(results.missing)} of {len(results.planned)} runs have not been done: {named}."


def unlike_the_suite(results: Results) -> str:
    """Rows that were trained with other settings than the suite has now, in a sentence; empty where none was.

    ``--only`` with settings trains the named rows anew and leaves the others as they were.
    """
    if not results.suite.get("models"):
        return ""
    suite = build_suite(results.suite, {})
    rows, datasets = {row.name: row for row in suite.rows}, {data.name: data for data in suite.datasets}
    found: dict[str, None] = {}
    for run in results.runs:
        if run.row in rows and run.dataset in datasets and run.finished:
            now = suite.settings_of(rows[run.row], datasets[run.dataset])
            keys = sorted({*now, *run.settings} - {*run.tuning.get("best", {}), *ELSEWHERE})
            others = [f"{key} {run.settings.get(key)}" for key in keys if run.settings.get(key) != now.get(key)]
            if others:
                found[f"{run.row} on {run.dataset} ({', '.join(others)})"] = None
    if not found:
        return ""
    named = ", ".join(found)
    return f"Trained with other settings than the suite has now, so not to be compared with the others: {named}."


def _sentences(group: Group, metric: str) -> list[str]:
    ranked = [row for row in group.finished if row.mean(metric) is not None]
    said = []
    if not group.finished:
        said.append("No run finished, so there is nothing to compare.")
    elif not ranked:
        said.append(f"No run has {spoken(metric)}, so there is nothing to compare.")
    elif len(ranked) == 1:
        said.append(
            f"{ranked[0].name} reaches {spoken(metric)} {_value(ranked[0], metric)}; there is nothing beside it."
        )
    else:
        said += [_best(ranked, metric), *_verdicts(ranked)]
    if ranked:
        said.append(_seeds(ranked[0], metric))
    return [*said, *_failures(group)]


def _best(ranked: list[RowResult], metric: str) -> str:
    first, second = ranked[:2]
    reference = first.against or second
    best = f"{first.name}{', a baseline,' if first.baseline else ''} has the highest {spoken(metric)}, "
    best += f"{_value(first, metric)}: {_above(first, reference, metric)} {reference.name}"
    if reference is first.against and reference.baseline:
        best += f", the baseline that is best on validation data ({_value(reference, metric)}). "
    elif reference is first.against:
        best += f", the best on validation data ({_value(reference, metric)}). "
    else:
        best += f", the next ({_value(reference, metric)}). "
    return best + (_judgement(first, 1) if first.against else _judgement(second, -1))


def _judgement(row: RowResult, sign: int) -> str:
    """What the test says of the best row: it is ``row``, or (``sign`` -1) the one that ``row`` was compared with."""
    found = row.comparison
    if found is None or row.p is None:
        return f"Whether that holds was not tested: {row.untested or 'it is one of a kind'}."
    low, high = sorted((sign * found.low, sign * found.high))
    words = "The difference holds"
    if row.verdict == "not distinguished":
        words = "That may be chance"
    elif sign * found.difference < 0:  # users have several rows each, and some far more than others
        words = "Averaged user by user it is the other way round"
    return (
        f"{words}: {p_value(row.p)} after Holm's correction, {1 - LEVEL:.0%} confidence interval "
        f"{low:+.4f} to {high:+.4f}, paired over {found.n_users:,} users."
    )


def _verdicts(ranked: list[RowResult]) -> list[str]:
    reference = next((row.against for row in ranked if row.against), None)
    said = []
    for verdict, words in {
        "better": "Better than {}: {}.",
        "worse": "Worse than {}: {}.",
        "not distinguished": "Not distinguished from {}: {}.",
    }.items():
        names = [row.name for row in ranked[1:] if row.verdict == verdict]
        if names and reference is not None:
            said.append(words.format(reference.name, ", ".join(names)))
    if ranked[0].baseline:
        said.append("No model is above the baselines.")
    return said


def _seeds(row: RowResult, metric: str) -> str:
    spread = row.spread(metric)
    if spread is None:
        return f"{row.name} has one seed only: how much the result varies between seeds is unknown."
    return f"Between its {len(row.seeds)} seeds {row.name} varies by {spread:.4f} (standard deviation)."


def _failures(group: Group) -> list[str]:
    failed = [run for row in group.rows for run in row.failed]
    if not failed:
        return []
    n_runs = sum(len(row.runs) for row in group.rows)
    names = ", ".join(f"{run.row} (seed {run.seed})" for run in failed)
    return [f"{len(failed)} of {n_runs} runs failed: {names}."]


def p_value(p: float) -> str:
    """``p = 0.031``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _value(row: RowResult, metric: str) -> str:
    return f"{row.mean(metric):.4f}"


def _above(row: RowResult, other: RowResult, metric: str) -> str:
    ours, theirs = row.mean(metric) or 0.0, other.mean(metric) or 0.0
    return f"{ours / theirs - 1:.1%} above" if theirs else f"{ours - theirs:.4f} above"
