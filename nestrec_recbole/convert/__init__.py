"""Raw corpora -> atomic files, streaming through DuckDB: one function per corpus, one pipeline behind all of them."""

from nestrec_recbole.convert.filters import Filters
from nestrec_recbole.convert.images import Images
from nestrec_recbole.convert.pipeline import Options, convert
from nestrec_recbole.convert.sequences import sequences
from nestrec_recbole.convert.splits import Split

__all__ = ["Filters", "Images", "Options", "Split", "convert", "sequences"]
