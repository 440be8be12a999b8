"""RecBole's own models through the door: its losses, our evaluation, checkpoints that come back, errors that help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ml100k_slice import write_slice
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.quick_start import load_data_and_model
from recbole.sampler import RepeatableSampler, Sampler
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed
from test_recbole_models import SEQUENTIAL, SETTINGS, write_embeddings

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.flat import flat_dataset
from nestrec_recbole.data.sampling import OtherSampler, UnseenSampler
from nestrec_recbole.evaluate.beyond import novelty, serendipity
from nestrec_recbole.evaluate.metrics import evaluate_ranks
from nestrec_recbole.evaluate.ranking import rank_targets
from nestrec_recbole.plugin import _recbole_models
from nestrec_recbole.recommend import Recommender
from nestrec_recbole.train.checkpoint import load_weights, read_checkpoint
from nestrec_recbole.train.prepare import configure, prepare
from nestrec_recbole.tune.space import parse_space
from nestrec_recbole.tune.trial import Task, build, make_config, shared_data

pytestmark = pytest.mark.recbole
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"}
SMALL = {
    "epochs": 2,
    "state": "ERROR",
    "show_progress": False,
    "MAX_ITEM_LIST_LENGTH": 10,
    "train_batch_size": 512,
    "hidden_size": 16,
    "inner_size": 16,
    "embedding_size": 16,
    "metrics": ["NDCG", "Recall"],
    "valid_metric": "NDCG@10",
}
RECBOLES = {
    "metrics": ["NDCG", "MRR", "Hit"],
    "metric_decimal_place": 12,
    "eval_args": LEAVE_ONE_OUT,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}
ITEM_COLUMNS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}}
LABELS = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
OWN: dict[str, dict[str, Any]] = {name: {**own, "eval_args": LEAVE_ONE_OUT} for name, own in SETTINGS.items()}
for reads_items in ("FDSA", "GRU4RecF", "SASRecF", "S3Rec", "DIN", "DIEN"):
    OWN[reads_items] = {**OWN.get(reads_items, {}), **ITEM_COLUMNS, "selected_features": ["class"]}
OWN["DIN"] |= {"MAX_ITEM_LIST_LENGTH": 4}
OWN["FM"] = LABELS
OWN["ConvNCF"] = {"embedding_size": 64}  # as its strides are
# Not installed here, or (DGCF) it draws as many users as there are items.
CANNOT = ("XGBoost", "LightGBM", "NCL", "KGIN", "MCCLK", "KGAT", "DGCF")
NOISY = ("Random", "ADMMSLIM", "KTUP")  # their scores are drawn anew each time
FEW = ("Pop", "ItemKNN", "EASE", "BPR", "LightGCN", "NeuMF", "MultiVAE", "SASRec", "BERT4Rec", "GRU4Rec", "CORE")
FEW += ("SHAN", "FPMC", "SASRecF", "GRU4RecKG", "CKE", "FM", "S3Rec")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slice of ml-100k, with its knowledge graph and rows sorted: RecBole's times are too coarse to sort by."""
    folder = tmp_path_factory.mktemp("data")
    place = write_slice(folder, n_users=60, longest=20)
    header, *rows = (place / "slice.inter").read_text().splitlines()
    rows.sort(key=lambda row: (int(row.split("\t")[0]), int(row.split("\t")[3])))
    (place / "slice.inter").write_text("\n".join([header, *rows]) + "\n")
    facts = [line.split("\t") for line in (place / "slice.kg").read_text().splitlines()[1:]]
    write_embeddings(place / "slice.ent", {name for head, _, tail in facts for name in (head, tail)})
    write_embeddings(place / "slice.rel", {relation for _, relation, _ in facts})
    return folder


