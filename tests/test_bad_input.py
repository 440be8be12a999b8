"""Bad input: one line that says what is wrong and what to do, exit code 2, nothing left behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import write_dataset

from nestrec_recbole import NestRecError, plugin
from nestrec_recbole.cli import main
from nestrec_recbole.errors import unknown
from nestrec_recbole.settings import checks
from nestrec_recbole.settings.rules import RULES

HEAD = "user_id:token\titem_id:token\ttimestamp:float\n"
SEQUENCES = [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]


def complain(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line, which must fail as it should; return what it says."""
    before = {path for path in Path().rglob("*") if path.is_file()}
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nestrec: ")]
    left = {path for path in Path().rglob("*") if path.is_file()} - before
    logs = {path for path in left if path.parts[0] in ("log", "log_tensorboard")}
    features = {path for path in left if path.parent.parent.name == "features" and path.parent.name[0] != "."}
    features |= {path for path in left if path.name == "columns.json"}
    assert left == logs | features  # encoded fields, and what columns hold, are whole and used again
    return line


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("--learning_rat=0.1", "unknown config key 'learning_rat'; did you mean 'learning_rate'?"),
        ("--learning_rate=fast", "config key 'learning_rate' is 'fast' (str); expected float"),
        ("--hidden_size=6.5", "config key 'hidden_size' is 6.5 (float); expected int"),
        ("--hidden_size=65", "hidden_size 65 is not a multiple of n_heads 2"),
        ("--epochs=0", "config key 'epochs' is 0; expected a whole number from 1"),
        ("--precision=fp8", "config key 'precision' is 'fp8'; expected one of fp32, bf16, fp16"),
        ("--topk=[]", "config key 'topk' is [] (list); expected list of int"),
        ("--metrics=['NDCG','AUC']", "unknown metric 'AUC'; did you mean 'gauc'?"),
        ("--metrics=['Precison']", "unknown metric 'Precison'; did you mean 'precision'?"),
        ("--valid_metric=NDCG@20", "valid_metric is 'NDCG@20', but topk is [10]"),
        ("--valid_metric=GAUC", "valid_metric is 'GAUC', but metrics are NDCG, Recall, MRR, Hit"),
        ("--valid_metric=NDCG", "valid_metric is 'NDCG', but topk is [10]"),
        ("--schedule_patience=0", "config key 'schedule_patience' is 0"),
        ("--ema_decay=1.5", "config key 'ema_decay' is 1.5; expected a number from 0 to 1"),
        ("--whitened_scale=-0.5", "config key 'whitened_scale' is -0.5; expected a number from 0"),
        ("--learning_rate=-0.1", "config key 'learning_rate' is -0.1; expected a number from 0"),
        ("--stopping_step=-1", "config key 'stopping_step' is -1; expected a whole number from 0"),
        ("--hidden_size=50", "hidden_size 50 gives each of 2 heads an odd width"),
        ("--n_heads=0", "config key 'n_heads' is 0; expected a whole number from 1"),
        ("--eval_args={'spilt':{'LS':'valid_and_test'}}", "'eval_args.spilt'; did you mean 'eval_args.split'?"),
        (
            "--item_fields={'title':{'encodr':'x'}}",
            "'item_fields.title.encodr'; did you mean 'item_fields.title.encoder'?",
        ),
        ("--item_fields=['title']", "item_fields is ['title']: expected"),
        ("--train_neg_sample_args={'distribution':'uniform'}", "'train_neg_sample_args' has no effect here"),
        ("--clip_grad_norm=1.0", "config key 'clip_grad_norm' is 1.0; expected {'max_norm': 1.0}"),
        ("--weight_decay=-1", "config key 'weight_decay' is -1; expected a number from 0"),
        ("--eval_args={'mode':'labeled'}", "eval_args.mode is 'labeled' for valid: models here rank items"),
        ("--enable_amp=True", "config key 'enable_amp' is True: it has no effect here; use `precision: bf16`"),
        ("--threshold={'rating':3}", "models of this package rank; leave interactions out with val_interval"),
        ("--val_interval=3", "config key 'val_interval' is 3; expected dict"),
        ("--alias_of_item_id=x", "config key 'alias_of_item_id' is 'x'; expected list"),
        ("--loss_type=CE", "unknown config key 'loss_type'; here it is 'loss'"),
        ("--topk=[5]", "valid_metric is 'NDCG@10', but topk is [5]; set valid_metric: NDCG@5"),
        ("--transform='mask_itemseq'", "config key 'transform' is 'mask_itemseq': models of this package take none"),
        ("--unused_col={'inter':['timestmp']}", "unknown column in unused_col.inter 'timestmp'; did you mean 'time"),
        ("--unused_col={'item':['title']}", "unused_col.item: no such file is read; load_col names those that are"),
        ("--mask_known=True", "config key 'mask_known' has no effect on loss: full_softmax"),
        ("--learner=None", "config key 'learner' is None (NoneType); expected str"),
        ("--topk=None", "config key 'topk' is None (NoneType); expected list of int"),
        ("--load_col={}", "load_col.inter is missing or empty"),
        ("--load_col={'inter':'user_id'}", "load_col.inter is 'user_id'; expected a list of columns, or '*'"),
        ("--unload_col={'inter':['rating']}", "load_col.inter names the columns that are read; for unload_col"),
        ("--encoding=utf-9", "encoding 'utf-9' is none that Python knows"),
        ("--user_inter_num_interval=4", "interval '4': expected such as [3,8] or (0,inf)"),
        ("--item_inter_num_interval=[8,3]", "interval '[8, 3]': expected such as"),
        ("--val_interval={'timestamp':'3,5'}", "interval '3,5': expected such as"),
        ("--val_interval={'item_id':'i3'}", "val_interval.item_id is 'i3'; expected a list of the tokens to keep"),
        ("--val_interval={'rating':'[3,5]'}", "val_interval: unknown field 'rating'; known: item_id, "),
        ("--rm_dup_inter=frist", "rm_dup_inter is 'frist'; expected first or last"),
        ("--eval_args={'split':{'RS':[0,0,0]},'order':'TO'}", "nothing would train"),
        ("--eval_args={'split':{'TS':['a',1,1]},'order':'TO'}", "expected three ratios"),
        ("--temperature=0.0", "config key 'temperature' is 0.0; expected a number above 0"),
        ("--save_dataset=True", "config key 'save_dataset' is True: RecBole would write a pickle"),
        ("--llm={'pth':'x'}", "unknown config key 'llm.pth'; did you mean 'llm.path'?"),
        ("--llm={'config':'big'}", "expected {config: tiny} or {path: folder or hub id}"),
        ("--llm={'path':'/no/such/folder'}", "llm.path '/no/such/folder': cannot load Qwen3 from this hub id"),
        ("--item_fields={'titel':{'modality':'text'}}", "column 'titel' is not there; fields are title, year"),
        ("--item_fields={'title':{'modality':'sound'}}", "expected {modality: text or image or number or"),
        (
            "--item_fields={'title':{'modality':'text','encoder':'one_hot'}}",
            "encoder 'one_hot' is for category, not text",
        ),
        ("--out=res", "unknown config key 'out'; "),
        (
            "--nproc=2",
            "nproc is 2, which starts no processes here; write `torchrun --nproc_per_node=2 -m nestrec_recbole",
        ),
        ("--item_fields={'title':{'modality':'number'}}", "no value of 'title' is a number "),
    ],
)
def test_settings(setting: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    given = ["--data_path=data", "--feature_path=data", setting]
    assert words in complain(capsys, "run", "--model", "NestRec", "--dataset", "small", *given)


def test_vectors_in_the_item_file_are_imported_not_read_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    place = write_dataset(tmp_path / "data", "small", SEQUENCES)
    lines = (place / "small.item").read_text().splitlines()
    lines = [lines[0] + "\temb:float_seq", *(f"{line}\t0.5 0.25" for line in lines[1:])]
    (place / "small.item").write_text("\n".join(lines) + "\n")
    given = ["--data_path=data", "--feature_path=data", "--epochs=1", "--hidden_size=8", "--state=ERROR"]
    run = ["run", "--model", "ItemQFormer", "--dataset", "small", *given]
    said = (
        "emb:float_seq holds vectors, which are imported, not encoded: `nestrec features small --import FILE --as emb`"
    )
    assert said in complain(capsys, *run, "--item_fields={'emb':{'modality':'text'}}")
    with caplog.at_level("WARNING"):
        assert main(run) == 0
    assert said in caplog.text


def test_what_comes_from_the_command_line_is_said_to(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "--out=res"])
    with pytest.raises(
        NestRecError, match=r"unknown config key 'out'; .* \(on the command line, which RecBole reads\)"
    ):
        make_config("FastSASRec", "small")
    monkeypatch.setattr(sys, "argv", ["script.py"])
    assert make_config("FastSASRec", "small", tail_ratio=0.3)["tail_ratio"] == 0.3


