"""A suite is read as it is written, and everything that is wrong with it is said at once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_dataset

from nestrec_recbole.bench.check import SuiteError, read_suite
from nestrec_recbole.bench.plan import as_word, from_word
from nestrec_recbole.bench.suite import find_suite, shipped_suites
from nestrec_recbole.cli import main
from nestrec_recbole.errors import NestRecError

CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(12)]
GOOD = """
name: small
datasets: {circle: {settings: {MAX_ITEM_LIST_LENGTH: 20}}}
models:
  FastSASRec: {baseline: true, on: {circle: {epochs: 3}}}
  wide: {model: FastSASRec, settings: {hidden_size: 128, epochs: 2}}
settings: {epochs: 1, data_path: data}
seeds: [1, 2]
metrics: [ndcg@10, coverage@10_f]
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """A function text -> path of a suite, beside a dataset."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)

    def write_suite(text: str, name: str = "suite.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write_suite


def test_levels_of_settings(write: Any) -> None:
    suite = read_suite(write(GOOD), {"hidden_size": 32})
    plain, wide = (suite.settings_of(row, suite.datasets[0]) for row in suite.rows)
    assert plain == {"epochs": 3, "data_path": "data", "MAX_ITEM_LIST_LENGTH": 20, "hidden_size": 32}
    assert wide == {"epochs": 2, "data_path": "data", "MAX_ITEM_LIST_LENGTH": 20, "hidden_size": 32}


def test_what_is_given_concerns_the_rows_that_run(write: Any) -> None:
    suite = write(GOOD.replace("models:\n", "models:\n  Pop: {}\n"))
    with pytest.raises(SuiteError, match="hidden_size"):
        read_suite(suite, {"hidden_size": 32})
    of = [row.name for row in read_suite(suite).rows if row.name != "Pop"]
    assert read_suite(suite, {"hidden_size": 32}, rows=of).given == {"hidden_size": 32}


def test_a_suite_as_resolved_is_the_same_suite(write: Any) -> None:
    suite = read_suite(write(GOOD), {"epochs": 7, "learning_rate": 0.01})
    again = read_suite(write(suite.as_yaml(), "again.yaml"))
    assert (again.seeds, again.metrics, again.name) == (suite.seeds, suite.metrics, suite.name)
    for one, other in zip(suite.rows, again.rows, strict=True):
        assert (one.name, one.model, one.baseline) == (other.name, other.model, other.baseline)
        assert suite.settings_of(one, suite.datasets[0]) == again.settings_of(other, again.datasets[0])


def test_an_unknown_dataset_hides_no_other_mistake(write: Any) -> None:
    text = GOOD.replace("circle", "nowhere").replace("hidden_size", "hidden_sise")
    with pytest.raises(SuiteError) as raised:
        read_suite(write(text))
    said = "\n".join(raised.value.lines)
    assert "unknown dataset 'nowhere'" in said and "unknown config key 'hidden_sise'" in said


BAD = {
    "name: .small/x": "name: '.small/x' is no name that a folder can have",
    "datasets: {circle: {}, cirle: {}, 'three files': {dataset: circle, settings: {benchmark_filename: [a, b, b]}}}": (
        "datasets.cirle: unknown dataset 'cirle'; did you mean 'circle'?"
    ),
    "sedes: [1]": "unknown key 'sedes'; did you mean 'seeds'?",
    "seeds: [1, 2, 1, x]": "seeds: 1 is there 2 times; expected each once",
    "metrics: [ndgc@10, ndcg@5, ndcg@10_f_cold, mrr@10_c]": "metrics: unknown metric 'ndgc@10'; did you mean 'ndcg@10",
    "tune: {epochs: 3}": "no tune.trials; expected one",
    "time_limit: -3": "time_limit is -3; expected seconds that a run may take",
    "settings: {data_path: data, epochs: many, n_heads: 2}": "settings: config key 'epochs' is 'many' (str); expected",
    "published: {circle: [{ndcg@10: 1.0}]}": "expected a list of {model: ..., ndcg@10: ..., source: ...}",
}
BAD_ROWS = {
    "FastSasrec: {}": "models.FastSasrec: unknown model 'FastSasrec'; did you mean 'FastSASRec'?",
    "FastSASRec: {settings: {hidden_sise: 8}}": (
        "models.FastSASRec: unknown config key 'hidden_sise'; did you mean 'hidden_size'?"
    ),
    "wide: {model: FastSASRec, baseline: perhaps}": "models.wide.baseline is 'perhaps' (str); expected bool",
    "odd: {model: FastSASRec, settings: {hidden_size: 9}}": "models.odd, on circle: hidden_size 9 is not a multiple",
    "a: {model: FastSASRec, settings: {epochs: 3}}": None,
    "b: {model: FastSASRec, settings: {epochs: 3}}": "models.b is the same as models.a",
    "c: {model: FastSASRec, on: {cirkle: {epochs: 1}}}": "models.c.on: unknown dataset 'cirkle'; did you mean",
    "d: {model: FastSASRec, settings: {eval_args: {split: {LS: test_only}}}}": (
        "models.d: eval_args.split is {'LS': 'test_only'}: no validation data is left"
    ),
    "e: {model: FastSASRec, settings: {topk: [5]}}": "models.e: 'topk' must be the same for every row of a dataset",
    "f: {model: FastSASRec, settings: {seed: 3}}": "models.f: 'seed' is no setting of a suite; it has `seeds`",
    "g: {model: SASRec, settings: {n_layer: 1}}": "models.g: unknown config key 'n_layer'; did you mean 'n_layers'?",
    "h: {model: BPR}": "settings: config key 'n_heads': this model does not read it; models that do: FastSASRec",
    "i: {model: FastSASRec, settings: {eval_args: {split: {TS: [0.8, 0, 0.2]}}}}": (
        "models.i: eval_args.split is {'TS': [0.8, 0, 0.2]}; expected three shares above 0"
    ),
    "j: {model: FastSASRec, settings: {eval_args: {split: {RS: [0.8, 0.2]}}}}": (
        "models.j: eval_args.split is {'RS': [0.8, 0.2]}; expected three shares above 0"
    ),
    "k: {model: FastSASRec, settings: {eval_args: {split: {SR: [0.8, 0.1, 0.1]}}}}": (
        "models.k: eval_args.split is {'SR': [0.8, 0.1, 0.1]}; expected one of LS, RS or TS"
    ),
    "o: {model: FastSASRec, settings: {eval_args: {mode: uni20}}}": (
        "models.o: eval_args.mode: runs rank the whole catalogue; set `candidates`"
    ),
    "l: {model: FastSASRec, settings: gone/best.yaml}": (
        "models.l.settings: gone/best.yaml: no such file, neither here nor beside the suite"
    ),
    "m: {model: FastSASRec, space: gone.yaml}": "models.m.space: gone.yaml: no such file",
    "n: {model: NestRec, settings: {llm.layers: 1}}": (
        "models.n: config key 'llm.layers': write `llm: {layers: ...}` here"
    ),
    "p: {model: NestRec, settings: {item_fields.title.width: 8}}": (
        "models.p: config key 'item_fields.title.width': write `item_fields: {title: {width: ...}}` here"
    ),
}


def test_everything_wrong_is_said_at_once(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "\n".join(f"  {line}" for line in BAD_ROWS)
    path = write("\n".join(BAD) + f"\nmodels:\n{rows}\n  x: {{model: UserQFormer}}\n  x: {{model: UserQFormer}}\n")
    assert main(["benchmark", path, "--results", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"nestrec: {path}: ") for line in lines) and len(set(lines)) == len(lines)
    for expected in filter(None, [*BAD.values(), *BAD_ROWS.values()]):
        assert sum(expected in line for line in lines) == 1, expected
    further = ("'x' is there twice", "seeds: 'x'; expected whole", "must not train or choose")
    further += ("ndcg@5: topk is [10] on circle; add 5 to `topk`", "set `hidden_items`", "set `candidates`")
    for expected in further:
        assert any(expected in line for line in lines), expected
    assert not (tmp_path / "out").exists()


def test_rows_that_differ_in_words_only_are_said_with_all_else(write: Any) -> None:
    twins = "  twin: {model: FastSASRec, settings: {hidden_size: 64}, on: {circle: {epochs: 3}}}\n  odd: {model: Odd}\n"
    with pytest.raises(SuiteError) as said:
        read_suite(write(GOOD.replace("settings: {epochs: 1,", twins + "settings: {epochs: 1,")))
    twin, odd = sorted(said.value.lines, key=lambda line: "Odd" in line)
    assert "models.twin is the same as models.FastSASRec: both come to the same settings" in twin
    assert "unknown model 'Odd'" in odd
    same = "again: {dataset: circle, settings: {topk: [10], epochs: 3, MAX_ITEM_LIST_LENGTH: 20}}"
    with pytest.raises(SuiteError, match=r"datasets\.again is the same as datasets\.circle for every row"):
        read_suite(write(GOOD.replace("20}}}", f"20}}}}, {same}}}")))


def test_a_setting_that_some_rows_do_not_read(write: Any) -> None:
    text = GOOD.replace("\nsettings: {", "\n  Pop: {}\nsettings: {item_start: cooccurrence, ")
    with pytest.raises(SuiteError, match=r"'item_start'.* \(of Pop; rows may have `settings` of their own\)"):
        read_suite(write(text))


BEST = "# as nestrec tune writes it\ndata_path: data\nepochs: 9\nhidden_size: 32\ntopk: [10]\nseed: 4\n"


def test_settings_out_of_a_file(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``nestrec tune`` writes, as it is: relative to where one stands, or to the suite."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/best.yaml").write_text(BEST)
    rows = """
  found: {model: FastSASRec, settings: runs/best.yaml}
  here: {model: FastSASRec, on: {circle: runs/best.yaml}, settings: {n_layers: 1}}
