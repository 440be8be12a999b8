"""A model in a file of one's own: trained, compared, tuned and recommended from by the same commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_dataset
from tuning import in_order, walks

from nestrec_recbole import fingerprints, own_models
from nestrec_recbole.cli import main
from nestrec_recbole.settings import shipped

MODEL = """
import torch
from nestrec_recbole import register_model
from nestrec_recbole.models.base import SequenceModel

@register_model(properties="own.yaml")
class OwnMean(SequenceModel):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.items = torch.nn.Embedding(self.n_items, config["own_width"])

    def item_table(self):
        return self.items.weight

    def encode(self, batch):
        vectors = self.items(batch[self.ITEM_SEQ])
        return vectors.cumsum(dim=1) / torch.arange(1, vectors.shape[1] + 1)[:, None]
"""
RECBOLES = """
import torch
from nestrec_recbole import register_model
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.model.sequential_recommender import SASRec
from recbole.utils import InputType

@register_model(properties="own.yaml")
class LastItem(SequentialRecommender):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.before = torch.nn.Embedding(self.n_items, config["own_width"])
        self.after = torch.nn.Embedding(self.n_items, config["own_width"])
        self.loss_type = config["loss_type"]

    def scores(self, interaction):
        lengths = interaction[self.ITEM_SEQ_LEN]
        last = self.before(interaction[self.ITEM_SEQ].gather(1, lengths[:, None] - 1)[:, 0])
        return last @ self.after.weight.T

    def calculate_loss(self, interaction):
        return torch.nn.functional.cross_entropy(self.scores(interaction), interaction[self.POS_ITEM_ID])

    def predict(self, interaction):
        return self.scores(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

    def full_sort_predict(self, interaction):
        return self.scores(interaction)

@register_model
class OwnPairs(GeneralRecommender):
    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.users = torch.nn.Embedding(self.n_users, 4)
        self.items = torch.nn.Embedding(self.n_items, 4)

    def predict(self, interaction):
        return (self.users(interaction[self.USER_ID]) * self.items(interaction[self.ITEM_ID])).sum(1)

    def calculate_loss(self, interaction):
        of_user = self.users(interaction[self.USER_ID])
        taken, other = (self.items(interaction[name]) for name in (self.ITEM_ID, self.NEG_ITEM_ID))
        return -torch.nn.functional.logsigmoid((of_user * (taken - other)).sum(1)).mean()

@register_model
class OwnSASRec(SASRec):
    pass
"""
ROOT = Path(__file__).resolve().parent.parent
GIVEN = ["--data_path=data", "--show_progress=False", "--epochs=2"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a dataset ``circle`` and ``models/own.py``, which no other test sees."""
    write_dataset(tmp_path / "data", "circle", walks(), in_order(walks()))
    (tmp_path / "models").mkdir()
    (tmp_path / "models/own.py").write_text(MODEL)
    (tmp_path / "models/own.yaml").write_text("own_width: 8\n")
    monkeypatch.delenv(own_models.VARIABLE, raising=False)
    before = {name for name in sys.modules if name.startswith("nestrec_models_")}
    yield tmp_path
    os.environ.pop(own_models.VARIABLE, None)
    for name in {name for name in sys.modules if name.startswith("nestrec_models_")} - before:
        del sys.modules[name]
    shipped._of_models.pop("OwnMean", None)
    shipped._of_recboles.clear()
    shipped.keys_of_any_model.cache_clear()
    fingerprints._sources.cache_clear()


def test_one_file_is_trained_and_recommended_from(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--model", "OwnMean", "--dataset", "circle", *GIVEN]
    assert main(run) == 2
    assert "one of your own is registered by its file, --models FILE" in capsys.readouterr().err
    assert main([*run, "--models", "models/own.py", "--own_width=4"]) == 0
    assert "ndcg@10\t" in capsys.readouterr().out
    (weights,) = (place / "saved").glob("*.safetensors")
    assert main(["recommend", str(weights), "i3", "-k", "2", "--models", "models/own.py"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_suite_knows_it_in_every_process(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = {
        "name": "own",
        "datasets": {"circle": {}},
        "models": {"OwnMean": {}},
        "settings": {"epochs": 1, "data_path": "data"},
        "seeds": [1],
        "metrics": ["ndcg@10"],
    }
    (place / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    command = ["benchmark", "suite.yaml", "--models", "models/own.py"]

    def runs() -> dict[str, Any]:
        fingerprints._sources.cache_clear()  # as in a process of its own
        assert main(command) == 0, capsys.readouterr().err
        found = [json.loads(path.read_text()) for path in (place / "results/own/runs").glob("*/run.json")]
        return {f"{run['row']} {run['code']}": run for run in found}

    first = runs()
    assert len(first) == 1
    assert all(f"--models {place}/models/own.py" in run["command"] for run in first.values())
    (place / "models/own.py").write_text(MODEL + "# another version\n")
    again = runs()
    assert len(again) == 1 and not again.keys() & first.keys()  # run anew: the code is another


def test_models_written_as_recboles_are(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their defaults are read, those of a base of RecBole's too; one suite has them beside ours."""
    (place / "models/own.py").write_text(RECBOLES)
    (place / "models/own.yaml").write_text("own_width: 8\nloss_type: CE\n")
    suite = {
        "name": "own",
        "datasets": {"circle": {}},
        "models": {
            "FastSASRec": {"baseline": True},
            "LastItem": {},
            "OwnPairs": {},
            "OwnSASRec": {"settings": {"n_layers": 1}},
        },
        "settings": {"epochs": 2, "data_path": "data"},
        "seeds": [1],
        "metrics": ["ndcg@10"],
    }
    (place / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    files = ["--models", "models/own.py"]
    assert main(["benchmark", "suite.yaml", *files]) == 0, capsys.readouterr().err
    found = [json.loads(path.read_text()) for path in (place / "results/own/runs").glob("*/run.json")]
    assert {run["row"]: run["status"] for run in found} == dict.fromkeys(suite["models"], "finished")

    run = ["run", "--model", "LastItem", "--dataset", "circle", *GIVEN, *files]
    assert main([*run, "--own_widht=4"]) == 2
    assert "own_width" in capsys.readouterr().err
    assert main([*run, "--own_width=4", "--learning_rate=0.5"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    (weights,) = (place / "saved").glob("LastItem-*.safetensors")
    assert main(["recommend", str(weights), "i3", "-k", "1", *files]) == 0
    assert "i4" in capsys.readouterr().out  # in the circle, i4 comes after i3
    assert main(["settings", "OwnSASRec", *files, "n_heads", "layers"]) == 0
    assert "n_heads: 2" in capsys.readouterr().out


def test_what_is_wrong_in_a_model_is_found(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The row says in which line; the traceback lies beside it."""
    broken = "    def calculate_loss(self, interaction):\n        return interaction['no_such_field']\n"
    (place / "models/own.py").write_text(f"{MODEL}\n{broken}")
    line = 1 + f"{MODEL}\n{broken}".splitlines().index("        return interaction['no_such_field']")
    text = (
        "name: own\ndatasets: {circle: {}}\nmodels: {OwnMean: {}}\nsettings: {epochs: 1, data_path: data}\nseeds: [1]\n"
    )
    (place / "suite.yaml").write_text(f"{text}metrics: [ndcg@10]\n")
    assert main(["benchmark", "suite.yaml", "--models", "models/own.py"]) == 1
    (folder,) = (place / "results/own/runs").iterdir()
    error = json.loads((folder / "run.json").read_text())["error"]
    assert (
        error.startswith("KeyError: ")
        and error.endswith(")")
        and "no_such_field" in (folder / "traceback.txt").read_text()
    )
    assert f'own.py", line {line}, in calculate_loss' in (folder / "traceback.txt").read_text()


def test_trials_know_it_and_a_search_is_of_one_version_of_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "space.yaml").write_text("own_width: {choice: [4, 8]}\n")
    given = ["--trials", "2", "--no-final", "--space", "space.yaml", "--models", "models/own.py", "--folder", "search"]
    assert main(["tune", "--model", "OwnMean", "--dataset", "circle", *given, *GIVEN]) == 0
    assert "best validation NDCG@10" in capsys.readouterr().out
    (place / "models/own.py").write_text(MODEL + "# another version\n")
    assert main(["tune", "--model", "OwnMean", "--dataset", "circle", *given, "--resume", *GIVEN]) == 2
    assert "holds another search: its models differs" in capsys.readouterr().err


def test_it_may_import_what_lies_beside_it_and_be_named_twice(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "models/own_neighbour.py").write_text("WIDTH = 8\n")
    (place / "models/own.py").write_text(f"import own_neighbour\n{MODEL}")
    (place / "own.yaml").write_text("own_width: wrong\n")  # that beside the class comes first
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(own_models.VARIABLE, "models/own.py")
    run = ["run", "--model", "OwnMean", "--dataset", "circle", *GIVEN, "--models", "models/own.py"]
    assert main([*run, "--models", f"{place}/models/own.py"]) == 0
    assert shipped.load_properties("OwnMean")["own_width"] == 8


def test_a_variable_that_names_nothing_is_a_warning(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(own_models.VARIABLE, "gone.py")
    with caplog.at_level("WARNING"):  # RecBole sets the root logger's, where one of its configs says `state`
        own_models.import_files()
    assert "gone.py: no such Python file" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such Python file"),
        ("import nosuch\n", "cannot be imported: ModuleNotFoundError: No module named 'nosuch'"),
        ("import sys\nsys.exit('bye')\n", "cannot be imported: SystemExit: bye"),
        (MODEL.replace("OwnMean", "FastSASRec"), "this package has a model of that name; choose another"),
        (MODEL.replace("(SequenceModel)", ""), "is no subclass of nestrec_recbole.models.base.SequenceModel"),
        ("x = 1\n", "registers no model; put @register_model above its class"),
    ],
)
def test_files_without_a_model(text: str | None, said: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if text is not None:
        (place / "bad.py").write_text(text)
    assert main(["run", "--model", "OwnMean", "--dataset", "circle", "--models", "bad.py"]) == 2
    assert said in capsys.readouterr().err
    assert own_models.VARIABLE not in os.environ


def test_a_script_that_registers_a_model_may_spawn_processes(tmp_path: Path) -> None:
    """As data loaders do on macOS and Windows: each imports the script anew, under its own name."""
    (tmp_path / "script.py").write_text(
        MODEL.replace('(properties="own.yaml")', "").replace('config["own_width"]', "8") + "\nimport multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply_async(abs, (-3,)).get(120))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150)
    assert done.stdout.split() == ["3"], done.stderr


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        ("vectors.mean(dim=1, keepdim=True).expand_as(vectors)", "state 1 changes with item "),
        ("vectors + vectors.roll(-1, dims=1)", "state t may depend on items 1..t only"),
        ("vectors.mean(dim=1)", "gives states of shape "),
        ("vectors.mean(1, keepdim=True) + 0 * vectors / (batch[self.ITEM_SEQ] > 0)[..., None]", "state 1 changes with"),
        ("torch.nn.functional.dropout(vectors, 0.5, self.training)", None),
    ],
)
def test_a_model_that_looks_ahead_is_refused(
    encode: str, said: str | None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, _, _ = MODEL.rpartition("        return ")
    (place / "models/own.py").write_text(f"{head}        return {encode}\n")
    command = ["run", "--model", "OwnMean", "--dataset", "circle", *GIVEN, "--models", "models/own.py"]
    assert main(command) == (2 if said else 0)
    err = capsys.readouterr().err
    assert said is None or (said in err and "OwnMean.encode()" in err)


def test_a_loss_of_its_own_may_look_both_ways(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, _, _ = MODEL.rpartition("        return ")
    own = "    def calculate_loss(self, interaction):\n        return self.items.weight.square().mean()\n"
    body = "        return vectors.mean(dim=1, keepdim=True).expand_as(vectors)"
    (place / "models/own.py").write_text(f"{head}{body}\n\n{own}")
    command = ["run", "--model", "OwnMean", "--dataset", "circle", *GIVEN, "--models", "models/own.py"]
    assert main(command) == 0, capsys.readouterr().err


def test_tables_of_a_models_own_are_found_by_token(place: Path) -> None:
    """An embedding without padding, and one number for each item."""
    from nestrec_recbole.train.prepare import configure, prepare

    table = 'torch.nn.Embedding(self.n_items, config["own_width"])'
    bias = "        self.bias = torch.nn.Parameter(torch.arange(self.n_items).float())"
    made = MODEL.replace(table, f"{table}\n{bias}")
    (place / "models/own.py").write_text(made)
    own_models.add_files([place / "models/own.py"])

    def train(**settings: Any) -> tuple[Any, Any]:
        given = {"data_path": "data", "epochs": 1, "show_progress": False, "state": "ERROR", **settings}
        trainer, (train_data, valid, _) = prepare(configure("OwnMean", "circle", given))
        if "init_from" not in settings:
            trainer.fit(train_data, valid)
        return trainer, train_data.dataset.field2id_token["item_id"]

    old, tokens = train()
    path = place / "data/circle/circle.inter"
    header, *lines = path.read_text().splitlines()
    later = [f"u900\tnew\t{10**12}", f"u900\tnewer\t{10**12 + 1}", f"u900\ti1\t{10**12 + 2}", f"u900\ti2\t{10**12 + 3}"]
    path.write_text("\n".join([header, *later, *lines]) + "\n")
    new, new_tokens = train(init_from=old.saved_model_file)
    assert set(old.model.id_tables()) == {"items.weight", "bias"} and len(new_tokens) == len(tokens) + 2
    for name in old.model.id_tables():
        tables = (one.model.state_dict()[name] for one in (old, new))
        pairs = zip((tokens, new_tokens), tables, strict=True)
        before, after = (dict(zip(of, table, strict=True)) for of, table in pairs)
        assert all(before[token].equal(after[token]) for token in before)
