"""``python -m nestrec_recbole.cli``: what the console script ``nestrec`` runs."""

import sys

from nestrec_recbole.cli import main

sys.exit(main())
