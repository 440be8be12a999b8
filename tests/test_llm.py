"""The language model of NestRec: its settings, what is saved of it, and what is trained."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LAYERS, BuildNestRec
from recbole.data.interaction import Interaction
from safetensors.torch import load_file

from nestrec_recbole import NestRecError
from nestrec_recbole.fingerprints import base_files
from nestrec_recbole.models.adapters import adapter_folder
from nestrec_recbole.train.checkpoint import read_checkpoint, write_checkpoint
from nestrec_recbole.train.prepare import prepare

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj", "up_proj"]}
QUICK = {"learning_rate": 0.01, "hidden_dropout_prob": 0.0, "train_batch_size": 64}


def histories(rows: list[list[int]]) -> Interaction:
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return Interaction({"item_id_list": padded, "item_length": torch.tensor([len(r) for r in rows])})


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


FIELDS = {"title": {"modality": "text"}, "year": {"modality": "number"}}  # of `build_nestrec`
HISTORIES = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10, 11, 12, 1], [5]]


# what is saved


def test_adapters_in_pefts_format_give_equal_states(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    from peft import PeftModel
    from transformers import Qwen3Model

    llm = {"path": str(qwen3), "lora": LORA, "layers": 2}
    model, trainer, train, valid = build_nestrec(llm, epochs=2, learning_rate=0.01)
    trainer.fit(train, valid, verbose=False)
    trainer.evaluate(valid)  # loads what was kept
    folder = adapter_folder(trainer.saved_model_file)
    base = Qwen3Model.from_pretrained(qwen3, dtype=torch.float32)
    base.layers, base.config.num_hidden_layers = base.layers[:2], 2
    tokens = torch.randn(2, 9, 24)
    with torch.no_grad():
        plain = base.eval()(inputs_embeds=tokens).last_hidden_state
        theirs = PeftModel.from_pretrained(base, folder).eval()(inputs_embeds=tokens).last_hidden_state
        ours = model.eval().llm(inputs_embeds=tokens).last_hidden_state
    assert torch.equal(theirs, ours)
    assert not torch.allclose(plain, ours, atol=1e-3)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(qwen3)
    assert sorted(path.name for path in Path("saved").iterdir()) == [folder.name, Path(trainer.saved_model_file).name]


def test_an_odd_width_of_heads_is_for_the_small_model_alone_to_refuse(qwen3: Path, build_nestrec: BuildNestRec) -> None:
    build_nestrec({"path": str(qwen3)}, hidden_size=18)
    with pytest.raises(NestRecError, match="an odd width"):
        build_nestrec(hidden_size=18)


def test_an_adapter_folder_is_written_whole_or_not_at_all(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    model, *_ = build_nestrec({"path": str(qwen3), "lora": LORA})
    checkpoint = Path("saved/a.safetensors")
    model.export(checkpoint)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1)
    save = model.llm.save_pretrained

    def break_off(folder: Path, **kwargs: Any) -> None:
        save(folder, **kwargs)
        raise OSError("disk full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.llm, "save_pretrained", break_off)
        with pytest.raises(OSError, match="disk full"):
            model.export(checkpoint)
    assert [path.name for path in Path("saved").iterdir()] == ["a-adapter"]
    tensors = load_file("saved/a-adapter/adapter_model.safetensors")
    assert all((tensor == 0).all() for name, tensor in tensors.items() if "lora_B" in name)
    model.export(checkpoint)  # over the folder that is there
    tensors = load_file("saved/a-adapter/adapter_model.safetensors")
    assert all((tensor == 1).all() for name, tensor in tensors.items() if "lora_B" in name)
    assert [path.name for path in Path("saved").iterdir()] == ["a-adapter"]


def test_checkpoints_hold_adapters_and_no_frozen_weight(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    from recbole.quick_start import load_data_and_model

    llm = {"path": str(qwen3), "lora": LORA}
    model, trainer, train, valid = build_nestrec(llm, epochs=2, checkpoint_last=True, learning_rate=0.01)
    trainer.fit(train, valid, verbose=False)
    last = trainer.saved_model_file.replace(".safetensors", "-last.safetensors")
    for path in (trainer.saved_model_file, last):
        names = {name.removeprefix("model.") for name in read_checkpoint(path)[0] if name.startswith("model.")}
        assert {name for name in names if name.startswith("llm.")} == {
            name for name in trained(model) if name.startswith("llm.")
        }
        assert trained(model) <= names

    trainer.evaluate(valid)
    _, loaded, *_ = load_data_and_model(trainer.saved_model_file)
    with torch.no_grad():
        batch = histories(HISTORIES)
        scores = model.eval().full_sort_predict(batch)
        assert torch.equal(loaded.eval().full_sort_predict(batch), scores)

    _, resumed, *_ = build_nestrec(llm, epochs=2)
    resumed.resume_checkpoint(last)
    tensors, _ = read_checkpoint(last)
    assert all(torch.equal(tensors[f"model.{name}"], tensor) for name, tensor in resumed.model.state_dict().items())


@pytest.mark.parametrize("wide", [False, True])
def test_the_stack_begins_where_its_user_level_ended(
    wide: bool, build_nestrec: BuildNestRec, make_config: Any, qwen3: Path
) -> None:
    """Behind a language model that changes nothing, states are those of UserQFormer, whatever its width."""
    width = 16 if wide else 24
    settings = {"epochs": 2, "hidden_size": width, "n_heads": 2, "inner_size": 32, "learning_rate": 0.01}
    settings |= {"MAX_ITEM_LIST_LENGTH": 30, "item_fields": FIELDS}
    users, (train, valid, _) = prepare(make_config("UserQFormer", "circle", checkpoint_dir="users", **settings))
    users.fit(train, valid, verbose=False)
    users.evaluate(valid)
    llm = {"path": str(qwen3), "lora": LORA} if wide else {}
    model, *_ = build_nestrec(llm, hidden_size=width, init_from=users.saved_model_file)
    assert model.to_state.weight.shape == (width, 24)
    tokens = torch.randn(5, width)
    with torch.no_grad():
        through = model.to_state(tokens @ model.to_llm.weight.T)
        torch.testing.assert_close(through, users.model.to_state(tokens), rtol=1e-4, atol=1e-5)


def test_adapters_are_of_the_weights_they_were_trained_with(
    build_nestrec: BuildNestRec, qwen3: Path, tmp_path: Path
) -> None:
    from recbole.quick_start import load_data_and_model
    from transformers import Qwen3Model

    base = tmp_path / "base"
    shutil.copytree(qwen3, base)
    _, trainer, train, valid = build_nestrec({"path": str(base), "lora": LORA}, epochs=1)
    trainer.fit(train, valid, verbose=False)
    load_data_and_model(trainer.saved_model_file)
    before = base_files({"path": str(base)})
    other = Qwen3Model.from_pretrained(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    other.save_pretrained(base)
    with pytest.raises(NestRecError, match=r"llm\.path holds other weights than when this was trained"):
        load_data_and_model(trainer.saved_model_file)
    assert base_files({"path": str(base)}) != before  # by which stages and suites know that they are to be run again


def test_lora_of_pefts_own_defaults(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    model, *_ = build_nestrec({"path": str(qwen3), "lora": {}})
    assert all("lora_" in name for name in trained(model) if name.startswith("llm."))
    with pytest.raises(NestRecError, match=r"llm\.lora is True; expected keys of peft.LoraConfig"):
        build_nestrec({"path": str(qwen3), "lora": True})


def test_a_checkpoint_older_than_a_setting_still_loads(build_nestrec: BuildNestRec) -> None:
    from recbole.quick_start import load_data_and_model

    _, trainer, train, valid = build_nestrec({"layers": 1}, epochs=1)
    trainer.fit(train, valid, verbose=False)
    tensors, about = read_checkpoint(trainer.saved_model_file)
    about["config"]["llm"] = {"config": "tiny", "layers": 1}
    del about["config"]["qformer_learning_rate"]
    write_checkpoint(trainer.saved_model_file, tensors, about)
    assert load_data_and_model(trainer.saved_model_file)[1].qformer_rate is None


def test_a_checkpoint_that_lacks_an_adapter_is_refused(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    model, *_ = build_nestrec({"path": str(qwen3), "lora": LORA})
    state = dict(model.state_dict())
    lost = next(name for name in state if "lora_A" in name)
    del state[lost]
    with pytest.raises(RuntimeError, match=lost):
        model.load_state_dict(state)


def test_weights_that_no_path_gives_back_are_saved_even_when_frozen(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    tiny, *_ = build_nestrec({"learning_rate": 0}, qformer_learning_rate=0)
    assert set(tiny.state_dict()) == {name for name, _ in tiny.named_parameters()}
    whole, *_ = build_nestrec({"path": str(qwen3)})
    assert "llm.layers.0.mlp.up_proj.weight" in whole.state_dict()
    assert "llm.embed_tokens.weight" not in whole.state_dict()
    frozen, *_ = build_nestrec({"path": str(qwen3), "learning_rate": 0})
    assert not [name for name in frozen.state_dict() if name.startswith("llm.")]


# what is trained


def test_parts_are_frozen_or_have_their_own_learning_rate(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    llm = {"path": str(qwen3), "lora": LORA, "learning_rate": 0.0005}
    model, trainer, train, valid = build_nestrec(
        llm, qformer_learning_rate=0.002, epochs=1, schedule="linear", warmup_steps=2
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["initial_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert set(rates) == trained(model)
    for name, rate in rates.items():
        part = "llm" if name.startswith("llm.") else "own" if name.startswith(("to_llm", "to_st", "token_k")) else "q"
        assert rate == {"llm": 0.0005, "own": 0.001, "q": 0.002}[part], name
    assert {group["lr"] / group["initial_lr"] for group in trainer.optimizer.param_groups} == {0.5}

    model, trainer, train, valid = build_nestrec({**llm, "learning_rate": 0}, qformer_learning_rate=0, epochs=1)
    assert trained(model) == {"to_llm.weight", "to_llm.bias", "token_kind.weight", "to_state.weight", "to_state.bias"}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer.fit(train, valid, verbose=False, saved=False)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained(model)


def test_the_last_layers_are_left_out(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    whole, *_ = build_nestrec({"path": str(qwen3), "learning_rate": 0})
    cut, *_ = build_nestrec({"path": str(qwen3), "learning_rate": 0, "layers": 1})
    assert (len(whole.llm.layers), len(cut.llm.layers)) == (LAYERS, 1)
    tokens = torch.randn(1, 5, 24)
    with torch.no_grad():
        after_one = whole.llm(inputs_embeds=tokens, output_hidden_states=True).hidden_states[1]
        assert torch.equal(cut.llm(inputs_embeds=tokens).last_hidden_state, cut.llm.norm(after_one))
    assert len(build_nestrec({"layers": 4})[0].llm.layers) == 4


def test_a_model_saved_with_its_language_head(build_nestrec: BuildNestRec, qwen3: Path, tmp_path: Path) -> None:
    """As Qwen/Qwen3-0.6B is, whose weights have other names than those of Qwen3-Embedding-0.6B."""
    from transformers import AutoConfig, Qwen3ForCausalLM

    with_head = Qwen3ForCausalLM(AutoConfig.from_pretrained(qwen3))
    with_head.save_pretrained(tmp_path / "causal")
    model, *_ = build_nestrec({"path": str(tmp_path / "causal"), "learning_rate": 0})
    for name, parameter in model.llm.named_parameters():
        torch.testing.assert_close(parameter, with_head.get_parameter(f"model.{name}"), atol=0, rtol=0)


def losses_and_gradients(model: Any, train: Any) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    model.train().zero_grad()
    train.set_epoch(0)
    loss = model.calculate_loss(next(iter(train)))
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_changes_nothing(frozen: bool, build_nestrec: BuildNestRec, qwen3: Path) -> None:
    """Below a frozen Q-Former too, where no input of the language model wants a gradient."""
    settings = {"qformer_learning_rate": 0} if frozen else {}
    llm = {"path": str(qwen3), "lora": LORA}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*gradient_checkpointing_enable.*", FutureWarning)
        (one, _, train, _), (other, *_) = (
            build_nestrec({**llm, "gradient_checkpointing": on}, **settings) for on in (False, True)
        )
    assert other.llm.base_model.model.layers[0].gradient_checkpointing
    (loss, gradients), (again, recomputed) = losses_and_gradients(one, train), losses_and_gradients(other, train)
    assert loss == again and set(gradients) == set(recomputed) == trained(one)
    assert all(torch.equal(gradients[name], recomputed[name]) for name in gradients)


@pytest.mark.parametrize("packing", [False, True])
def test_bf16_weights_under_fp32_adapters(packing: bool, build_nestrec: BuildNestRec, qwen3: Path) -> None:
    """With the trainer's autocast and without it; ranks come out of what bfloat16 can tell apart."""
    llm = {"path": str(qwen3), "lora": LORA, "dtype": "bf16", "packing": packing}
    for precision in ("fp32", "bf16"):
        model, trainer, train, valid = build_nestrec(llm, precision=precision, epochs=10, **QUICK)
        kinds = {name: parameter.dtype for name, parameter in model.llm.named_parameters()}
        assert {kinds[name] for name in kinds if "lora_" in name} == {torch.float32}
        assert {kinds[name] for name in kinds if "lora_" not in name} == {torch.bfloat16}
        trainer.fit(train, valid, verbose=False)
        losses = [record["train_loss"] for record in trainer.history]
        assert losses[-1] < 0.9 * losses[0]
        assert trainer.evaluate(valid)
    full, *_ = build_nestrec({**llm, "dtype": "fp32"})
    half, *_ = build_nestrec(llm)
    with torch.no_grad():
        states = [m.eval().encode(histories(HISTORIES[:1])) for m in (full, half)]
    torch.testing.assert_close(*states, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "full_softmax"},
        {"loss": "sampled_softmax", "n_negatives": 8},
        {"loss": "gbce", "n_negatives": 8},
        {"loss": "info_nce", "temperature": 0.5, "learn_temperature": True},
    ],
)
def test_every_loss_trains(settings: dict[str, Any], build_nestrec: BuildNestRec, qwen3: Path) -> None:
    llm = {"path": str(qwen3), "lora": LORA}
    _, trainer, train, valid = build_nestrec(llm, epochs=15, **QUICK, **settings)
    trainer.fit(train, valid, verbose=False, saved=False)
    losses = [record["train_loss"] for record in trainer.history]
    assert losses[-1] < 0.9 * losses[0]


