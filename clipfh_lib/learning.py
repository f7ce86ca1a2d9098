"""What may stand in the recipes of the methods that train: the fit, its losses, its prompts."""

from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, ValidationError, model_validator

from clipfh_lib.schema import (
    AugmentParams,
    Common,
    EmbedParams,
    EvaluationParams,
    Fraction,
    Frozen,
    LoaderParams,
    LoopParams,
    ModelParams,
    Positive,
)

NotNegative = Annotated[float, Field(ge=0)]
# Of an image tower, see models.towers.levels; guided: of PromptSG alone; the rest: of MBA-Net alone
Level = Literal["before", "last", "projected", "guided", "global", "channel", "spatial", "branches"]
Levels = Annotated[list[Level], Field(min_length=1)]


class OptimParams(LoopParams):
    """The optimiser, and its rate from step to step."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"  # betas 0.9, 0.999; momentum 0.9
    weight_decay: NotNegative = 0.01  # none on biases, norms, positions
    schedule: Literal["constant", "cosine", "onecycle", "step", "multistep", "plateau"] = "cosine"
    warmup: NotNegative = 0  # epochs, may be a part of one; onecycle: until its peak
    warmup_from: Fraction = 0  # share of the rate that the warm-up begins with
    lr_end: Fraction = 0  # share of the rate that a cosine ends with
    step: PositiveInt = 10  # epochs, of schedule step; plateau: validations without a gain
    milestones: list[PositiveInt] = []  # epochs, of schedule multistep
    gamma: Fraction = 0.1  # what step, multistep and plateau multiply the rate by


class PromptFit(OptimParams):
    """CLIP-ReID's first stage: prompts alone, both encoders frozen."""

    batch_size: int = Field(64, ge=2)
    lr: Positive


class FitParams(OptimParams):
    """What is trained, on which batches, at which rates, and which epoch is kept."""

    sampler: Literal["pk", "shuffle"] = "pk"
    people: int = Field(16, ge=2)  # P of pk
    images: int = Field(4, ge=2)  # K of pk; a batch is P x K
    batch_size: int = Field(32, ge=2)  # of shuffle
    lr: Positive  # of the encoder
    lr_text: Positive | None = None  # of the text encoder, where it is trained; none: lr
    lr_heads: Positive  # of all that is new
    lr_centres: Positive = 0.01  # of the class centres; SGD: divide by loss_weight_center
    layer_decay: float = Field(1, gt=0, le=1)  # rate of a block = that of the next one times this
    bias_rate: Positive = 1  # biases learn so much faster
    frozen: list[Literal["text", "image", "projection"]] = ["text"]
    unfreeze_blocks: int | dict[int, int] | None = Field(
        None, description="a number of blocks, or {epoch: blocks} such as {'0': 2, '10': 4}"
    )
    augment: AugmentParams = AugmentParams()
    best_by: Literal["rank1", "mAP", "loss", "accuracy", "last"] = "mAP"  # on validation people
    eval_every: PositiveInt = 1  # epochs between validations
    patience: PositiveInt = 5  # validations without a gain, then the fit ends

    @model_validator(mode="after")
    def _frees_more_and_more(self) -> Self:
        freed = self.unfreeze_blocks
        if isinstance(freed, dict):
            counts = [count for _, count in sorted(freed.items())]
            if not counts or min(freed) < 0 or min(counts) < 0 or counts != sorted(counts):
                raise ValueError(
                    f"fit.unfreeze_blocks {freed}: epochs from 0, with blocks that grow or stay, "
                    "such as {'0': 2, '10': 4}"
                )
        return self


