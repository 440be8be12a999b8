"""Top-k for any history, in and out by the tokens of the atomic files."""

from nestrec_recbole.recommend.topk import Recommender

__all__ = ["Recommender"]
