"""Shards encoded by the workers of a Ray cluster, through Ray Data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from nestrec_recbole.encode.engine import Engine, Shard, encode_shard, open_encoder
from nestrec_recbole.encode.image import Picture
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.errors import NestRecError, first_line


def encode_on_ray(shards: Mapping[int, Shard], recipe: Recipe, engine: Engine) -> Iterator[tuple[int, np.ndarray]]:
    """Encode shards on a cluster, each by one worker, and give them back as they are finished.

    A shard is encoded there as it would be here, with as many threads: the features are the same to the bit. Texts
    travel; images, and weights of one's own, must lie where each worker finds them under the same path.

    Raises
    ------
    NestRecError
        When ray is missing, no cluster answers, or what an encoder raises on a worker.
    """
    try:
        import ray
    except ImportError:
        raise NestRecError("--engine ray: the package ray is missing; pip install 'ray[data]'") from None
    if not ray.is_initialized():
        try:
            n_cpus = None if engine.address else engine.workers
            ray.init(address=engine.address, num_cpus=n_cpus, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise NestRecError(f"no Ray cluster at {engine.address}: {first_line(error)}") from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"number": number, "shard": json.dumps(list(shard))} for number, shard in shards.items()]
    n_workers = min(engine.workers, len(rows))
    encoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_args=(recipe, engine.batch_size, torch.get_num_threads()),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=n_workers),
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
    )
    try:
        for row in encoded.iter_rows():
            values = np.frombuffer(row["values"], dtype=np.float16).reshape(row["n"], -1)
            yield int(row["number"]), values
    except ray.exceptions.RayError as error:
        raise _what_went_wrong(error) from None


class _Worker:
    """An encoder on a worker, which takes a shard at a time."""

    def __init__(self, recipe: Recipe, batch_size: int, n_threads: int) -> None:
        torch.set_num_threads(n_threads)  # how a sum is split among threads decides its last bit
        self.recipe, self.batch_size = recipe, batch_size
        self.encoder = open_encoder(recipe)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        read = [one if isinstance(one, str) else Picture(*one) for one in json.loads(batch["shard"][0])]
        values = encode_shard(self.encoder, read, self.recipe, self.batch_size)
        return {"number": batch["number"], "n": [len(values)], "values": [values.tobytes()]}


def _what_went_wrong(error: Exception) -> NestRecError:
    """Our own error's line, if there is one in what Ray makes of it, with the traceback of a worker as its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    ours = [line.partition("NestRecError: ")[2] for line in lines if "NestRecError: " in line]
    return NestRecError(ours[-1] if ours else f"ray: {lines[-1]}")
