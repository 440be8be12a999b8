"""Stage 2 of TriGRec: the specific and cross-domain vectors of all users, as files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nestrec_recbole.data.featurefiles import store_path, write_features
from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.files import sha256_of, written_whole
from nestrec_recbole.models.trigrecuser import TriGRecUser
from nestrec_recbole.recommend.topk import Recommender

KINDS = ("specific", "cross")
ROWS = 1024  # users encoded together


@torch.no_grad()
def user_vectors(model: TriGRecUser, dataset: Any, domain: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The vectors of every user, of all that comes before its validation target.

    Parameters
    ----------
    model : TriGRecUser
    dataset : SequenceDataset
        Of the run that trained it, built.
    domain : str
        Whose history the specific vectors are of.

    Returns
    -------
    users : numpy.ndarray of shape (n_users,)
        Tokens.
    vectors : dict
        ``specific`` and ``cross``, each (n_users, d) float32.

    Raises
    ------
    NestRecError
        When there is no such domain.
    """
    if domain not in model.domain_names:
        raise NestRecError(unknown("domain", domain, model.domain_names))
    number = model.domain_names.index(domain) + 1
    users, items = dataset.domains.training_histories(dataset.owners, dataset.items, model.max_seq_length)
    model.eval()
    parts = []
    for start in range(0, len(users), ROWS):
        histories = torch.from_numpy(items[start : start + ROWS]).to(model.device)
        parts.append([vectors.float().cpu().numpy() for vectors in model.user_vectors(histories, number)])
    whole = {kind: np.concatenate(part) for kind, part in zip(KINDS, zip(*parts, strict=True), strict=True)}
    return dataset.field2id_token[dataset.uid_field][users].astype(str), whole


def export_user_vectors(
    checkpoint: str | Path, domain: str, folder: str | Path, *, pickled: bool = False, features: bool = False
) -> list[Path]:
    """Write ``<folder>/<domain>/{specific,cross}.npy``, and ``users.txt`` with the user of each row.

    Parameters
    ----------
    checkpoint : str or Path
        Of a TriGRecUser or a TriGRec.
    pickled : bool
        Also ``.pkl``, as TriGRec's authors write theirs: a plain dictionary user -> list of numbers.
    features : bool
        Also a feature store over users for each kind.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    NestRecError
        When the checkpoint is none, or of another model, or there is no such domain.
    """
    loaded = Recommender.load(checkpoint)
    if not isinstance(loaded.model, TriGRecUser):
        raise NestRecError(f"{checkpoint}: a {type(loaded.model).__name__}; expected a TriGRecUser or a TriGRec")
    users, vectors = user_vectors(loaded.model, loaded.dataset, domain)
    place = Path(folder) / domain
    written = [place / "users.txt"]
    with written_whole(written[0]) as draft:
        draft.write_text("".join(f"{user}\n" for user in users), encoding="utf-8")
    for kind, array in vectors.items():
        written.append(place / f"{kind}.npy")
        with written_whole(written[-1]) as draft, open(draft, "wb") as file:
            np.save(file, array)
        if pickled:
            written.append(place / f"{kind}.pkl")
            with written_whole(written[-1]) as draft:
                draft.write_bytes(pickle.dumps(dict(zip(users.tolist(), array.tolist(), strict=True))))
        if features:
            about: dict[str, Any] = {"field": kind, "modality": "user", "encoder": type(loaded.model).__name__}
            sources = sha256_of(checkpoint)
            store = store_path(place, kind, {**about, "domain": domain}, sources)
            written.append(write_features(store, list(users), array, normalised=False, sha256=sources, **about).path)
    return written
