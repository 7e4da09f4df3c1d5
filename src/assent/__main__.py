"""`python -m assent`, which is also what torchrun starts: `torchrun -m assent dpo ...`."""

import sys

from assent.cli import main

sys.exit(main())
