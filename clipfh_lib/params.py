"""YAML files and overrides -> one frozen object; a misspelt key, value or file stops at once."""

import ast
import difflib
import re
import sys
from pathlib import Path

import yaml
from pydantic import ValidationError

from clipfh_lib import files
from clipfh_lib.files import InputError
from clipfh_lib.learning import (
    ClipReidEncoderParams,
    ClipReidPromptsParams,
    FineTuneParams,
    MbaNetParams,
    PromptSgParams,
)
from clipfh_lib.schema import Common, DemoClipParams, Frozen, PrepareParams, ZeroShotParams
from clipfh_lib.study import AttentionParams, IdentifyParams, RobustnessParams, StudyParams
from clipfh_lib.words import JointParams, TextToImageParams

METHODS: dict[str, type[Common]] = {
    "demo_clip": DemoClipParams,
    "prepare_data": PrepareParams,
    "zero_shot": ZeroShotParams,
    "fine_tune": FineTuneParams,
    "clip_reid_prompts": ClipReidPromptsParams,
    "clip_reid_encoder": ClipReidEncoderParams,
    "prompt_sg": PromptSgParams,
    "joint": JointParams,
    "text_to_image": TextToImageParams,
    "mba_net": MbaNetParams,
    "robustness": RobustnessParams,
    "attention": AttentionParams,
    "identify": IdentifyParams,
}
WORDS = ("prepare_data", "text_to_image")  # what can take images that stand alone
NOTEBOOKS = {
    "00_demo_clip": "demo_clip",
    "01_prepare_data": "prepare_data",
    "02_zero_shot": "zero_shot",
    "03_fine_tune": "fine_tune",
    "04_clip_reid_prompts": "clip_reid_prompts",
    "05_clip_reid_encoder": "clip_reid_encoder",
    "06_prompt_sg": "prompt_sg",
    "07_joint_image_text": "joint",
    "08_text_to_image": "text_to_image",
    "09_mba_net": "mba_net",
    "10_robustness": "robustness",
    "11_attention": "attention",
    "12_identify": "identify",
}


def load(
    method: str,
    dataset: str,
    backbone: str | None = None,
    recipe: str | None = None,
    seed: int = 0,
    overrides: dict | str | None = None,
) -> Common:
    """What a notebook calls: `read`, and no mistyped parameter of papermill's is let through."""
    check_injected(arguments(METHODS[method]))
    return read(method, dataset, backbone, recipe, seed, overrides)


def read(
    method: str,
    dataset: str,
    backbone: str | None = None,
    recipe: str | None = None,
    seed: int = 0,
    overrides: dict | str | None = None,
    under: dict[str, object] | None = None,
) -> Common:
    """Read a run's YAML files and overrides into the method's frozen parameters.

    Later wins: data set, backbone, `under`, recipe, overrides. `data` stands in data-set files
    alone, so that a split depends on the data set and the overrides and on nothing else.

    Args:
        method: a key of METHODS; its recipes are in params/recipes/<method>/.
        dataset: name of a file of params/datasets/, without .yaml; the other axes likewise.
        overrides: dotted keys, e.g. {"data.root": "/data/11k"}; as YAML text it does too.
        under: dotted keys that a study takes over from the run which it looks into.

    Raises:
        InputError: one line with the unknown name, key or value and the nearest valid one.
    """
    overrides = flat(overrides)
    parts = [file_of("datasets", dataset)]
    if backbone is not None:
        parts.append(file_of("backbones", backbone))
    if recipe is not None:
        folder = f"recipes/{method}"
        own = files.project() / "params" / folder / f"{recipe}_{backbone}.yaml"
        parts.append(file_of(folder, f"{recipe}_{backbone}" if own.is_file() else recipe))
    content, source = {}, {}
    for number, path in enumerate(parts):
        if path.parent.parent.name == "recipes":
            for key, value in (under or {}).items():
                _put(content, source, key, value, "the studied run")
        for key, value in flat(read_yaml(path)).items():
            if number and key.split(".")[0] == "data":
                raise InputError(
                    f"{key} in {short(path)}: data.* stands in params/datasets/ or overrides"
                )
            _put(content, source, key, value, short(path))
    for key, value in overrides.items():
        _put(content, source, key, value, "overrides")
    axes = {"method": method, "dataset": dataset, "seed": seed, "overrides": overrides}
    axes |= {"backbone": backbone, "recipe": recipe} if backbone is not None else {}
    for key in content:
        if key in axes:
            raise InputError(f"{key} in {source[key]} is an axis of the run, not a key of a file")
    found = validate(METHODS[method], {**content, **axes}, source)
    if found.data.catalogue == "captions" and method not in WORDS:
        raise InputError(
            f"data set {dataset}: its images are searched by words, and each is of something else; "
            f"08_text_to_image is the notebook for it, {method} needs several images of a person"
        )
    return found