@pytest.fixture
def make(data: Path, tmp_path: Path) -> Callable[..., Any]:
    def make_config(model: str, **given: Any) -> Any:
        base = {
            **(SMALL if model != "FastSASRec" else {}),
            "data_path": str(data),
            "checkpoint_dir": str(tmp_path / "saved"),
        }
        return configure(model, "slice", {**base, **OWN.get(model, {}), **given})

    return make_config


def recboles_own(config: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """What ``run_recbole`` does before it trains."""
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, loaders[0].dataset)
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), loaders


def losses(trainer: Any, train: Any, valid: Any) -> list[float]:
    """The loss of every batch."""
    seen, loss_of = [], trainer.model.calculate_loss

    def calculate_loss(batch: Any) -> torch.Tensor:
        loss = loss_of(batch)
        seen.append(float(loss.detach()))
        return loss

    trainer.model.calculate_loss = calculate_loss
    trainer.fit(train, valid, verbose=False)
    return seen


@pytest.mark.parametrize("model", ["SASRec", "BERT4Rec", "GRU4Rec", "CORE", "SHAN", "FPMC", "BPR"])
def test_losses_and_metrics_are_recboles_own(model: str, make: Any) -> None:
    """Equal weights and equal batches in equal order: every loss of two epochs is the same to the bit."""
    excludes_seen = model == "BPR"  # as RecBole does for models of users and items
    theirs, (train, valid, test) = recboles_own(make(model, **RECBOLES))
    assert type(train.dataset) in (SequentialDataset, Dataset)
    validates = model != "BERT4Rec"  # RecBole masks histories at random when it evaluates too, for nothing
    expected = losses(theirs, train, valid if validates else None)
    assert len(expected) > 2
    protocol = {"valid_metric": "NDCG@10_f"} if excludes_seen else {}
    ours, (our_train, our_valid, our_test) = prepare(make(model, **RECBOLES, **protocol))
    assert losses(ours, our_train, our_valid if validates else None) == expected
    reference, found = theirs.evaluate(test), ours.evaluate(our_test)
    for name, value in reference.items():
        assert found[name + "_f" * excludes_seen] == pytest.approx(value, abs=1e-9), name


def all_models() -> list[Any]:
    general = [name for name in _recbole_models() if name not in (*SEQUENTIAL, *CANNOT)]
    return [pytest.param(n, marks=[] if n in FEW else pytest.mark.slow) for n in [*SEQUENTIAL, *general]]


@pytest.mark.parametrize("model", all_models())
def test_the_door(model: str, make: Any) -> None:
    needs_labels = "context_aware" in get_model(model).__module__
    config = make(model, epochs=1, valid_metric="NDCG@10_f", **(LABELS if needs_labels else {}))
    trainer, (train, valid, test) = prepare(config)
    heard: list[int] = []
    trainer.fit(train, valid, verbose=False, callback_fn=lambda epoch, score: heard.append(epoch))
    record = trainer.history[-1]
    pretrains = model in ("S3Rec", "RaCT")  # their first stage has no validation
    assert {"epoch", "train_loss", "train_seconds"} <= record.keys()
    assert pretrains or (heard == [0] and {"valid_score", "valid_seconds"} <= record.keys())
    assert np.isfinite(record["train_loss"])
    assert type(test.dataset).__mro__.index(SequenceDataset) < 2
    result = trainer.evaluate(test)
    assert sorted(result) == ["ndcg@10", "ndcg@10_f", "recall@10", "recall@10_f"]
    ranks = trainer.ranks
    assert evaluate_ranks(ranks, ["ndcg"], [10])["ndcg@10_f"] == pytest.approx(result["ndcg@10_f"], abs=1e-4)
    assert ((ranks.rank >= ranks.rank_unseen) & (ranks.rank_unseen >= 1)).all()
    if model in NOISY:
        return
    fresh, _ = prepare(config)
    load_weights(fresh.model, *read_checkpoint(trainer.saved_model_file), trainer.saved_model_file, trainer.config)
    again = rank_targets(fresh.model.eval().full_sort_predict, test.dataset)
    np.testing.assert_array_equal(again.rank, ranks.rank)
    assert not list(Path().rglob("*.pth")) + list(Path().rglob("*.pkl"))