class LossParams(Common):
    """Which losses are added up, with which weights; `history.csv` has a column for each one on."""

    loss_use_id: bool = True  # cross-entropy over people, behind a BNNeck
    loss_weight_id: NotNegative = 1
    loss_id_levels: Levels = ["projected"]
    loss_smoothing: float = Field(0.1, ge=0, lt=1)  # of the labels, of all cross-entropies
    loss_use_arcface: bool = False
    loss_weight_arcface: NotNegative = 1
    loss_arcface_scale: Positive = 30
    loss_arcface_margin: float = Field(0.5, ge=0, lt=3.14)  # radians
    loss_use_cosface: bool = False
    loss_weight_cosface: NotNegative = 1
    loss_cosface_scale: Positive = 30
    loss_cosface_margin: float = Field(0.35, ge=0, lt=2)  # of the cosine
    loss_use_triplet: bool = True  # batch-hard
    loss_weight_triplet: NotNegative = 1
    loss_triplet_levels: Levels = ["projected"]
    loss_triplet_margin: NotNegative | None = 0.3  # a distance; null: the soft margin
    loss_use_center: bool = False
    loss_weight_center: NotNegative = 0.0005
    loss_normalise: bool = False  # triplet and centre take unit vectors
    loss_use_image_supcon: bool = False  # images of a person together
    loss_weight_image_supcon: NotNegative = 1
    loss_image_temperature: Positive = 0.07
    loss_use_supcon: bool = False  # image and text together, both directions
    loss_weight_supcon: NotNegative = 1
    loss_use_i2t: bool = False  # image against all texts
    loss_weight_i2t: NotNegative = 1
    loss_use_infonce: bool = False  # image against the texts of the batch
    loss_weight_infonce: NotNegative = 1
    loss_text_normalise: bool = True  # unit vectors in the three losses with text
    loss_text_temperature: Positive = 0.07  # of those three; 1 for the paper's raw features
    neck: bool = True  # BNNeck: classifiers stand behind a batch norm
    projection: PositiveInt | None = None  # width of one more linear map, e.g. 256 or 1024
    feature: Levels = ["projected"]  # what is compared at test time, side by side
    feature_after_neck: bool = False  # as it comes out of the BNNeck; needs loss_use_id there

    @model_validator(mode="after")
    def _sound(self) -> Self:
        on = [name for name in losses_of(type(self)) if getattr(self, f"loss_use_{name}")]
        if not on:
            raise ValueError("no loss is on: set one of loss_use_... to true")
        if self.feature_after_neck and not (
            self.neck and self.loss_use_id and set(self.feature) <= set(self.loss_id_levels)
        ):
            raise ValueError(
                "feature_after_neck needs neck, loss_use_id, and `feature` within loss_id_levels"
            )
        return self


def losses_of(kind: type[LossParams]) -> list[str]:
    """The names of all losses, as in `loss_use_<name>`."""
    start = "loss_use_"
    return [name.removeprefix(start) for name in kind.model_fields if name.startswith(start)]


def check_schedule(fit: OptimParams) -> None:
    """Refuse a schedule that its fit, which is validated, can do nothing with.

    Args:
        fit: with `best_by` and `patience`.

    Raises:
        ValueError: names the keys that do not go together.
    """
    if fit.schedule == "multistep" and not fit.milestones:
        raise ValueError("fit.schedule multistep needs fit.milestones, e.g. [40, 60]")
    if fit.schedule != "plateau":
        return
    if fit.best_by == "last":
        raise ValueError("fit.schedule plateau needs a measure: fit.best_by mAP or loss")
    if fit.warmup:
        raise ValueError("fit.schedule plateau takes no fit.warmup")
    if fit.step >= fit.patience:
        raise ValueError(
            f"fit.schedule plateau: fit.step {fit.step} validations without a gain lower the rate, "
            f"fit.patience {fit.patience} end the fit before: make step smaller"
        )


class TrainedParams(LossParams):
    """What 03, 05 and 06 share: an image encoder is trained and then evaluated."""

    backbone: str
    recipe: str
    model: ModelParams
    fit: FitParams
    embed: EmbedParams = EmbedParams()
    loader: LoaderParams = LoaderParams()
    evaluation: EvaluationParams = EvaluationParams()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        by, val = self.fit.best_by, self.data.val
        if val == "published" and by in ("rank1", "mAP"):
            raise ValueError(
                f"fit.best_by {by} with data.val published: those people are trained on, rank-1 "
                "among them says nothing of new ones; take accuracy, loss, last, or held_out"
            )
        if val == "held_out" and by == "accuracy":
            raise ValueError("fit.best_by accuracy needs data.val published; take mAP or rank1")
        check_schedule(self.fit)
        return self


