"""Whatever the files hold: a dataset, or one line that names the file; an older dataset stays to the byte."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import digests, meta, review, rows_of, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.convert import amazon2014, amazon2023, convert, movielens, pickles, sequences, table
from nestrec_recbole.convert.corpus import Corpus
from nestrec_recbole.data.atomic import read_columns

FUZZ = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def refused(corpus: Callable[[], Corpus], tmp_path: Path) -> str | None:
    """Convert over an older dataset; return what is said if it is refused, in which case nothing has changed."""
    out = tmp_path / "out"
    if not (out / "d" / "dataset.json").exists():
        (tmp_path / "good.txt").write_text("u a b\n")
        convert(sequences(tmp_path / "good.txt"), "d", data_path=out)
    before = digests(out)
    try:
        convert(corpus(), "d", data_path=out)
    except NestRecError as error:
        said = str(error)
    else:
        said = None
        read_columns(out / "d" / "d.inter", types={"timestamp": float})
        if (out / "d" / "d.item").exists():
            read_columns(out / "d" / "d.item")
    assert [path.name for path in out.iterdir()] == ["d"]
    assert said is None or ("\n" not in said and len(said) < 1500 and digests(out) == before)
    return said


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("user_id", "parent_asin", "rating", "timestamp", "title", "price", "details", "images", "features", "item_id")


def lines_of(good: dict[str, Any]) -> Any:
    """Files of lines that are nearly right: a record with some value changed, any JSON, or no JSON at all."""
    changed = st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=2).map(
        lambda more: json.dumps({**good, **more}).encode()
    )
    whole = JSON.map(lambda value: json.dumps(value).encode())
    line = st.just(json.dumps(good).encode()) | changed | whole | st.binary(max_size=12)
    return st.lists(line, min_size=1, max_size=4).map(b"\n".join)


@FUZZ
@given(content=lines_of(review("u", "a", 1)))
def test_any_json_for_reviews(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content + b"\n")
    said = refused(lambda: amazon2023([path], review_text=1), tmp_path)
    assert said is None or re.match(rf"{path}: (line \d+: |holds no interactions)", said)


@FUZZ
@given(content=lines_of(meta("a", price="1", item_id="a")))
def test_any_json_for_metadata_and_items(content: bytes, tmp_path: Path) -> None:
    reviews = write_lines(tmp_path / "r.jsonl", [review("u", "a", 1)])
    old = write_lines(tmp_path / "old.json", [{"reviewerID": "u", "asin": "a", "overall": 4.0, "unixReviewTime": 99}])
    (tmp_path / "s.txt").write_text("u a\n")
    path = tmp_path / "m.jsonl"
    path.write_bytes(content + b"\n")
    for corpus in (
        lambda: amazon2023([reviews], [path]),
        lambda: sequences(tmp_path / "s.txt", items=path),
        lambda: amazon2014([old], [path]),
    ):
        said = refused(corpus, tmp_path)
        assert said is None or re.match(rf"{path}: (line|record) \d+: |{path}: fields .* have the same name", said)


@FUZZ
@given(content=st.binary(max_size=40) | st.text("ab|1 \t\r\n\"'\x01\x00é", max_size=40).map(str.encode))
def test_any_bytes_for_sequences(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_bytes(content)
    said = refused(lambda: sequences(path), tmp_path)
    assert said is None or re.match(rf"{path}: (line \d+: |holds no interactions)", said)


@FUZZ
@given(rows=st.lists(st.text('ab1,"\r\n\x00é', max_size=12), max_size=4), head=st.booleans())
def test_any_text_for_tables(rows: list[str], head: bool, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\n".join(["user_id,item_id,timestamp"] * head + rows).encode())
    said = refused(lambda: table([path]), tmp_path)
    assert said is None or re.match(rf"{path}: ", said)


@FUZZ
@given(content=st.binary(max_size=60))
def test_any_bytes_for_pickles_parquet_and_gzip(content: bytes, tmp_path: Path) -> None:
    for suffix, corpus in {"pkl": pickles, "parquet": table, "jsonl.gz": amazon2023}.items():
        path = tmp_path / f"f.{suffix}"
        path.write_bytes(content)
        said = refused(lambda corpus=corpus, path=path: corpus([path]), tmp_path)
        assert said is not None and said.startswith(f"{path}: ")


LINE = json.dumps(review("u", "a", 1)).encode()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.jsonl", LINE + b"\n" + LINE[:-9], "line 2: the line is not valid JSON"),
        ("r.jsonl", LINE.replace(b'"u"', b'"\xff"'), "line 1: not valid UTF-8"),
        ("r.jsonl", b"\n\r\n" + LINE.replace(b": 1,", b': "soon",'), "line 3: timestamp is 'soon', expected a whole"),
        ("r.jsonl", LINE.replace(b": 5.0", b": null"), "line 1: rating is missing, expected a number"),
        ("r.jsonl", LINE.replace(b'"u"', b'{"a": 1}'), "line 1: user_id is {'a': '1'}, expected a text"),
        ("r.jsonl", LINE.replace(b'"parent_asin"', b'"asn"'), "line 1: parent_asin is missing"),
        ("r.jsonl", LINE.replace(b'"u"', rb'"u\tv"'), r"line 1: user_id is 'u\\tv', expected a text or number"),
        ("r.jsonl", LINE.replace(b'"rating": 5.0', b'"rating": 1, "rating": 2'), "line 1: .*'rating' appears twice"),
        ("r.jsonl", LINE.replace(b'"u"', rb'"\ud800"'), "line 1: the line holds half of a surrogate pair"),
        ("r.jsonl", LINE.replace(b": 1,", b": 9007199254740993,"), "line 1: timestamp is '9007199254740993'"),
        ("r.jsonl", b"[]\n", r"line 1: the line is '\[\]', expected a JSON object"),
        ("r.jsonl", b"[" * 100_000, "line 1: the line is n"),
        ("r.jsonl", b"", "holds no interactions"),
        ("r.jsonl", LINE.replace(b"said", b"x" * (16 << 20)), "line 1: longer than 16 MiB"),
        ("r.jsonl.gz", gzip.compress((LINE + b"\n") * 5000)[:-50], r"line \d+: the gzip stream is cut off or damaged"),
        ("r.jsonl.gz", LINE, "line 1: the gzip stream is cut off or damaged"),
        ("r.jsonl.gz", b"", "cannot be read: .*GZIP stream"),
    ],
)
def test_reviews_that_are_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    said = refused(lambda: amazon2023([tmp_path / name]), tmp_path)
    assert said is not None and re.search(f"{name}: .*({words})|{name}: ({words})", said), said


def test_reviews_of_any_shape_that_are_fine(tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines, no newline at the end, a line of 10 MB, and several gzip members."""
    long = json.dumps(review("u", "c", 3, text="x" * 10_000_000)).encode()
    other = json.dumps(review("u", "b", 2)).encode()
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + LINE + b"\r\n\r\n  \n" + other + b"\r\n" + long)
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(LINE + b"\n") + gzip.compress(other + b"\n"))
    paths = [tmp_path / "r.jsonl", tmp_path / "s.jsonl.gz"]
    assert refused(lambda: amazon2023(paths), tmp_path) is None
    assert [row[1] for row in rows_of(tmp_path / "out/d/d.inter")] == ["a", "a", "b", "b", "c"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"user_id,item_id,Item_ID,timestamp\nu,a,b,1\n", "line 1: column 'Item_ID' appears twice"),
        (b"user_id,item_id,,timestamp\nu,a,b,1\n", "line 1: column 3 has no name"),
        (b"user_id,item_\x00id,timestamp\nu,a,1\n", r"line 1: column 'item_\\x00id' holds a control character"),
        (b"", "line 1: the file is empty"),
        (b"user_id,item_id,timestamp\n", "holds no interactions"),
        (b"user_id,itemid,timestamp\nu,a,1\n", "unknown column 'item_id'; did you mean 'itemid'"),
        (b"user_id,item_id,timestamp\nu,a,1\nu,a\n", "line 3: 2 columns, expected 3"),
        (b"user_id,item_id,timestamp\nu,a,1\nu,a,1,2\n", "line 3: 4 columns, expected 3"),
        (b'user_id,item_id,timestamp\nu,a,1\nu,"a,1\n', "line 3: not a valid row"),
        (b'user_id,item_id,timestamp\n"u",a,1\n\nu,b,soon\n', "line 4: timestamp is 'soon'"),
        (b"user_id,item_id,timestamp\nu,a,1\n,b,1\n", "line 3: user_id is missing"),
        (b"user_id,item_id,timestamp\nu,a,1\nu,\xff,1\n", "line 3: not valid UTF-8"),
    ],
)
def test_tables_that_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    said = refused(lambda: table([tmp_path / "t.csv"]), tmp_path)
    assert said is not None and re.search(rf"t\.csv: {words}", said), said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no interactions"),
        (b"u\n", "holds no interactions"),
        (b"u a|1 b\n", "line 1: timestamp is 'b', expected a whole number"),
        (b"u a|1\nv b|x\n", r"line 2: timestamp is 'b\|x'"),
        (b"\n\nu a|1 b|1\n\r\n \nv b|x\n", r"line 6: timestamp is 'b\|x'"),
        (b"\nu a\n\nv b|5\n", r"line 4: 'b\|5' has a time"),
        (b"u a|1\rv b|x\n", r"line 1: timestamp is 'b\|x'"),
        (b"u a b\x01c\n", "line 1: holds a control character"),
        (b"\nu a b\x01c\n", "line 2: holds a control character"),
        (b"u a [PAD]\n", r"line 1: item_id is '\[PAD\]', expected"),
        (b"u a\nv \xff\n", "line 2: not valid UTF-8"),
    ],
)
def test_sequences_that_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_bytes(content)
    said = refused(lambda: sequences(tmp_path / "s.txt"), tmp_path)
    assert said is not None and re.search(rf"s\.txt: {words}", said), said


def test_movielens_that_is_refused(tmp_path: Path) -> None:
    assert "none of u.data" in str(refused(lambda: movielens(tmp_path), tmp_path))
    (tmp_path / "ratings.dat").write_text("1::2::3::4\n1::2::3\n")
    assert "movies.dat: file not found" in str(refused(lambda: movielens(tmp_path), tmp_path))
    (tmp_path / "movies.dat").write_text("2::t::g\n")
    assert "ratings.dat: line 2: 3 columns, expected 4" in str(refused(lambda: movielens(tmp_path), tmp_path))


def test_exit_code_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.jsonl").write_bytes(LINE + b"\n{\n")
    assert main(["convert", "amazon2023", "r.jsonl", "--name", "d"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nestrec: r.jsonl: line 2: the line is not valid JSON")
    assert not list(Path("dataset_atomic").iterdir())


@pytest.mark.parametrize("memory", ["much", "10"])
def test_memory_limits_that_make_no_sense(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.txt").write_text("u a b\n")
    assert main(["convert", "sequences", "s.txt", "--name", "d", "--memory-limit", memory]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "memory limit" in line and not list(Path("dataset_atomic").iterdir())
