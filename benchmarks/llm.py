"""How fast NestRec trains its language model: ``python benchmarks/llm.py [--sequences FILE] [--gpu]``.

On a CPU, the tiny model against a plain reference that does what the original does (one target per row, prompts strung
together token by token in Python), with the same weights, which must give the same loss. Item tokens come from a cache
on both sides, as the original's do. Packed against padded, in training and in evaluation. Seconds are those of one
core, whatever else the machine does.
With ``--gpu``, on one NVIDIA GPU: Qwen3-0.6B's shape with random weights under LoRA, through the trainer.

``FILE`` has a user and her items, oldest first, on each line (Amazon Beauty, 2014, 5-core); without it histories of
that shape are drawn. Writes ``results/llm.json`` and README's table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from readme import put_table, read_results, write_results
from torch import Tensor

import nestrec_recbole  # noqa: F401  # the repairs come first
from nestrec_recbole.layers.full_softmax import full_softmax

N_USERS, N_ITEMS = 22_363, 12_101  # of Beauty
LENGTH = 50
REFERENCE_ROWS = 64  # of a batch of the reference
SECONDS = 20  # of each side that are timed
QWEN3_06B = {  # its config.json
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
LORA = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bf16 FLOP per second, from NVIDIA's data sheets


def write_data(folder: Path, sequences: str | None) -> None:
    """Write ``shaped.inter`` and ``shaped.item``: histories, and a number for every item."""
    if sequences:
        histories = [line.split()[1:] for line in Path(sequences).read_text().splitlines()]
    else:
        random = np.random.default_rng(0)
        lengths = 5 + np.minimum(random.lognormal(0.7, 1.2, N_USERS), 200).astype(int)  # Beauty's: mean 8.9, median 6
        items = np.minimum(random.zipf(1.1, lengths.sum()), 10**9) % N_ITEMS
        histories = [part.astype(str).tolist() for part in np.split(items, np.cumsum(lengths)[:-1])]
    place = folder / "shaped"
    place.mkdir()
    with open(place / "shaped.inter", "w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, history in enumerate(histories):
            file.writelines(f"u{user}\t{item}\t{1_600_000_000 + step}\n" for step, item in enumerate(history))
    names = sorted({item for history in histories for item in history})
    rows = [f"{name}\t{number % 97}\n" for number, name in enumerate(names)]
    (place / "shaped.item").write_text("item_id:token\tprice:float\n" + "".join(rows))


def prepare(folder: Path, llm: dict[str, Any], **settings: Any) -> tuple[Any, Any, Any, Any]:
    """A NestRec, its trainer, its training batches and its validation split."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    given = {"data_path": str(folder), "feature_path": str(folder), "MAX_ITEM_LIST_LENGTH": LENGTH, "llm": llm}
    given |= {"state": "ERROR", "show_progress": False, "item_fields": {"price": {"modality": "number"}}}
    config = Config(model="NestRec", dataset="shaped", config_dict={**given, **settings})
    init_seed(config["seed"], True)
    train, valid, _ = data_preparation(config, create_dataset(config))
    model = get_model("NestRec")(config, train.dataset).to(config["device"])
    return model, get_trainer(config["MODEL_TYPE"], "NestRec")(config, model), train, valid


# -- on a CPU: against one target per row -----------------------------------------------------------------------------


def reference_states(model: Any, batch: Any) -> Tensor:
    """The last state of each history (B, d), its prompt strung together token by token."""
    items, users = model.history_tokens(batch)
    kinds = model.token_kind.weight
    items, users = model.to_llm(items) + kinds[0], model.to_llm(users) + kinds[1]
    prompts = []
    for row, length in enumerate(batch["item_length"].tolist()):
        tokens = []
        for step in range(length):
            for query in range(items.shape[2]):
                tokens.append(items[row, step, query])
            for query in range(users.shape[2]):
                tokens.append(users[row, step, query])
        prompts.append(torch.stack(tokens))
    inputs = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    is_token = torch.arange(inputs.shape[1]) < lengths[:, None]
    hidden = model.llm(inputs_embeds=inputs, attention_mask=is_token, use_cache=False).last_hidden_state
    return model.to_state(model.dropout(hidden[torch.arange(len(prompts)), lengths - 1]))


def reference_loss(model: Any, batch: Any) -> Tensor:
    """Mean cross-entropy over the whole catalogue of one target per row."""
    return full_softmax(reference_states(model, batch), model.item_table(), batch["item_id"])


