"""`python .template update` and `python .template drift`, which `poe` calls; needs Python alone."""

import sys

from template_update.cli import main

sys.exit(main())
