"""``python -m prunus``, as torchrun starts it."""

import sys

from prunus.cli import main

sys.exit(main())
