"""The report says what the runs say, in words, tables and data for charts, and survives bad input."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from results_folder import ROWS, SCRIPT, write_results

from nestrec_recbole.bench.report import write_report
from nestrec_recbole.bench.report.page import count, day, duration, flat, json_of
from nestrec_recbole.bench.report.results import read_results
from nestrec_recbole.bench.report.rows import group_rows, spoken
from nestrec_recbole.bench.report.summary import findings
from nestrec_recbole.bench.report.tables import OF_USERS, as_markdown
from nestrec_recbole.cli import main

TABLES = ("table.csv", "table.md", "table.tex")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with its report, which no test changes."""
    folder = write_results(tmp_path_factory.mktemp("results") / "tiny")
    write_report(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, shared: Path) -> Path:
    """A results folder without a report."""
    made = shutil.ignore_patterns("report.html", "table.*", "costs.csv")
    return Path(shutil.copytree(shared, tmp_path / "results" / "tiny", ignore=made))


def runs_of(folder: Path, row: str, dataset: str = "small") -> list[Path]:
    found = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("runs/*/run.json"))]
    return [path for path, run in found if run["row"] == row and run["dataset"] == dataset]


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def page_of(folder: Path) -> dict[str, Any]:
    html = (folder / "report.html").read_text()
    (found,) = re.findall(r'<script type="application/json" id="page">(.*?)</script>', html, flags=re.S)
    return json.loads(found)


def said_of(folder: Path) -> dict[str, str]:
    results = read_results(folder)
    return {one.label: " ".join(one.sentences) for one in findings(group_rows(results), "ndcg@10_f")}


def test_summary_names_the_best_by_how_much_and_what_failed(shared: Path) -> None:
    said = said_of(shared)
    assert list(said) == ["small", "other"]
    group = group_rows(read_results(shared))[0]
    best, reference = group.rows[0], group.rows[-1]
    means = best.mean("ndcg@10_f"), reference.mean("ndcg@10_f")
    assert (best.name, reference.name) == ("NestRec", "SASRec")
    expected = f"NestRec has the highest NDCG@10 F, {means[0]:.4f}: {means[0] / means[1] - 1:.1%} above SASRec, "
    expected += f"the baseline that is best on validation data ({means[1]:.4f}). The difference holds: p < 0.001"
    assert said["small"].startswith(expected)
    assert "Not distinguished from SASRec: NestRec <without> ids." in said["small"]
    assert "NestRec has one seed only: how much the result varies between seeds is unknown." in said["small"]
    assert "1 of 6 runs failed: NestRec (seed 2)." in said["small"] and "failed" not in said["other"]
    assert "Between its 2 seeds NestRec varies by" in said["other"]


def test_a_worse_model_is_called_worse(tmp_path: Path) -> None:
    said = said_of(write_results(tmp_path / "tiny", rows={"SASRec": 1.0, "NestRec": 0.0}, fails=None))["small"]
    assert said.startswith("SASRec, a baseline, has the highest NDCG@10 F")
    assert "above NestRec, the next" in said and "Worse than SASRec: NestRec." in said
    assert "No model is above the baselines." in said
    low, high = map(float, re.search(r"interval ([+-][\d.]+) to ([+-][\d.]+)", said).groups())  # type: ignore[union-attr]
    assert 0 < low < high


def test_table_holds_the_means_of_the_runs(shared: Path) -> None:
    with open(shared / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["dataset"], row["row"]) for row in rows[:3]] == [
        ("small", "NestRec"),
        ("small", "NestRec <without> ids"),
        ("small", "SASRec"),
    ]
    for row in rows:
        runs = [json.loads(path.read_text()) for path in runs_of(shared, row["row"], row["dataset"])]
        finished = [run["metrics"]["recall@10_f"] for run in runs if run["status"] == "finished"]
        assert float(row["recall@10_f"]) == pytest.approx(sum(finished) / len(finished))
        assert int(row["failed"]) == len(runs) - len(finished)
        assert bool(row["verdict"]) == (row["row"] != "SASRec")
    assert [row["verdict"] for row in rows if row["row"] == "NestRec"] == ["better", "better"]
    p = sorted((float(row["p"]), float(row["p_holm"])) for row in rows if row["p"])
    assert [adjusted for _, adjusted in p[:2]] == pytest.approx([4 * p[0][0], 4 * p[0][0]])  # four comparisons in all