def test_one_split_for_all(make: Any) -> None:
    """A model of users and items and one of sequences are tested on the same targets, and so is one of ours."""
    tests = [prepare(make(model))[1][2].dataset for model in ("Pop", "SASRec", "FastSASRec")]
    pairs = [list(zip(test.users.tolist(), test.items[test.ends].tolist(), strict=True)) for test in tests]
    assert len(pairs[0]) == 60 and pairs[0] == pairs[1] == pairs[2]


def test_a_plain_config_of_recboles_is_enough(data: Path) -> None:
    """What is not given comes from our defaults; what RecBole resolves elsewhere stays."""
    config = Config(model="Pop", dataset="slice", config_dict={"data_path": str(data), "state": "ERROR"})
    assert config["eval_args"]["order"] == "RO"
    _, (_, _, test) = prepare(config)
    assert config["eval_args"]["order"] == "TO" and config["valid_metric"] == "NDCG@10"
    assert len(test.dataset) == 60 and config["epochs"] == 300


def test_without_the_door_recbole_is_itself(make: Any) -> None:
    prepare(make("SASRec"))
    trainer, (train, _, _) = recboles_own(make("SASRec", **RECBOLES))
    assert type(trainer) is Trainer and type(train.dataset) is SequentialDataset
    assert trainer.saved_model_file.endswith(".pth")


def test_the_training_part_is_all_but_each_users_last_two(make: Any) -> None:
    whole = SequenceDataset(make("SASRec", **RECBOLES))
    flat = flat_dataset(whole.build()[0])
    expected: dict[str, list[str]] = {}
    for line in (Path(whole.dataset_path) / "slice.inter").read_text().splitlines()[1:]:
        expected.setdefault(line.split("\t")[0], []).append(line.split("\t")[1])
    found: dict[str, list[str]] = {}
    for user, item in zip(flat.inter_feat["user_id"].tolist(), flat.inter_feat["item_id"].tolist(), strict=True):
        token = flat.field2id_token["item_id"][item]
        found.setdefault(flat.field2id_token["user_id"][user], []).append(token)
    assert found == {user: items[:-2] for user, items in expected.items()}
    matrix = flat.inter_matrix(form="csr")
    assert matrix.shape == (flat.user_num, flat.item_num) and matrix.nnz == sum(map(len, found.values()))
    assert not [name for name in flat.field2type if name.endswith("_list") or name == "item_length"]
    assert "item_id_list" in whole.field2type


def test_pop_counts_every_training_interaction(make: Any) -> None:
    """RecBole's counts an item once per batch, and the negatives that it draws as well."""
    trainer, (train, valid, test) = prepare(make("Pop", train_batch_size=64))
    trainer.fit(train, valid, verbose=False)
    counts = trainer.model.item_cnt[:, 0].numpy()
    np.testing.assert_array_equal(counts, trainer.train_data.dataset.item_counts())
    ranks = rank_targets(trainer.model.full_sort_predict, test.dataset)
    order = np.argsort(-counts[1:], kind="stable") + 1
    for target, rank in zip(ranks.targets, ranks.rank, strict=True):
        assert order[rank - 1] == target


@pytest.mark.slow
def test_pop_on_ml_100k() -> None:
    trainer, (train, valid, test) = prepare(configure("Pop", "ml-100k", {"state": "ERROR"}))
    trainer.fit(train, valid, verbose=False)
    found = evaluate_ranks(rank_targets(trainer.model.full_sort_predict, test.dataset), ["ndcg"], [10])
    assert round(found["ndcg@10"], 4) == 0.0224 and round(found["ndcg@10_f"], 4) == 0.0449