"""
    text = GOOD.replace("\nsettings: {epochs: 1, data_path: data", f"{rows}settings: {{data_path: {tmp_path}/data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(SuiteError, match="data_path is 'data', but"):
        read_suite(write(text))
    (tmp_path / "runs/best.yaml").write_text(BEST.replace("data_path: data", f"data_path: {tmp_path}/data/"))
    suite = read_suite(write(text))
    assert suite.rows[2].settings == {"epochs": 9, "hidden_size": 32}
    assert suite.settings_of(suite.rows[3], suite.datasets[0])["hidden_size"] == 32
    monkeypatch.chdir(tmp_path)
    assert read_suite(write(text)).rows == suite.rows
    again = read_suite(write(suite.as_yaml(), "again.yaml"))
    assert again.rows == suite.rows


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("topk: [5]", "models.found: runs/best.yaml: topk is [5], but [10] on circle; tune under the protocol"),
        ("hidden_sise: 3", "models.found: unknown config key 'hidden_sise'"),
        ("epochs: 9\nepochs: 8", "models.found.settings: runs/best.yaml: line 1: 'epochs' is there twice"),
        ("- 1", "models.found.settings: runs/best.yaml: expected `key: value` lines"),
    ],
)
def test_a_file_of_settings_that_does_not_fit(line: str, said: str, write: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/best.yaml").write_text(line)
    found = "  found: {model: FastSASRec, settings: runs/best.yaml}\n"
    with pytest.raises(SuiteError) as error:
        read_suite(write(GOOD.replace("settings: {epochs: 1", found + "settings: {epochs: 1")))
    assert any(said in one for one in error.value.lines), error.value.lines


def test_a_copy_of_the_test_file_chooses_nothing(write: Any, tmp_path: Path) -> None:
    place = tmp_path / "data/circle"
    for name in ("train", "dev", "held"):
        (place / f"circle.{name}.inter").write_text("a copy" if name != "train" else "another")
    names = "MAX_ITEM_LIST_LENGTH: 20, benchmark_filename: [train, dev, held]"
    suite = GOOD.replace("MAX_ITEM_LIST_LENGTH: 20", names)
    with pytest.raises(SuiteError, match=r"circle\.dev\.inter and circle\.held\.inter are copies: what is tested on"):
        read_suite(write(suite))
    (place / "circle.dev.inter").write_text("of its own")
    read_suite(write(suite))
    with pytest.raises(SuiteError, match="must not train or choose; name three files"):
        read_suite(write(suite.replace(", held", "")))


@pytest.mark.parametrize("missing", ["name", "datasets", "models", "seeds", "metrics"])
def test_what_is_missing_is_named(missing: str, write: Any) -> None:
    found = yaml.safe_load(GOOD)
    del found[missing]
    with pytest.raises(SuiteError, match=f"no {missing}; expected one"):
        read_suite(write(yaml.safe_dump(found)))
    found[missing] = type(yaml.safe_load(GOOD)[missing])()
    with pytest.raises(SuiteError, match=f"{missing} is empty"):
        read_suite(write(yaml.safe_dump(found)))


def test_no_such_suite_and_no_yaml(write: Any) -> None:
    with pytest.raises(NestRecError, match="unknown suite 'smok'; did you mean 'smoke'"):
        read_suite("smok")
    with pytest.raises(NestRecError, match="not valid YAML"):
        read_suite(write("a: [1"))
    with pytest.raises(NestRecError, match="expected `key: value` lines, found list"):
        read_suite(write("- 1"))


@pytest.mark.parametrize("name", shipped_suites())
def test_shipped_suites_are_right(name: str, tmp_path: Path) -> None:
    """With datasets of the right name; what is in them, a suite does not say."""
    datasets = yaml.safe_load(find_suite(name).read_text())["datasets"]
    for key, about in datasets.items():
        dataset = (about or {}).get("dataset", key)
        if not (tmp_path / "all" / dataset).exists():
            write_dataset(tmp_path / "all", dataset, CIRCLE)
    suite = read_suite(name, {"data_path": str(tmp_path / "all")})
    assert suite.name == name and suite.about


def test_what_prepare_makes_is_what_shipped_suites_ask_for(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parent.parent / "benchmarks/prepare.sh"
    environment = {**os.environ, "NESTREC": "echo"}
    done = subprocess.run(["sh", script, "from", "to"], env=environment, capture_output=True, text=True, check=True)
    made = {line.split("--name ")[1].split()[0] for line in done.stdout.splitlines()}
    asked = {
        (about or {}).get("dataset", name)
        for suite in shipped_suites()
        for name, about in yaml.safe_load(find_suite(suite).read_text())["datasets"].items()
    }
    assert asked - made == {"ml-100k"} and made <= asked


@pytest.mark.parametrize(
    "value", [3, 0.002, 1e-05, True, None, "full_softmax", "1", "[1]", "", [1, 2], {"a": {"b": [None, "x: y"]}}]
)
def test_settings_survive_the_command_line(value: Any) -> None:
    word = as_word(value)
    assert "\n" not in word and from_word(word) == value and type(from_word(word)) is type(value)
