"""What the documents say exists and is so; what newcomers type is what is tested."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import clipfh_lib
from clipfh_lib import params, plans
from clipfh_lib.data import catalogues

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = "python -m pip install -e . && snakemake --cores all demo"
TEST = 'python -m pip install -e ".[test]" && python -m pytest'
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/decisions.md"]
DOCUMENTS += ["docs/troubleshooting.md"]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(document):
    """Lines of the fenced code blocks."""
    found = re.findall(r"^ *```sh\n(.*?)^ *```", document, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in found for line in block.splitlines()]


def quoted(document):
    """What stands between single backticks outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document, flags=re.DOTALL))


def in_axis(folder):
    """Names in the row of the README's table of axes that is about a folder of params/."""
    row = next(line for line in README.splitlines() if f"`params/{folder}/` |" in line)
    return set(re.findall(r"`([\w/]+)`", row.split("|")[2]))


# --- commands -------------------------------------------------------------------------------------


def test_the_two_commands_stand_on_the_first_screen_of_the_readme():
    first = README.splitlines()[:30]
    assert DEMO in first and TEST in first


def test_the_ci_runs_the_test_command_of_the_readme():
    script = text(".ci/run")
    assert re.search(r"^test_command='(.*)'$", script, re.MULTILINE)[1] == TEST
    assert script.rstrip().endswith('bash -euo pipefail -c "$test_command"')
    assert "set -euo pipefail" in script and (ROOT / ".ci/run").stat().st_mode & 0o100
    checked = subprocess.run(["bash", "-n", ROOT / ".ci/run"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_commands_of_the_documents_name_what_exists():
    lines = [line for name in DOCUMENTS for line in blocks(text(name))]
    text_of_all = "\n".join(lines)
    named = set(re.findall(r"snakemake .*--(?:cores|jobs) \w+ (\w+)", text_of_all)) - {"run"}
    assert named == set(params.names("plans"))
    runs = re.findall(r"notebooks/(\w+)\.ipynb|notebook=(\w+)", text_of_all)
    assert {a or b for a, b in runs} <= {path.stem for path in NOTEBOOKS} and len(runs) > 2
    for axis, known in [
        ("dataset", params.names("datasets")),
        ("backbone", params.names("backbones")),
        ("recipe", params.names("recipes/zero_shot")),
    ]:
        named = re.findall(rf"(?:-p {axis} |\b{axis}=)(\w+)", text_of_all)
        assert named and set(named) <= set(known), axis


def test_the_single_cell_of_the_readme_is_one():
    line = next(line for line in blocks(README) if " run --config " in line)
    given = dict(word.split("=", 1) for word in shlex.split(line.split("--config ")[1]))
    given["overrides"] = params.flat(given["overrides"])
    job = plans.job(params.validate(plans.Cell, given, dict.fromkeys(given, "--config")), "outputs")
    assert given["overrides"] and job.folder.parent.name == given["notebook"]


def test_extras_that_the_documents_install_are_in_pyproject():
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    named = set(re.findall(r'-e "\.\[(\w+)\]"', "".join(map(text, DOCUMENTS))))
    assert named and named <= set(extras)


# --- names ----------------------------------------------------------------------------------------


def test_the_readme_has_a_row_for_each_notebook_and_names_no_other():
    stems = {path.stem for path in NOTEBOOKS}
    rows = re.findall(r"^\| `(\d\d_\w+)` \|", README, re.MULTILINE)
    assert sorted(stems) == rows
    assert set(re.findall(r"\b\d\d_[a-z]\w+", README)) <= stems


def test_the_readme_lists_the_data_sets_backbones_and_recipes_that_there_are():
    assert in_axis("datasets") == set(params.names("datasets"))
    assert in_axis("backbones") == set(params.names("backbones"))
    for folder in (ROOT / "params" / "recipes").iterdir():
        ends = "|".join(params.names("backbones"))
        there = {re.sub(f"_({ends})$", "", path.stem) for path in folder.glob("*.yaml")}
        (row,) = re.findall(rf"^\| `{folder.name}` \| (.+) \|$", README, re.MULTILINE)
        assert there == set(quoted(row)), folder.name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_that_a_document_names_exist(name):
    known = {path.name for path in ROOT.iterdir()} | {".gitignore"}
    checked = 0
    for word in {*quoted(text(name)), *re.findall(r"\]\(([^)#:]+)\)", text(name))}:
        path = word.removesuffix(" ").split(" ")[0]
        top = path.split("/")[0]
        if top not in known or top in ("data", "outputs") or re.search(r"[<*]|NN_", path):
            continue
        checked += 1
        module = (ROOT / f"{path}.py").is_file()
        assert (ROOT / path).exists() or module, f"{name}: {word}"
    assert checked or name == "CHANGELOG.md"


def test_modules_that_the_decisions_name_exist():
    row = re.search(r"\*\*Which modules stand.*?\n\n", text("docs/decisions.md"), re.DOTALL)[0]
    stems = {path.stem for path in (ROOT / "clipfh_lib").rglob("*.py")}
    rooms = {path.name for path in (ROOT / "clipfh_lib").iterdir() if path.is_dir()}
    for word in quoted(row):
        *room, module = word.split("/")
        assert module in stems and set(room) <= rooms, word


def test_keys_that_the_documents_name_are_keys_of_a_method():
    known = {key for kind in params.METHODS.values() for key in params.keys(kind)}
    parts = {key.split(".")[0] for key in known if "." in key}
    named = {
        key
        for name in DOCUMENTS
        for key in re.findall(rf"\b((?:{'|'.join(sorted(parts))})\.[a-z_]+)\b", text(name))
        if not key.endswith((".csv", ".py", ".yaml", ".safetensors", ".tex", ".md"))
    }
    assert named <= known, named - known
    assert len(named) > 8


def test_the_map_for_the_older_layout_has_every_place():
    old = "configs/ datasets/ models/ loss/ engine/ experiments/ result_logs/ saved_models/"
    old += " my_logs/ main.py requirements.txt"
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", text("docs/decisions.md"), re.MULTILINE)
    assert [place for place, _ in rows] == old.split()


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "root"),
    [
        ("11k_dorsal_r", "data/11k"),
        ("hd", "data/hd"),
        ("folders", "data/folders"),
        ("split_folders", "data/split_folders"),
        ("inshop", "data/inshop"),
        ("captions", "data/captions"),
    ],
)
def test_readme_and_the_missing_folder_error_say_the_same(dataset, root, tmp_path):
    p = params.load("prepare_data", dataset)
    assert p.data.root == root
    nowhere = p.data.model_copy(update={"root": str(tmp_path / "nowhere")})
    said = catalogues.missing(nowhere).split("expected there: ")[1].split("; data.root")[0]
    layout, _, address = said.partition(", from ")
    row = next(line for line in README.splitlines() if f"in `{root}/`:" in line)
    assert layout in row.replace("`", "")
    assert address in row


