"""Parameters: one frozen object, and one clear line for anything that is wrong."""

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfh_lib import files, params, plans
from clipfh_lib.files import InputError

ZERO = {"method": "zero_shot", "dataset": "demo", "backbone": "demo", "recipe": "default"}


def refused(**given: object) -> str:
    with pytest.raises(InputError) as error:
        params.load(**{**ZERO, **given})
    line = str(error.value)
    assert "\n" not in line
    return line


def test_a_run_is_read_from_its_three_files_and_the_overrides():
    p = params.load(**ZERO, seed=3, overrides={"data.trials": 2, "embed.batch": "16"})
    assert (p.dataset, p.backbone, p.recipe, p.seed, p.method) == (
        "demo",
        "demo",
        "default",
        3,
        "zero_shot",
    )
    assert (p.data.trials, p.embed.batch, p.data.cut) == (2, 16, "first_half")
    assert p.model.name == "demo_clip"
    with pytest.raises(ValueError):
        p.data.trials = 5  # frozen


@pytest.mark.parametrize("file", ["datasets", "backbones", "plans"])
def test_every_yaml_file_of_ours_is_read(file):
    assert params.names(file)
    for name in params.names(file):
        if file == "datasets":
            params.load("prepare_data", name)
        elif file == "backbones":
            params.load("zero_shot", "demo", name, "default")
        else:
            assert params.read_yaml(params.file_of("plans", name))["cells"]


def test_names_that_scripts_count_on_are_there():
    sets = "demo 11k_dorsal_r 11k_dorsal_l 11k_palmar_r 11k_palmar_l 11k_all 11k_sample hd demo_hd"
    assert {*sets.split(), "folders"} <= set(params.names("datasets"))
    nets = "demo vit_b16 rn50 vit_b32 timm_resnet50 timm_mobilenetv2"
    assert set(nets.split()) <= set(params.names("backbones"))


def test_a_mistyped_name_is_answered_with_the_nearest_one():
    assert "nearest: demo" in refused(dataset="dmo")
    assert "params/backbones/vit_b61.yaml" in refused(backbone="vit_b61")
    assert "nearest: vit_b16" in refused(backbone="vit_b61")
    assert "nearest: default" in refused(recipe="defualt")


def test_a_mistyped_key_or_value_names_the_key_the_file_and_the_nearest():
    line = refused(overrides={"data.trails": 3})
    assert "data.trails" in line and "nearest: data.trials" in line and "overrides" in line
    line = refused(overrides={"data.resize": "letterbx"})
    assert "data.resize" in line and "letterbx" in line and "nearest: letterbox" in line
    assert "data.trials" in refused(overrides={"data.trials": 0})
    assert "seed" in refused(seed="abc")


def test_overrides_are_read_nested_dotted_or_as_yaml_text():
    dotted = params.load(**ZERO, overrides={"data.trials": 2, "embed.flip": "add"})
    nested = params.load(**ZERO, overrides={"data": {"trials": 2}, "embed": {"flip": "add"}})
    text = params.load(**ZERO, overrides="{data.trials: 2, embed: {flip: add}}")
    assert dotted == nested == text
    assert "keys with values" in refused(overrides="[1, 2]")


def test_scientific_numbers_are_numbers_and_a_key_twice_is_refused(tmp_path):
    assert params.parse_yaml("lr: 5e-5", "x") == {"lr": 5e-5}
    assert params.parse_yaml("a: {lr: 1E-3, n: 12}", "x") == {"a": {"lr": 1e-3, "n": 12}}
    for text, said in [
        ("a: 1\na: 2", "twice"),
        ("a: &x [1]\nb: *x", "alias"),
        ("[" * 50 + "]" * 50, "deeper"),
        ("- 1", "list"),
        ("a: [", "x:"),
        ("a: " + "b" * 1_000_001, "1 MB"),
        ("1: 2", "no text"),
    ]:
        with pytest.raises(InputError, match=said):
            params.parse_yaml(text, "x")


@given(st.text(max_size=60))
def test_any_text_is_a_mapping_or_an_input_error(text):
    try:
        assert isinstance(params.parse_yaml(text, "x"), dict)
    except InputError as error:
        assert "\n" not in str(error)


