"""Multimodal and LLM sequential recommenders as RecBole models.

Importing this package repairs RecBole 1.2.1 on current packages and makes RecBole's own entry points know our models:

>>> import nestrec_recbole
>>> from recbole.quick_start import run_recbole
>>> run_recbole(model="NestRec", dataset="ml-100k")  # doctest: +SKIP
"""

from nestrec_recbole import compat

compat.require_recbole()
compat.apply()

from recbole.quick_start import run_recbole  # noqa: E402  # the repairs come first

from nestrec_recbole import own_models, plugin  # noqa: E402
from nestrec_recbole.errors import NestRecError  # noqa: E402
from nestrec_recbole.plugin import register_model  # noqa: E402
from nestrec_recbole.version import __version__  # noqa: E402

plugin.register()
own_models.import_files()

__all__ = ["NestRecError", "__version__", "register_model", "run_recbole"]
