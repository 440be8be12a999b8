"""Raw corpora -> atomic files, streaming through DuckDB: one function per corpus, one pipeline behind all of them."""

from nestrec_recbole.convert.amazon2014 import amazon2014
from nestrec_recbole.convert.amazon2023 import amazon2023
from nestrec_recbole.convert.filters import Filters
from nestrec_recbole.convert.images import Images
from nestrec_recbole.convert.join import join
from nestrec_recbole.convert.movielens import movielens
from nestrec_recbole.convert.pickles import pickles
from nestrec_recbole.convert.pipeline import Options, convert
from nestrec_recbole.convert.pixelrec import pixelrec
from nestrec_recbole.convert.sequences import sequences
from nestrec_recbole.convert.splits import Split
from nestrec_recbole.convert.table import table

CORPORA = {
    corpus.__name__: corpus for corpus in (amazon2023, amazon2014, pixelrec, movielens, sequences, pickles, join, table)
}

__all__ = ["CORPORA", "Filters", "Images", "Options", "Split", "convert", *CORPORA]