# torch.compile


def compiled_and_eager(build_nestrec: BuildNestRec, llm: dict[str, Any]) -> None:
    """One step of training, the same with ``compile: True`` as without."""
    results = []
    for compiles in (False, True):
        without_chance = {"hidden_dropout_prob": 0.0, "id_dropout_prob": 0.0}  # compiled code draws numbers of its own
        model, _, train, _ = build_nestrec(llm, compile=compiles, **without_chance)
        results.append(losses_and_gradients(model, train))
    torch._dynamo.reset()
    (loss, gradients), (compiled, others) = results
    assert compiled == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_what_is_traced_computes_the_same(build_nestrec: BuildNestRec, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of torch.compile but the code it writes, which takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled_and_eager(build_nestrec, {"packing": True, "layers": 1})


@pytest.mark.slow
def test_compiled_code_computes_the_same(build_nestrec: BuildNestRec) -> None:
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is none")
    compiled_and_eager(build_nestrec, {"layers": 1})


# bad input


def complaint(build_nestrec: BuildNestRec, llm: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(NestRecError) as raised:
        build_nestrec(llm, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora": {**LORA, "lora_rank": 4}}, "unknown config key 'llm.lora.lora_rank'; did you mean 'llm.lora."),
        ({"lora": {"rank": 4}}, "'llm.lora.rank'; did you mean 'llm.lora.r"),
        ({"lora": {"target_modules": ["q_proj", "query"]}}, "'query' matches nothing in the model; it has down_proj, "),
        ({"lora": {"target_modules": "h.*attn"}}, "'h.*attn' matches nothing in the model; it has down_proj, gate_pr"),
        ({"lora": {"r": 0, "target_modules": ["q_proj"]}}, "llm.lora: `r` should be a positive integer"),
        ({"layers": 9}, "llm.layers is 9, but"),
        ({"layers": 0}, "config key 'llm.layers' is 0; expected a whole number from 1"),
        ({"dtype": "fp16", "lora": LORA}, "config key 'llm.dtype' is 'fp16'; expected one of fp32, bf16"),
        ({"dtype": "bf16"}, "llm.dtype bf16 is for frozen weights, and these are trained"),
        ({"attention": "flash"}, "config key 'llm.attention' is 'flash'; expected one of sdpa, flash_attention_2, ea"),
        ({"attention": "flash_attention_2"}, "flash_attention_2 takes no fp32; set llm.dtype to bf16"),
        ({"lora": {"task_type": "CAUSAL_LM"}}, "llm.lora.task_type is 'CAUSAL_LM': vectors are read here"),
        ({"learning_rate": -1}, "config key 'llm.learning_rate' is -1; expected a number from 0"),
        ({"learning_rate": "fast"}, "config key 'llm.learning_rate' is 'fast'; expected a number from 0"),
    ],
)
def test_settings_that_fit_nothing(
    settings: dict[str, Any], words: str, build_nestrec: BuildNestRec, qwen3: Path
) -> None:
    assert words in complaint(build_nestrec, {"path": str(qwen3), **settings})


def test_the_small_one_has_nothing_to_adapt(build_nestrec: BuildNestRec) -> None:
    assert "config: tiny has none; set llm.path" in complaint(build_nestrec, {"lora": LORA})
    assert "llm.dtype bf16 is for frozen weights" in complaint(build_nestrec, {"dtype": "bf16"})
    assert "'qformer_learning_rate' is True; expected a number" in complaint(
        build_nestrec, {}, qformer_learning_rate=True
    )


def test_folders_that_are_no_qwen3(build_nestrec: BuildNestRec, qwen3: Path, tmp_path: Path) -> None:
    def damaged(name: str, damage: Callable[[Path], Any], **llm: Any) -> str:
        shutil.copytree(qwen3, tmp_path / name)
        damage(tmp_path / name)
        return complaint(build_nestrec, {"path": str(tmp_path / name), **llm})

    def retype(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))

    def slide(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        sliding = {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention"] * LAYERS}
        (folder / "config.json").write_text(json.dumps({**config, **sliding}))

    def lose(folder: Path) -> None:
        from safetensors.torch import save_file

        weights = load_file(folder / "model.safetensors")
        del weights["layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert "is a llama, not a qwen3" in damaged("llama", retype)
    assert "cannot load Qwen3 from this folder" in damaged("none", lambda folder: (folder / "config.json").unlink())
    assert "not a valid JSON file" in damaged("half", lambda folder: (folder / "config.json").write_text("{"))
    assert "cannot load Qwen3" in damaged(
        "empty", lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 9)
    )
    assert "no file named model.safetensors" in damaged("bare", lambda folder: (folder / "model.safetensors").unlink())
    assert "has layers that see a window only; set packing: False" in damaged("window", slide, packing=True)
    assert "its weights lack layers.1.mlp.up_proj.weight" in damaged("part", lose)
    assert "where the hub cannot be reached, name a folder" in complaint(
        build_nestrec, {"path": "Qwen/Qwen3-Embedding-0.6B"}
    )


def test_flash_attention_that_is_not_installed(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    if find_spec("flash_attn"):
        pytest.skip("flash_attn is installed")
    how = {"attention": "flash_attention_2", "dtype": "bf16", "lora": LORA}
    line = complaint(build_nestrec, {"path": str(qwen3), **how})
    assert line.startswith("llm.attention flash_attention_2: ")
