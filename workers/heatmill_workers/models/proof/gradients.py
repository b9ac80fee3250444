"""Whether a model's gradients can be had, and whether those of an image alone are the same as in a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heatmill.errors import ModelRefused, UnsupportedOperation
from heatmill_workers.engine.autograd import differentiable, differentiating, gradients
from heatmill_workers.engine.machine_faults import machine_fault
from heatmill_workers.models.adapted import Needs, adapt
from heatmill_workers.models.proof.comparison import Tolerance
from heatmill_workers.models.proof.inputs import FIRST_PHOTO, NOISE
from heatmill_workers.models.reasons import reason


@dataclass(frozen=True)
class Differentiability:
    """What was seen of a model's gradients.

    Args:
        fault: Why it has none; empty where it has.
        two_rows: An image alone has to be handed to it twice.
    """

    fault: str = ""
    two_rows: bool = False


def check_gradients(name: str, module: nn.Module, images: Tensor, allowed: Tolerance) -> Differentiability:
    """Take the gradient of an image beside another, and alone.

    On the CPU torch 2.15 differentiates batch norm of a single row wrongly in some memory layouts, and what heatmill
    does about it does not reach into a compiled file.

    Args:
        name: Of the model, for messages.
        module: As methods will call it.
        images: (5, C, H, W), as `proof_images` makes them.
        allowed: By the model's precision.

    Raises:
        ModelRefused: An image's gradient is another alone, also where it is handed in twice.
    """
    image = images[FIRST_PHOTO : FIRST_PHOTO + 1]
    if hooked := _hooked_part(module):
        return Differentiability(f"its part {hooked} has backward hooks, which may change gradients; remove them")
    try:
        together = _gradients(module, images[[FIRST_PHOTO, NOISE]])[:1]
        if _is_same(_gradients(module, image), together, allowed):
            return Differentiability()
        twice = _gradients(adapt(module, None, Needs(two_rows=True)), image)
    except UnsupportedOperation as error:
        return Differentiability(_quantised(module) or str(error))
    # It runs without gradients: whatever it raises now is about them, unless it is the machine's.
    except Exception as error:
        if machine_fault(error) is not None:
            raise
        fault = f"torch cannot take its gradients ({type(error).__name__}: {reason(error)})"
        return Differentiability(_quantised(module) or fault)
    if not _is_same(twice, together, allowed):
        raise ModelRefused(
            f"model {name} cannot be explained, since its rows depend on one another: an image's gradient changes with "
            f"the other images of its batch"
        )
    return Differentiability(two_rows=True)


def _quantised(module: nn.Module) -> str:
    layer = quantised_layer(module)
    return f"it has quantised layers ({layer}), which torch cannot follow" if layer else ""


def _hooked_part(module: nn.Module) -> str:
    """The name of a part with backward hooks, such as those of guided backpropagation."""
    hooks = ("_backward_hooks", "_backward_pre_hooks")
    parts = ((name or "itself", part) for name, part in module.named_modules())
    return next((name for name, part in parts if any(getattr(part, each, None) for each in hooks)), "")


def _gradients(module: nn.Module, images: Tensor) -> Tensor:
    """Gradients (N, C, H, W) of all logits at once, unequally weighted: the outputs of a softmax sum to a constant."""
    with differentiating():
        leaf = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        logits = differentiable(module(leaf))
        weights = torch.arange(1, logits.shape[1] + 1, device=logits.device) / logits.shape[1]
        (found,) = gradients((logits * weights).sum(), [leaf])
    return found


def _is_same(found: Tensor, wanted: Tensor, allowed: Tolerance) -> bool:
    """Row by row, in shares of the length; a gradient that is not finite says nothing."""
    differences = (found - wanted).flatten(1).double().norm(dim=1)
    lengths = wanted.flatten(1).double().norm(dim=1)
    return not (differences > allowed.of_gradient * lengths).any()


def quantised_layer(module: nn.Module) -> str:
    """The kind of its first quantised layer; empty where it has none."""
    kinds = (type(part).__name__ for part in module.modules() if "quantized" in type(part).__module__)
    return next(kinds, "")