def test_a_setting_of_another_loss_is_a_warning(make_config: Any, caplog: pytest.LogCaptureFixture) -> None:
    checks._warn_once.cache_clear()
    with caplog.at_level("WARNING"):
        make_config("FastSASRec", "small", negatives="popularity", n_negatives=512, loss="gbce")
        assert "no effect" not in caplog.text
        make_config("FastSASRec", "small", margin=0.5)
    assert "config key 'margin' has no effect on loss: full_softmax; it is for triplet" in caplog.text


@pytest.mark.parametrize("model", sorted(plugin.MODELS))
def test_every_number_of_a_shipped_model_has_a_range(model: str) -> None:
    numbers = {
        key
        for key, default in plugin.load_properties(model).items()
        if isinstance(default, (int, float)) and not isinstance(default, bool) and not key.endswith("_prob")
    }
    assert numbers <= RULES.keys()
    assert all(RULES[key].allows(default) for key, default in plugin.load_properties(model).items() if key in RULES)


@pytest.mark.parametrize(
    ("model", "dataset", "words"),
    [
        ("NestRek", "small", "unknown model 'NestRek'; did you mean 'NestRec'?"),
        ("SASrec", "small", "unknown model 'SASrec'; did you mean 'SASRec'?"),
        ("FastSASRec", "smal", "unknown dataset 'smal'; did you mean 'small'?"),
        ("NestRec", "smal", "unknown dataset 'smal'; did you mean 'small'?"),
    ],
)
def test_names(model: str, dataset: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    assert words in complain(capsys, "run", "--model", model, "--dataset", dataset, "--data_path=data")


@pytest.mark.parametrize(
    ("inter", "words"),
    [
        ("", "line 1: the file is empty"),
        (HEAD, "has no interactions below its header"),
        ("user_id:token\titem_id:token\nu\ti\n", "no column 'timestamp'; it has user_id, item_id"),
        ("user_id:token\ttimestamp:float\nu\t1\n", "no column 'item_id'; it has user_id, timestamp"),
        ("user_id\titem_id:token\ttimestamp:float\nu\ti\t1\n", "column 'user_id' is not 'name:type'"),
        (HEAD + "u\ti\t1\nu\tj\tnan\n", "line 3: timestamp is 'nan', expected a number"),
        (HEAD + "u\ti\t1\nu\tj\tinf\n", "line 3: timestamp is missing or not finite"),
        (HEAD + "u\ti\t1\nu\tj\t\n", "line 3: timestamp is missing or not finite"),
        (HEAD + "u\ti\t1\n\n\nu\tj\tsoon\n", "line 5: timestamp is 'soon', expected a number"),
        (HEAD + "u\ti\t1\n\n\nu\tj\tinf\n", "line 5: timestamp is missing or not finite"),
        (HEAD.replace("user_id:token", "user_id:token_seq") + "u\ti\t1\n", "user_id:token_seq must be user_id:token"),
        (HEAD + "u\ti\t1\nu\tj\tsoon\n", "line 3: timestamp is 'soon', expected a number"),
        (HEAD + "u\ti\t1\nu\tj\t2\t3\n", "line 3: 4 columns, expected 3"),
        (HEAD + "u\ti\t1\nv\tj\t2\n", "no user has two interactions"),
    ],
)
def test_interactions(inter: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = Path("data/bad")
    place.mkdir(parents=True)
    (place / "bad.inter").write_text(inter)
    assert words in complain(capsys, "run", "--model", "FastSASRec", "--dataset", "bad", "--data_path=data")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "data/bad/bad.inter: no such file; there is other.inter"),
        (["--benchmark_filename=[train,valid,test]"], "data/bad/bad.train.inter: no such file; there is other.inter"),
    ],
)
def test_a_folder_without_its_file(given: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/bad").mkdir(parents=True)
    Path("data/bad/other.inter").write_text(HEAD)
    assert words in complain(capsys, "run", "--model", "FastSASRec", "--dataset", "bad", "--data_path=data", *given)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--epochs=ten", "config key 'epochs' is 'ten' (str); expected int"),
        ("--embedding_size=[8]", "config key 'embedding_size' is [8] (list); expected int"),
        ("--eval_args.split={RS: [1, 2]}", "split"),
    ],
)
def test_settings_of_recboles_models(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in complain(capsys, "run", "--model", "BPR", "--dataset", "ml-100k", word)


@pytest.mark.parametrize("text", [HEAD.encode() + b"u\xff\ti\t1\n", b"user_id:token\xff\n"])
def test_text_that_is_not_utf_8(text: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/bad").mkdir(parents=True)
    Path("data/bad/bad.inter").write_bytes(text)
    line = complain(capsys, "run", "--model", "FastSASRec", "--dataset", "bad", "--data_path=data")
    assert "bad.inter: not valid UTF-8 text" in line and "set `encoding`" in line


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (None, "bad.item does not exist"),
        ("item_id:token\ttitle:token_seq\ni0\t\ni1\t \n", "no column besides the id has a value"),
        ("item_id:token\ttitle:token_seq\ni0\ta\tb\n", "line 2: 3 columns, expected 2"),
        ("title:token_seq\na\n", "no column 'item_id'"),
    ],
)
def test_items(item: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_dataset(tmp_path / "data", "bad", SEQUENCES, item_file=False)
    if item is not None:
        (place / "bad.item").write_text(item)
    given = ["--data_path=data", "--feature_path=data"]
    assert words in complain(capsys, "run", "--model", "NestRec", "--dataset", "bad", *given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.safetensors", "a"], "missing.safetensors: no such checkpoint"),
        (["i3", "-k", "2", "i4"], "i3: no such checkpoint"),  # items may stand behind an option
        (["cut.safetensors", "a"], "cut.safetensors: truncated or damaged checkpoint"),
    ],
)
def test_checkpoints(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("cut.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    assert words in complain(capsys, "recommend", *arguments)


@pytest.mark.parametrize(
    "arguments", [["run", "--model", "NestRec", "--dataset", "x", "--epochs", "3"], ["quickstrat"], []]
)
def test_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "nestrec: error" in capsys.readouterr().err


def test_interrupted_by_hand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nestrec_recbole.run_recbole", interrupt)
    assert main(["run", "--model", "FastSASRec", "--dataset", "ml-100k"]) == 130
    said = capsys.readouterr().err
    assert (
        said.startswith("nestrec: interrupted; with --checkpoint_last=True, `nestrec resume") and said.count("\n") == 1
    )


def test_a_folder_that_takes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied", "saved")

    monkeypatch.setattr("nestrec_recbole.run_recbole", refuse)
    assert main(["run", "--model", "FastSASRec", "--dataset", "ml-100k"]) == 2
    said = "'saved'; --checkpoint_dir=FOLDER and --feature_path=FOLDER say where it writes"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax", "gbce", "info_nce"])
@pytest.mark.parametrize(
    "sequences",
    [
        [[0, 1, 2, 3, 4]] * 3 + [[5]],  # a user of one item
        [[0, 1], [1, 2], [2, 3, 4]],  # of two
        [[0, 1, 0, 1, 0, 1]] * 2,  # of every item, and again
        [[0, 0, 0, 0]] * 2,  # of nothing but one item
        [[0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 5]],  # of an item that is only in the test data
    ],
)
def test_odd_histories_train_and_evaluate(
    sequences: list[list[int]], loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are no error: they are trained on as far as they go, and every metric is a number."""
    write_dataset(tmp_path / "data", "odd", sequences)
    given = ["--data_path=data", "--epochs=2", "--show_progress=False", f"--loss={loss}"]
    given += [] if loss == "full_softmax" else ["--mask_known=True"]
    assert main(["run", "--model", "FastSASRec", "--dataset", "odd", *given]) == 0
    values = [float(line.split("\t")[1]) for line in capsys.readouterr().out.splitlines() if "@10\t" in line]
    assert values and all(0 <= value <= 1 for value in values)


def test_nestrec_trains_on_short_histories(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "short", [[0, 1], [1, 2], [2, 3, 4], [5]])
    given = ["--data_path=data", "--feature_path=data", "--epochs=1", "--show_progress=False"]
    assert main(["run", "--model", "NestRec", "--dataset", "short", *given]) == 0


@pytest.mark.parametrize(("text", "words"), [("a: [", "not valid YAML"), ("", "found NoneType"), ("- a", "found list")])
def test_setting_files(text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(text)
    assert words in complain(capsys, "run", "--model", "NestRec", "--dataset", "ml-100k", "--config", "mine.yaml")


def test_of_many_names_a_line_holds_some() -> None:
    assert unknown("key", "zzz", ["a", "b"]) == "unknown key 'zzz'; known: a, b"
    users = [f"u{number}" for number in range(5000)]
    assert unknown("user", "zzz", users) == "unknown user 'zzz'; known: u0, u1, u10, u100, u1000 and 4,995 more"
