"""One forward pass with the graph above it, from which the prediction and several methods take what they need.

The logits of the pass that predicts are those whose gradients saliency and Grad-CAM take. Where a job asks for these,
that pass keeps its graph until their gradients are taken, and no method makes another.
"""

from torch import Tensor

from heatmill.catalogue.models import CAPABILITIES
from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.autograd import differentiable, differentiating
from heatmill_workers.engine.forward_pass import ForwardPass, Origin
from heatmill_workers.engine.introspection.replaced import logits_from_layer
from heatmill_workers.engine.loaded_model import LoadedModel


def forward_pass(model: LoadedModel, images: Tensor, *origins: Origin) -> ForwardPass:
    """The pass that was kept of these images, or a new one.

    Args:
        model: Any.
        images: (N, 3, H, W), on the model's device.
        *origins: Where gradients will be taken. With the map alone, the trunk below it has no graph.

    Raises:
        UnsupportedOperation: The logits have no gradient; the model has no spatial map, or it moved.
    """
    if model.kept is not None and all(model.kept.covers(images, origin) for origin in origins):
        return model.kept
    if "map" in origins and model.cut is None:
        raise UnsupportedOperation(
            f"{model.name} does not have {CAPABILITIES['spatial layer']}{model.why_missing('spatial layer')}"
        )
    with differentiating():
        image = images.detach()
        if "image" in origins:
            image = image.requires_grad_()
        if model.cut is None or "map" not in origins:
            return ForwardPass(images, differentiable(model.module(image)), {"image": image})
        logits, seen = logits_from_layer(model.module, image, model.cut)
    return ForwardPass(images, logits, {"image": image, "map": seen} if "image" in origins else {"map": seen})
