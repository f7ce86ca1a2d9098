"""What may stand in recipes that read words: prompts, captions, the fits of both encoders."""

import re
from string import Formatter
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from clipfh_lib.learning import FitParams, NotNegative, OptimParams, TrainedParams, check_schedule
from clipfh_lib.schema import (
    AugmentParams,
    Common,
    EmbedParams,
    EvaluationParams,
    Frozen,
    LoaderParams,
    ModelParams,
    Positive,
)

NAMES = ("pid", "pid_name")  # columns that say who it is


def fields(template: str, where: str) -> list[str]:
    """Names in the braces of a template, in order.

    Raises:
        ValueError: braces that do not close, or that hold more than a name.
    """
    try:
        parts = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{where}: {error} in {template!r}") from None
    for name, form, conversion in parts:
        if form or conversion or not re.fullmatch(r"[^\W\d][\w -]*", name):
            raise ValueError(
                f"{where}: {{{name}}} in {template!r} must be the name of a column alone, such as "
                "{aspect}; a brace itself is written twice"
            )
    return [name for name, _, _ in parts]


class WrittenPrompt(Frozen):
    """A prompt written by hand for all images whose row has these values."""

    where: dict[str, str] = Field(min_length=1)  # column of the images table: its value as text
    prompt: str = Field(min_length=1)  # may have fields, as a template


class PromptParams(Frozen):
    """From a row of the images table to its prompts; see data.wording."""

    strategy: Literal["v1", "v2", "v3", "v4"] = "v2"
    hands: list[str] = Field(  # templates where the aspect is known; v1, v2: the first that fits
        ["A {aspect} {side} hand {accessories} accessories"], min_length=1
    )
    described: list[str] = Field(["{caption}"], min_length=1)  # where the data set brings words
    traits: list[str] = []  # columns that v2 to v4 say too, where the data set has them
    name_people: bool = False  # {pid} and {pid_name} may stand in a template: leaks identity
    written: list[WrittenPrompt] = []  # the first whose fields are there replaces the templates
    least_images: PositiveInt = 2  # who has fewer is left out of the training
    file: str | None = None  # prompts.csv of an earlier run, or one's own: image_id, prompt

    @model_validator(mode="after")
    def _fields(self) -> Self:
        written = [entry.prompt for entry in self.written]
        templates = {"hands": self.hands, "described": self.described, "written": written}
        said = {
            name: {field for each in texts for field in fields(each, f"prompts.{name}")}
            for name, texts in templates.items()
        }
        for name, columns in [*said.items(), ("traits", set(self.traits))]:
            leaking = columns.intersection(NAMES)
            if leaking and not self.name_people:
                raise ValueError(
                    f"prompts.{name}: {min(leaking)} names the person, so the text leaks who it "
                    "is; set prompts.name_people to true if that is meant"
                )
        return self


class VaryParams(Frozen):
    """Other wordings of a caption, of which each epoch draws one; none by default."""

    count: int = Field(0, ge=0, le=3)  # wordings beside the caption itself
    templates: list[str] = ["A photo: {caption}", "{caption}, photographed"]  # none: []
    synonyms: bool = True  # of attribute words; see data.variations
    order: bool = True  # of attributes, where a caption lists some
    dropout: float = Field(0.1, ge=0, lt=1)  # probability that a word is left out

    @model_validator(mode="after")
    def _hold_the_caption(self) -> Self:
        for template in self.templates:
            if fields(template, "vary.templates") != ["caption"]:
                raise ValueError(
                    f"vary.templates: {template!r} must hold {{caption}} once and no other field"
                )
        return self


class JointFit(FitParams):
    """Both encoders of a CLIP, each with its rate."""

    frozen: list[Literal["text", "image", "projection"]] = []
    lr_text: Positive  # of the text encoder
    lr_heads: Positive  # of all that is new, and of the logit scale
    scale_max: Positive = 100  # largest inverse temperature, as in CLIP