def validate(kind: type[Frozen], content: dict, source: dict[str, str]) -> Frozen:
    """Make the frozen object, or say in one line which key of which file is wrong."""
    try:
        return kind(**content)
    except ValidationError as error:
        every = error.errors()
        first = next((each for each in every if each["type"] == "extra_forbidden"), every[0])
        key, known = ".".join(str(part) for part in first["loc"]), keys(kind)
        while first["type"] != "extra_forbidden" and "." in key and key not in known:
            key = key.rpartition(".")[0]  # a place in a list, a kind of value
        told = [name for name in source if name == key or name.startswith(f"{key}.")]
        told += [name for name in source if key.startswith(f"{name}.")]
        where = f" in {source[told[0]]}" if told else ""
        if first["type"] == "extra_forbidden":
            raise InputError(f"unknown key {key}{where}; nearest: {nearest(key, known)}") from None
        if first["type"] == "missing":
            raise InputError(
                f"{key} is missing; put it into a file of params/ or overrides"
            ) from None
        if first["type"] == "value_error":  # of keys that do not go together
            raise InputError(first["msg"].removeprefix("Value error, ")) from None
        given, hint = first["input"], ""
        if said := _description(kind, key):
            raise InputError(f"{key}: {given!r}{where}: must be {said}") from None
        if first["type"] == "literal_error":
            options = [
                str(o).strip("'")
                for o in first["ctx"]["expected"].replace(" or ", ", ").split(", ")
            ]
            hint = f"; nearest: {nearest(str(given), options)}"
        raise InputError(f"{key}: {given!r}{where}: {first['msg']}{hint}") from None


def _description(kind: type[Frozen], key: str) -> str:
    """What a field says of the values that it takes; empty if its kind says enough."""
    name, _, rest = key.partition(".")
    field = kind.model_fields.get(name)
    if field is None or not rest:
        return (field.description or "") if field else ""
    parts = (field.annotation, *getattr(field.annotation, "__args__", ()))
    inside = [part for part in parts if isinstance(part, type) and issubclass(part, Frozen)]
    return _description(inside[0], rest) if inside else ""


def keys(kind: type[Frozen], prefix: str = "") -> list[str]:
    """All dotted keys that a class of parameters knows."""
    found = []
    for name, field in kind.model_fields.items():
        found.append(prefix + name)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, Frozen):
                found += keys(part, f"{prefix}{name}.")
    return found


def nearest(name: str, options: list[str]) -> str:
    """The option that looks most like the name."""
    return next(iter(difflib.get_close_matches(name, options, n=1, cutoff=0.0)), "none")


def flat(nested: dict | str | None, prefix: str = "") -> dict[str, object]:
    """Nested or dotted mapping, or YAML text of one -> flat mapping with dotted keys, sorted."""
    if isinstance(nested, str):
        nested = parse_yaml(nested, "overrides")
    if nested is not None and not isinstance(nested, dict):
        raise InputError(f"overrides: {nested!r} is no mapping; write {{'data.trials': 2}}")
    found = {}
    for key, value in (nested or {}).items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return dict(sorted(found.items()))


def _put(content: dict, source: dict, key: str, value: object, where: str) -> None:
    *path, last = key.split(".")
    for part in path:
        content = content.setdefault(part, {})
        if not isinstance(content, dict):
            raise InputError(f"{key} in {where}: {part} has no keys of its own")
    content[last] = value
    source[key] = where


# --- files -------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML without surprises: 5e-5 is a number, a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key)
            if not isinstance(name, str):
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: key {name!r} is no text")
            if name in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {name} stands twice")
            seen.add(name)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node, index: int) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read")
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > 20:
            raise yaml.YAMLError("nested deeper than 20")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.add_constructor(
    "tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node, deep=True)
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> dict:
    """A mapping from YAML text.

    Raises:
        InputError: no YAML, no mapping, a key twice, over 1 MB or too deep; names `where`.
    """
    if len(text) > 1_000_000:
        raise InputError(f"{where}: larger than 1 MB")
    try:
        content = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{where}: holds {type(content).__name__}, not keys with values")
    return content


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{short(path)}: not UTF-8 ({error.reason})") from None
    return parse_yaml(text, short(path))


def names(folder: str) -> list[str]:
    """The names that stand in a folder of params/, e.g. "datasets"."""
    return sorted(path.stem for path in (files.project() / "params" / folder).glob("*.yaml"))


def file_of(folder: str, name: str) -> Path:
    """A YAML file of params/<folder>/, or an InputError with the nearest name."""
    if name not in names(folder):
        raise InputError(
            f"no params/{folder}/{name}.yaml; nearest: {nearest(str(name), names(folder))}"
        )
    return files.project() / "params" / folder / f"{name}.yaml"


def short(path: Path) -> str:
    """A path for messages: from the project's root on, if it is in there."""
    inside = path.is_relative_to(files.project())
    return (path.relative_to(files.project()) if inside else path).as_posix()


# --- notebooks ---------------------------------------------------------------------------------


def arguments(kind: type[Common]) -> list[str]:
    """The names in the parameters cell of a notebook, by the class of its parameters."""
    axes = (
        ["dataset", "backbone", "recipe", "seed"]
        if "backbone" in kind.model_fields
        else ["dataset"]
    )
    study = ["of_run"] if issubclass(kind, StudyParams) else []
    return [*axes, *study, "overrides", "outputs"]


def check_injected(allowed: list[str]) -> None:
    """Refuse a mistyped `-p` name, of which papermill only warns.

    Its cell begins with "# Parameters"; the names assigned there must be those of the notebook.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    for cell in shell.user_ns.get("In", []) if shell else []:
        if cell.startswith("# Parameters"):
            for node in ast.walk(ast.parse(cell)):
                if (
                    isinstance(node, ast.Name)
                    and isinstance(node.ctx, ast.Store)
                    and node.id not in allowed
                ):
                    raise InputError(
                        f"unknown parameter {node.id}; nearest: {nearest(node.id, allowed)}"
                    )
