"""MovieLens in all its layouts: ``u.data`` (100k), ``ratings.dat`` (1m, 10m), ``ratings.csv`` (20m to 32m, latest)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nestrec_recbole.convert.corpus import Corpus, Fields, record_of
from nestrec_recbole.convert.delimited import Delimited
from nestrec_recbole.convert.lines import check_files
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.convert.table import read_interactions
from nestrec_recbole.errors import NestRecError

_RATINGS = ("userId", "movieId", "rating", "timestamp")
_COLUMNS = {"user_id": "userId", "item_id": "movieId", "rating": "rating", "timestamp": "timestamp"}
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_ITEM_100K = ("movieId", "title", "released", "video", "url", *_GENRES)
_USER_100K = ("userId", "age", "gender", "occupation", "zip_code")
_USER_1M = ("userId", "gender", "age", "occupation", "zip_code")
_USER_FIELDS = {"age": "float", "gender": "token", "occupation": "token", "zip_code": "token"}


def movielens(folder: str | Path) -> Corpus:
    """Read an unpacked MovieLens archive, whichever it is.

    Items get ``title``, ``release_year`` (out of the title) and ``genres``; users, in 100k and 1m, ``age``, ``gender``,
    ``occupation`` and ``zip_code``.

    Raises
    ------
    NestRecError
        No ratings in the folder.
    """
    folder = Path(folder)
    layouts: dict[str, Callable[[Path], tuple[Delimited, ...]]] = {
        "u.data": _layout_100k,
        "ratings.dat": _layout_dat,
        "ratings.csv": _layout_csv,
    }
    found = next((name for name in layouts if (folder / name).is_file()), None)
    if found is None:
        raise NestRecError(f"{folder}: none of {', '.join(layouts)}; give the folder of an unpacked MovieLens archive")
    ratings, movies, *users = layouts[found](folder)
    return Corpus(
        name="movielens",
        sources=tuple(file for source in (ratings, movies, *users) for file in source.files),
        time_unit="s",
        read_interactions=lambda staging: (read_interactions(staging, ratings, _COLUMNS, "s", {}), record_of(ratings))[
            1
        ],
        read_items=lambda staging: _read_movies(staging, movies),
        read_users=(lambda staging: _read_users(staging, users[0])) if users else None,
        columns=_COLUMNS,
    )


def _plain(path: Path, columns: tuple[str, ...], delimiter: str, encoding: str = "utf-8") -> Delimited:
    return Delimited(check_files([path]), columns, delimiter, header=False, quote="", encoding=encoding)


def _layout_100k(folder: Path) -> tuple[Delimited, ...]:
    ratings = _plain(folder / "u.data", _RATINGS, "\t")
    movies = _plain(folder / "u.item", _ITEM_100K, "|", "latin-1")
    return ratings, movies, _plain(folder / "u.user", _USER_100K, "|", "latin-1")


def _layout_dat(folder: Path) -> tuple[Delimited, ...]:
    """1m is Latin-1 and has users; 10m is UTF-8 and has none."""
    ratings = _plain(folder / "ratings.dat", _RATINGS, "::")
    users = folder / "users.dat"
    encoding = "latin-1" if users.is_file() else "utf-8"
    movies = _plain(folder / "movies.dat", ("movieId", "title", "genres"), "::", encoding)
    return (ratings, movies, _plain(users, _USER_1M, "::", "latin-1")) if users.is_file() else (ratings, movies)


def _layout_csv(folder: Path) -> tuple[Delimited, ...]:
    files = check_files([folder / "ratings.csv"]), check_files([folder / "movies.csv"])
    return tuple(Delimited.of(path) for (path,) in files)


def _read_movies(staging: Staging, movies: Delimited) -> Fields:
    if "genres" in movies.columns:
        genres = "nullif(replace(genres, '|', ', '), '(no genres listed)')"
    else:
        flags = ", ".join(
            f"CASE WHEN \"{genre}\" = '1' THEN '{genre.replace(chr(39), chr(39) * 2)}' END" for genre in _GENRES
        )
        genres = f"nullif(concat_ws(', ', {flags}), '')"
    year = "TRY_CAST(regexp_extract(title, '\\((\\d{4})\\)\\s*$', 1) AS DOUBLE)"
    select = f'"movieId" AS item_id, title, {year} AS release_year, {genres} AS genres'
    staging.load("raw_items", select, movies, 'WHERE "movieId" IN (FROM catalogue)')
    return {"title": "token_seq", "release_year": "float", "genres": "token_seq"}


def _read_users(staging: Staging, users: Delimited) -> Fields:
    select = f'"userId" AS user_id, {", ".join(_USER_FIELDS)}'
    staging.load("raw_users", select, users, 'WHERE "userId" IN (FROM audience)')
    return _USER_FIELDS
