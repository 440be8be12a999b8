"""Review texts as an item field, without a word of what a model is to predict."""

from __future__ import annotations

from nestrec_recbole.convert.corpus import Fields
from nestrec_recbole.convert.staging import Staging


def add_reviews(staging: Staging, fields: Fields, most: int) -> Fields:
    """Add to ``raw_items`` a field ``review``: the item's first ``most`` reviews out of training, oldest first.

    A review counts only if its interaction is in the training part of the table ``history``, and its user had nothing
    to be predicted up to its time. So no order of interactions of one time lets a held-out review in.
    """
    staging.run(
        f"""CREATE TABLE reviews AS
        WITH held_out AS (
            SELECT u, min(timestamp) AS time FROM history WHERE part IS DISTINCT FROM 'train' GROUP BY u
        ), known AS (
            SELECT i, history.timestamp, place, trim(raw.review) AS review
            FROM history JOIN raw ON raw.rowid = place LEFT JOIN held_out USING (u)
            WHERE part = 'train' AND (time IS NULL OR history.timestamp < time) AND trim(raw.review) <> ''
            QUALIFY row_number() OVER (PARTITION BY i ORDER BY history.timestamp, place) <= {most}
        )
        SELECT item_id, string_agg(review, ' ' ORDER BY timestamp, place) AS review
        FROM known JOIN items USING (i) GROUP BY item_id"""
    )
    staging.run(
        "CREATE OR REPLACE TABLE raw_items AS SELECT * FROM catalogue "
        "LEFT JOIN raw_items USING (item_id) LEFT JOIN reviews USING (item_id)"
    )
    return {**fields, "review": "token_seq"}
