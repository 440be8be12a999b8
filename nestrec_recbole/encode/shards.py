"""Encoding by shards: equal inputs once, in batches of one length, kept as they are finished."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nestrec_recbole.bars import progress_bar
from nestrec_recbole.encode.cluster import encode_on_ray
from nestrec_recbole.encode.earlier import Earlier
from nestrec_recbole.encode.engine import Engine, Shard, encode_shard, input_key, open_encoder
from nestrec_recbole.encode.image import Picture
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.files import written_whole

BATCHES = {"text": 16, "image": 2}  # of a shard: what a kill costs at most


def encode_inputs(
    inputs: Shard,
    recipe: Recipe,
    identity: dict[str, Any],
    parts: Path,
    engine: Engine,
    earlier: Earlier | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode texts or pictures.

    Shards are made of the distinct inputs, longest first, before any is encoded, and batches within shards: so neither
    the engine nor a kill and a new start changes with what an input shares its batch, and the result is the same to
    the bit.

    Parameters
    ----------
    inputs : sequence of n str or Picture
    recipe : Recipe
    identity : dict
        ``recipe.identity(...)``: a finished shard is used again only under the same.
    parts : Path
        Where finished shards are kept until the caller removes the folder.
    engine : Engine
    earlier : Earlier, optional
        What it has is taken from there; it shared its batches with other inputs then, and may differ in the last digit.

    Returns
    -------
    rows : numpy.ndarray of shape (n_distinct, width), float16
        On disk, in a file without a name, which ends with the array.
    place : numpy.ndarray of shape (n,), int64
        ``rows[place[i]]`` are the features of ``inputs[i]``; NaN for a picture that cannot be read.
    """
    distinct, place = distinct_inputs(inputs)
    known = np.array([-1 if earlier is None else earlier.place.get(input_key(one), -1) for one in distinct])
    fresh = np.flatnonzero(known < 0)
    size = engine.batch_size * BATCHES[recipe.modality]
    places = [fresh[start : start + size] for start in range(0, len(fresh), size)]  # of each shard
    shards = [[distinct[number] for number in numbers] for numbers in places]
    about = json.dumps([identity, engine.batch_size], sort_keys=True)
    files = [parts / f"{_hash_shard(about, shard)}.npy" for shard in shards]
    finished = {number: values for number, file in enumerate(files) if (values := _read_finished(file)) is not None}
    missing = {number: shard for number, shard in enumerate(shards) if number not in finished}
    rows = None if earlier is None else _on_disk(parts, len(distinct), earlier.rows.shape[1])
    if earlier is not None and rows is not None:
        rows[known >= 0] = earlier.rows[known[known >= 0]]
    done = len(distinct) - sum(map(len, missing.values()))
    with progress_bar(
        total=len(distinct), initial=done, shown=engine.progress, desc=recipe.encoder, unit="item"
    ) as bar:
        for number, values in _both(finished, missing, recipe, engine):
            rows = _on_disk(parts, len(distinct), values.shape[1]) if rows is None else rows
            rows[places[number]] = values
            if number in missing:
                with written_whole(files[number]) as draft, open(draft, "wb") as opened:
                    np.save(opened, values)
                bar.update(len(values))
    assert rows is not None
    return rows, place


def _on_disk(folder: Path, n: int, width: int) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype=np.float16, mode="w+", shape=(n, width))


def distinct_inputs(inputs: Shard) -> tuple[list[Any], np.ndarray]:
    """The distinct inputs, longest first, and where each of ``inputs`` is among them."""
    keys = [input_key(one) for one in inputs]
    lengths = {key: 0 if isinstance(one, Picture) else len(one) for key, one in zip(keys, inputs, strict=True)}
    order = {key: number for number, key in enumerate(sorted(lengths, key=lambda key: (-lengths[key], key)))}
    place = np.array([order[key] for key in keys])
    first = dict(zip(reversed(keys), reversed(inputs), strict=True))
    return [first[key] for key in order], place


def _both(
    finished: dict[int, np.ndarray], missing: Mapping[int, Shard], recipe: Recipe, engine: Engine
) -> Iterator[tuple[int, np.ndarray]]:
    """Shards with their numbers: those that were kept, then the others as they are finished."""
    yield from finished.items()
    if not missing:
        return
    if engine.name == "ray":
        yield from encode_on_ray(missing, recipe, engine)
        return
    encoder = open_encoder(recipe)
    for number, shard in missing.items():
        yield number, encode_shard(encoder, shard, recipe, engine.batch_size)


def _hash_shard(about: str, shard: Shard) -> str:
    digest = hashlib.sha256(about.encode())
    for one in shard:
        digest.update(f"\x01{input_key(one)}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _read_finished(file: Path) -> np.ndarray | None:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # none, or cut off by more than a kill