def test_markdown_and_latex_mark_what_is_better(shared: Path) -> None:
    markdown, latex = (shared / "table.md").read_text(), (shared / "table.tex").read_text()
    assert re.search(r"\| small \| NestRec \| \*\*0\.\d{4}\*\*† \|", markdown)
    assert r"NestRec \<without\> ids" in markdown and "1, 1 failed" in markdown
    assert re.search(r"NestRec & \\textbf\{0\.\d{4}\}\$\^\\dagger\$ &", latex)
    assert r"NestRec \textless{}without\textgreater{} ids & 0." in latex
    assert latex.count("{") == latex.count("}")


def test_page_is_one_file_that_asks_for_nothing(shared: Path) -> None:
    html = (shared / "report.html").read_text()
    own = html[: html.index("<script>")] + html[html.rindex("<script>") :]  # all but plotly's
    assert not re.search(r'<link|<iframe|src="(?!data:)|url\(|@import|fetch\(', own)
    assert "default-src 'none'" in own and html.count("'sha256-") == 2


def test_nothing_of_a_run_or_an_item_is_markup(shared: Path) -> None:
    html = (shared / "report.html").read_text()
    titles = [title for one in page_of(shared)["datasets"] for title in one["examples"]["titles"].values()]
    assert SCRIPT in titles and SCRIPT not in html
    assert "NestRec &lt;without&gt; ids" in html and "NestRec <without> ids" not in html
    assert "epoch 2 &lt;b&gt;&amp;&lt;/b&gt; no checkpoint" in html and "<b>&" not in html
    assert "BSARec &amp; co" in html and 'href="https://arxiv.org/abs/2312.10325"' in html


def test_every_run_has_its_command_and_every_failure_its_error(shared: Path) -> None:
    html = (shared / "report.html").read_text()
    runs = [json.loads(path.read_text()) for path in shared.glob("runs/*/run.json")]
    assert len(runs) == 12
    for run in runs:
        command = run["command"].replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;")
        assert f"<code>{command}</code>" in html
    assert html.count("RuntimeError: loss is NaN") == 2  # in the summary, and at the run


def test_examples_are_the_lists_of_the_first_seed(shared: Path) -> None:
    about = page_of(shared)["datasets"][0]["examples"]
    (first, _) = runs_of(shared, "SASRec")
    lists = pd.read_parquet(first.parent / "lists.parquet").set_index("user")
    ranks = pd.read_parquet(first.parent / "ranks.parquet").set_index("user")
    assert len(about["users"]) == 8
    for one in about["users"]:
        assert one["lists"]["SASRec"] == lists.loc[one["user"], "items_unseen"].tolist()
        assert one["history"] == lists.loc[one["user"], "history"].tolist()
        assert (one["target"], one["ranks"]["SASRec"]) == tuple(ranks.loc[one["user"], ["item", "rank_unseen"]])
    listed = [any(one["target"] in items for items in one["lists"].values()) for one in about["users"]]
    assert all(listed[:4])
    assert about["pictures"] and all(uri.startswith("data:image/jpeg;base64,") for uri in about["pictures"].values())
    assert not {"i4", "i6"} & set(about["pictures"])  # outside the folder, and missing


def test_slices_and_curves_reach_the_page(shared: Path) -> None:
    small = page_of(shared)["datasets"][0]
    slices = {one["name"]: one for one in small["slices"]}
    assert set(slices) == {"history length", "time ties", "training interactions of the target", "text", "image"}
    for one in slices.values():
        assert sum(one["counts"]) == 240 and [row["name"] for row in one["rows"]] == [r["name"] for r in small["rows"]]
        for row, known in zip(one["rows"], small["rows"], strict=True):
            mean = sum(n * value for n, value in zip(one["counts"], row["values"], strict=True)) / 240
            assert mean == pytest.approx(known["means"]["ndcg@10_f"])
    curve = small["rows"][0]["curves"][0]
    assert curve["epochs"] == curve["scored"] == [1, 2, 3, 4] and len(curve["loss"]) == len(curve["score"]) == 4


def test_the_same_folder_gives_the_same_bytes(folder: Path) -> None:
    first = [write_report(folder).read_bytes(), *((folder / name).read_bytes() for name in TABLES)]
    assert [write_report(folder).read_bytes(), *((folder / name).read_bytes() for name in TABLES)] == first


