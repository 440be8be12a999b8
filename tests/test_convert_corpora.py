"""Every kind of raw corpus becomes atomic files: small ones worked by hand."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from corpora import meta, review, rows_of, write_lines

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.convert import (
    Options,
    amazon2014,
    amazon2023,
    convert,
    join,
    movielens,
    pickles,
    pixelrec,
    sequences,
    table,
)
from nestrec_recbole.convert.corpus import ROUNDED
from nestrec_recbole.convert.report import short_table
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.convert.staging import name as quoted
from nestrec_recbole.data.atomic import copy_statement, read_columns, read_header


def test_amazon2023_fields(tmp_path: Path) -> None:
    reviews = write_lines(
        tmp_path / "r.jsonl.gz", [review("v", "b", 2_000, 3.0), review("u", "a", 5_000), review("u", "b", 1_000, 4.0)]
    )
    images = [{"variant": "PT01", "large": "http://x/2"}, {"variant": "MAIN", "large": "http://x/1", "hi_res": "h"}]
    details = {"Brand": "Bø &amp; Co", "Color": "red", "Size": "L", "Material": "wool"}
    records = [
        meta("c", title="of nobody"),
        meta(
            "a",
            title="Tea<br>pot\tnew\n&quot;best&quot;",
            features=["one", "<b>two</b>"],
            description=["first.", "second."],
            price="from 1,012.99",
            details=details,
            images=images,
            average_rating=4.5,
            rating_number=12,
            store="The Store",
        ),
        meta("b", price="None", details=json.dumps({"brand": "Acme"}), images=[{"hi_res": "http://x/b"}]),
        meta("a", title="second record"),
    ]
    report = convert(amazon2023([reviews], [write_lines(tmp_path / "m.jsonl", records)]), "amazon", data_path=tmp_path)
    place = tmp_path / "amazon"
    assert rows_of(place / "amazon.inter") == [
        ("u", "b", "4.0", "1000"),
        ("u", "a", "5.0", "5000"),
        ("v", "b", "3.0", "2000"),
    ]
    item = read_columns(place / "amazon.item").set_index("item_id")
    assert item.loc["a"].to_dict() == {
        "title": 'Tea pot new "best"',
        "description": "first. second.",
        "features": "one two",
        "store": "The Store",
        "brand": "Bø & Co",
        "color": "red",
        "size": "L",
        "material": "wool",
        "price": "1012.99",
        "average_rating": "4.5",
        "rating_number": "12.0",
    }
    assert item.loc["b", "brand"] == "Acme" and pd.isna(item.loc["b", "price"]) and list(item.index) == ["a", "b"]
    assert rows_of(place / "images.tsv") == [("a", "http://x/1"), ("b", "http://x/b")]
    assert (report["users"], report["items"], report["interactions"], report["density"]) == (2, 2, 3, 0.75)
    assert report["fields"]["price"] == 0.5 and report["fields"]["main_category"] == 0.0
    assert report["time_unit"] == "ms" and report["time_range"] == [1_000, 5_000]


@pytest.mark.parametrize(
    ("price", "amount"),
    [("12.99", "12.99"), ("$10.00 - $20.00", "10.0"), ("None", ""), (None, ""), ("", ""), (7, "7.0"), (".5", "0.5")],
)
def test_prices(price: Any, amount: str, tmp_path: Path) -> None:
    reviews = write_lines(tmp_path / "r.jsonl", [review("u", "a", 1)])
    records = write_lines(tmp_path / "m.jsonl", [meta("a", price=price)])
    convert(amazon2023([reviews], [records]), "d", Options(fields=("title", "price")), tmp_path)
    assert rows_of(tmp_path / "d" / "d.item") == [("a", "thing a", *([amount] if amount else []))]


def test_categories_are_merged_in_the_order_given(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "one.jsonl", [review("u", "a", 7), review("u", "b", 7)])
    two = write_lines(tmp_path / "two.jsonl.gz", [review("u", "c", 7), review("u", "d", 6)])
    convert(amazon2023([two, one]), "d", data_path=tmp_path)
    assert [row[1] for row in rows_of(tmp_path / "d" / "d.inter")] == ["d", "c", "a", "b"]


def test_amazon2014_reads_loose_json_without_running_it(tmp_path: Path) -> None:
    about = {"reviewerID": "u", "asin": "a", "overall": 4.0, "unixReviewTime": 99, "reviewText": "", "summary": ""}
    reviews = write_lines(tmp_path / "r.json.gz", [about])
    loose = {"asin": "a", "title": 'it\'s "so"', "price": 3.5, "categories": [["Beauty", "Nails"], ["Beauty", "Hair"]]}
    metadata = tmp_path / "m.json.gz"
    metadata.write_bytes(gzip.compress(f"{ {**loose, 'imUrl': 'http://x/a.jpg', 'brand': None}!r}\n".encode()))
    convert(amazon2014([reviews], [metadata]), "d", data_path=tmp_path)
    assert rows_of(tmp_path / "d" / "d.item") == [("a", 'it\'s "so"', "Beauty, Nails, Hair", "3.5")]
    assert rows_of(tmp_path / "d" / "images.tsv") == [("a", "http://x/a.jpg")]
    metadata.write_bytes(gzip.compress(b"{'asin': 'a', 'title': open('/tmp/x', 'w')}\n"))
    with pytest.raises(NestRecError, match=r"m\.json\.gz: line 1: no JSON object and no Python dictionary"):
        convert(amazon2014([reviews], [metadata]), "d", data_path=tmp_path)


def test_pixelrec(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("item_id,user_id,timestamp\nv1,u1,20\nv2,u1,10\nv2,u2,5\n")
    header = "item_id,title,tag,description,view_number"
    (tmp_path / "info.csv").write_text(f'{header}\nv1,"a, b",food,,10\nv2,c d,film,"say ""x""",20\n')
    convert(pixelrec(tmp_path / "interactions.csv", tmp_path / "info.csv"), "d", data_path=tmp_path)
    assert rows_of(tmp_path / "d" / "d.inter") == [("u1", "v2", "10"), ("u1", "v1", "20"), ("u2", "v2", "5")]
    assert rows_of(tmp_path / "d" / "d.item") == [
        ("v1", "a, b", "food", "", "10.0"),
        ("v2", "c d", "film", 'say "x"', "20.0"),
    ]
    assert list(read_header(tmp_path / "d" / "d.item").values()) == [
        "token",
        "token_seq",
        "token",
        "token_seq",
        "float",
    ]


