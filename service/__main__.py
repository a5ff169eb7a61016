"""Entry point of `python -m service`."""

import sys

from service.launcher import main

sys.exit(main())