def test_what_runs_cost_is_in_a_table_of_its_own(folder: Path) -> None:
    """So that equal runs give equal tables, however long each took."""
    write_report(folder)
    first = [(folder / name).read_bytes() for name in TABLES]
    for path in folder.glob("runs/*/run.json"):
        run = json.loads(path.read_text())
        if run["status"] == "finished":
            longer = {name: 2 * seconds for name, seconds in run["seconds"].items()}
            change(path, seconds=longer, peak_memory_mib=2.0 * run["peak_memory_mib"], started="2027-01-01T00:00:00")
    costs = (folder / "costs.csv").read_text()
    write_report(folder)
    assert [(folder / name).read_bytes() for name in TABLES] == first
    with open(folder / "costs.csv", newline="") as file:
        after = {(row["dataset"], row["row"]): row for row in csv.DictReader(file)}
    for row in csv.DictReader(costs.splitlines()):
        for name in ("seconds_train", "seconds_evaluate", "peak_memory_mib"):
            assert float(after[row["dataset"], row["row"]][name]) == pytest.approx(2 * float(row[name]))


def test_what_has_not_been_done_is_said(folder: Path) -> None:
    for path in runs_of(folder, "NestRec", "other"):
        shutil.rmtree(path.parent)
    html = write_report(folder).read_text()
    said = "2 of 12 runs have not been done: NestRec on other (seeds 1, 2)."
    assert html.count(said) == 2  # in the summary, and under the table
    assert (folder / "table.md").read_text().endswith(f"\n\n{said}\n")
    assert (folder / "table.tex").read_text().endswith(f"\n\n{said}\n")
    for path in folder.glob("runs/*/run.json"):
        if json.loads(path.read_text())["dataset"] == "other":
            shutil.rmtree(path.parent)
    write_report(folder)
    assert (
        "6 of 12 runs have not been done: SASRec on other (seeds 1, 2), NestRec on" in (folder / "table.md").read_text()
    )


def test_what_tuning_a_row_got_is_said_in_words(folder: Path) -> None:
    tuned = {"trials": 20, "epochs": 214, "best": {"n_layers": 2}, "score": 0.3, "folder": "NestRec-small-0a1b"}
    for path in runs_of(folder, "NestRec"):
        change(path, tuning=tuned)
    for path in runs_of(folder, "SASRec"):
        change(path, tuning={"trials": 0, "why": "no space is known for SASRec"})
    html = write_report(folder).read_text()
    assert "Tuned on validation data: 20 trials, 214 epochs; n_layers 2." in html
    assert 'href="tuning/NestRec-small-0a1b/tuning.html"' in html
    assert "Not tuned: no space is known for SASRec." in html
    with open(folder / "table.csv", newline="") as file:
        rows = {(row["dataset"], row["row"]): row for row in csv.DictReader(file)}
    got = [(row["tuning_trials"], row["tuning_epochs"]) for row in (rows["small", "NestRec"], rows["small", "SASRec"])]
    assert got == [("20", "214"), ("0", "")]


def test_without_a_baseline_validation_says_what_rows_are_compared_with(tmp_path: Path) -> None:
    """Against what happens to be best on test data, rows that are equal would be found worse too often."""
    folder = write_results(tmp_path / "tiny", rows=dict(zip(ROWS, (0.9, 0.0, 0.05), strict=True)), fails=None)
    for path in folder.glob("runs/*/run.json"):
        score = 0.9 if json.loads(path.read_text())["row"] == "NestRec" else 0.1
        history = [{"epoch": 0, "valid_ndcg@10_f": 1 - score}, {"epoch": 3, "valid_ndcg@10_f": score}]
        change(path, baseline=False, valid={"score": score, "metric": "ndcg@10_f", "epoch": 3}, history=history)
    group = group_rows(read_results(folder))[0]
    assert {row.name: row.against and row.against.name for row in group.rows} == {
        name: None if name == "NestRec" else "NestRec" for name in ROWS
    }
    said = said_of(folder)["small"]
    assert said.startswith("SASRec has the highest") and "above NestRec, the best on validation data (" in said
    assert "than the row that is best on validation data" in as_markdown([group], ["ndcg@10_f"])