def test_metrics_beyond_accuracy_count_alike_for_every_model(make: Any) -> None:
    """Popularity in them is that of training targets, for a model of users and items too."""
    trainer, (train, valid, test) = prepare(
        make("BPR", metrics=["NDCG", "Novelty", "Serendipity"], topk=[5], valid_metric="NDCG@5")
    )
    trainer.fit(train, valid, verbose=False)
    training = trainer.train_data.dataset
    counts = np.bincount(training.items[training.ends], minlength=training.item_num)
    result = trainer.evaluate(test)
    assert result["novelty@5"] == pytest.approx(novelty(trainer.ranks.top, counts)[:, 4].mean(), abs=1e-4)
    is_hit = trainer.ranks.top == trainer.ranks.targets[:, None]
    expected = serendipity(trainer.ranks.top, is_hit, counts)[:, 4].mean()
    assert expected > 0 and result["serendipity@5"] == pytest.approx(expected, abs=1e-4)


def test_early_stopping_keeps_the_best_epoch(make: Any) -> None:
    trainer, (train, valid, _) = prepare(
        make("LightGCN", epochs=40, stopping_step=2, valid_metric="NDCG@10_f", learning_rate=0.05)
    )
    best, result = trainer.fit(train, valid, verbose=False)
    scores = [record["valid_score"] for record in trainer.history]
    assert best == max(scores) and result["ndcg@10_f"] == round(best, 4)
    place = max(epoch for epoch, score in enumerate(scores) if score == best)  # RecBole keeps the later of equals
    assert len(scores) == place + 1 + 3 < 40
    assert read_checkpoint(trainer.saved_model_file)[1]["epoch"] == place
    # LightGCN remembers the embeddings of its last evaluation, which was that of a worse epoch.
    load_weights(trainer.model, *read_checkpoint(trainer.saved_model_file), trainer.saved_model_file, trainer.config)
    assert trainer.evaluate(valid, load_best_model=False)["ndcg@10_f"] == round(best, 4)


@pytest.mark.parametrize("model", ["GRU4Rec", "BERT4Rec", "SHAN", "ItemKNN"])
def test_a_checkpoint_loads_with_recboles_function(model: str, make: Any) -> None:
    trainer, (train, valid, test) = prepare(make(model, epochs=1))
    trainer.fit(train, valid, verbose=False)
    expected = trainer.evaluate(test)
    config, loaded, _, _, _, loaded_test = load_data_and_model(trainer.saved_model_file)
    assert config["MAX_ITEM_LIST_LENGTH"] == 10 and config["data_path"] == test.dataset.dataset_path
    ranks = rank_targets(loaded.eval().full_sort_predict, loaded_test.dataset)
    np.testing.assert_array_equal(ranks.rank, trainer.ranks.rank)
    assert evaluate_ranks(ranks, ["ndcg"], [10])["ndcg@10"] == pytest.approx(expected["ndcg@10"], abs=1e-4)
    if model in ("GRU4Rec", "BERT4Rec"):
        recommender = Recommender.load(trainer.saved_model_file)
        history = [str(token) for token in recommender.catalogue.tokens[[1, 2, 3]]]
        ((first, score), *_) = recommender.recommend([history], k=3)[0]
        assert first not in history and first != "[PAD]" and np.isfinite(score)


