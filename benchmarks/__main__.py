"""All benchmarks, each in a process of its own; options are handed on; exits 1 if one does."""

import subprocess
import sys
from pathlib import Path

failed = []
for path in sorted(Path(__file__).parent.glob("*.py")):
    if path.stem not in ("__init__", "__main__", "common"):
        print(f"\n{path.stem}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{path.stem}", *sys.argv[1:]]
        if subprocess.run(command).returncode:
            failed.append(path.stem)
sys.exit(f"missed or failed: {', '.join(failed)}" if failed else 0)
