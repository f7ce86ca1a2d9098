"""What may stand in the recipes of the studies 10 to 12, which look into a run that is there."""

from typing import Literal

from clipfh_lib.schema import (
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


class RobustnessParams(StudyParams):
    """10_robustness."""


class AttentionParams(StudyParams):
    """11_attention."""


class IdentifyParams(StudyParams):
    """12_identify."""
