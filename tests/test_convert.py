"""Raw corpora become atomic files: small corpora worked by hand, properties, and bytes that do not change."""

from __future__ import annotations

import gzip
import json
import pickle
import socket
from collections import Counter
from hashlib import md5
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.convert import (
    Filters,
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
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.convert.staging import name as quoted
from nestrec_recbole.convert.text import clean_text
from nestrec_recbole.data.atomic import copy_statement, read_columns, read_header
from nestrec_recbole.files import sha256_of

Row = tuple[str, ...]


def rows_of(path: Path) -> list[Row]:
    """Cells of an atomic file below its header; missing ones are empty."""
    return [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def write_lines(path: Path, records: list[Any]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def review(user: str, item: str, time: int, rating: float = 5.0, **more: Any) -> dict[str, Any]:
    fixed = {"images": [], "asin": f"variant of {item}", "helpful_vote": 0, "verified_purchase": True}
    text = {"title": f"{user} on {item}", "text": f"said at {time}"}
    about = {"user_id": user, "parent_asin": item, "timestamp": time, "rating": rating}
    return {**fixed, **text, **about, **more}


def meta(item: str, **more: Any) -> dict[str, Any]:
    return {"parent_asin": item, "title": f"thing {item}", "features": [], "description": [], "details": {}, **more}


# -- corpora ----------------------------------------------------------------------------------------------------


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


# -- filters ----------------------------------------------------------------------------------------------------

EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.integers(1, 5)), min_size=1)
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def convert_events(events: list[tuple[int, int, int, int]], filters: Filters, tmp_path: Path) -> list[tuple[Any, ...]]:
    text = "".join(f"{u},{i},{t},{r}\n" for u, i, t, r in events)
    (tmp_path / "t.csv").write_text("user_id,item_id,timestamp,rating\n" + text)
    try:
        convert(table([tmp_path / "t.csv"], rating="rating"), "d", Options(filters), tmp_path)
    except NestRecError as error:
        if "no interaction is left" not in str(error):
            raise
        return []
    return [(int(u), int(i), int(t), int(float(r))) for u, i, r, t in rows_of(tmp_path / "d" / "d.inter")]


def core(events: list[Any], users: int, items: int) -> list[Any]:
    """The slow, obvious k-core."""
    while True:
        of_user, of_item = Counter(e[0] for e in events), Counter(e[1] for e in events)
        kept = [e for e in events if of_user[e[0]] >= users and of_item[e[1]] >= items]
        if len(kept) == len(events):
            return kept
        events = kept


@QUICK
@given(
    events=EVENTS, users=st.integers(0, 3), items=st.integers(0, 3), which=st.sampled_from(["none", "first", "last"])
)
def test_filters_are_those_of_a_plain_loop(
    events: list[Any], users: int, items: int, which: str, tmp_path: Path
) -> None:
    filters = Filters(deduplicate=which, min_rating=2, since="1", until="3", k_core_users=users, k_core_items=items)
    wanted = sorted(events, key=lambda e: (e[0], e[2]))  # stable: source order within one time
    if which != "none":
        seen = {}
        for event in wanted if which == "last" else wanted[::-1]:
            seen[event[:2]] = event
        kept = set(map(id, seen.values()))
        wanted = [event for event in wanted if id(event) in kept]
    wanted = [event for event in wanted if event[3] >= 2 and 1 <= event[2] < 3]
    assert convert_events(events, filters, tmp_path) == core(wanted, users, items)


def test_min_history_and_samples(tmp_path: Path) -> None:
    events = [(user, item, item, 5) for user in range(5) for item in range(user)]
    assert {e[0] for e in convert_events(events, Filters(min_history=3), tmp_path)} == {3, 4}
    few, more = ({e[0] for e in convert_events(events, Filters(sample_users=n), tmp_path)} for n in (2, 3))
    assert (len(few), len(more)) == (2, 3) and few < more
    samples = {
        frozenset(e[0] for e in convert_events(events, Filters(sample_users=2, seed=seed), tmp_path))
        for seed in range(8)
    }
    assert len(samples) > 1


def runs_of(history: list[int], length: int) -> set[tuple[int, ...]]:
    return {tuple(history[k : k + length]) for k in range(len(history) - length + 1)}


@QUICK
@given(histories=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=8), min_size=1, max_size=12))
def test_windows_of_one_history_are_found_and_left_out(histories: list[list[int]], tmp_path: Path) -> None:
    lines = [" ".join(map(str, [f"u{user}", *items])) for user, items in enumerate(histories)]
    (tmp_path / "s.txt").write_text("\n".join(lines) + "\n")
    endings = [tuple(items[-3:]) for items in histories if len(items) > 2]
    known = Counter(run for items in histories for run in runs_of(items, 3))
    report = convert(sequences(tmp_path / "s.txt"), "d", Options(), tmp_path)
    shared = sum(known[run] > 1 for run in endings) / len(endings) if endings else 0
    assert report["share_of_shared_endings"] == pytest.approx(shared)

    convert(sequences(tmp_path / "s.txt"), "d", Options(Filters(distinct_runs=2)), tmp_path)
    order = sorted(  # the longest first
        range(len(histories)), key=lambda user: (-len(histories[user]), md5(f"u{user}".encode()).hexdigest())
    )
    taken: set[tuple[int, ...]] = set()
    wanted = set()
    for user in order:
        if not runs_of(histories[user], 2) & taken:
            wanted.add(f"u{user}")
            taken |= runs_of(histories[user], 2)
    assert {row[0] for row in rows_of(tmp_path / "d" / "d.inter")} == wanted