# --- versions and environments --------------------------------------------------------------------


def test_citation_is_of_this_version_and_has_what_the_format_asks_for():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == clipfh_lib.__version__
    project = tomllib.loads(text("pyproject.toml"))["project"]
    assert citation["license"] == project["license"] == "MIT"
    assert citation["authors"] == [{"name": "The CLIP-FH authors"}]
    assert citation["authors"][0]["name"] in text("LICENSE")


def test_the_newest_entry_of_the_changelog_is_this_version():
    assert re.findall(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)[0] == clipfh_lib.__version__


def test_conda_installs_the_project_by_pip():
    *conda, pip = yaml.safe_load(text("environment.yml"))["dependencies"]
    asked = tomllib.loads(text("pyproject.toml"))["project"]["requires-python"]
    assert conda == [f"python{asked}", "pip"]
    assert pip == {"pip": ["-e ."]}


def test_hooks_run_what_the_test_extra_installs():
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = " ".join(hook["entry"] for hook in hooks[0]["hooks"])
    extra = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]["test"]
    for tool in ("ruff", "nbstripout"):
        assert f"python -m {tool}" in entries and any(each.startswith(tool) for each in extra)


def test_nothing_names_a_path_of_somebodys_machine():
    homes = r"(?:root|home|Users|tmp|work|mnt|opt)/\w"  # not /data/11k, an example
    machine = re.compile(rf"(?<![\w.>/~*-])(?:/{homes}|[A-Z]:\\Users)")
    assert machine.search('cd "/home/somebody"') and not machine.search("see params/home/x")
    names = [*DOCUMENTS, "Snakefile", "pyproject.toml", "environment.yml", "CITATION.cff"]
    paths = [ROOT / name for name in [*names, ".ci/run", ".pre-commit-config.yaml"]]
    for folder, ending in [("params", "yaml"), ("profiles", "yaml"), ("clipfh_lib", "py")]:
        paths += sorted((ROOT / folder).rglob(f"*.{ending}"))
    for path in [*paths, *NOTEBOOKS]:
        found = machine.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found[0]}"


# --- notebooks and code as they are stored --------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_short_chapter_without_outputs(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert content["cells"][0]["cell_type"] == "markdown"
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    tagged = [cell["metadata"].get("tags", []) for cell in code]
    assert [("parameters" in tags) for tags in tagged] == [True] + [False] * (len(code) - 1)
    assert len(code) <= 14
    lines = "".join("".join(cell["source"]) + "\n" for cell in code).splitlines()
    tree = ast.parse("\n".join(line for line in lines if not line.startswith(("%", "!"))))
    own = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    assert not [node for node in ast.walk(tree) if isinstance(node, own)]


@pytest.mark.parametrize(
    "command", [["nbstripout", "--verify", "--keep-id", *NOTEBOOKS], ["ruff", "check", "."]]
)
def test_what_is_stored_is_what_the_hooks_leave(command):
    ask = {"cwd": ROOT, "capture_output": True, "text": True}
    answer = subprocess.run([sys.executable, "-m", *map(str, command)], **ask)
    assert answer.returncode == 0, answer.stdout + answer.stderr
