"""Each repair of RecBole, and that no file of others can run code."""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from conftest import write_dataset
from ml100k_slice import write_slice
from pandas.core.indexes.base import _new_Index
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender.bpr import BPR
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix, dok_matrix, lil_matrix
from torch.utils.data import SequentialSampler

from nestrec_recbole import NestRecError, compat, run_recbole, unpickle
from nestrec_recbole.compat import checkpoints

pytestmark = pytest.mark.filterwarnings("ignore:distutils Version classes")  # of thop, which counts FLOPs
ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "epochs": 1,
    "train_batch_size": 1024,
    "MAX_ITEM_LIST_LENGTH": 5,
    "embedding_size": 8,
    "hidden_size": 8,
    "inner_size": 8,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
}


class MyBPR(BPR):
    """A model of a user's own."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole sleeps for a second to report the processor's load at the end of a run."""
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval=None: 0.0)


@pytest.fixture
def build(tmp_path: Path, make_config: Callable[..., Any]) -> Callable[..., Any]:
    """A function (model, **settings) -> Config over a slice of ml-100k."""
    write_slice(tmp_path / "data", n_users=30, longest=12)

    def make(model: Any, **settings: Any) -> Any:
        return make_config(model, "slice", **for_model(model) | settings)

    return make


def for_model(model: Any) -> dict[str, Any]:
    return SMALL | ({"train_neg_sample_args": None} if model in ("SASRec", "GRU4Rec", "GRU4RecF") else {})


def run_saved(model: str, config: Any, **settings: Any) -> dict[str, float]:
    """Run RecBole's own entry point with a checkpoint."""
    place = {"data_path": str(Path(config["data_path"]).parent), "show_progress": False, "state": "ERROR"}
    given = for_model(model) | place | settings
    return run_recbole(model=model, dataset="slice", config_dict=given, saved=True)["test_result"]


