"""Deep SHAP.

Lundberg, Lee: A Unified Approach to Interpreting Model Predictions (2017), section 4.2: DeepLIFT against each image of
a background set, and the mean of that. Only the asked-for classes are explained.
"""

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from heatmill.catalogue.methods import MethodCost
from heatmill.catalogue.models import MAX_BACKGROUND, BackgroundEntry
from heatmill_workers.engine.baselines import BACKGROUND, background
from heatmill_workers.engine.deeplift.attributions import deep_attributions
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.rounding import of_parts
from heatmill_workers.methods.contract import MethodOutput, method
from heatmill_workers.methods.self_check import measure


class Params(BaseModel):
    """The background set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    background: tuple[BackgroundEntry, ...] = Field(
        ("mean", "black", "white", "blur"), min_length=1, max_length=MAX_BACKGROUND, description=BACKGROUND
    )


@method(Params, picture="signed", passes=MethodCost(base=1, per_unit={"background": 5}), needs=("operations",))
def deep_shap(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """How much each pixel adds to the class score compared with a background set, by DeepLIFT's rules."""
    baselines = background(model, images, params.background)
    values, differences, rounding, checks = deep_attributions(model, images, targets, baselines)
    measured = measure(values, differences, checks, background=len(baselines))
    return MethodOutput(values, measured, of_parts(values, rounding))