@pytest.mark.parametrize(("skills", "best"), [((0.0, 0.9, 0.05), "NestRec"), ((0.9, 0.0, 0.05), "SASRec")])
def test_a_best_row_that_was_not_tested_has_no_p_of_another(skills: Any, best: str, tmp_path: Path) -> None:
    """The best is a model without ranks; or the baseline, and it is the second that is tested."""
    folder = write_results(tmp_path / "tiny", rows=dict(zip(ROWS, skills, strict=True)), fails=None)
    for path in runs_of(folder, "NestRec"):
        (path.parent / "ranks.parquet").unlink()
    said = said_of(folder)["small"]
    assert said.startswith(best)
    if best == "NestRec":
        assert "Whether that holds was not tested" in said and "ranks.parquet: missing" in said and "p =" not in said
    else:
        assert "above NestRec <without> ids, the next" in said and "p < 0.001" in said


def test_a_test_that_contradicts_the_means_is_told_as_it_is(tmp_path: Path) -> None:
    """Means are over rows, tests over users: where one user has most rows, the best may be the worse one."""
    folder = write_results(tmp_path / "tiny", rows=dict(zip(ROWS, (0.1, 0.9, 0.05), strict=True)), fails=None)
    for path in runs_of(folder, "SASRec"):
        metrics = {name: value + 1 for name, value in json.loads(path.read_text())["metrics"].items()}
        change(path, metrics=metrics)
    assert "Averaged user by user it is the other way round: p < 0.001" in said_of(folder)["small"]


def test_one_seed_says_that_the_spread_is_unknown(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "tiny", seeds=(7,), fails=None)
    write_report(folder)
    assert "how much the result varies between seeds is unknown" in said_of(folder)["other"]
    assert "<small>±" not in (folder / "report.html").read_text()


def test_all_runs_failed(folder: Path) -> None:
    for path in folder.glob("runs/*/run.json"):
        change(path, status="failed", error="MemoryError", metrics=None, history=None, valid=None, seconds=None)
    html = write_report(folder).read_text()
    assert html.count("No run finished, so there is nothing to compare.") == 2
    assert "6 of 6 runs failed" in html and html.count("<code>MemoryError</code>") == 24
    assert "Nothing was tested." in (folder / "table.md").read_text()


def test_missing_ranks_are_a_row_that_is_not_tested(folder: Path) -> None:
    (runs_of(folder, "NestRec <without> ids")[0].parent / "ranks.parquet").unlink()
    (runs_of(folder, "NestRec", "other")[0].parent / "lists.parquet").unlink()
    for path in folder.glob("datasets/*/items.parquet"):
        path.unlink()
    html = write_report(folder).read_text()
    assert "ranks.parquet: missing; without the ranks of every user there is nothing to test" in html
    untested = [row for group in group_rows(read_results(folder)) for row in group.rows if row.untested]
    assert [(row.name, row.verdict) for row in untested] == [("NestRec <without> ids", "")]
    assert [one["name"] for one in page_of(folder)["datasets"][0]["slices"]] == ["history length", "time ties"]
    assert page_of(folder)["datasets"][1]["examples"]["titles"] == {}


def test_a_metric_that_no_user_has_is_shown_and_not_tested(folder: Path) -> None:
    suite = (folder / "suite.yaml").read_text()
    (folder / "suite.yaml").write_text(re.sub(r"metrics:\n(- .*\n)+", "metrics: [coverage@10, ndcg@10]\n", suite))
    html = write_report(folder).read_text()
    assert "Whether that holds was not tested" in html and "Coverage@10" in html


def test_rows_of_other_test_users_are_not_tested(folder: Path) -> None:
    for path in runs_of(folder, "NestRec", "other"):
        ranks = pd.read_parquet(path.parent / "ranks.parquet")
        ranks.iloc[5:].to_parquet(path.parent / "ranks.parquet")
    (row,) = [row for row in group_rows(read_results(folder))[1].rows if row.name == "NestRec"]
    assert row.comparison is None and "was tested on 235 rows and SASRec on 240" in row.untested


