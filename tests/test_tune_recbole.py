"""RecBole's own ways to tune, under the Ray and the hyperopt of today: validation data choose."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from recbole.quick_start import objective_function
from recbole.trainer import HyperTuning

from nestrec_recbole import compat_tuning


@pytest.fixture
def fake_trial(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A Ray Tune trial without Ray: ``told`` is what it was told, ``id`` its id."""
    trial = SimpleNamespace(told=[], id="trial")
    fake = ModuleType("ray.tune")
    fake.report = trial.told.append  # type: ignore[attr-defined]
    fake.get_context = lambda: SimpleNamespace(get_trial_id=lambda: trial.id)  # type: ignore[attr-defined]
    ray = ModuleType("ray")
    ray.tune = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", fake)
    monkeypatch.setattr(sys, "argv", ["worker", "--node-ip-address=127.0.0.1"])  # which are no settings
    compat_tuning._warn_once.cache_clear()
    return trial


@pytest.mark.parametrize("model", ["FastSASRec", "SASRec", "BPR"])
def test_objective_function_reports_validation_scores(
    model: str, circle: dict[str, Any], fake_trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = fake_trial.told
    given = {**circle, "model": model, "dataset": "circle", "epochs": 3, "learning_rate": 0.02, "state": "ERROR"}
    given["load_col"] = {"inter": ["user_id", "item_id", "timestamp"]}
    given["user_inter_num_interval"] = "[0,12]"  # RecBole finds no negatives for who has seen everything
    given |= {"train_neg_sample_args": None} if model == "SASRec" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        result = objective_function(dict(given))
        objective_function(dict(given))
    assert len([one for one in caught if "validation metrics" in str(one.message)]) == 1  # once
    valid, test = result["best_valid_result"], result["test_result"]
    assert len(told) == 6 and told[2] == valid != test
    assert all(one.keys() == valid.keys() for one in told)
    assert {name: result[name] for name in valid} == valid  # the last report is of validation data too
    fake_trial.id = None
    monkeypatch.setattr(sys, "argv", ["mine.py"])
    plain = objective_function(dict(given))
    assert plain.keys() == {"model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}
    assert len(told) == 6 and plain["test_result"] == test


def test_objective_function_leaves_a_model_its_own_metrics(tmp_path: Path, fake_trial: Any) -> None:
    rows = [f"u{user}\ti{item}\t{(user + item) % 2}" for user in range(20) for item in range(10)]
    (tmp_path / "data" / "clicks").mkdir(parents=True)
    header = "user_id:token\titem_id:token\tlabel:float"
    (tmp_path / "data" / "clicks" / "clicks.inter").write_text("\n".join([header, *rows]) + "\n")
    split = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "mode": "labeled"}
    result = objective_function(
        {
            **{"model": "FM", "dataset": "clicks", "data_path": str(tmp_path / "data"), "epochs": 2, "state": "ERROR"},
            **{"load_col": {"inter": ["user_id", "item_id", "label"]}, "eval_args": split, "valid_metric": "AUC"},
            **{"metrics": ["AUC", "LogLoss"], "train_neg_sample_args": None},
        }
    )
    assert result["best_valid_result"].keys() == {"auc", "logloss"} and len(fake_trial.told) == 2
    assert result["best_valid_score"] == result["auc"] == result["best_valid_result"]["auc"]


def test_hyper_tuning_finds_the_numpy_it_was_written_for() -> None:
    from recbole.trainer import hyper_tuning

    assert hyper_tuning.np.random.RandomState(3).integers(5) in range(5)  # as hyperopt asks for them
    assert hyper_tuning.np.str is str and hyper_tuning.np.prod([2, 3]) == 6


def test_hyper_tuning(circle: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("hyperopt")
    fixed = {**circle, "model": "FastSASRec", "dataset": "circle", "epochs": 2, "state": "ERROR"}
    (tmp_path / "fixed.yaml").write_text(yaml.safe_dump(fixed))
    space = {"choice": {"learning_rate": [0.0001, 0.02], "n_layers": [1]}}
    tuning = HyperTuning(
        objective_function, params_dict=space, fixed_config_file_list=[str(tmp_path / "fixed.yaml")], algo="exhaustive"
    )
    tuning.run()
    scores = {name: result["best_valid_score"] for name, result in tuning.params2result.items()}
    assert len(scores) == 2 and tuning.best_params == {"learning_rate": 0.02, "n_layers": 1}
    assert tuning.best_score == max(scores.values()) > min(scores.values())


@pytest.mark.usefixtures("ray_of_two")
def test_objective_function_under_ray(circle: dict[str, Any], tmp_path: Path) -> None:
    from ray import tune as ray_tune

    session = compat_tuning.ray_session()
    given = {**circle, "model": "FastSASRec", "dataset": "circle", "epochs": 3, "state": "ERROR"}
    results = ray_tune.Tuner(
        objective_function,
        param_space={**given, "learning_rate": ray_tune.grid_search([0.0001, 0.02])},
        run_config=session.RunConfig(name="theirs", storage_path=str(tmp_path / "theirs"), verbose=0),
    ).fit()
    assert len(results) == 2 and not results.errors
    for result in results:
        last, valid = result.metrics, result.metrics["best_valid_result"]
        assert last["training_iteration"] == 4  # each epoch, and what the function returns
        assert {name: last[name] for name in valid} == valid != last["test_result"]
    best = results.get_best_result("ndcg@3", "max")
    assert best.config["learning_rate"] == 0.02 and best.metrics["ndcg@3"] == round(best.metrics["best_valid_score"], 4)
