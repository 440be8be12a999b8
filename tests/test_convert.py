"""Conversion as a whole: texts, the same bytes, all or nothing, review texts, and what is refused."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from time import perf_counter

import pytest
from corpora import QUICK, digests, meta, review, rows_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from nestrec_recbole import NestRecError
from nestrec_recbole import files as files_module
from nestrec_recbole.cli import main
from nestrec_recbole.convert import (
    Filters,
    Options,
    amazon2023,
    convert,
    sequences,
)
from nestrec_recbole.convert.text import clean_text
from nestrec_recbole.files import sha256_of

# -- texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain", "plain"),
        ("a < b, I <3 you", "a < b, I <3 you"),
        ("<p>One</p><p>two&nbsp;&eacute;</p>", "One two é"),
        ("keep <script>not('<b>')</script>this<style>p{}</style>", "keep this"),
        ("ﬁne Ⅳ\u00ad\u200b\x00\x07 x\r\n\ty", "fine IV x y"),
        ("<!-- gone -->  ", ""),
        ("👩\u200d🍳", "👩\u200d🍳"),
        ("a\u2028b\x85c", "a b c"),
    ],
)
def test_texts(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


def test_texts_are_cut_between_words_and_lowered() -> None:
    assert clean_text("One two three", lower=True, max_length=9) == "one two"
    assert clean_text("x" * 20, max_length=9) == "x" * 9


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text() | st.text("<>&;#abx \t\n/'\"!-=1", max_size=60), st.integers(1, 50))
def test_any_text_is_one_clean_line(raw: str, longest: int) -> None:
    clean = clean_text(raw, max_length=longest)
    assert len(clean) <= longest and clean == clean.strip()
    assert clean.splitlines() in ([clean], []) and "\t" not in clean and "  " not in clean
    clean.encode()


# -- the same bytes, all or nothing -----------------------------------------------------------------------------


def test_bytes_depend_on_the_input_only(tmp_path: Path) -> None:
    reviews = [review(f"u{n % 997}", f"i{n * n % 499}", 10**12 + n * 7919 % 50) for n in range(60_000)]
    paths = [write_lines(tmp_path / f"r{k}.jsonl.gz", reviews[k::2]) for k in range(2)]
    metadata = write_lines(tmp_path / "m.jsonl", [meta(f"i{n}", price=str(n / 7)) for n in range(499)])
    filters = Filters(k_core_users=5, k_core_items=5, deduplicate="last", sample_users=500)
    seen = []
    for threads, memory in ((1, "1GB"), (3, "1GB"), (2, "300MB")):
        options = Options(filters, threads=threads, memory_limit=memory)
        convert(amazon2023(paths, [metadata], review_text=2), "d", options, tmp_path)
        seen.append(digests(tmp_path / "d"))
    assert seen[0] == seen[1] == seen[2]
    report = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert report["files"] == {name: digest for name, digest in seen[0].items() if name != "dataset.json"}
    assert report["sources"][0] == {
        "file": str(paths[0]),
        "bytes": paths[0].stat().st_size,
        "sha256": sha256_of(paths[0]),
    }


def test_a_dataset_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    source = tmp_path / "s.txt"
    source.write_text("u a b c\n")
    convert(sequences(source), "d", data_path=tmp_path / "out")
    (tmp_path / "out/d/features").mkdir()
    (tmp_path / "out/d/features/title").write_text("encoded")
    before = digests(tmp_path / "out")
    source.write_bytes(b"u a b \xff\n")
    with pytest.raises(NestRecError, match=r"s\.txt: line 1: not valid UTF-8"):
        convert(sequences(source), "d", data_path=tmp_path / "out")
    assert digests(tmp_path / "out") == before
    source.write_text("u b a\n")
    convert(sequences(source), "d", data_path=tmp_path / "out")
    after = digests(tmp_path / "out")
    assert after.keys() == before.keys() and after["d/d.inter"] != before["d/d.inter"]
    assert after["d/features/title"] == before["d/features/title"]


def test_a_folder_of_somebody_elses_is_kept(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.inter").write_text("dear")
    with pytest.raises(NestRecError, match="not written by `nestrec convert`, and kept"):
        convert(sequences(tmp_path / "s.txt"), "mine", data_path=tmp_path)
    assert (tmp_path / "mine" / "mine.inter").read_text() == "dear"


# -- review texts -----------------------------------------------------------------------------------------------


@QUICK
@given(events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=25))
def test_no_review_of_what_is_predicted(events: list[tuple[int, int, int]], tmp_path: Path) -> None:
    """Under leave-one-out, and however interactions of one time are ordered."""
    reviews = [review(f"u{u}", f"i{i}", t, title="", text=f"mark{n}") for n, (u, i, t) in enumerate(events)]
    corpus = amazon2023([write_lines(tmp_path / "r.jsonl", reviews)], review_text=100)
    convert(corpus, "d", data_path=tmp_path)
    item = tmp_path / "d" / "d.item"
    said = {mark for _, text in rows_of(item) for mark in text.split()} if item.exists() else set()
    allowed = set()
    for user in range(4):
        own = sorted((t, n) for n, (u, _, t) in enumerate(events) if u == user)
        n_held = min(2, len(own) - 1) if own else 0
        first_held = own[-n_held][0] if n_held else float("inf")
        allowed |= {f"mark{n}" for t, n in own if t < first_held}
    assert said == allowed


def test_reviews_per_item_are_bounded_and_oldest_first(tmp_path: Path) -> None:
    reviews = [review(f"u{n}", "i", 10 - n, title="", text=f"mark{n}") for n in range(4)]
    convert(amazon2023([write_lines(tmp_path / "r.jsonl", reviews)], review_text=2), "d", data_path=tmp_path)
    assert rows_of(tmp_path / "d" / "d.item") == [("i", "mark3 mark2")]


# -- command line -----------------------------------------------------------------------------------------------


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.txt").write_text("u a b c d\nv a b c\n")
    write_lines(Path("i.jsonl"), [{"item_id": "a", "title": "A b"}])
    given = ["--items", "i.jsonl", "--k-core-users", "4", "--split", "leave_one_out", "--lower-case"]
    assert main(["convert", "sequences", "s.txt", "--name", "small", *given]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (
        shown["users"] == "1" and shown["interactions"] == "4" and shown["leave_one_out"] == "train 1, valid 1, test 1"
    )
    assert rows_of(Path("dataset_atomic/small/small.item"))[0] == ("a", "a b")
    assert main(["convert", "sequences", "s.txt", "--name", "small", "--split", "tempral"]) == 2
    assert "unknown split 'tempral'; did you mean 'temporal'?" in capsys.readouterr().err
    assert main(["convert", "sequences", "missing.txt", "--name", "small"]) == 2
    assert capsys.readouterr().err == "nestrec: missing.txt: file not found; check the path\n"


def test_a_folder_whose_description_is_damaged_is_kept(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b\n")
    convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    (tmp_path / "d/dataset.json").write_text("{")
    with pytest.raises(NestRecError, match=r"dataset\.json: damaged"):
        convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    assert (tmp_path / "d/d.inter").is_file()


def test_files_of_the_user_survive_a_second_conversion(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b c\n")
    convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    (tmp_path / "d" / "d.emb.item").write_text("item_id:token\n")
    (tmp_path / "d" / "features").mkdir()
    convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"d.inter", "dataset.json", "d.emb.item", "features"}


def test_what_a_killed_conversion_left_is_mended(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b c\n")
    convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    dead = f"{socket.gethostname()}-{2**22 + 1}-0"  # no process has so large a number
    (tmp_path / "d").rename(tmp_path / f".d.old-{dead}")  # killed between the two renames
    (tmp_path / f".d.work-{dead}").mkdir()
    (tmp_path / "e.txt").write_text("")
    with pytest.raises(NestRecError):
        convert(sequences(tmp_path / "e.txt"), "d", data_path=tmp_path)
    assert (tmp_path / "d" / "d.inter").is_file()
    assert not list(tmp_path.glob(".d-*"))


def test_times_in_some_histories_only_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b\nv c|5 d|6\n")
    with pytest.raises(NestRecError, match=r"line 2: 'c\|5' has a time, the first history has none"):
        convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)


def test_the_main_image_is_found_behind_one_without_a_variant(tmp_path: Path) -> None:
    images = [{"large": "http://x/side.jpg"}, {"variant": "MAIN", "hi_res": "http://x/main.jpg"}]
    write_lines(tmp_path / "r.jsonl", [review("u", "a", 1), review("u", "b", 2)])
    write_lines(tmp_path / "m.jsonl", [meta("a", images=images)])
    convert(amazon2023([tmp_path / "r.jsonl"], [tmp_path / "m.jsonl"]), "d", data_path=tmp_path)
    assert "a\thttp://x/main.jpg\n" in (tmp_path / "d" / "images.tsv").read_text()


def test_what_is_the_users_survives_a_kill_after_the_swap(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b c\n")
    convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    dead = tmp_path / f".d.old-{socket.gethostname()}-{2**22 + 1}-0"  # the new one is in its place, and it was killed
    (tmp_path / "d").rename(dead)
    (dead / "features").mkdir()
    (dead / "mine.yaml").write_text("")
    convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path / "elsewhere")
    (tmp_path / "elsewhere/d").rename(tmp_path / "d")
    convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"d.inter", "dataset.json", "mine.yaml", "features"}
    assert not dead.exists()


def test_a_kill_while_the_old_folder_is_removed_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.txt").write_text("u a b c\n")
    convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    (tmp_path / "d/mine.yaml").write_text("")

    def killed(path: Path) -> None:
        if ".old-" in path.name or "dataset.json" in {inside.name for inside in path.glob("*")}:
            (path / "dataset.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(files_module, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(files_module.psutil, "pid_exists", lambda number: False)  # that process is gone
    convert(sequences(tmp_path / "s.txt"), "d", data_path=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"s.txt", "d"}
    assert (tmp_path / "d/mine.yaml").is_file()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Best <![deal] ever", "Best <![deal] ever"),
        ("a <![if x]> b", "a b"),
        ("<![CDATA[x]]> y", "y"),
        ("5 < 6 <b>and</b> 7", "5 < 6 and 7"),
        ("cut <a href='x", "cut <a href='x"),
    ],
)
def test_broken_markup(text: str, clean: str) -> None:
    assert clean_text(text) == clean


def test_broken_markup_takes_no_quadratic_time() -> None:
    began = perf_counter()
    for part in ("<a ", "<!--", "<![", "<?", '<a x="'):
        clean_text(part * 6000)
    assert perf_counter() - began < 2