class CaptionParams(Frozen):
    """Sentences of an image's table row, with {aspect}, {side}, {accessories}."""

    templates: list[str] = Field(["A {aspect} {side} hand {accessories} accessories"], min_length=1)

    @model_validator(mode="after")
    def _fields(self) -> Self:
        for template in self.templates:
            try:
                template.format(aspect="", side="", accessories="")
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(
                    f"captions.templates: {error} in {template!r}; fields are "
                    "{aspect}, {side}, {accessories}"
                ) from None
        return self


class FineTuneParams(TrainedParams):
    """03_fine_tune; losses with text take the captions, through the text encoder."""

    captions: CaptionParams = CaptionParams()

    @model_validator(mode="after")
    def _text(self) -> Self:
        reads = self.loss_use_supcon or self.loss_use_i2t or self.loss_use_infonce
        if "text" not in self.fit.frozen and not reads:
            raise ValueError("fit.frozen lacks text, but no loss reads text: nothing would move it")
        return self


class LearnedPrompts(Frozen):
    """Prompts with learnable tokens in the place of {tokens}; the rest are words."""

    tokens: PositiveInt = 4  # M, of each person
    start: Literal["normal", "X"] = "normal"  # small at random, or the embedding of the word X
    templates: list[str] = Field(["A photo of a {tokens} hand."], min_length=1)

    @model_validator(mode="after")
    def _fields(self) -> Self:
        for template in self.templates:
            try:
                parts = list(Formatter().parse(template))
            except ValueError as error:
                raise ValueError(f"prompts.templates: {error} in {template!r}") from None
            named = [name for _, name, _, _ in parts if name is not None]
            plain = all(not how and not kind for _, _, how, kind in parts)
            if named.count("tokens") != 1 or set(named) - {"tokens", "aspect", "side"} or not plain:
                raise ValueError(
                    "prompts.templates: {tokens} stands once in each, beside it {aspect} and "
                    f"{{side}} at the most; not so in {template!r}"
                )
        return self


class ClipReidPromptsParams(Common):
    """04_clip_reid_prompts: the first stage of CLIP-ReID."""

    backbone: str
    recipe: str
    model: ModelParams
    fit: PromptFit
    prompts: LearnedPrompts = LearnedPrompts()
    loss_text_normalise: bool = False
    loss_text_temperature: Positive = 1
    loader: LoaderParams = LoaderParams()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @model_validator(mode="after")
    def _without_validation(self) -> Self:
        if self.fit.schedule == "plateau":
            raise ValueError("fit.schedule plateau needs validation, which prompts have not")
        return self


class UsedPrompts(Frozen):
    """Which learned prompts the second stage takes."""

    run: str | None = None  # a run folder of 04; none: that of the same axes, made if missing
    recipe: str | None = None  # of clip_reid_prompts; none: that of the same name
    shuffle: bool = False  # permuted between people: does the text matter?
    lr: Positive = 1e-4  # where they train on


class ClipReidEncoderParams(TrainedParams):
    """05_clip_reid_encoder: the second stage of CLIP-ReID."""

    prompts: UsedPrompts = UsedPrompts()
    learn_prompts: bool = False  # the prompts train on with the encoder

    @model_validator(mode="after")
    def _text(self) -> Self:
        if not (self.loss_use_i2t or self.loss_use_supcon or self.loss_use_infonce):
            raise ValueError(
                "no loss reads the prompts: set loss_use_i2t, loss_use_supcon or loss_use_infonce "
                "to true; without text it is 03_fine_tune"
            )
        if "text" not in self.fit.frozen:
            raise ValueError("fit.frozen must hold text: the prompts were learned for this encoder")
        return self