def _movielens_100k(folder: Path) -> None:
    (folder / "u.data").write_text("1\t10\t4\t900\n2\t10\t3\t800\n")
    flags = "|".join("1" if genre in (3, 4) else "0" for genre in range(19))
    (folder / "u.item").write_bytes(f"10|Amélie (2001)|01-Jan-2001||http://x|{flags}\n".encode("latin-1"))
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")


def _movielens_1m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("1::10::4::900\n2::10::3::800\n")
    (folder / "movies.dat").write_bytes("10::Amélie (2001)::Animation|Children's\n".encode("latin-1"))
    (folder / "users.dat").write_text("1::M::24::technician::85711\n2::F::53::other::94043\n")


def _movielens_10m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("1::10::4::900\n2::10::3::800\n")
    (folder / "movies.dat").write_text("10::Amélie (2001)::Animation|Children's\n", encoding="utf-8")


def _movielens_32m(folder: Path) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,10,4.0,900\n2,10,3.0,800\n")
    text = 'movieId,title,genres\n10,"Amélie (2001)",Animation|Children\'s\n11,"Nobody, seen by",(no genres listed)\n'
    (folder / "movies.csv").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("layout", [_movielens_100k, _movielens_1m, _movielens_10m, _movielens_32m])
def test_movielens(layout: Any, tmp_path: Path) -> None:
    layout(tmp_path)
    convert(movielens(tmp_path), "d", data_path=tmp_path / "out")
    place = tmp_path / "out" / "d"
    assert rows_of(place / "d.inter") == [("1", "10", "4.0", "900"), ("2", "10", "3.0", "800")]
    assert rows_of(place / "d.item") == [("10", "Amélie (2001)", "2001.0", "Animation, Children's")]
    if layout in (_movielens_100k, _movielens_1m):
        users = read_columns(place / "d.user", ["user_id", "age", "gender", "occupation", "zip_code"])
        assert users.to_numpy().tolist()[0] == ["1", "24.0", "M", "technician", "85711"]
    else:
        assert not (place / "d.user").exists()