def test_what_is_optional_may_be_missing(folder: Path) -> None:
    (folder / "suite.yaml").unlink()
    (folder / "datasets/small-0a1b2c3d/card.json").unlink()
    (folder / "datasets/other-99aa88bb/card.json").write_text('{"dataset": "other", "first_time": 3}')
    for path in folder.glob("runs/*/run.json"):
        change(path, valid={"score": None, "metric": None, "epoch": None}, seconds={}, environment={}, command="")
        change(path, history=[], parameters=None, peak_memory_mib=None, tuning={"trials": 2}, config={}, settings={})
    html = write_report(folder).read_text()
    for said in ("No card of this dataset", "1970-01-01 to", "Tuned on validation data: 2 trials."):
        assert said in html


def test_not_a_number_is_missing_in_the_page(folder: Path) -> None:
    (first, _) = runs_of(folder, "SASRec")
    change(first, metrics={**json.loads(first.read_text())["metrics"], "novelty@10": float("nan")})
    write_report(folder)
    sasrec = next(row for row in page_of(folder)["datasets"][0]["rows"] if row["name"] == "SASRec")
    assert sasrec["means"]["novelty@10"] is None


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such folder": (lambda f: f.rename(f.with_name("gone")), "no such folder"),
    "another folder": (lambda f: (f / "results.json").unlink(), "no results.json"),
    "no runs": (lambda f: (f / "runs").rename(f / "old"), "no runs in it yet"),
    "later format": (lambda f: change(f / "results.json", format=2), "format 2, written by nestrec_recbole 0.0.test"),
    "later run": (lambda f: change(runs_of(f, "NestRec")[0], format=3), r"run.json: format 3; this version reads"),
    "half a file": (lambda f: runs_of(f, "NestRec")[0].write_text('{"format": 1,'), "run.json: not valid JSON"),
    "a list": (lambda f: runs_of(f, "NestRec")[0].write_text("[]"), "expected a JSON object, found list"),
    "no row": (lambda f: change(runs_of(f, "NestRec")[0], row=None), "run.json: no field 'row'"),
    "seed": (lambda f: change(runs_of(f, "NestRec")[0], seed="1"), r"field 'seed' is '1' \(str\); expected int"),
    "status": (lambda f: change(runs_of(f, "NestRec")[0], status="done"), "unknown status 'done'"),
    "yaml": (lambda f: (f / "suite.yaml").write_text("a: [1"), "suite.yaml: not valid YAML"),
    "items": (lambda f: (f / "datasets/small-0a1b2c3d/items.parquet").write_text("x"), "not a Parquet file"),
    "lists": (lambda f: (runs_of(f, "SASRec")[0].parent / "lists.parquet").write_text("x"), "not a Parquet file"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_is_refused_in_one_line(how: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    breaks, said = BROKEN[how]
    breaks(folder)
    assert main(["report", str(folder)]) == 2
    complaint = capsys.readouterr().err
    assert re.search(said, complaint) and complaint.count("\n") == 1
    assert not list(folder.glob("report.html")) and not list(folder.glob("*.csv")) and not list(folder.glob("table.*"))


def test_verb_report_prints_the_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")


def test_compare_rows_and_runs(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "NestRec", "SASRec", "--in", str(shared), "--dataset", "other"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("NDCG@10 F on other-99aa88bb, 240 users, paired\nA  NestRec")
    assert "2 seeds" in said and "(t-test over users and seeds)" in said and OF_USERS not in said
    assert "A, NestRec, is better than B, SASRec.\n" in said
    one, two = (str(path.parent) for path in runs_of(shared, "SASRec"))
    assert main(["compare", one, two, "--metric", "recall@5"]) == 0
    said = capsys.readouterr().out
    assert "1 seed: the spread between seeds is unknown" in said
    assert f"A, SASRec (seed 1), is not distinguished from B, SASRec (seed 2). {OF_USERS}\n" in said


def test_compare_files_of_ranks(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As what ``run`` leaves (<checkpoint>-ranks), ``pipeline`` (ranks) and ``quickstart`` (the model's name)."""
    monkeypatch.chdir(tmp_path)
    folders = [str(runs_of(shared, row)[0].parent) for row in ("NestRec", "SASRec")]
    files = ["NestRec-now-ranks.parquet", "joint-1a/ranks.parquet"]
    (tmp_path / "joint-1a").mkdir()
    for folder, file in zip(folders, files, strict=True):
        shutil.copy(f"{folder}/ranks.parquet", file)
    assert main(["compare", *folders]) == 0
    said = capsys.readouterr().out
    assert main(["compare", *files]) == 0
    dataset = said.split("\n")[0].removeprefix("NDCG@10 F").split(",")[0]
    plain = capsys.readouterr().out
    expected = said.replace(dataset, "").replace("B, SASRec", "B, joint-1a").replace("A, NestRec", "A, NestRec-now")
    assert [line for line in plain.split("\n") if line[:3] not in ("A  ", "B  ")] == [
        line for line in expected.split("\n") if line[:3] not in ("A  ", "B  ")
    ]
    assert main(["compare", "NestRec-now.safetensors", files[1]]) == 0 and capsys.readouterr().out == plain
    assert main(["compare", files[0], folders[1]]) == 0 and dataset in capsys.readouterr().out
    assert main(["compare", files[0], "none.parquet"]) == 2
    assert "none.parquet: missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["NestRec", "SASRec"], "NestRec: no folder of a run .*--in FOLDER"),
        (["NestRec", "SASRec", "--in", "{}"], "was run on small-0a1b2c3d, other-99aa88bb; choose one with --dataset"),
        (["NestRecs", "SASRec", "--in", "{}"], "unknown row 'NestRecs'; did you mean 'NestRec'"),
        (["NestRec", "SASRec", "--in", "{}", "--dataset", "smal"], "unknown dataset 'smal'; did you mean 'small'"),
        (["{}/runs/0010000000000000", "{}/runs/1010000000000000"], "saw small-0a1b2c3d and SASRec saw other-99aa88bb"),
        (["{}/runs/0120000000000000", "{}/runs/0010000000000000"], "no run of it finished .RuntimeError"),
        (["{}/runs/0010000000000000", "{}/runs/0020000000000000", "--metric", "ndcg@10_c"], "set `candidates`"),
    ],
)
def test_compare_refuses(arguments: list[str], said: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *(one.replace("{}", str(shared)) for one in arguments)]) == 2
    complaint = capsys.readouterr().err
    assert re.search(said, complaint) and complaint.count("\n") == 1


def test_compare_refuses_other_test_users(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (path.parent for path in runs_of(folder, "SASRec"))
    ranks = pd.read_parquet(one / "ranks.parquet")
    ranks.assign(item=["another", *ranks["item"][1:]]).to_parquet(one / "ranks.parquet")
    assert main(["compare", str(one), str(two)]) == 2
    assert "not the same (user, item) pairs" in capsys.readouterr().err


def test_small_words() -> None:
    assert [duration(x) for x in (0.44, 59.6, 200, 7500)] == ["0.4 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]
    assert [count(x) for x in (12, 12_345, 4_560_000)] == ["12", "12.3 k", "4.56 M"]
    assert {duration(None), count(None), day(None)} == {"\N{EN DASH}"}
    assert [day(x) for x in (0, "1998-04-22T23:10:38+00:00", "soon")] == ["1970-01-01", "1998-04-22", "soon"]
    assert [spoken(x) for x in ("ndcg@10_f", "recall@5", "coverage@10", "mrr@10_c", "giniindex@10")] == [
        *("NDCG@10 F", "Recall@5 U", "Coverage@10", "MRR@10 of candidates", "Giniindex@10")
    ]
    assert flat({"a": {"b": 1, "c": {}}, "d": "x"}) == {"a.b": "1", "a.c": "{}", "d": "x"}
    assert json_of({"a": "</script><!-- &", "b": float("inf")}) == (
        '{"a":"\\u003c/script\\u003e\\u003c!-- \\u0026","b":null}'
    )


def test_rows_are_compared_with_the_baseline_that_validation_prefers(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "tiny", rows=dict(zip(ROWS, (0.9, 0.5, 0.05), strict=True)), fails=None)
    for path in folder.glob("runs/*/run.json"):
        row = json.loads(path.read_text())["row"]
        score = {"NestRec": 0.3, "SASRec": 0.1}.get(row, 0.9)
        change(path, baseline=row in ("NestRec", "SASRec"))
        change(path, valid={"epoch": 0}, history=[{"epoch": 0, "valid_ndcg@10_f": score}])
    group = group_rows(read_results(folder))[0]
    assert {row.name for row in group.rows if row.against is None} == {"NestRec"}
    assert {row.against.name for row in group.rows if row.against} == {"NestRec"}
    assert "than the baseline that is best on validation data" in as_markdown([group], ["ndcg@10_f"])
