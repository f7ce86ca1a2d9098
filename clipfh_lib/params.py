"""YAML files and overrides -> one frozen object; a misspelt key, value or file stops at once."""

import ast
import difflib
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError

from clipfh_lib import files
from clipfh_lib.files import InputError

Aspect = Literal["dorsal_r", "dorsal_l", "palmar_r", "palmar_l"]
Precision = Annotated[Literal["32", "16", "bf16"], BeforeValidator(str)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """What all parts share: no unknown key, nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DrawParams(Frozen):
    """A drawn data set: written to data/demo-<hash>/ when it is not there yet."""

    people: PositiveInt
    images: PositiveInt = 8  # accessory-free photographs of a person and aspect
    distractors: int = Field(0, ge=0)  # HD only
    size: int = Field(160, ge=32, le=2000)  # pixels, the longer side of 4:3
    seed: int = Field(0, ge=0)


class IncludeParams(Frozen):
    """Keep the images whose row in a CSV file beside the data has one of the values."""

    file: str
    column: str
    values: list[str]


class LimitParams(Frozen):
    """A smaller run: the first people and the first images of each person and aspect."""

    people: PositiveInt | None = None
    images: PositiveInt | None = None


class DataParams(Frozen):
    """Which photographs, how they are split, how they are brought to the model's size."""

    catalogue: Literal["hands_11k", "hd", "folders", "split_folders"]
    root: str | None = None  # as downloaded; none only for drawn sets
    draw: DrawParams | None = None
    aspects: list[Aspect] = []  # trained and tested; the others still feed all_aspects
    cut: Literal["published", "first_half", "none", "all_train"] = "published"
    val: Literal["held_out", "published"] = "held_out"
    gallery: Literal["one", "rest"] = "one"
    trials: PositiveInt = 10
    split_seed: int = Field(0, ge=0)
    resize: Literal["clip", "squash", "letterbox"] = "clip"
    include: IncludeParams | None = None
    extensions: list[str] = ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp"]
    limit: LimitParams | None = None


class ModelParams(Frozen):
    """A backbone: an open_clip name, `timm/<name>`, or `demo` for the demo CLIP."""

    name: str
    weights: str  # a tag of open_clip, `timm`, a file, a run folder, or none
    size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="whole pixels: a number, or [height, width]"
    )
    freeze_bn: bool = False  # batch norm keeps its statistics in training


class EmbedParams(Frozen):
    """How images become embeddings."""

    batch: PositiveInt = 64
    flip: Literal["none", "add"] = "none"  # add: the mirror image's embedding is added
    precision: Precision = "32"


class AugmentParams(Frozen):
    """Changes to training images, drawn anew for each image and epoch; all are off by default."""

    crop: float = Field(1, ge=0.05, le=1)  # smallest share of the area that is kept and enlarged
    rotation: float = Field(0, ge=0, le=180)  # degrees, at most, either way
    brightness: Fraction = 0  # factor 1 +- this; likewise the next two
    contrast: Fraction = 0  # of the distance to the picture's mean grey
    saturation: Fraction = 0  # of the distance to a pixel's grey
    pad: int = Field(0, ge=0, le=256)  # white pixels added around, then cropped off at random
    erase: Fraction = 0  # probability that a rectangle is painted over
    blur: float = Field(0, ge=0, le=10)  # pixels, largest standard deviation of a Gaussian
    flip: Fraction = 0  # probability; left-right: a right hand becomes a left one
    flip_vertical: Fraction = 0  # probability; upside down, which mirrors a hand as well


class LoaderParams(Frozen):
    """How files are read."""

    workers: int = Field(0, ge=0)  # threads that decode; 0: one per core


class RerankParams(Frozen):
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017); the defaults are the paper's."""

    k1: PositiveInt = 20  # neighbours that must be mutual
    k2: PositiveInt = 6  # neighbours whose sets are averaged; 1: none
    weight: Fraction = 0.3  # of the plain distance (lambda); the rest is the Jaccard distance


class EvaluationParams(Frozen):
    """How embeddings are compared, and how many resamples of people an interval takes."""

    distance: Literal["cosine", "euclidean"] = "cosine"
    resamples: PositiveInt = 10_000
    rerank: RerankParams | None = Field(  # adds rows with re-ranking beside those without
        None, description="{k1: 20, k2: 6, weight: 0.3}, or null for none"
    )


class NamingParams(Frozen):
    """Zero-shot naming: templates with {aspect}, {side}, {accessories}; texts are averaged."""

    templates: list[str]


class ContrastiveFit(Frozen):
    """One fit of both encoders by InfoNCE on drawn hands with captions."""

    epochs: PositiveInt
    batch_size: int = Field(ge=2)
    lr: Positive
    weight_decay: float = Field(0.1, ge=0)
    warmup: Fraction = 0.05  # share of all steps
    precision: Precision = "32"


class Common(Frozen):
    """The axes of a run."""

    method: str
    dataset: str
    seed: int = Field(0, ge=0)
    overrides: dict[str, object] = {}
    data: DataParams


class ExportParams(Frozen):
    """The split once more as folders of images, the layout of the older scripts."""

    folder: str
    how: Literal["link", "copy"] = "link"  # hard links: no space, but the same disk


class PrepareParams(Common):
    """01_prepare_data."""

    loader: LoaderParams = LoaderParams()
    export: ExportParams | None = None


class ZeroShotParams(Common):
    """02_zero_shot."""

    backbone: str
    recipe: str
    model: ModelParams
    embed: EmbedParams = EmbedParams()
    loader: LoaderParams = LoaderParams()
    evaluation: EvaluationParams = EvaluationParams()
    naming: NamingParams
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class DemoClipParams(Common):
    """00_demo_clip."""

    backbone: str
    recipe: str
    model: ModelParams
    fit: ContrastiveFit
    embed: EmbedParams = EmbedParams()
    loader: LoaderParams = LoaderParams()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


METHODS: dict[str, type[Common]] = {
    "demo_clip": DemoClipParams,
    "prepare_data": PrepareParams,
    "zero_shot": ZeroShotParams,
}
NOTEBOOKS = {
    "00_demo_clip": "demo_clip",
    "01_prepare_data": "prepare_data",
    "02_zero_shot": "zero_shot",
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
    check_injected(_arguments(METHODS[method]))
    return read(method, dataset, backbone, recipe, seed, overrides)


def read(
    method: str,
    dataset: str,
    backbone: str | None = None,
    recipe: str | None = None,
    seed: int = 0,
    overrides: dict | str | None = None,
) -> Common:
    """Read a run's YAML files and overrides into the method's frozen parameters.

    Later wins: data set, backbone, recipe, overrides. `data` stands in data-set files alone, so
    that a split depends on the data set and the overrides and on nothing else.

    Args:
        method: a key of METHODS; its recipes are in params/recipes/<method>/.
        dataset: name of a file of params/datasets/, without .yaml; the other axes likewise.
        overrides: dotted keys, e.g. {"data.root": "/data/11k"}; as YAML text it does too.

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
    return validate(METHODS[method], {**content, **axes}, source)


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
    """A path from the project's root on, for messages."""
    return path.relative_to(files.project()).as_posix()


# --- notebooks ---------------------------------------------------------------------------------


def _arguments(kind: type[Common]) -> list[str]:
    axes = (
        ["dataset", "backbone", "recipe", "seed"]
        if "backbone" in kind.model_fields
        else ["dataset"]
    )
    return [*axes, "overrides", "outputs"]


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