def test_sequences_without_times(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_bytes(b"\xef\xbb\xbf2 9 8 9\r\n\r\n10 8\t7\r\n")
    items = [
        {"item_id": 9, "tags": ["x y", "z"], "domain": "food", "n": 1.5, "ok": True, "title": "a"},
        {"item_id": 8, "domain": "tea", "n": 2, "title": "two words", "Timestamp": "then"},
    ]
    write_lines(tmp_path / "i.jsonl", items)
    report = convert(sequences(tmp_path / "s.txt", items=tmp_path / "i.jsonl"), "d", data_path=tmp_path)
    assert rows_of(tmp_path / "d" / "d.inter") == [
        *(("10", "8", "0"), ("10", "7", "1")),
        *(("2", "9", "0"), ("2", "8", "1"), ("2", "9", "2")),
    ]
    assert report["time_unit"] == "place in the history"
    kinds = {"tags": "token_seq", "domain": "token", "n": "float", "ok": "token", "title": "token_seq"}
    assert read_header(tmp_path / "d" / "d.item") == {"item_id": "token", **kinds, "item_Timestamp": "token"}
    assert rows_of(tmp_path / "d" / "d.item") == [
        ("7", "", "", "", "", "", ""),
        ("8", "", "tea", "2.0", "", "two words", "then"),
        ("9", "x y, z", "food", "1.5", "true", "a", ""),
    ]


def test_sequences_with_times_and_tables(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a|b|30 c|10 d|10\n")
    (tmp_path / "i.tsv").write_text('c\tthe "c\n')
    (tmp_path / "u.dat").write_text("u::M::02139\n")
    corpus = sequences(
        tmp_path / "s.txt",
        items=tmp_path / "i.tsv",
        item_columns=("item_id", "title"),
        users=tmp_path / "u.dat",
        user_columns=("user_id", "gender", "zip"),
    )
    report = convert(corpus, "d", Options(user_fields=("gender", "zip:token")), tmp_path)
    assert rows_of(tmp_path / "d" / "d.inter") == [("u", "c", "10"), ("u", "d", "10"), ("u", "a|b", "30")]
    assert rows_of(tmp_path / "d" / "d.item") == [("a|b", ""), ("c", 'the "c'), ("d", "")]
    assert rows_of(tmp_path / "d" / "d.user") == [("u", "M", "02139")]
    assert report["share_of_ties"] == 0.5


def test_pickles_are_merged_as_far_as_the_order_is_known(tmp_path: Path) -> None:
    histories = {
        # true order of user 0: 9 0 8 1 | what follows is known by half: food 2, 3 and kitchen 7, 6
        "food": {0: [0, 1, 2, 3], 5: [1]},
        "kitchen": {0: [9, 8, 7, 6], 5: [9]},
        "without_food_end": {0: [9, 0, 8, 1, 7, 6], 5: [9]},
        "without_kitchen_end": {0: [9, 0, 8, 1, 2, 3], 5: [1]},
    }
    for name, history in histories.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(history))
    paths = [tmp_path / f"{name}.pkl" for name in histories]
    report = convert(pickles(paths[:2], merged=paths[2:]), "d", data_path=tmp_path)
    order = [row[1] for row in rows_of(tmp_path / "d" / "d.inter") if row[0] == "0"]
    assert order == ["9", "0", "8", "1", "2", "3", "7", "6"]
    assert report["notes"]["users whose last items of the two domains are in no known order"] == 2
    domains = dict(rows_of(tmp_path / "d" / "d.item"))
    assert domains == {**dict.fromkeys("0123", "food"), **dict.fromkeys("6789", "kitchen")}


def test_pickles_in_full_order_and_with_shared_ids(tmp_path: Path) -> None:
    for name, history in {"a": {"u": [0, 1, 0]}, "b": {"u": [5, 6]}, "ab": {"u": [5, 0, 1, 6, 0]}}.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(history))
    a, b, ab = (tmp_path / f"{name}.pkl" for name in ("a", "b", "ab"))
    report = convert(pickles([a, b], merged=[ab]), "d", data_path=tmp_path)
    assert [row[1:] for row in rows_of(tmp_path / "d" / "d.inter")] == [
        *(("5", "0"), ("0", "1"), ("1", "2"), ("6", "3"), ("0", "4"))
    ]
    assert report["notes"]["users whose last items of the two domains are in no known order"] == 0
    b.write_bytes(pickle.dumps({"u": [1, 6]}))
    convert(pickles([a, b], domains=("x", "y")), "d", data_path=tmp_path)
    assert {row[1] for row in rows_of(tmp_path / "d" / "d.inter")} == {"x:0", "x:1", "y:1", "y:6"}
    ab.write_bytes(pickle.dumps({"u": [0, 7]}))
    b.write_bytes(pickle.dumps({"u": [5, 6]}))
    with pytest.raises(NestRecError, match=r"ab\.pkl: user 'u': item '7' is not where a\.pkl or b\.pkl has it"):
        convert(pickles([a, b], merged=[ab]), "d", data_path=tmp_path)