def test_data_keys_stand_in_data_set_files_alone(tmp_path, monkeypatch):
    for folder, text in [
        ("datasets/d", "data: {catalogue: folders, root: x}"),
        ("backbones/b", "model: {name: demo_clip, weights: none}"),
        ("recipes/zero_shot/r", "naming: {templates: [a]}\ndata: {trials: 3}"),
        ("recipes/zero_shot/s", "naming: {templates: [a]}\nembed: {batch: 1}"),
        ("recipes/zero_shot/s_b", "naming: {templates: [a]}\nembed: {batch: 7}"),
        ("recipes/zero_shot/t", "naming: {templates: [a]}\nembde: {batch: 7}"),
    ]:
        path = tmp_path / "params" / f"{folder}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    own = {"method": "zero_shot", "dataset": "d", "backbone": "b"}
    assert "data.trials in params/recipes/zero_shot/r.yaml" in refused(**own, recipe="r")
    assert params.load(**own, recipe="s").embed.batch == 7, "s_b goes before s"
    line = refused(**own, recipe="t")
    assert "embde" in line and "recipes/zero_shot/t.yaml" in line and "nearest: embed" in line


def test_a_mistyped_papermill_parameter_is_refused(monkeypatch):
    shell = types.SimpleNamespace(user_ns={"In": ["", "x = 1", "# Parameters\ndatset = 'demo'\n"]})
    monkeypatch.setitem(
        params.sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell)
    )
    assert "unknown parameter datset; nearest: dataset" in refused()
    shell.user_ns["In"][2] = "# Parameters\ndataset = 'demo'\noutputs = 'o'\n"
    assert params.load(**ZERO).dataset == "demo"
    with pytest.raises(InputError, match="unknown parameter backbone"):
        shell.user_ns["In"][2] = "# Parameters\nbackbone = 'demo'\n"
        params.load("prepare_data", "demo")
    shell.user_ns["In"][2] = "# Parameters\nplan = 'demo'\noutputs = 'o'\n"
    assert plans.jobs("demo", "o"), "what a plan reads is not the notebook's own parameters"
    shell.user_ns["In"][2] = "# Parameters\nplna = 'demo'\n"
    with pytest.raises(InputError, match="unknown parameter plna; nearest: plan"):
        plans.jobs("demo", "o")


def test_an_input_error_is_shown_in_a_notebook_as_one_line():
    assert InputError("what is wrong")._render_traceback_() == ["InputError: what is wrong"]


def test_the_project_is_the_nearest_folder_that_looks_like_one(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    installed = files.project()
    assert (installed / "clipfh_lib").is_dir()
    (tmp_path / "params").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    assert files.project() == tmp_path
    assert files.resolve("outputs") == tmp_path / "outputs"
    assert files.resolve("/data") == files.resolve("/data").absolute()


@pytest.mark.parametrize(
    "method, overrides, said",
    [
        ("prepare_data", {"export.foldr": "a"}, "unknown key export.foldr in overrides; nearest: "
         "export.folder"),
        ("zero_shot", {"model.size": [64]}, "model.size: [64] in overrides: must be whole pixels"),
        ("zero_shot", {"model.size": 0}, "model.size: 0 in overrides: must be whole pixels"),
        ("zero_shot", {"model.size": [64, -1]}, "model.size: [64, -1] in overrides: must be"),
        ("zero_shot", {"evaluation.rerank": 20}, "evaluation.rerank: 20 in overrides: must be {k1"),
        ("zero_shot", {"evaluation.rerank.k1": 0}, "evaluation.rerank.k1: 0 in overrides: Input"),
        ("prepare_data", {"data.aspects": ["dors"]}, "data.aspects: 'dors' in overrides: Input"),
    ],
)  # fmt: skip
def test_a_value_of_several_kinds_says_what_it_may_be(method, overrides, said):
    axes = ("demo", "demo", "default") if method == "zero_shot" else ("demo",)
    with pytest.raises(InputError) as error:
        params.read(method, *axes, overrides=overrides)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
