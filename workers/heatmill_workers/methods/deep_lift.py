"""DeepLIFT.

Shrikumar, Greenside, Kundaje: Learning Important Features Through Propagating Activation Differences (2017), the
rescale rule (section 3.5.1), on stock models: functions are met one by one as they are called, so that reused modules,
in-place and functional calls, residual sums, overlapping max pools, products, norms and attention all count. One that
has no rule is an error that names it.
"""

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from heatmill.catalogue.methods import MethodCost
from heatmill.catalogue.models import Baseline
from heatmill_workers.engine.baselines import DESCRIPTION, background
from heatmill_workers.engine.deeplift.attributions import deep_attributions
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.rounding import of_parts
from heatmill_workers.methods.contract import MethodOutput, method
from heatmill_workers.methods.self_check import measure


class Params(BaseModel):
    """What the image is compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseline: Baseline = Field("mean", description=f"What the image is compared with: {DESCRIPTION}.")


@method(Params, picture="signed", passes=MethodCost(base=5, per_unit={}), needs=("operations",))
def deep_lift(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """How much each pixel's difference from a blank image adds to the class score."""
    baselines = background(model, images, [params.baseline])
    values, differences, rounding, checks = deep_attributions(model, images, targets, baselines)
    measured = measure(values, differences, checks)
    return MethodOutput(values, measured, of_parts(values, rounding))