class GuideParams(Frozen):
    """PromptSG: a word from the image, and what reads the patches by it."""

    template: str = "A photo of a {word} hand."  # also {aspect}, {side}, of the whole data set
    fixed: str = "A photo of a hand."  # the sentence without the word
    test: Literal["composed", "fixed"] = "composed"
    hidden: PositiveInt = 512  # of the inversion network
    cross_layers: PositiveInt = 1
    self_layers: int = Field(2, ge=0)
    dropout: float = Field(0, ge=0, lt=1)

    @model_validator(mode="after")
    def _sentences(self) -> Self:
        for name, said in {"template": self.template, "fixed": self.fixed}.items():
            try:
                fields = [field for _, field, _, _ in Formatter().parse(said) if field is not None]
            except ValueError as error:
                raise ValueError(f"guide.{name}: {error} in {said!r}") from None
            if fields.count("word") != (name == "template"):
                raise ValueError("{word} stands once in guide.template, and not in guide.fixed")
            if wrong := set(fields) - {"word", "aspect", "side"}:
                raise ValueError(
                    f"guide.{name}: {{{min(wrong)}}} is none of {{word}}, {{aspect}}, {{side}}"
                )
        return self


class PromptSgParams(TrainedParams):
    """06_prompt_sg."""

    loss_id_levels: Levels = ["guided"]
    loss_triplet_levels: Levels = ["last", "projected", "guided"]
    loss_use_supcon: bool = True  # an image and the sentence with its word, both directions
    loss_weight_supcon: NotNegative = 0.5
    feature: Levels = ["guided"]
    guide: GuideParams = GuideParams()

    @model_validator(mode="after")
    def _texts(self) -> Self:
        if self.loss_use_i2t:
            raise ValueError(
                "loss_use_i2t needs a text of each person, here each image has its own; "
                "take loss_use_supcon"
            )
        return self


Branch = Literal["global", "channel", "spatial"]


class BranchParams(Frozen):
    """MBA-Net: what stands between the feature map of a tower and the features."""

    branches: Annotated[list[Branch], Field(min_length=1)] = ["global", "channel", "spatial"]
    width: PositiveInt = 2048  # of each branch's feature; all stand side by side at the end
    squeeze: PositiveInt = 8  # spatial: queries and keys have so many times fewer channels
    position: bool = True  # spatial: relative position encodings
    last_stride: Literal[1, 2] = 1  # of the last stage that halves the map; 2: as the network is

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.branches)) < len(self.branches):
            raise ValueError(f"net.branches: {self.branches}: each at most once")
        return self


class MbaNetParams(TrainedParams):
    """09_mba_net; `loss_id_levels` are the branches, unless it is given."""

    net: BranchParams = BranchParams()
    loss_use_triplet: bool = False
    loss_triplet_levels: Levels = ["branches"]
    neck: bool = False  # the reduction of a branch ends in a batch norm of its own
    feature: Levels = ["branches"]

    @model_validator(mode="before")
    @classmethod
    def _each_named(cls, given: object) -> object:
        if isinstance(given, dict) and "loss_id_levels" not in given:
            try:
                net = BranchParams.model_validate(given.get("net", {}))
            except ValidationError:  # is told of `net`, where it stands
                return given
            given = {**given, "loss_id_levels": list(net.branches)}
        return given

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.loss_use_i2t or self.loss_use_supcon or self.loss_use_infonce:
            raise ValueError(
                "MBA-Net reads no text: loss_use_i2t, loss_use_supcon and loss_use_infonce are off"
            )
        taken = {*(self.loss_id_levels if self.loss_use_id else ())}
        taken |= {*(self.loss_triplet_levels if self.loss_use_triplet else ())}
        together = ("arcface", "cosface", "center", "image_supcon")
        if any(getattr(self, f"loss_use_{name}") for name in together) or "branches" in taken:
            return self
        if idle := [name for name in self.net.branches if name not in taken]:
            raise ValueError(
                f"net.branches: no loss takes {idle[0]}; add it to loss_id_levels or leave it out"
            )
        return self