@pytest.mark.parametrize("model", ["ItemKNN", "BPR", "MultiVAE", "FM"])
def test_models_of_users_recommend_for_users(model: str, make: Any) -> None:
    """Lists are those of the evaluation, but for the targets, which are seen by now."""
    trainer, (train, valid, test) = prepare(make(model, epochs=1))
    trainer.fit(train, valid, verbose=False)
    trainer.evaluate(test)
    ranks = rank_targets(trainer.model.full_sort_predict, test.dataset, k=10)
    recommender = Recommender.load(trainer.saved_model_file)
    tokens, users = recommender.catalogue.tokens, recommender.dataset.field2id_token[recommender.dataset.uid_field]
    rows = list(np.argsort(ranks.users)[:3])
    asked = [str(users[ranks.users[row]]) for row in rows]
    lists = recommender.recommend_users(asked, k=10, exclude_seen=False)
    for row, user in zip(rows, asked, strict=True):
        assert [item for item, _ in lists[user]] == tokens[ranks.top[row]].tolist()
    unseen = recommender.recommend_users(asked, k=10)
    for row, user in zip(rows, asked, strict=True):
        expected = [item for item in ranks.top_unseen[row] if item != ranks.targets[row]]
        assert [item for item, _ in unseen[user]][: len(expected)] == tokens[expected].tolist()
    with pytest.raises(NestRecError, match=f"{model} reads no history: give users that were there in training"):
        recommender.recommend([[str(tokens[1])]])


def test_users_that_a_model_of_users_was_not_trained_on_get_no_list(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, (train, valid, _) = prepare(make("BPR", epochs=1, hidden_users=0.3))
    trainer.fit(train, valid, verbose=False)
    recommender = Recommender.load(trainer.saved_model_file)
    users = recommender.dataset.field2id_token["user_id"][1:].astype(str).tolist()
    there = {users[user - 1] for user in train.dataset.inter_feat["user_id"].tolist()}
    hidden = [user for user in users if user not in there]
    caplog.clear()
    lists = recommender.recommend_users([hidden[0], *sorted(there)[:2], hidden[1]], k=3)
    assert [len(one) for one in lists.values()] == [0, 3, 3, 0]
    assert f"2 of 4 users were not there in training, such as '{hidden[0]}': their lists are empty" in caplog.text
    item = str(recommender.catalogue.tokens[1])
    with pytest.raises(NestRecError, match=f"user '{hidden[0]}' was not there in training, and BPR reads no history"):
        recommender.recommend([[item]], users=[hidden[0]])


@pytest.mark.parametrize("model", ["GRU4Rec", "BPR"])
def test_a_trial_of_tuning_sees_no_test_rows(model: str, data: Path, tmp_path: Path) -> None:
    space = parse_space({"learning_rate": {"loguniform": [0.001, 0.1]}}).checked({"learning_rate": 0.001})
    given = {**SMALL, "epochs": 1, "data_path": str(data)}
    task = Task(model, "slice", given, space, str(tmp_path / "trials"))
    point = {"learning_rate": 0.01}
    shared = shared_data(task, make_config(model, "slice", given, str(tmp_path / "trials")))
    assert not len(shared.build()[2])
    for known in (shared, None):
        trainer, train, valid = build(task, point, known)
        assert trainer.learning_rate == 0.01 and len(valid) == 60
        assert np.isfinite(trainer.fit(train, valid, verbose=False)[0])


def test_s3rec_goes_on_from_its_first_stage(make: Any) -> None:
    stage = {"pretrain_epochs": 1, "save_step": 1, "MAX_ITEM_LIST_LENGTH": 5}
    first, (train, valid, _) = prepare(make("S3Rec", **stage))
    first.fit(train, valid, verbose=False)
    path = first.saved_model_file
    assert path.endswith(".safetensors")
    second, (_, valid, _) = prepare(make("S3Rec", **stage, train_stage="finetune", pre_model_path=path))
    weight = "item_embedding.weight"
    assert torch.equal(second.model.state_dict()[weight], first.model.state_dict()[weight])
    second.fit(train, valid, verbose=False)
    assert "valid_score" in second.history[-1]


negatives = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 7)), min_size=1, max_size=20, unique=True)