class JointParams(TrainedParams):
    """07_joint_image_text: images and prompts of a person together, both encoders trained."""

    fit: JointFit
    warm_start: str | None = Field(
        None, description="a recipe of fine_tune, whose run gives the weights to begin with"
    )
    prompts: PromptParams = PromptParams()
    vary: VaryParams = VaryParams()
    loss_use_id: bool = False
    loss_use_triplet: bool = False
    loss_use_supcon: bool = True
    loss_text_temperature: Positive | None = None  # none: the model's own scale, trained

    @model_validator(mode="after")
    def _texts(self) -> Self:
        if self.loss_use_i2t:
            raise ValueError(
                "loss_use_i2t needs one text of each person, here each image has its own; "
                "take loss_use_supcon"
            )
        if not (self.loss_use_supcon or self.loss_use_infonce):
            raise ValueError(
                "no loss reads the prompts: set loss_use_supcon or loss_use_infonce to true; "
                "without text it is 03_fine_tune"
            )
        return self


class SearchFit(OptimParams):
    """A fit of images and captions, by how well texts then find images."""

    batch_size: int = Field(32, ge=2)  # pairs
    lr: Positive = 1e-5  # of the image encoder
    lr_text: Positive | None = None  # of the text encoder; none: lr
    augment: AugmentParams = AugmentParams()
    best_by: Literal["mAP", "recall@1", "loss", "last"] = "mAP"  # text to image, on validation
    eval_every: PositiveInt = 1  # epochs between validations
    patience: PositiveInt = 5  # validations without a gain, then the fit ends


class NegativesParams(Frozen):
    """Pairs that an anchor is easily taken for, mined again each epoch."""

    mine: Literal["semantic", "random"] = "semantic"  # by the current model's similarity
    count: PositiveInt = 3  # of each anchor


class SearchPrompts(PromptParams):
    """Prompts where an image may stand alone."""

    least_images: PositiveInt = 1


class TextToImageParams(Common):
    """08_text_to_image."""

    backbone: str
    recipe: str
    model: ModelParams
    fit: SearchFit
    dataset_type: Literal["standard", "hard_negative", "triplet"] = "hard_negative"
    loss: Literal["contrastive", "triplet", "info_nce"] = "contrastive"
    temperature: Positive = 0.07  # of contrastive and info_nce
    margin: NotNegative = 0.5  # of the cosine; of contrastive and triplet
    triplets: Literal["hardest", "semi_hard"] = "hardest"  # which negatives of a batch
    negatives: NegativesParams = NegativesParams()
    freeze_image_encoder: bool = False
    freeze_text_encoder: bool = False
    freeze_projections: bool = False
    prompts: SearchPrompts = SearchPrompts()
    vary: VaryParams = VaryParams()
    embed: EmbedParams = EmbedParams()
    loader: LoaderParams = LoaderParams()
    evaluation: EvaluationParams = EvaluationParams()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @property
    def frozen(self) -> list[str]:
        """What is not trained, as models.towers.freeze names it."""
        held = {
            "image": self.freeze_image_encoder,
            "text": self.freeze_text_encoder,
            "projection": self.freeze_projections,
        }
        return [name for name, is_held in held.items() if is_held]

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.freeze_image_encoder and self.freeze_text_encoder:
            raise ValueError(
                "freeze_image_encoder and freeze_text_encoder: nothing is left to train"
            )
        size, group = self.fit.batch_size, self.group
        if group > size:
            raise ValueError(
                f"fit.batch_size {size} holds no anchor with negatives.count {group - 1} negatives"
            )
        fit = self.fit
        if self.evaluation.rerank is not None:
            raise ValueError(
                "evaluation.rerank compares images with images; searching by texts has none of it"
            )
        if self.data.val == "published" and fit.best_by != "last":
            raise ValueError(
                f"fit.best_by {fit.best_by} with data.val published: those people are trained on; "
                "take last, or data.val held_out"
            )
        check_schedule(fit)
        return self

    @property
    def group(self) -> int:
        """Pairs of a batch that belong together: an anchor and its negatives."""
        return {"standard": 1, "triplet": 2, "hard_negative": 1 + self.negatives.count}[
            self.dataset_type
        ]
