"""The first users of the ml-100k that RecBole brings along, with its item, user and knowledge-graph files."""

from __future__ import annotations

from pathlib import Path

import recbole

SOURCE = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"


def write_slice(folder: Path, n_users: int = 100, longest: int = 30, name: str = "slice") -> Path:
    """Write ``folder/name/name.{inter,item,user,kg,link}`` of the first users, at most ``longest`` rows of each."""
    place = folder / name
    place.mkdir(parents=True)
    header, *rows = (SOURCE / "ml-100k.inter").read_text().splitlines()
    taken: dict[int, list[str]] = {}
    for row in rows:
        of_user = taken.setdefault(int(row.split("\t")[0]), [])
        if len(of_user) < longest:
            of_user.append(row)
    kept = [row for user in sorted(taken)[:n_users] for row in taken[user]]
    items = {row.split("\t")[1] for row in kept}
    (place / f"{name}.inter").write_text("\n".join([header, *kept]) + "\n")
    for kind in ("item", "user"):
        (place / f"{name}.{kind}").write_text((SOURCE / f"ml-100k.{kind}").read_text())
    header, *rows = (SOURCE / "ml-100k.link").read_text().splitlines()
    links = [row for row in rows if row.split("\t")[0] in items]
    entities = {row.split("\t")[1] for row in links}
    (place / f"{name}.link").write_text("\n".join([header, *links]) + "\n")
    header, *rows = (SOURCE / "ml-100k.kg").read_text().splitlines()
    facts = [row for row in rows if row.split("\t")[0] in entities][:2000]
    (place / f"{name}.kg").write_text("\n".join([header, *facts]) + "\n")
    return place
