"""One script per promised figure: ours against a limit or a reference in the same run.

`python -m benchmarks.metrics` runs one, `python -m benchmarks` all; `--check` exits 1 if a target
is missed. One thread, unless OMP_NUM_THREADS says otherwise.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # here, since it must stand before numpy is imported
