"""How histories are laid out for the language model: text and vectors in their places, padded or packed."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import BuildNestRec
from recbole.data.interaction import Interaction
from torch import Tensor
from transformers import AutoTokenizer

from nestrec_recbole import NestRecError
from nestrec_recbole.layers.packing import Packed, Texts, lay_out
from nestrec_recbole.models.llm import read_tokens

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"]}
TEXT = {"prompt": "I have bought:", "titles": "title", "title_tokens": 4}
TITLES = {f"i{i}": f" thing number {i}" for i in range(12) if i % 7 != 3}  # as the fixture's dataset has them
ROWS = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10, 11, 12, 1], [5]]


def batch_of(rows: list[list[int]], width: int | None = None) -> Interaction:
    padded = torch.zeros(len(rows), width or max(map(len, rows)), dtype=torch.long)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return Interaction({"item_id_list": padded, "item_length": torch.tensor([len(r) for r in rows])})


@pytest.fixture(params=[False, True], ids=["padded", "packed"])
def packing(request: pytest.FixtureRequest) -> bool:
    return request.param


@torch.no_grad()
def test_tokens_stand_where_the_prompt_says(build_nestrec: BuildNestRec, qwen3: Path, packing: bool) -> None:
    """Against histories strung together token by token, each read alone."""
    llm = {"path": str(qwen3), "lora": LORA, **TEXT}
    plain, _, train, _ = build_nestrec(llm, user_queries=2)
    model, *_ = build_nestrec({**llm, "packing": packing}, user_queries=2)
    tokenizer, names = AutoTokenizer.from_pretrained(qwen3), train.dataset.field2id_token["item_id"]
    words = {item: tokenizer(TITLES.get(names[item], ""))["input_ids"] for item in range(1, 13)}
    assert {len(title) for title in words.values()} >= {0, 4, 5}, "titles that are missing, fit, and are cut"
    embed = plain.eval().llm.get_input_embeddings()
    items, users = plain.history_tokens(batch_of(ROWS))
    states = model.eval().encode(batch_of(ROWS, width=9))
    for row, history in enumerate(ROWS):
        tokens, last = [embed(torch.tensor(tokenizer("I have bought:")["input_ids"]))], []
        for step, item in enumerate(history):
            number = tokenizer(f"{', ' if step else ' '}{step + 1}.")["input_ids"]
            tokens.append(embed(torch.tensor(number + words[item][:4])))
            tokens.append(plain.to_llm(items[row, step]) + plain.token_kind.weight[0])
            tokens.append(plain.to_llm(users[row, step]) + plain.token_kind.weight[1])
            last.append(sum(map(len, tokens)) - 1)
        hidden = plain.llm(inputs_embeds=torch.cat(tokens)[None], use_cache=False).last_hidden_state
        wanted = plain.to_state(hidden[0, last])
        torch.testing.assert_close(states[row, : len(history)], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("llm", [{}, {"lora": LORA}, {"lora": LORA, **TEXT, "gradient_checkpointing": True}])
def test_packed_equals_padded_forward_and_backward(
    llm: dict[str, Any], build_nestrec: BuildNestRec, qwen3: Path
) -> None:
    path = {"path": str(qwen3)} if llm else {}
    losses, gradients = [], []
    for packing in (False, True):
        model, _, train, _ = build_nestrec({**path, **llm, "packing": packing}, hidden_dropout_prob=0.0)
        batch = max(train, key=lambda batch: len(batch["item_length"].unique()))
        assert len(batch["item_length"].unique()) > 1, "of different lengths"
        torch.manual_seed(1)
        loss = model.calculate_loss(batch)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@torch.no_grad()
@pytest.mark.parametrize("text", [{}, TEXT], ids=["tokens only", "with text"])
def test_no_token_of_the_future_is_visible(
    text: dict[str, Any], build_nestrec: BuildNestRec, qwen3: Path, packing: bool
) -> None:
    model, _, train, _ = build_nestrec({"path": str(qwen3), "lora": LORA, **text, "packing": packing})
    names = list(train.dataset.field2id_token["item_id"])
    ids = [names.index(f"i{i}") for i in (0, 1, 2, 4, 5, 6, 7, 8)]  # with titles of equal length: shapes stay the same
    one, other = batch_of([ids[:5]]), batch_of([[*ids[:3], *ids[5:7]]])
    states, changed = model.eval().encode(one), model.encode(other)
    assert torch.equal(states[:, :3], changed[:, :3])
    assert (states[:, 3:] != changed[:, 3:]).any(dim=-1).all()


def test_states_have_no_gradient_to_later_tokens_or_other_histories(
    build_nestrec: BuildNestRec, qwen3: Path, packing: bool
) -> None:
    model, *_ = build_nestrec({"path": str(qwen3), "lora": LORA, **TEXT, "packing": packing})
    model.eval()
    layout = lay_out(batch_of(ROWS)["item_id_list"], 3, *model.prompt(), packing=packing)
    tokens = torch.randn(layout.rows, layout.width, 24, requires_grad=True)
    states = layout.states(read_tokens(model.llm, tokens, layout))
    begins = [0]  # of the histories in the flattened grid
    for row in range(len(ROWS) - 1):
        ends = int(layout.state_place[row].max()) + 1
        begins.append(ends if packing else (row + 1) * layout.width)
    for row, history in enumerate(ROWS):
        for step in range(len(history)):
            (gradient,) = torch.autograd.grad(states[row, step].sum(), tokens, retain_graph=True)
            seen = gradient.flatten(0, 1).abs().sum(1).nonzero().flatten().tolist()
            assert seen == list(range(begins[row], int(layout.state_place[row, step]) + 1))


def test_states_train_through_text_and_packing(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    llm = {"path": str(qwen3), "lora": LORA, **TEXT, "packing": True}
    settings = {"learning_rate": 0.01, "hidden_dropout_prob": 0.0, "train_batch_size": 64}
    model, trainer, train, valid = build_nestrec(llm, epochs=10, **settings)
    trainer.fit(train, valid, verbose=False)
    losses = [record["train_loss"] for record in trainer.history]
    assert losses[-1] < 0.9 * losses[0]
    assert trainer.evaluate(valid)
    assert not [name for name in model.state_dict() if name.startswith("prompt.")]


# the layout itself


def test_a_layout_by_hand(packing: bool) -> None:
    """Items 1, 2, 3 have 2, 0, 1 text tokens; a history opens with 1, its steps with 0, 2."""
    ids = torch.tensor([10, 11, 30, 90, 70, 71])
    texts = Texts(ids, torch.tensor([0, 0, 2, 2, 3, 4, 4]), torch.tensor([0, 2, 0, 1, 1, 0, 2]))
    layout = lay_out(torch.tensor([[1, 3], [2, 0]]), 2, texts, torch.tensor([4, 5, 6]), packing=packing)
    vectors = torch.arange(1, 9).view(2, 2, 2, 1).float()
    grid = layout.fill(vectors, layout.text[:, None].float())[..., 0]
    first, second = [90, 10, 11, 1, 2, 70, 71, 30, 3, 4], [90, 5, 6]
    assert grid.tolist() == ([first + second] if packing else [first, second + [0] * 7])
    assert layout.states(grid[..., None])[..., 0].tolist() == [[2, 4], [6, 90]]  # the last is that of padding
    assert (layout.packed is not None) == packing


@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_packed_attention_is_block_diagonal(heads: tuple[int, int]) -> None:
    lengths = [3, 1, 5, 2]
    query, key, value = (torch.randn(1, h, sum(lengths), 4, requires_grad=True) for h in (heads[0], heads[1], heads[1]))
    packed = Packed.of(torch.tensor(lengths), max(lengths))
    out = packed.attend(query, key, value, scale=0.5, enable_gqa=heads[0] != heads[1])
    sequence = torch.repeat_interleave(torch.tensor(lengths))
    mask = (sequence[:, None] == sequence).tril()
    repeated = (x.repeat_interleave(heads[0] // heads[1], dim=1) for x in (key, value))
    wanted = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.5)
    torch.testing.assert_close(out, wanted)
    weights = torch.randn_like(out)
    for x in (query, key, value):
        ours, theirs = (torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (out, wanted))
        torch.testing.assert_close(ours, theirs)


def test_flash_attention_is_told_where_sequences_begin() -> None:
    """What transformers hands to FlashAttention's kernel for ragged batches; the kernel itself needs a GPU."""
    heard: dict[str, Any] = {}

    def listen(inputs_embeds: Tensor, **options: Any) -> SimpleNamespace:
        heard.update(options)
        return SimpleNamespace(last_hidden_state=inputs_embeds)

    listen.config, listen.dtype = SimpleNamespace(_attn_implementation="flash_attention_2"), torch.bfloat16  # type: ignore[attr-defined]
    none = Texts(torch.zeros(0).long(), torch.zeros(9).long(), torch.zeros(9).long())
    history = torch.tensor([[1, 2, 3], [4, 0, 0], [5, 6, 0]])
    layout = lay_out(history, 2, none, torch.zeros(4).long(), packing=True)
    tokens = torch.randn(1, 12, 3)
    assert read_tokens(listen, tokens, layout).dtype == torch.float32
    assert heard["cu_seq_lens_q"].tolist() == heard["cu_seq_lens_k"].tolist() == [0, 6, 8, 12]
    assert heard["cu_seq_lens_q"].dtype == torch.int32
    assert heard["max_length_q"] == heard["max_length_k"] == 6
    assert heard["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 0, 1, 2, 3]]
    for begin, end in pairwise(heard["cu_seq_lens_q"].tolist()):
        assert heard["position_ids"][0, begin:end].tolist() == list(range(end - begin))


# bad input


def complaint(build_nestrec: BuildNestRec, llm: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(NestRecError) as raised:
        build_nestrec(llm, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_text_needs_a_tokenizer(build_nestrec: BuildNestRec, qwen3: Path, tmp_path: Path) -> None:
    assert "config: tiny has none; set llm.path" in complaint(build_nestrec, {"prompt": "Bought:"})
    bare = shutil.copytree(qwen3, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    build_nestrec({"path": str(bare), "lora": LORA})
    line = complaint(build_nestrec, {"path": str(bare), "titles": "title"})
    assert "no tokenizer (it knows no token), which llm.prompt and llm.titles need; put tokenizer.json" in line
    (bare / "tokenizer.json").write_text("{")
    assert "no tokenizer (" in complaint(build_nestrec, {"path": str(bare), "titles": "title"})


def test_the_tokenizer_of_another_model(build_nestrec: BuildNestRec, qwen3: Path, tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3Model

    other = shutil.copytree(qwen3, tmp_path / "other")
    shape = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    Qwen3Model(Qwen3Config(vocab_size=50, num_key_value_heads=2, head_dim=8, **shape)).save_pretrained(other)
    line = complaint(build_nestrec, {"path": str(other), "titles": "title"})
    assert "its tokenizer has a token" in line and "its model 50" in line


@pytest.mark.parametrize(
    ("llm", "words"),
    [
        ({"titles": "titel"}, "no column 'titel'; the file has item_id, title, year"),
        ({"titles": "title", "title_tokens": 0}, "config key 'llm.title_tokens' is 0; expected a whole number from 1"),
        ({"packing": True, "attention": "eager"}, "llm.packing has no eager attention; set llm.attention to sdpa"),
        ({"packing": 1}, "config key 'llm.packing' is 1 (int); expected bool"),
    ],
)
def test_settings_of_text_and_packing(
    llm: dict[str, Any], words: str, build_nestrec: BuildNestRec, qwen3: Path
) -> None:
    assert words in complaint(build_nestrec, {"path": str(qwen3), **llm})


def test_more_tokens_than_positions(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    llm = {"path": str(qwen3), "lora": LORA}
    build_nestrec(llm, MAX_ITEM_LIST_LENGTH=170)
    line = complaint(build_nestrec, llm, MAX_ITEM_LIST_LENGTH=171)
    assert "a history may take 513 tokens (171 items x 3, and 0 of text), the model has 512 positions; lower" in line
    line = complaint(build_nestrec, {**llm, **TEXT}, MAX_ITEM_LIST_LENGTH=100)
    assert "(100 items x 3, and " in line
