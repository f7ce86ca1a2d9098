"""What may stand in the recipes of the studies 10 to 12, which look into a run that is there."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, PositiveInt, model_validator

from clipfh_lib.schema import (
    Aspect,
    Common,
    EmbedParams,
    EvaluationParams,
    Frozen,
    LoaderParams,
    ModelParams,
)


class OfRun(Frozen):
    """The run that is studied; its method and recipe stand in the study's results."""

    notebook: str
    dataset: str
    method: str
    recipe: str
    folder: str  # from the project's root on, if it is in there


class StudyParams(Common):
    """What the studies share; model, embed, and how it compares are those of the studied run."""

    backbone: str
    recipe: str
    of: OfRun
    model: ModelParams
    embed: EmbedParams = EmbedParams()
    loader: LoaderParams = LoaderParams()
    evaluation: EvaluationParams = EvaluationParams()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @model_validator(mode="after")
    def _no_reranking(self) -> Self:
        if self.evaluation.rerank is not None:
            raise ValueError(
                "evaluation.rerank: the studies 10 to 12 compare without re-ranking; leave it out"
            )
        return self


Condition = Literal[
    "darker", "brighter", "colour_cast", "uneven_light", "rotation", "perspective", "scale",
    "translation", "missing_fingertips", "ring", "bracelet", "sleeve", "blocks", "blur", "noise",
    "jpeg", "low_resolution",
]  # fmt: skip
Side = Literal["query", "gallery", "both"]
Real = Literal[
    "accessories", "nail_polish", "irregularities", "mirrored", "other_aspect", "include",
]  # fmt: skip
Attribute = Literal["gender", "skin_color", "age", "nail_polish"]


class RobustnessParams(StudyParams):
    """10_robustness."""

    conditions: list[Condition] = Field(list(get_args(Condition)), min_length=1)
    severities: list[Annotated[int, Field(ge=1, le=5)]] = Field([1, 2, 3, 4, 5], min_length=1)
    sides: list[Side] = Field(["query"], min_length=1)
    canvas: int = Field(256, ge=32, le=2000)  # pixels, width and height; changed at this size
    draw_seed: int = Field(0, ge=0)  # of the changes: not the run's, so that all see the same
    aspects: list[Aspect] = []  # whose queries are changed; none: all that are tested
    galleries: list[Literal["same_aspect", "all_aspects"]] = Field(["same_aspect"], min_length=1)
    real: list[Real] = list(get_args(Real))  # what the photographs themselves bring
    other_dataset: str | None = None  # a file of params/datasets/, tested by its own split
    groups: list[Attribute] = list(get_args(Attribute))
    age_bands: list[PositiveInt] = [22, 25]  # years that a band begins with
    fmr: float = Field(0.01, gt=0, le=0.5)  # of everybody, at the groups' common threshold

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name in ("conditions", "severities", "sides", "aspects", "galleries", "real", "groups"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}: {getattr(self, name)} names one of them twice")
        for name in ("severities", "age_bands"):
            if sorted(set(getattr(self, name))) != getattr(self, name):
                raise ValueError(f"{name}: {getattr(self, name)} must rise")
        return self


class RemovalParams(Frozen):
    """Deletion and insertion: how finely, and what stands in place of what is removed."""

    steps: PositiveInt = 20
    fill: Literal["mean", "white", "blur"] = "mean"  # colour of the picture, paper, out of focus
    random: PositiveInt = 5  # random maps for each image, that a map is held against


class LimitParams(Frozen):
    """Rank correlations, each a mean over pairs, from which on a map fails a check.

    Adebayo et al. (2018), whose check this is, give none: these are chosen here.
    """

    same: float = Field(0.99, ge=-1, le=1)  # held against another person: it ignores its target
    nearly: float = Field(0.9, ge=-1, le=1)  # likewise: it hardly changes with its target
    alike: float = Field(0.5, ge=-1, le=1)  # random weights: it shows little of what was learned

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.nearly > self.same:
            raise ValueError(f"limits: nearly {self.nearly} must not exceed same {self.same}")
        return self


class AttentionParams(StudyParams):
    """11_attention."""

    methods: list[Literal["grad_cam", "hires_cam", "layer_cam", "rollout", "class_attention"]] = (
        Field(min_length=1)
    )
    pairs: PositiveInt = 20  # of each aspect, whose first match is right; one query a person
    wrong: int = Field(3, ge=0)  # of each aspect, whose first match is wrong
    shown: PositiveInt = 3  # pairs in a figure
    images: int = Field(6, ge=2, le=8)  # of the one person in the figure of identity logits
    removal: RemovalParams = RemovalParams()
    limits: LimitParams = LimitParams()


class EnrolParams(Frozen):
    """Who is enrolled; without a folder or a table, the test gallery of trial 0."""

    folder: str | None = None  # one folder of photographs for each person
    table: str | None = None  # CSV with path, from its own folder on, and pid
    strangers: float = Field(0.2, ge=0, lt=1)  # share of the test people who are not enrolled

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.folder is not None and self.table is not None:
            raise ValueError("enrol.folder and enrol.table are both given; leave one out")
        return self


class IdentifyParams(StudyParams):
    """12_identify."""

    top: PositiveInt = 5  # people named for an image
    far: float = Field(0.01, gt=0, lt=1)  # false accepts allowed, of searches and of pairs
    index: Literal["auto", "exact", "faiss"] = "auto"  # auto: faiss beyond 100,000 images
    enrol: EnrolParams = EnrolParams()
    export: Literal["none", "torchscript", "onnx"] = "torchscript"

    @model_validator(mode="after")
    def _by_cosine(self) -> Self:
        if self.evaluation.distance != "cosine":
            raise ValueError(
                f"evaluation.distance: {self.evaluation.distance}, as of the studied run; "
                "12_identify compares by the cosine alone: set it to cosine, or study another run"
            )
        return self