@settings(max_examples=40, deadline=None)
@given(pairs=negatives, num=st.integers(1, 3), is_popularity=st.booleans(), seed=st.integers(0, 99))
def test_negatives_are_recboles_draw_for_draw(pairs: Any, num: int, is_popularity: bool, seed: int) -> None:
    users, items = np.array(pairs).T
    distribution = "popularity" if is_popularity else "uniform"

    class Table:
        uid_field, iid_field, user_num, item_num = "u", "i", 7, 9
        inter_feat = {"u": torch.from_numpy(users), "i": torch.from_numpy(items)}  # noqa: RUF012

    table = Table()
    reference = [
        Sampler(["train"], [table], distribution).set_phase("train"),
        RepeatableSampler(["train"], table, distribution),
    ]
    if is_popularity and len(set(items)) < 3:
        return  # nothing else to draw
    for theirs, kind in zip(reference, (UnseenSampler, OtherSampler), strict=True):
        if is_popularity and kind is UnseenSampler:
            continue  # a user may have taken all that is popular: RecBole never ends, nor does ours
        np.random.seed(seed)  # noqa: NPY002
        expected = theirs.sample_by_user_ids(users, items, num)
        np.random.seed(seed)  # noqa: NPY002
        found = kind("train", table, distribution, 1.0).sample_by_user_ids(users, items, num)
        assert torch.equal(found, expected)


def test_a_user_who_has_everything_is_named(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "all" / "all"
    place.mkdir(parents=True)
    rows = [f"{user}\t{item}\t{item}" for user in "abc" for item in range(2 if user == "c" else 6)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (place / "all.inter").write_text("\n".join([header, *rows, "a\t5\t7", "a\t4\t8"]) + "\n")
    config = configure("BPR", "all", {"data_path": str(place.parent), "state": "ERROR"})
    with pytest.raises(NestRecError, match="user a has taken every item"):
        prepare(config)


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        ("SASRec", {"learning_rat": 0.1}, "unknown config key 'learning_rat'; did you mean 'learning_rate'?"),
        ("BPR", {"valid_metric": "NDCG@20"}, r"valid_metric is 'NDCG@20', but topk is \[10\]"),
        ("BPR", {"valid_metric": "MRR@10_f"}, "valid_metric is 'MRR@10_f', but metrics are NDCG, Recall"),
        ("GRU4Rec", {"eval_args": {**LEAVE_ONE_OUT, "mode": "uni20"}}, "expected 'full'; for samples set `candidates`"),
        ("Pop", {"eval_args": {**LEAVE_ONE_OUT, "order": "RO"}}, "eval_args.order is 'RO'"),
        ("FM", {"train_neg_sample_args": None}, "model 'FM' learns from labels: set train_neg_sample_args"),
    ],
)
def test_what_cannot_pass_is_told_why(model: str, given: dict[str, Any], words: str, make: Any) -> None:
    with pytest.raises(NestRecError, match=words):
        prepare(make(model, **given))


def test_a_missing_package_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_model(name: str) -> None:
        raise ModuleNotFoundError("No module named 'faiss'")

    monkeypatch.setattr("recbole.config.configurator.get_model", get_model)
    with pytest.raises(NestRecError, match="'NCL' needs a package that is not installed: No module named 'faiss'"):
        make("NCL")


def test_one_process_only(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make("SASRec")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NestRecError, match="'SASRec' is RecBole's and trains in one process"):
        prepare(config)


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_the_command_runs_recboles_models_as_it_runs_ours(
    model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With RecBole's own settings of data, SASRec asks to be told to draw nothing, and BPR is split at random."""
    monkeypatch.chdir(tmp_path)
    given = ["--epochs=1", f"--data_path={data}", "--show_progress=False", "--state=ERROR"]
    assert main(["run", "--model", model, "--dataset", "slice", *given]) == 0
    printed = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert 0 <= float(printed["ndcg@10"]) <= float(printed["ndcg@10_f"]) <= 1
    assert main(["run", "--model", model, "--dataset", "slice", *given, "--learning_rte=7"]) == 2
    assert "did you mean 'learning_rate'?" in capsys.readouterr().err