def make_model(config: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Make the model, the dataset and the loaders."""
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    loaders = data_preparation(config, dataset)
    model_class = config.model_class if isinstance(config.model_class, type) else get_model(config["model"])
    return model_class(config, loaders[0]._dataset), dataset, loaders


def private_copy(name: str) -> ModuleType:
    """A module of RecBole's as its authors wrote it, without our repairs."""
    spec = importlib.util.find_spec(name)
    fresh = importlib.util.spec_from_file_location(f"unrepaired_{name.replace('.', '_')}", spec.origin)
    module = importlib.util.module_from_spec(fresh)
    fresh.loader.exec_module(module)
    return module


def same(left: Any, right: Any) -> bool:
    return all(torch.equal(left[name], right[name]) for name in {*left, *right})


def test_numpy_names_are_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("float_", "complex_", "unicode_"):
        monkeypatch.delattr(np, name)
    compat.apply()
    assert (np.float_, np.complex_, np.unicode_) == (np.float64, np.complex128, np.str_)  # noqa: NPY201
    Config.compatibility_settings(Config.__new__(Config))


def test_import_leaves_what_is_slow_and_anomaly_detection_alone(tmp_path: Path) -> None:
    code = """import sys, nestrec_recbole.cli, torch
slow = {"ray", "transformers", "peft", "open_clip", "matplotlib", "torch._dynamo", "torchvision"} & {*sys.modules}
import recbole.model.sequential_recommender
print("ray" in sys.modules or sorted(slow) or False, torch.is_anomaly_enabled())"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"], run.stderr


def test_reports_to_ray_only_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.quick_start import quick_start

    ray, tune, reported = ModuleType("ray"), ModuleType("ray.tune"), []
    monkeypatch.delitem(sys.modules, "ray.tune", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    quick_start.tune.report(recall=0.5)
    assert "ray" not in sys.modules
    ray.tune, tune.report = tune, lambda metrics: reported.append(metrics)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)
    quick_start.tune.report(recall=0.5)
    assert reported == [{"recall": 0.5}]


def test_dok_matrix_updates_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(dok_matrix, "_update", raising=False)
    compat.apply()
    matrix = dok_matrix((2, 2))
    matrix._update({(0, 1): 3.0})
    assert matrix.toarray().tolist() == [[0, 3], [0, 0]]


def test_missing_cells_are_filled(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    place = write_dataset(tmp_path / "data", "gaps", [[1, 2, 3], [2, 3, 4], [4, 1, 2]])
    rows = ["item_id:token\tkind:token\tyear:float\ttitle:token_seq"]
    rows += ["i1\tbook\t1950\tone two", "i2\t\t1960\t", "i3\tfilm\t\tthree"]
    (place / "gaps.item").write_text("\n".join(rows) + "\n")
    with pd.option_context("mode.copy_on_write", True):
        dataset = create_dataset(make_config("BPR", "gaps", load_col=None))
    items = dataset.item_feat
    assert not items.isna().to_numpy().any()
    items = items.iloc[dataset.token2id("item_id", ["[PAD]", "i1", "i2", "i3"])]
    assert items["year"].tolist() == [1955, 1950, 1960, 1955]
    assert [dataset.id2token("kind", int(kind)) for kind in items["kind"]] == ["[PAD]", "book", "[PAD]", "film"]
    assert [len(title) for title in items["title"]] == [0, 2, 0, 1]


HARMLESS = [
    *("1", "-1", "1e-3", "0.5", "0x10", "1_000", "007", "2*3", "7 % 4", "1 + 1", " 3", "1,2", "", "[]", "None", "none"),
    *("True", "true", "FALSE", "not True", "[1, 2]", "(1, 2)", "{'a': 1}", "{'RS': [0.8, 0.1, 0.1]}", "['a', 'b']"),
    *("abc", "'abc'", "uni100", "ml-100k", "full", "a b", "2020-01-01", "saved/a.pth", "{1, 2}", "lambda: 1"),
    *("abs", "1+2j", "b'a'", "...", "[1+2j]", "NDCG@10", "-'a'"),
]


@pytest.mark.parametrize("text", HARMLESS)
def test_settings_are_read_as_recbole_reads_them(text: str) -> None:
    theirs = private_copy("recbole.config.configurator").Config._convert_config_dict(None, {"x": text})["x"]
    ours = Config._convert_config_dict(None, {"x": text})["x"]
    assert ours == theirs and type(ours) is type(theirs)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[NDCG,Recall]", ["NDCG", "Recall"]),
        ("{distribution: uniform, sample_num: 1}", {"distribution": "uniform", "sample_num": 1}),
        ("{a: {b: [c, 'd']}, e: [true, False, None]}", {"a": {"b": ["c", "d"]}, "e": [True, False, None]}),
        ("a,b", "a,b"),
        ("[a + b]", "[a + b]"),
    ],
)
def test_words_of_lists_need_no_quotes(text: str, value: Any) -> None:
    assert Config._convert_config_dict(None, {"x": text})["x"] == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch ran')",
        "[__import__('os').system('touch ran')]",
        "{'a': __import__('os').system('touch ran')}",
        "open('ran', 'w')",
        "exec('import os; os.mkdir(\"ran\")')",
        "[x for x in [open('ran', 'w')]]",
        "f\"{open('ran', 'w')}\"",
        "(lambda: open('ran', 'w'))()",
        "().__class__.__base__.__subclasses__()",
        "(x := open('ran', 'w'))",
    ],
)
def test_settings_run_nothing(text: str, monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., Any]) -> None:
    monkeypatch.setattr(sys, "argv", ["run", f"--note={text}"] if "=" not in text else ["run"])
    config = make_config("BPR", "slice", told=text)
    assert config["told"] == text and config["note"] in (text, None)
    assert not Path("ran").exists()


@pytest.mark.parametrize("model", ["BPR", "SASRec", "EASE", "ItemKNN", "LightGCN", "GRU4RecF"])
def test_checkpoint_loads_to_the_same_model(model: str, build: Callable[..., Any]) -> None:
    from recbole.quick_start import load_data_and_model

    result = run_saved(model, build(model))
    (file,) = Path("saved").glob("*.pth")
    config, loaded, _, _, _, test_data = load_data_and_model(str(file))
    trusted = torch.load(file, weights_only=False)
    assert same(loaded.state_dict(), trusted["state_dict"])
    assert config.final_config_dict == trusted["config"].final_config_dict
    assert config.model_class is trusted["config"].model_class
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, loaded)
    assert trainer.evaluate(test_data, load_best_model=False) == result


def test_a_checkpoint_of_recboles_recommends(build: Callable[..., Any]) -> None:
    from nestrec_recbole.recommend import Recommender

    config = build("SASRec")
    model, _, (train_data, valid_data, _) = make_model(config)
    trainer = Trainer(config, model)
    trainer.fit(train_data, valid_data)
    recommender = Recommender.load(trainer.saved_model_file)
    history = [[str(token) for token in recommender.catalogue.tokens[1:4]]]
    assert len(recommender.recommend(history, k=3)[0]) == 3
    with pytest.raises(NestRecError, match="need a checkpoint of this package"):
        recommender.recommend(history, novelty=0.5)


def test_every_word_of_the_command_line_is_read(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["mine.py", "--checkpoint_dir=a=b", "epochs"])
    assert make_config("FastSASRec", "ml-100k")["checkpoint_dir"] == "a=b"
    assert "'epochs' is no --key=value" in caplog.text
    monkeypatch.setattr(sys, "argv", ["mine.py", "--epochs=1", "--epochs=2"])
    with pytest.raises(NestRecError, match="--epochs is given twice: 1 and 2"):
        make_config("FastSASRec", "ml-100k")


@pytest.mark.parametrize("model", ["BPR", "SASRec", MyBPR])
def test_training_resumes(model: Any, build: Callable[..., Any]) -> None:
    config = build(model)
    first, _, (train_data, valid_data, _) = make_model(config)
    trainer = Trainer(config, first)
    trainer.fit(train_data, valid_data)
    config = build(model, epochs=2)
    second, _, (train_data, valid_data, _) = make_model(config)
    resumed = Trainer(config, second)
    resumed.resume_checkpoint(trainer.saved_model_file)
    assert resumed.start_epoch == 1
    assert same(second.state_dict(), first.state_dict())
    resumed.fit(train_data, valid_data)
    assert list(resumed.train_loss_dict) == [1]
    assert compat.load_checkpoint(trainer.saved_model_file)["config"].model_class is config.model_class


class Call:
    """Pickled, it asks to call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.asked = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.asked

    def __call__(self) -> None:
        """For pickle, which wants functions to be callable."""


TOUCH = Call(os.system, "touch ran")


def torch_file(loaded: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(loaded, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def altering(name: str, state: bytes = b"N}X\x06\x00\x00\x00markedK\x01s\x86") -> bytes:
    """A pickle that sets attributes of what it can name."""
    return b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n" + state + b"b."


class Filled:
    """Pickled, it asks to fill an array of objects."""

    def __init__(self, shape: Any, cells: list[Any]) -> None:
        self.state = 1, shape, np.dtype("O"), False, cells

    def __reduce__(self) -> tuple[Any, ...]:
        return (*np.zeros(1).__reduce__()[:2], self.state)


def misled(kind: type, **attributes: Any) -> Any:
    """A sparse matrix that is not what it says."""
    matrix = kind(np.eye(2))
    vars(matrix).update(attributes)
    return matrix


MALICIOUS = {
    "os.system, protocol 2": pickle.dumps(TOUCH, protocol=2),
    "os.system, protocol 4": pickle.dumps(TOUCH, protocol=4),
    "os.system, protocol 0": pickle.dumps(TOUCH, protocol=0),
    "os.system as an instance": b"(X\x09\x00\x00\x00touch raniposix\nsystem\n.",
    "inside a dict": pickle.dumps({"config": [TOUCH], "state_dict": {}}),
    "eval": pickle.dumps(Call(eval, "open('ran', 'w')")),
    "exec": pickle.dumps(Call(exec, "open('ran', 'w')")),
    "open": pickle.dumps(Call(open, "ran", "w")),
    "getattr of a module": pickle.dumps(
        Call(Call(getattr, Call(importlib.import_module, "os"), "system"), "touch ran")
    ),
    "getattr of an array": pickle.dumps(Call(Call(getattr, np.zeros(1), "tofile"), "ran")),
    "getattr of a frame": pickle.dumps(Call(Call(getattr, pd.DataFrame({"a": [1]}), "to_csv"), "ran")),
    "dotted name": b"\x80\x04\x8c\x02io\x8c\x0dopen.__call__\x93\x8c\x03ran\x8c\x01w\x86R.",
    "submodule": b"\x80\x04\x8c\x12recbole.data.utils\x8c\x09os.system\x93\x8c\x09touch ran\x85R.",
    "name in RecBole's modules": b"\x80\x02crecbole.data.utils\nensure_dir\nX\x03\x00\x00\x00ran\x85R.",
    "nested": pickle.dumps(Call(torch.storage._load_from_bytes, pickle.dumps(TOUCH, protocol=2))),
    "nested zip": pickle.dumps(Call(torch.storage._load_from_bytes, torch_file(TOUCH))),
    "nested legacy": pickle.dumps(Call(torch.storage._load_from_bytes, torch_file(TOUCH, zipped=False))),
    "altered class": altering("torch.utils.data.sampler SequentialSampler"),
    "altered function": altering("torch._utils _rebuild_tensor_v2", b"}X\x06\x00\x00\x00markedK\x01s"),
    "altered class of RecBole": altering("recbole.config.configurator Config"),
    "altered enum": altering("recbole.utils.enum_type ModelType"),
    "called class of RecBole": b"\x80\x02crecbole.config.configurator\nConfig\n)R.",
    "called class of RecBole with arguments": b"\x80\x02crecbole.data.dataset.dataset\nDataset\nN\x85R.",
    "object of RecBole with attributes": b"\x80\x02crecbole.config.configurator\nConfig\n)\x81"
    b"N}X\x06\x00\x00\x00markedK\x01s\x86b.",
    "callable in an object of RecBole": b"\x80\x02crecbole.config.configurator\nConfig\n)\x81}("
    b"X\x0b\x00\x00\x00yaml_loaderK\x01X\x12\x00\x00\x00_build_yaml_loadercposix\nabort\nub.",
}
MALICIOUS |= {
    "array of any bytes": pickle.dumps(Call(np.ndarray, (1,), "O", b"not an object, you see.")),
    "array of any bytes, by pandas": pickle.dumps(
        Call(_new_Index, np.ndarray, {"shape": (1,), "dtype": "O", "buffer": bytes(8)})
    ),
    "array filled twice": pickle.dumps(np.zeros(3), 3)[:-1] + pickle.dumps(np.ones(9).__reduce__()[2], 3)[2:-1] + b"b.",
    "array of too few objects": pickle.dumps(Filled((9,), [])),
    "array of objects of no shape": pickle.dumps(Filled((9.0,), [None] * 9)),
    "indices into nowhere": pickle.dumps(misled(csr_matrix, indices=np.full(2, 10**8, np.int32))),
    "pointers into nowhere": pickle.dumps(misled(csc_matrix, indptr=np.array([0, 10**8, 2], np.int32))),
    "coordinates into nowhere": pickle.dumps(misled(coo_matrix, coords=(np.full(2, 10**8), np.full(2, 10**8)))),
    "list of indices into nowhere": pickle.dumps(misled(lil_matrix, rows=np.array([[10**8], [0], 0], object)[:2])),
    "list of too many values": pickle.dumps(misled(lil_matrix, data=np.array([[1.0] * 999, [1.0], 0], object)[:2])),
    "unchecked matrix": pickle.dumps(misled(csr_matrix, indices=np.full(2, 10**8), check_format=OrderedDict)),
}
FILES = {
    "empty": b"",
    "text": b"epochs: 1\n",
    "zip": b"PK\x03\x04 not at all",
    "truncated pickle": pickle.dumps({"a": np.zeros(100)})[:-50],
    "truncated checkpoint": torch_file({"a": torch.zeros(1000)})[:-500],
    "truncated start of a checkpoint": torch_file({"a": torch.zeros(1000)})[:600],
}


def in_zip(data: bytes) -> bytes:
    """A checkpoint as torch writes it, around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def refused(read: Callable[[Path], Any], data: bytes) -> str:
    """Give the message with which reading a file fails, having made sure that nothing ran."""
    file = Path("saved.pth")
    file.write_bytes(data)
    with pytest.raises(NestRecError) as error:
        read(file)
    message = str(error.value)
    assert message.startswith(str(file)) and "\n" not in message
    assert not Path("ran").exists()
    assert not hasattr(SequentialSampler, "marked") and not hasattr(torch._utils._rebuild_tensor_v2, "marked")
    return message


def read_pickle(path: Path) -> Any:
    with open(path, "rb") as file:
        return unpickle.load(file)


@pytest.mark.parametrize("kind", MALICIOUS)
def test_malicious_pickle_is_refused(kind: str) -> None:
    refused(read_pickle, MALICIOUS[kind])


@pytest.mark.parametrize("kind", MALICIOUS)
def test_malicious_checkpoint_is_refused(kind: str) -> None:
    refused(compat.load_checkpoint, in_zip(MALICIOUS[kind]))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("read", [read_pickle, compat.load_checkpoint])
def test_damaged_file_is_named(read: Callable[[Path], Any], kind: str) -> None:
    refused(read, FILES[kind])


def test_legacy_checkpoint_is_refused() -> None:
    assert "not a RecBole checkpoint" in refused(compat.load_checkpoint, torch_file(TOUCH, zipped=False))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_is_refused() -> None:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), file)
    refused(read_pickle, file.getvalue())
    assert "TorchScript" in refused(compat.load_checkpoint, file.getvalue())


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_saved_dataset_gives_the_same_result(model: str, build: Callable[..., Any]) -> None:
    config = build(model)
    first = run_saved(model, config, save_dataset=True, save_dataloaders=True)
    kept = {path.name.removesuffix(".pth").rpartition("-")[2]: str(path) for path in Path("saved").glob("slice-*.pth")}
    for path in Path(config["data_path"]).iterdir():
        path.unlink()
    (dataset,) = (path for name, path in kept.items() if name != "dataloader")
    files = {"dataset_save_path": dataset, "dataloaders_save_path": kept["dataloader"], "checkpoint_dir": "other"}
    assert run_saved(model, config, **files) == first


def test_malicious_dataset_is_refused(build: Callable[..., Any]) -> None:
    config = build("BPR")
    Path("saved").mkdir()
    Path("saved/slice-Dataset.pth").write_bytes(MALICIOUS["os.system, protocol 4"])
    with pytest.raises(NestRecError, match=r"^saved/slice-Dataset\.pth: "):
        create_dataset(config)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("name", "some"), [("BPR", True), ("SASRec", True), ("NeuMF", True), ("GRU4Rec", True), ("LightGCN", False)]
)
def test_flops_are_counted_as_recbole_counts_them(
    name: str, some: bool, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.data.transform import construct_transform
    from recbole.quick_start import quick_start

    config = build(name)
    model, dataset, _ = make_model(config)
    given = model, dataset, config["device"], logging.getLogger(), construct_transform(config)
    theirs = private_copy("recbole.utils.utils").get_flops(*given)
    before = [(module, dict(vars(module)), list(module._forward_hooks)) for module in model.modules()]
    monkeypatch.setattr(type(model), "__deepcopy__", lambda *_: pytest.fail("copied"), raising=False)
    assert quick_start.get_flops(*given) == theirs
    assert (theirs > 0) is some  # RecBole finds none in LightGCN, which takes its embeddings' weights
    for module, attributes, hooks in before:
        assert vars(module).keys() == attributes.keys() and list(module._forward_hooks) == hooks
        assert all(vars(module)[key] is value for key, value in attributes.items())
    assert model.training


def test_model_that_cannot_predict_counts_no_flops(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from recbole.quick_start import quick_start

    def predict(model: Any, interaction: Any) -> None:
        raise AssertionError("not today")

    monkeypatch.setattr(BPR, "predict", predict)
    config = build("BPR")
    model, dataset, _ = make_model(config)
    given = model, dataset, config["device"], logging.getLogger(), lambda dataset, row: row
    with caplog.at_level(logging.WARNING):
        assert quick_start.get_flops(*given) == 0
    assert "AssertionError in BPR.predict: not today" in caplog.text
    assert not any(module._forward_hooks for module in model.modules()) and model.training


def test_pandas_3_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pd, "__version__", "3.0.1")
    with pytest.raises(ImportError, match=r"pandas 3\.0\.1.*pip install 'pandas<3'"):
        compat.require_recbole()


def repaired() -> dict[str, Any]:
    """What is behind every name in RecBole's modules that the repairs touch."""
    from recbole.data.dataset import Dataset
    from recbole.model.sequential_recommender.ksr import KSR

    places = [sys.modules[name] for name in ("recbole.quick_start.quick_start", "recbole.quick_start", "recbole.utils")]
    places += [sys.modules[name] for name in ("recbole.utils.utils", "recbole.data.utils", *checkpoints.READERS)]
    found = {}
    for place in [*places, Config, Dataset, KSR, np, dok_matrix]:
        for name, value in vars(place).items():
            depth = 0
            while hasattr(value, "__wrapped__"):
                value, depth = value.__wrapped__, depth + 1
            found[f"{place.__name__}.{name}"] = getattr(value, "__code__", type(value)), depth
    return found


def test_repairs_twice_are_repairs_once() -> None:
    before = repaired()
    compat.apply()
    assert repaired() == before


def test_repairs_anew_leave_what_the_plugin_put_around_them() -> None:
    """In a process of its own: here another test may have repaired before."""
    code = """import recbole.quick_start, nestrec_recbole
from recbole.quick_start import quick_start
before = quick_start.load_data_and_model, recbole.quick_start.load_data_and_model, quick_start.get_flops
nestrec_recbole.compat.apply()
after = quick_start.load_data_and_model, recbole.quick_start.load_data_and_model, quick_start.get_flops
print(before == after, before[0] is not nestrec_recbole.compat.load_data_and_model)"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.split() == ["True", "True"], run.stderr


def test_metrics_that_count_items(tmp_path: Path) -> None:
    write_slice(tmp_path, n_users=20)
    names = ["ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]
    settings = {**SMALL, "data_path": str(tmp_path), "metrics": names, "valid_metric": "ItemCoverage@10", "topk": [10]}
    result = run_recbole("BPR", "slice", config_dict=settings, saved=False)["test_result"]
    assert {f"{name.lower()}@10" for name in names} == set(result)
    assert 0 < result["itemcoverage@10"] <= 1