def test_windows_are_told_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.txt").write_text("u a b c d\nv b c d e\nw c d e f\n")
    told = ["--name", "d", "--data-path", str(tmp_path)]
    main(["convert", "sequences", str(tmp_path / "s.txt"), *told])
    assert "66.7% of users have the run of their last three items in common with another; they may be" in (
        capsys.readouterr().out
    )
    main(["convert", "sequences", str(tmp_path / "s.txt"), *told, "--distinct-runs", "3"])
    out = capsys.readouterr().out
    assert "after distinct runs  8" in out and "0.0% of users have the run" in out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"distinct_runs": 1}, "distinct_runs is 1; expected 0, or a number of items from 2"),
        ({"deduplicate": "frist"}, "did you mean 'first'"),
        ({"k_core_users": -1}, "k_core_users is -1"),
        ({"sample_users": 0}, "sample_users is 0"),
        ({"min_rating": float("nan")}, "min_rating is nan; expected a finite number"),
        ({"min_rating": float("inf")}, "min_rating is inf; expected a finite number"),
        ({"since": "soon"}, "since is 'soon'; expected a date"),
        ({"since": "2018-01-01"}, "has no times"),
        ({"min_rating": 3.0}, "this corpus has no ratings"),
        ({"k_core_users": 9}, "no interaction is left after the filter 'k-core'; loosen it"),
    ],
)
def test_filters_that_make_no_sense(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b\n")
    with pytest.raises(NestRecError, match=words):
        convert(sequences(tmp_path / "s.txt"), "d", Options(Filters(**given)), tmp_path)


def test_time_range_in_dates(tmp_path: Path) -> None:
    times = [1_514_764_799_999, 1_514_764_800_000, 1_546_300_800_000]  # around 2018 in milliseconds
    reviews = write_lines(tmp_path / "r.jsonl", [review("u", f"i{t}", t) for t in times])
    convert(amazon2023([reviews]), "d", Options(Filters(since="2018-01-01", until="2019-01-01")), tmp_path)
    assert [row[3] for row in rows_of(tmp_path / "d" / "d.inter")] == ["1514764800000"]


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("2018", "for the year give 2018-01-01, for the number 02018"),
        ("201803", "for the month give 2018-03-01, for the number 0201803"),
        ("20180331", "for the date give 2018-03-31, for the number 020180331"),
    ],
)
def test_digits_of_a_date_are_no_moment(digits: str, words: str, tmp_path: Path) -> None:
    """In seconds and milliseconds since 1970, that is; places in histories have no dates."""
    reviews = write_lines(tmp_path / "r.jsonl", [review("u", "a", 30_000_000)])
    with pytest.raises(NestRecError, match=f"since is '{digits}', which is a moment of 1970; {words}"):
        convert(amazon2023([reviews]), "d", Options(Filters(since=digits)), tmp_path)
    assert convert(amazon2023([reviews]), "d", Options(Filters(since=f"0{digits}")), tmp_path)["items"] == 1
    (tmp_path / "s.txt").write_text("u a b\n")
    assert convert(sequences(tmp_path / "s.txt"), "s", Options(Filters(until=digits)), tmp_path)["items"] == 2


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


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


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
    assert notes["times rounded to whole ones, which may have lost their order"] == 2


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
    packed = bytearray(gzip.compress(b"user_id,item_id,timestamp\nu,a,3\nu,b,4\n", compresslevel=0))
    packed[packed.index(b"3")] = ord("9")
    (tmp_path / "r.csv.gz").write_bytes(packed)
    with pytest.raises(NestRecError, match="the gzip stream is cut off or damaged"):
        convert(table([tmp_path / "r.csv.gz"]), "d", data_path=tmp_path)
    assert not (tmp_path / "d").exists()
