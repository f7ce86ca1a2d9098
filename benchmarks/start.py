"""Time to the first answer: the plan's graph, the package, and reports without torch.

Wall time of a whole process, interpreter and all, the least of the repeats. The project is a copy
in which nothing is done, so that the whole plan is listed.
"""

import pkgutil
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import common
from clipfh_lib import reports

ROOT = Path(__file__).resolve().parents[1]
PLAN, PACKAGE = 3.0, 0.3  # seconds


def fresh(*arguments: str) -> str:
    """What a new interpreter prints in the working folder.

    Raises:
        RuntimeError: if it fails; with what it said.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def least(repeats: int, *arguments: str) -> float:
    """Least seconds of `fresh`, after one run that fills the disk's cache."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        fresh(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def main() -> None:
    args = common.arguments(__doc__, repeats=5)
    names = [f"clipfh_lib.reports.{each.name}" for each in pkgutil.iter_modules(reports.__path__)]
    imports = f"import sys, {', '.join(names)}"
    loaded = "print(sum(name.partition('.')[0] == 'torch' for name in sys.modules))"
    with common.project() as root:
        for name in ("params", "notebooks", "profiles"):
            shutil.copytree(ROOT / name, root / name, dirs_exist_ok=True)
        for name in ("Snakefile", "pyproject.toml"):
            shutil.copy(ROOT / name, root)
        (root / "clipfh_lib").symlink_to(ROOT / "clipfh_lib")
        plan, package = ("-m", "snakemake", "-n", "demo"), ("-c", "import clipfh_lib")
        assert "zero_shot" in fresh(*plan)
        rows = [
            common.at_most("snakemake -n demo", least(args.repeats, *plan), PLAN, "s"),
            common.at_most("import clipfh_lib", least(args.repeats, *package), PACKAGE, "s"),
        ]
        seconds = least(args.repeats, "-c", imports)
        modules = int(fresh("-c", f"{imports}\n{loaded}"))
    name = f"torch modules after import of reports, {seconds:.2f} s"
    common.report([*rows, common.at_most(name, modules, 0, "")], args.check)


if __name__ == "__main__":
    main()