def targets_per_second(model: Any, loss: Callable[[Any], Tensor], batches: Any, targets: Callable[[Any], int]) -> float:
    """Train for some seconds; the first batch warms up."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    model.train()
    done, began = 0, 0.0
    for place, batch in enumerate(batches):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
        if place == 0:
            began = process_time()
            continue
        done += targets(batch)
        if process_time() - began > SECONDS:
            break
    return done / (process_time() - began)


def cache_item_tokens(model: Any) -> None:
    """From now on item tokens are what they are now."""
    with torch.no_grad():
        tokens = model.eval().item_tokens()
    model.item_tokens = lambda items=None: tokens


def against_one_target_per_row(folder: Path) -> dict[str, Any]:
    """Targets per second of both sides, and how far their losses are apart on the last target of each history."""
    from recbole.data.interaction import Interaction

    model, _, train, _ = prepare(folder, {})
    cache_item_tokens(model)
    rows = train.dataset  # every (history, target)
    order = np.random.default_rng(0).permutation(len(rows))

    def expanded() -> Any:
        for start in range(0, len(order), REFERENCE_ROWS):
            batch = rows.histories(order[start : start + REFERENCE_ROWS])
            longest = int(batch["item_length"].max())
            lists = {k: v[:, :longest] if k.endswith("_list") else v for k, v in batch.interaction.items()}
            yield Interaction(lists)

    def n_targets(batch: Any) -> int:
        return int((batch["target_list"] > 0).sum())

    ours = targets_per_second(model, model.calculate_loss, train, n_targets)
    model.eval()  # with weights that have learned: at first every loss is near the logarithm of the number of items
    apart = 0.0
    for batch in islice(expanded(), 8):
        with torch.no_grad():
            states = model.last_states(batch), reference_states(model, batch)
            losses = [F.cross_entropy(s @ model.item_table().T, batch["item_id"], reduction="none") for s in states]
            apart = max(apart, float((losses[0] - losses[1]).abs().max()))
    assert apart < 1e-5, f"the losses are {apart} apart"
    scattered = targets_per_second(model, model.calculate_loss, expanded(), len)
    theirs = targets_per_second(model, lambda batch: reference_loss(model, batch), expanded(), len)
    return {
        "ours": ours,
        "reference": theirs,
        "ratio": ours / theirs,
        "reference, tokens scattered at once": scattered,
        "ratio, tokens scattered at once": ours / scattered,
        "losses apart": apart,
    }


def packing(folder: Path) -> dict[str, Any]:
    """Seconds of an epoch, of ranking all validation targets, and of a batch that is not sorted by length."""
    results: dict[str, Any] = {}
    filled = 0.0
    for name, packs in {"padded": False, "packed": True}.items():
        model, trainer, train, valid = prepare(folder, {"packing": packs}, epochs=1)
        trainer.eval_collector.data_collect(train)
        seconds = []
        for epoch in range(2):
            began = process_time()
            trainer._train_epoch(train, epoch)
            seconds.append(process_time() - began)
        evaluations = []
        for _ in range(3):
            trainer.model.forget()
            began = process_time()
            trainer.evaluate(valid, load_best_model=False)
            evaluations.append(process_time() - began)
        unsorted = train.dataset.histories(np.random.default_rng(0).permutation(len(train.dataset))[:256])
        filled = float((unsorted["item_id_list"] > 0).float().mean())
        cache_item_tokens(model)
        batches = []
        for _ in range(5):
            began = process_time()
            model.train().encode(unsorted).sum().backward()
            batches.append(process_time() - began)
        results[name] = {
            "seconds per epoch": min(seconds),
            "seconds per evaluation": median(evaluations),
            "seconds per unsorted batch": median(batches),
        }
    positions = [float((batch["item_id_list"] > 0).float().mean()) for batch in train]
    return {**results, "positions filled in training": float(np.mean(positions)), "unsorted": filled}


# -- on a GPU: Qwen3-0.6B ---------------------------------------------------------------------------------------------


def flops_per_epoch(model: Any, train: Any) -> tuple[int, float]:
    """Tokens of an epoch and the model's FLOPs for them: frozen weights need a forward and a backward for the inputs.

    Two FLOPs a weight of a linear layer and token, forward and as much again backward; attention's two products over
    the tokens that each may see, forward, and twice that backward. Recomputation counts for nothing.
    """
    config = model.llm.config
    linear = sum(p.numel() for name, p in model.llm.named_parameters() if p.ndim == 2 and "_proj.base_layer" in name)
    per_step = model.item_qformer.queries.shape[0] + model.user_qformer.queries.shape[0]
    lengths = np.concatenate([batch["item_length"].numpy() for batch in train]).astype(np.float64) * per_step
    seen = (lengths * (lengths + 1) / 2).sum()
    width = config.num_attention_heads * config.head_dim
    attention = 3 * 4 * width * config.num_hidden_layers * seen
    return int(lengths.sum()), 4 * linear * lengths.sum() + attention


def on_gpu(folder: Path) -> dict[str, Any]:
    """Tokens per second, model FLOP utilisation, seconds per epoch and peak memory of Qwen3-0.6B under LoRA."""
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/llm.py --gpu: this machine has no GPU that torch can use; run it on one that has")
    from transformers import Qwen3Config, Qwen3Model

    base = folder / "qwen3"
    with torch.device("cuda"):
        Qwen3Model(Qwen3Config(**QWEN3_06B)).to(torch.bfloat16).save_pretrained(base)
    name = torch.cuda.get_device_name()
    peak = next((flops for kind, flops in PEAK.items() if kind in name), None)
    results: dict[str, Any] = {"device": name, "peak FLOP/s": peak}
    llm = {"path": str(base), "lora": LORA, "dtype": "bf16"}
    cases = {
        "padded": ({}, {}),
        "packed": ({"packing": True}, {}),
        "packed, checkpointing": ({"packing": True, "gradient_checkpointing": True}, {}),
        "packed, compiled": ({"packing": True}, {"compile": True}),
        "packed, checkpointing, compiled": ({"packing": True, "gradient_checkpointing": True}, {"compile": True}),
    }
    for case, (of_llm, settings) in cases.items():
        torch.compiler.reset()
        torch.cuda.empty_cache()
        try:
            results[case] = epoch_on_gpu(folder, {**llm, **of_llm}, settings, peak)
        except Exception as error:  # one case that fails, of memory or in the compiler, must not lose the others
            results[case] = {"failed": (str(error) or type(error).__name__).splitlines()[0]}
        print(case, json.dumps(results[case]), flush=True)
    return results


def epoch_on_gpu(folder: Path, llm: dict[str, Any], settings: dict[str, Any], peak: float | None) -> dict[str, Any]:
    """Train an epoch to warm up, and time the next."""
    model, trainer, train, _ = prepare(folder, llm, precision="bf16", **settings)
    trainer.rate_factor.steps_per_epoch = len(train)
    began = perf_counter()
    trainer._train_epoch(train, 0)
    torch.cuda.synchronize()
    warm_up = perf_counter() - began
    torch.cuda.reset_peak_memory_stats()
    train.set_epoch(1)
    tokens, flops = flops_per_epoch(model, train)
    began = perf_counter()
    trainer._train_epoch(train, 1)
    torch.cuda.synchronize()
    seconds = perf_counter() - began
    return {
        "seconds per epoch": seconds,
        "seconds of the first epoch": warm_up,
        "tokens per second": tokens / seconds,
        "model FLOP utilisation": flops / seconds / peak if peak else None,
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
    }


# -- what comes of it -------------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """Markdown of what there is."""
    lines = []
    if "against one target per row" in results:
        r, p = results["against one target per row"], results["packing"]
        lines += ["| on a CPU, the tiny model | ours | one target per row | ratio |", "|---|---|---|---|"]
        lines.append(f"| targets per second | {r['ours']:,.0f} | {r['reference']:,.0f} | {r['ratio']:.0f} x |")
        theirs, ratio = r["reference, tokens scattered at once"], r["ratio, tokens scattered at once"]
        lines.append(f"| ... its tokens scattered at once too | | {theirs:,.0f} | {ratio:.1f} x |")
        lines += ["", "| | padded | packed |", "|---|---|---|"]
        for name in p["padded"]:
            lines.append(f"| {name} | {p['padded'][name]:.2f} | {p['packed'][name]:.2f} |")
    if "gpu" in results:
        gpu = results["gpu"]
        lines += ["", f"| {gpu['device']}, Qwen3-0.6B | tokens/s | utilisation | s per epoch | peak GiB |"]
        lines.append("|---|---|---|---|---|")
        for case, r in gpu.items():
            if isinstance(r, dict) and "failed" not in r:
                used = f"{r['model FLOP utilisation']:.0%}" if r["model FLOP utilisation"] is not None else "?"
                speed, seconds = f"{r['tokens per second']:,.0f}", f"{r['seconds per epoch']:.1f}"
                lines.append(f"| {case} | {speed} | {used} | {seconds} | {r['peak GiB']:.1f} |")
    return "\n".join(lines).strip()


def main() -> None:
    """Time what is asked for, and write the results and README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", metavar="FILE", help="a user and her items on each line")
    parser.add_argument("--gpu", action="store_true", help="Qwen3-0.6B on this machine's GPU, instead of the CPU part")
    options = parser.parse_args()
    command = "python benchmarks/llm.py" + " --sequences FILE" * bool(options.sequences) + " --gpu" * options.gpu
    sys.argv = sys.argv[:1]
    torch.set_num_threads(1)
    try:
        results = read_results("llm")
    except FileNotFoundError:
        results = {}
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), options.sequences)
        if options.gpu:
            results["gpu"] = on_gpu(Path(name))
        else:
            for part, measure in {"against one target per row": against_one_target_per_row, "packing": packing}.items():
                results[part] = measure(Path(name))
                print(part, json.dumps(results[part]), flush=True)
    write_results("llm", {**results, "command": command})
    put_table("llm table", table(read_results("llm")))


if __name__ == "__main__":
    main()
