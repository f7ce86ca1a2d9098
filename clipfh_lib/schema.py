"""What may stand in the YAML files: one frozen class for each part of a run's parameters."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

Aspect = Literal["dorsal_r", "dorsal_l", "palmar_r", "palmar_l"]
Precision = Annotated[Literal["32", "16", "bf16"], BeforeValidator(str)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """What all parts share: no unknown key, nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DrawParams(Frozen):
    """A drawn data set: written to data/demo-<hash>/ when it is not there yet."""

    what: Literal["hands", "objects", "scenes", "places"] = "hands"  # of captions; see demo_things
    people: PositiveInt  # or garments, or things
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

    catalogue: Literal["hands_11k", "hd", "folders", "split_folders", "inshop", "captions"]
    root: str | None = None  # as downloaded; none only for drawn sets
    annotations: str | None = None  # captions: a JSON file in root; none: annotations.json if there
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
    photographs: bool = False  # may stand in reports to be passed on; drawn pictures always may

    @model_validator(mode="after")
    def _val_of_captions(self) -> Self:
        if self.catalogue == "captions" and self.val == "published":
            raise ValueError(
                "data.val published takes one image of each trained pid, and an image with "
                "captions is mostly the only one of its pid; choose held_out"
            )
        return self


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


class LoopParams(Frozen):
    """What every fit has, whatever it trains."""

    epochs: PositiveInt
    precision: Precision = "32"
    accumulate: PositiveInt = 1  # batches whose gradients are added up to one step
    clip: Positive | None = None  # largest norm of the gradient; none: as it comes
    keep_epochs: bool = False  # a checkpoint of each epoch, beside the last one
    resume_from: str | None = None  # such a checkpoint, to go on from


class ContrastiveFit(LoopParams):
    """One fit of both encoders by InfoNCE on drawn hands with captions."""

    batch_size: int = Field(ge=2)
    lr: Positive
    weight_decay: float = Field(0.1, ge=0)
    warmup: Fraction = 0.05  # share of all steps


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