@pytest.mark.parametrize("loaded", [print, complex(1, 2), {1: {2}}, {1: [2.5]}, {1: 2}, [1], {1: [[2]]}])
def test_pickles_of_anything_else_are_refused(loaded: Any, tmp_path: Path) -> None:
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(loaded))
    with pytest.raises(NestRecError, match=r"p\.pkl: .*expected"):
        convert(pickles([tmp_path / "p.pkl"]), "d", data_path=tmp_path)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_table(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": ["u", "u"], "sku": [7, 5], "when": ["2020-01-02", "2020-01-01T12:00"], "x": [1, 2]})
    items = pd.DataFrame({"sku": [5, 6], "name": ["a b", "none's"], "price": [1.5, 2.0], "rating": [3, 4]})
    for name, each in {"inter": frame, "items": items}.items():
        path = tmp_path / f"{name}.{kind}"
        if kind == "parquet":
            each.to_parquet(path)
        else:
            each.to_csv(path, sep="," if kind == "csv" else "\t", index=False)
    corpus = table(
        [tmp_path / f"inter.{kind}"], user="who", item="sku", time="when", rating="x", items=tmp_path / f"items.{kind}"
    )
    convert(corpus, "d", data_path=tmp_path)
    assert rows_of(tmp_path / "d" / "d.inter") == [("u", "5", "2.0", "1577880000"), ("u", "7", "1.0", "1577923200")]
    assert rows_of(tmp_path / "d" / "d.item") == [("5", "a b", "1.5", "3.0"), ("7", "", "", "")]
    assert list(read_header(tmp_path / "d" / "d.item")) == ["item_id", "name", "price", "item_rating"]


def test_cells_may_be_apart_by_another_character(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('user_id;item_id;timestamp\nu;"a;b";1\nu;c,d;2\n')
    (tmp_path / "i.csv").write_text("item_id;title\nc,d;Tea, green\n")
    convert(table([tmp_path / "t.csv"], items=tmp_path / "i.csv", delimiter=";"), "d", data_path=tmp_path)
    assert rows_of(tmp_path / "d" / "d.inter") == [("u", "a;b", "1"), ("u", "c,d", "2")]
    assert rows_of(tmp_path / "d" / "d.item") == [("a;b", ""), ("c,d", "Tea, green")]
    with pytest.raises(NestRecError, match="choose what its cells are apart by, --delimiter"):
        convert(table([tmp_path / "t.csv"]), "other", data_path=tmp_path)
    with pytest.raises(NestRecError, match="delimiter ';;': expected one character, such as ;"):
        table([tmp_path / "t.csv"], delimiter=";;")


def test_tables_may_have_their_columns_in_any_order(tmp_path: Path) -> None:
    files = [tmp_path / f"{month}.csv" for month in ("may", "june", "july")]
    files[0].write_text("user_id,item_id,timestamp\nu,a,3\nu,b,4\n")
    files[1].write_text("timestamp,user_id,store,item_id\n5,u,x,a\n1,u,x,c\n")
    files[2].write_text("timestamp,user_id,store,item_id\n4,u,x,d\n")
    convert(table(files), "d", data_path=tmp_path)
    expected = [("u", "c", "1"), ("u", "a", "3"), ("u", "b", "4"), ("u", "d", "4"), ("u", "a", "5")]
    assert rows_of(tmp_path / "d" / "d.inter") == expected  # of equal times in the order of the files
    files[1].write_text("timestamp,user_id,store,item_id\n5,u,x,a\nsoon,u,x,c\n")
    with pytest.raises(NestRecError, match=r"june.csv: line 3: timestamp is 'soon'"):
        convert(table(files), "e", data_path=tmp_path)
    with pytest.raises(NestRecError, match=r"may.csv: unknown column 'store'"):
        convert(table(files, rating="store"), "e", data_path=tmp_path)
    files[0].write_text("a,b,c\nu,a,3\n")
    with pytest.raises(NestRecError, match=r"june.csv: has no column in common with .*may.csv"):
        table(files)


def test_bad_rows_are_refused_or_left_out_and_duplicates_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    good = ["u,a,3,5", "u,b,4,7", "u,a,3,9", "v,a,1,5", "v,b,2,6"]
    bad = [",a,3,5", "u,,3,5", "u,c,3,soon", "v,d,3,2023-02-30", "v,[PAD],3,5", "v,e,,5"]
    (tmp_path / "t.csv").write_text("\n".join(["user_id,item_id,stars,timestamp", *bad, *good, *good[1:3]]) + "\n")
    command = ["convert", "table", "t.csv", "--rating", "stars", "--name", "d"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "t.csv: line 4: timestamp is 'soon', expected a whole number below 2^53, or in a table a date" in said
    assert "or leave out all 2 such rows with --drop-bad-rows" in said
    assert main([*command, "--drop-bad-rows"]) == 0
    said = capsys.readouterr().out
    assert "6 rows left out, without a time, an id or a rating" in said
    assert "2 interactions repeat another of the same user, item and time" in said
    assert len(rows_of(tmp_path / "dataset_atomic/d/d.inter")) == 7
    assert main([*command, "--drop-bad-rows", "--deduplicate", "exact"]) == 0
    assert "repeat another" not in capsys.readouterr().out
    kept = rows_of(tmp_path / "dataset_atomic/d/d.inter")
    assert [row[1] for row in kept] == ["a", "b", "a", "a", "b"]  # what was taken again later stays


@pytest.mark.parametrize(
    ("unit", "times"), [("s", ["1577836799", "1577838600"]), ("ms", ["1577836799250", "1577838600000"])]
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_dates_have_offsets_and_fractions(kind: str, unit: str, times: list[str], tmp_path: Path) -> None:
    moments = ["2020-01-01T00:30:00Z", "2020-01-01 00:59:59.25+01:00"]
    frame = pd.DataFrame({"user_id": "u", "item_id": ["late", "early"], "timestamp": moments})
    if kind == "csv":
        frame.to_csv(tmp_path / "t.csv", index=False)
    else:
        frame.assign(timestamp=pd.to_datetime(moments, utc=True, format="ISO8601")).to_parquet(tmp_path / "t.parquet")
    convert(table([tmp_path / f"t.{kind}"], time_unit=unit), "d", data_path=tmp_path)
    assert [row[1:] for row in rows_of(tmp_path / "d" / "d.inter")] == list(zip(["early", "late"], times, strict=True))


@pytest.mark.parametrize("column", ["rowid", "RowID"])
def test_a_column_that_is_called_rowid_does_not_say_which_record_is_first(column: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (tmp_path / "i.csv").write_text(f"item_id,{column},title\na,9,first\na,7,second\n")
    convert(table([tmp_path / "t.csv"], items=tmp_path / "i.csv"), "d", data_path=tmp_path)
    assert list(read_header(tmp_path / "d" / "d.item")) == ["item_id", f"item_{column}", "title"]
    assert rows_of(tmp_path / "d" / "d.item") == [("a", "9.0", "first")]


def test_titles_that_begin_with_a_quotation_mark(tmp_path: Path) -> None:
    """A quote in a .tsv is a character; read as the beginning of a cell, it would swallow the lines after it."""
    titles = {"a": '"Heroes"', "b": "plain", "c": '"Weird Al', "d": 'a 12" single', "e": '"'}
    (tmp_path / "t.tsv").write_text("user_id\titem_id\ttimestamp\n" + "".join(f"u\t{i}\t1\n" for i in titles))
    (tmp_path / "i.tsv").write_text("item_id\ttitle\n" + "".join(f"{i}\t{title}\n" for i, title in titles.items()))
    (tmp_path / "s.txt").write_text(f"u {' '.join(titles)}\n")
    for corpus in (
        table([tmp_path / "t.tsv"], items=tmp_path / "i.tsv"),
        sequences(tmp_path / "s.txt", items=tmp_path / "i.tsv"),
    ):
        convert(corpus, "d", data_path=tmp_path)
        assert rows_of(tmp_path / "d" / "d.item") == list(titles.items())
    (tmp_path / "i.tsv").write_text("item_id\ttitle\n" + 'a\t"two\tcells"\n')
    assert (
        main(
            [
                *f"convert table {tmp_path}/t.tsv --items {tmp_path}/i.tsv --name q --data-path {tmp_path}".split(),
                "--quoted",
            ]
        )
        == 0
    )
    assert rows_of(tmp_path / "q" / "q.item")[0] == ("a", "two cells")


def write_atomic(folder: Path, interactions: str, items: str = "") -> Path:
    """A folder of atomic files, of lines whose cells are parted by a comma."""
    folder.mkdir()
    header = "user_id:token,item_id:token,timestamp:float\n"
    (folder / f"{folder.name}.inter").write_text((header + interactions).replace(",", "\t"))
    if items:
        (folder / f"{folder.name}.item").write_text(items.replace(",", "\t"))
    return folder


@pytest.fixture
def food(tmp_path: Path) -> Path:
    return write_atomic(tmp_path / "food", "u,a,1\n", "item_id:token,title:token_seq\na,tea\n")


def test_datasets_are_joined_by_name(tmp_path: Path) -> None:
    (tmp_path / "dataset_atomic").mkdir()
    for name, item in (("food", "a"), ("pots", "b")):
        write_atomic(tmp_path / "dataset_atomic" / name, f"u,{item},1\n", f"item_id:token,title:token_seq\n{item},x\n")
    convert(join([Path("food"), Path("pots")]), "both", data_path=tmp_path)
    assert len((tmp_path / "both/both.inter").read_text().splitlines()) == 3


def test_names_of_fields_that_are_joined_are_no_sql(food: Path, tmp_path: Path) -> None:
    """They are renamed as those of other corpora are."""
    header = "item_id:token,t\" FROM (SELECT 1)) TO 'written' --:token_seq,rowid:token,x-y:float\n"
    pots = write_atomic(tmp_path / "pots", "u,b,2\n", header + "b,pan,r,3\n")
    convert(join([food, pots]), "d", data_path=tmp_path)
    item = read_columns(tmp_path / "d" / "d.item").set_index("item_id")
    assert list(item) == ["domain", "title", "t_FROM_SELECT_1_TO_written", "item_rowid", "x_y"]
    assert item.loc["b"].dropna().tolist() == ["pots", "pan", "r", "3.0"] and not Path("written").exists()


def test_names_are_quoted_when_they_are_written(tmp_path: Path) -> None:
    with Staging(tmp_path, "100MB") as staging:
        field = 'a" AS b, "c'
        staging.run(copy_statement(f"SELECT 1 AS {quoted(field)}", tmp_path / "f", {field: "float"}, order="1"))
    assert (tmp_path / "f").read_text() == 'a" AS b, "c:float\n1\n'


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("item_id:token,Title:token", r"fields 'title' and 'Title' have the same name; rename one"),
        ("item_id:token,Domain:token", r"fields 'domain' and 'Domain' have the same name; rename one"),
        ("item_id:token,x:token,X:token", "pots.item: line 1: column 'X' appears twice; rename one of the two"),
        ("item_id:token,:token", "pots.item: line 1: column 2 has no name; give it one"),
        ("item:token,x:token", "pots.item: line 1: no column 'item_id'; expected item_id"),
    ],
)
def test_headers_that_cannot_be_joined(header: str, words: str, food: Path, tmp_path: Path) -> None:
    pots = write_atomic(tmp_path / "pots", "u,b,2\n", f"{header}\n")
    with pytest.raises(NestRecError, match=words):
        join([food, pots])


@pytest.mark.parametrize("about", ["{bad", "{}", "[]", '{"time_unit": 5}', "\xff"])
def test_a_damaged_report_cannot_be_joined(about: str, food: Path, tmp_path: Path) -> None:
    (food / "dataset.json").write_text(about, encoding="latin-1")
    pots = write_atomic(tmp_path / "pots", "u,b,2\n")
    with pytest.raises(NestRecError, match=r"food/dataset\.json: says no time_unit out of s, ms, place in the history"):
        join([food, pots])


def test_images_and_domains_are_no_text(tmp_path: Path) -> None:
    """They are written as they are, without the cleaning of texts."""
    image = f"R&amp;D/Ⅳ  <b>/{'x' * 40}.JPG"
    header = "item_id:token,image:token_seq,title:token\n"
    write_atomic(tmp_path / "R&amp;B", "u,a,1\n", f"{header}a,{image},Tea\n")
    write_atomic(tmp_path / "pots", "u,b,2\nu,c,3\n", f"{header}b,/{image},Pan\nc,http://x/{image},Pot\n")
    options = Options(lower_case=True, max_text_length=20)
    convert(join([tmp_path / "R&amp;B", tmp_path / "pots"]), "d", options, tmp_path)
    assert rows_of(tmp_path / "d" / "d.item") == [
        ("a", "R&amp;B", f"{tmp_path}/R&amp;B/{image}", "tea"),
        ("b", "pots", f"/{image}", "pan"),
        ("c", "pots", f"http://x/{image}", "pot"),
    ]


def test_an_image_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b\n")
    write_lines(tmp_path / "i.jsonl", [{"item_id": "a", "image": " A\t\u2028B.jpg\n"}, {"item_id": "b", "image": "\r"}])
    convert(sequences(tmp_path / "s.txt", items=tmp_path / "i.jsonl"), "d", data_path=tmp_path)
    assert rows_of(tmp_path / "d" / "d.item") == [("a", "A  B.jpg"), ("b", "")]


@pytest.mark.parametrize("time", ["0.9", "soon", ""])
def test_times_of_a_joined_dataset_are_whole(time: str, tmp_path: Path) -> None:
    for name, moment in (("a", "3"), ("b", time)):
        (tmp_path / name).mkdir()
        text = f"user_id:token\titem_id:token\ttimestamp:float\nu\t{name}1\t5.0\nu\t{name}2\t{moment}\n"
        (tmp_path / name / f"{name}.inter").write_text(text)
    with pytest.raises(NestRecError, match=r"b.inter: line 3: timestamp is .*, expected a whole number"):
        convert(join([tmp_path / "a", tmp_path / "b"]), "both", data_path=tmp_path)


def test_rounded_times_are_told(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user_id,item_id,timestamp\nu,a,0.9\nu,b,1.2\nu,c,3\n")
    notes = convert(table([tmp_path / "r.csv"]), "d", data_path=tmp_path)["notes"]
    assert notes[ROUNDED] == 2
    moments = pd.to_datetime([1.5, 2.0, 2.5], unit="s")
    pd.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": moments}).to_parquet(
        tmp_path / "r.parquet"
    )
    report = convert(table([tmp_path / "r.parquet"]), "d", data_path=tmp_path)
    assert report["notes"][ROUNDED] == 2 and "2 times rounded to whole ones" in short_table(report, tmp_path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_items_of_tables_and_of_histories_are_of_any_kind(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user,sku,timestamp\nu,a,1\nu,b,2\n")
    (tmp_path / "s.txt").write_text("u a b\n")
    items, file = [{"sku": "a", "title": "x y"}, {"sku": "b", "title": "z"}], tmp_path / f"i{suffix}"
    if suffix == ".jsonl":
        write_lines(file, items)
    else:
        frame = pd.DataFrame(items)
        frame.to_csv(file, index=False) if suffix == ".csv" else frame.to_parquet(file)
    convert(table([tmp_path / "r.csv"], user="user", item="sku", items=file), "t", data_path=tmp_path)
    convert(sequences(tmp_path / "s.txt", items=file, item_key="sku"), "s", data_path=tmp_path)
    for name in "ts":
        assert rows_of(tmp_path / name / f"{name}.item") == [("a", "x y"), ("b", "z")]


def test_values_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,b,2\nu,c,3\nu,d,4\n")
    (tmp_path / "i.csv").write_text('item_id,price,year\na,9.5,1\nb,"1,214.99",2\nc,inf,3\nd,,4\n')
    corpus = table([tmp_path / "r.csv"], items=tmp_path / "i.csv")
    report = convert(corpus, "d", Options(fields=("price:float", "year")), data_path=tmp_path)
    said = "2 values are no numbers and count as missing, of field price, such as '1,214.99'"
    assert said in short_table(report, tmp_path) and report["fields"] == {"price": 0.25, "year": 1.0}


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((86_400, 1_711_852_200), "86400 to 1711852200 (s), 1970-01-02 to 2024-03-31"),
        ((1_711_852_200_000, 1_711_852_200_001), "after the year 2200: are they in milliseconds? See --time-unit"),
    ],
)
def test_times_are_told_as_dates(times: tuple[int, int], said: str, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(f"user_id,item_id,timestamp\nu,a,{times[0]}\nu,b,{times[1]}\n")
    assert said in short_table(convert(table([tmp_path / "r.csv"]), "d", data_path=tmp_path), tmp_path)


def test_nothing_is_left_of_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user_id,item_id,timestamp,stars\nu,a,1,***\nu,b,2,**\n")
    with pytest.raises(NestRecError, match=r"r.csv: line 2: stars is '\*\*\*', expected a number"):
        convert(table([tmp_path / "r.csv"], rating="stars"), "d", Options(drop_bad_rows=True), data_path=tmp_path)


def test_lists_of_lists_become_one(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b c d\n")
    lists = {"a": [["Home", "Kitchen"], ["Sale"]], "b": ["Home", "Sale"], "c": [], "d": None}
    write_lines(tmp_path / "i.jsonl", [{"item_id": item, "cats": cats} for item, cats in lists.items()])
    convert(sequences(tmp_path / "s.txt", items=tmp_path / "i.jsonl"), "d", data_path=tmp_path)
    assert [cats for _, cats in rows_of(tmp_path / "d" / "d.item")] == ["Home, Kitchen, Sale", "Home, Sale", "", ""]


def test_the_summary_tells_types_and_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,b,2\n")
    (tmp_path / "i.csv").write_text("item_id,code,name\na,007,one day\nb,08,two\nb,09,three\n")
    corpus, found = table([tmp_path / "r.csv"], items=tmp_path / "i.csv"), {}
    for fields in (None, ("code:token", "name")):
        report = convert(corpus, "d", Options(fields=fields), data_path=tmp_path)
        shown = short_table(report, tmp_path)
        assert "field name:token_seq" in shown and "1 repeated records left out, of items" in shown
        found[fields] = ("field code:float" in shown, rows_of(tmp_path / "d" / "d.item")[0][1])
    assert list(found.values()) == [(True, "7.0"), (False, "007")]


def test_integers_that_pandas_made_floats_are_the_same_ids(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user_id": [1.0, 1.0, 2.5], "item_id": [7.0, 8.0, 7.0], "timestamp": [1, 2, 3]})
    frame.to_parquet(tmp_path / "r.parquet")
    (tmp_path / "i.csv").write_text("item_id,title\n7,seven\n8,eight\n")
    convert(table([tmp_path / "r.parquet"], items=tmp_path / "i.csv"), "d", data_path=tmp_path)
    assert [row[0] for row in rows_of(tmp_path / "d/d.inter")] == ["1", "1", "2.5"]
    assert rows_of(tmp_path / "d/d.item") == [("7", "seven"), ("8", "eight")]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_items_of_which_none_is_known(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u 10 11\n")
    path = tmp_path / f"i.{suffix}"
    path.write_text("item_id,title\n10.0,ten\n" if suffix == "csv" else json.dumps({"item_id": "10.0", "title": "ten"}))
    with pytest.raises(NestRecError, match=r"no item_id in it is that of an item: it has '10.0', the .* have '1[01]'"):
        convert(sequences(tmp_path / "s.txt", items=path), "d", data_path=tmp_path)


@pytest.mark.parametrize("name", ["r.csv", "r.tsv"])
def test_mixed_line_ends(name: str, tmp_path: Path) -> None:
    lines = [b"user_id,item_id,timestamp\r\n", b"u1,a,1\r\n", b"u1,b,2\n", b"u2,a,3\r\n"]
    (tmp_path / name).write_bytes(b"".join(lines).replace(b",", b"," if name.endswith("csv") else b"\t"))
    try:
        convert(table([tmp_path / name]), "d", data_path=tmp_path)
    except NestRecError as error:
        assert "line 3: ends with \\n, those before with \\r\\n" in str(error)  # noqa: PT017
    else:  # where this DuckDB can read them
        assert len(rows_of(tmp_path / "d/d.inter")) == 3


def test_a_gzip_stream_whose_check_sum_differs(tmp_path: Path) -> None:
    rows = b"user_id,item_id,timestamp\nu,a,3\nu,b,4\n"
    packed = bytearray(gzip.compress(rows, compresslevel=0, mtime=0))
    packed[packed.index(b",3") + 1] = ord("9")
    (tmp_path / "r.csv.gz").write_bytes(packed)
    with pytest.raises(NestRecError, match="the gzip stream is cut off or damaged"):
        convert(table([tmp_path / "r.csv.gz"]), "d", data_path=tmp_path)
    assert not (tmp_path / "d").exists()
