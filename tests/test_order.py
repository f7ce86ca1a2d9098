"""The rooms stand in the order of the data; what has a star opens without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clipfh_lib

ROOT = Path(clipfh_lib.__file__).parent
ROOMS = ["", "data", "models", "evaluation", "methods", "studies", "reports"]
MODULES = sorted(
    path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".")
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
)
TORCHLESS = (
    *("files", "schema", "learning", "words", "study"),
    *("params", "runs", "studied", "plans"),
)
LIGHT = [
    module
    for module in MODULES
    if module.split(".")[1] in TORCHLESS
    or module.split(".")[1] == "reports"
    or module.split(".")[-1] in ("metrics", "intervals", "catalogues", "splits", "images")
    or module.split(".")[-1] in ("captions", "demo_hands", "layouts", "traps", "exports", "imports")
    or module.split(".")[-1] in ("captioned", "inshop", "wording", "variations", "pairs")
    or module.split(".")[-1] in ("agreement", "tidying")
    or module.split(".")[-1] in ("masks", "anatomy", "occlusions", "corruptions")
    or module.split(".")[-1] in ("demo_captions", "demo_clothes", "demo_garments", "demo_things")
    or module.split(".")[-1] in ("pairing",)
    or module.split(".")[-1] in ("origin", "reranking", "open_set", "across", "retrieval")
]


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else ""


def imports(module: str) -> set[str]:
    tree = ast.parse((ROOT.parent / Path(*module.split("."))).with_suffix(".py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES)


def test_every_module_lies_in_a_known_room():
    assert {room(module) for module in MODULES} <= set(ROOMS)
    assert len(MODULES) > 15


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_rooms_before_it(module):
    later = [
        other for other in imports(module) if ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not later, f"{module} imports {later}"


def test_reports_and_evaluation_know_nothing_of_methods_and_methods_not_of_each_other():
    for module in MODULES:
        others = {o for o in imports(module) if room(o) == "methods" and o != module}
        if room(module) == "reports":
            heavy = {o for o in imports(module) if room(o) in ("models", "methods", "evaluation")}
            assert heavy <= {"clipfh_lib.evaluation.retrieval"}, f"{module} imports {heavy}"
        if room(module) == "methods":
            assert others <= {"clipfh_lib.methods.training"}, f"{module} imports {others}"


def test_no_cycle_among_modules():
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            path.append(module)
            for other in sorted(imports(module)):
                visit(other)
            path.pop()
            done.add(module)

    for module in MODULES:
        visit(module)
    assert done == set(MODULES)


def test_plans_tables_and_figures_open_without_torch():
    names = "[m for m in ('torch', 'lightning') if m in sys.modules]"
    code = f"import sys, {', '.join(LIGHT)}; print({names})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stdout + answer.stderr


def test_torch_and_torchvision_are_a_pair():
    import torch
    import torchvision  # an unfit pair fails here: operator torchvision::nms does not exist

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5).tolist() == [1]
