"""`make attacks`."""

from __future__ import annotations

import sys

from attacks.runner.cli import main

sys.exit(main())
