"""The reference libraries as their documentation uses them: one image at a time, on the module as its library made it.

Each takes a module, an image (1, 3, H, W) and its target, and gives the attribution as heatmill gives it. Repairs, only
where a library does not run at all:

- shap's DeepExplainer and captum's DeepLift fail on ResNet-18, whose blocks use one ReLU twice, and in place: they get
  a copy in which each call has a module of its own.
- `ranked_outputs=1` needs `check_additivity=False`: the check compares classes that were not explained.
"""

import copy
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from captum.attr import DeepLift, GradientShap, IntegratedGradients, LayerGradCam, Saliency
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

Values = NDArray[np.float32]
# The photo's mean colour, black and white in ImageNet's normalised space.
LEVELS = {"mean": None, "black": 0.0, "white": 1.0}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLURRED = (128, 128)
MOST_DOUBLINGS = 4


def captum_saliency(module: nn.Module, image: Tensor, target: int) -> Values:
    """Signed, as ours."""
    return _values(Saliency(module).attribute(image.clone().requires_grad_(), target=target, abs=False))


def captum_integrated_gradients(module: nn.Module, image: Tensor, target: int) -> Values:
    """50 steps in one batch, and the convergence delta."""
    values, _ = IntegratedGradients(module).attribute(image, target=target, return_convergence_delta=True)
    return _values(values)


def captum_integrated_gradients_to_error(module: nn.Module, image: Tensor, target: int, max_error: float) -> Values:
    """Twice the steps until the convergence delta is small enough; in batches of 50, since 400 do not fit."""
    with torch.no_grad():
        change = float(module(image)[0, target] - module(torch.zeros_like(image))[0, target])
    method = IntegratedGradients(module)
    for doubling in range(MOST_DOUBLINGS + 1):
        values, delta = method.attribute(
            image, target=target, n_steps=50 * 2**doubling, internal_batch_size=50, return_convergence_delta=True
        )
        if abs(float(delta)) <= max_error * abs(change):
            break
    return _values(values)


def captum_gradient_shap(module: nn.Module, image: Tensor, target: int) -> Values:
    """50 samples over the same background set."""
    torch.manual_seed(0)
    return _values(GradientShap(module).attribute(image, background(image), n_samples=50, target=target))


def captum_grad_cam(module: nn.Module, image: Tensor, target: int) -> Values:
    """The layer's own resolution."""
    method = LayerGradCam(module, spatial_layer(module))
    return _values(method.attribute(image, target, relu_attributions=True))


def pytorch_grad_cam(module: nn.Module, image: Tensor, target: int) -> Values:
    """Drawn up to the image's size by the library."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=module, target_layers=[spatial_layer(module)]) as method:
        found = method(input_tensor=image, targets=[ClassifierOutputTarget(target)])
    return np.asarray(found, np.float32)[:, None]


def captum_deep_lift(module: nn.Module, image: Tensor, target: int) -> Values:
    """Against the mean colour."""
    with warnings.catch_warnings():
        # It says that it sets hooks.
        warnings.simplefilter("ignore")
        return _values(DeepLift(repaired(module)).attribute(image.clone().requires_grad_(), target=target))


def shap_deep(module: nn.Module, image: Tensor, target: int) -> Values:
    """The first class only, as `ranked_outputs` says it."""
    import shap

    with warnings.catch_warnings():
        # Of modules that it does not know, and of hooks.
        warnings.simplefilter("ignore")
        explainer = shap.DeepExplainer(repaired(module), background(image))
        values, _ = explainer.shap_values(image.clone().requires_grad_(), ranked_outputs=1, check_additivity=False)
    return np.asarray(values[..., 0], np.float32)


def shap_partition(module: nn.Module, image: Tensor, target: int, evaluations: int = 500) -> Values:
    """Evaluations of the logit over blurred regions, colours summed.

    In batches of 10, the library's default: with a tutorial's 50 it halves regions in another order.
    """
    import shap

    def logits(batch: Values) -> Values:
        with torch.no_grad():
            found: Tensor = module(torch.from_numpy(batch).permute(0, 3, 1, 2).to(image.device))
        return np.asarray(found[:, target].cpu())

    photo = image[0].permute(1, 2, 0).cpu().numpy()
    masker = shap.maskers.Image(f"blur({BLURRED[0]},{BLURRED[1]})", photo.shape)
    explainer = shap.PartitionExplainer(logits, masker)
    values = explainer(photo[None], max_evals=evaluations, silent=True).values[0]
    return np.asarray(values.sum(-1)[None, None], np.float32)


def lime_image(module: nn.Module, image: Tensor, target: int, samples: int = 1000) -> Values:
    """1,000 samples, as the library's tutorial; each pixel has its segment's coefficient."""
    from lime.lime_image import LimeImageExplainer

    from heatmill_workers.engine.perturbation.segments import segment

    def probabilities(batch: NDArray[np.uint8]) -> Values:
        inputs = (torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255 - _colour(MEAN)) / _colour(STD)
        with torch.no_grad():
            found: Tensor = module(inputs.to(image.device)).softmax(1)
        return np.asarray(found.cpu())

    pixels = ((image.cpu() * _colour(STD) + _colour(MEAN)) * 255).round().clamp(0, 255)
    photo = pixels[0].permute(1, 2, 0).to(torch.uint8).numpy()
    found = LimeImageExplainer(random_state=0, verbose=False).explain_instance(
        photo,
        probabilities,
        top_labels=5,
        num_samples=samples,
        # Quickshift with the library's numbers and a fixed seed, so that both cut the photo alike.
        segmentation_fn=lambda pixels: segment(pixels, "quickshift", 50, 0),
        random_seed=0,
    )
    coefficients = np.array([weight for _, weight in sorted(found.local_exp[target])], np.float32)
    of_pixels: Values = coefficients[found.segments][None, None]
    return of_pixels


def transformers_attention(module: nn.Module, image: Tensor, target: int) -> Values:
    """The last layer's class token, the mean over heads."""
    with torch.no_grad():
        last = _eager(module, image).attentions[-1]
    return _on_the_grid(last.mean(1))


def transformers_rollout(module: nn.Module, image: Tensor, target: int) -> Values:
    """All layers, as the method's authors publish it."""
    with torch.no_grad():
        layers = [layer.mean(1) for layer in _eager(module, image).attentions]
    identity = torch.eye(layers[0].shape[-1])
    total = identity
    for layer in layers:
        mixed = (layer + identity) / (layer + identity).sum(-1, keepdim=True)
        total = mixed @ total
    return _on_the_grid(total)


def transformers_attention_gradient(module: nn.Module, image: Tensor, target: int) -> Values:
    """Chefer's, with the gradients that autograd keeps at each layer's attention."""
    found = _eager(module, image)
    gradients = torch.autograd.grad(found.logits[0, target], found.attentions)
    identity = torch.eye(found.attentions[0].shape[-1])
    total = identity
    for layer, gradient in zip(found.attentions, gradients, strict=True):
        total = total + (gradient * layer).clamp(min=0).mean(1).detach() @ total
    return _on_the_grid(total - identity)


def background(image: Tensor) -> Tensor:
    """Ours by default: mean colour, black, white, and the photo blurred."""
    from heatmill_workers.engine.perturbation.hiding import blurred

    plain = [
        torch.zeros(1, 3, 1, 1) if level is None else (level - _colour(MEAN)) / _colour(STD)
        for level in LEVELS.values()
    ]
    flat = [colour.expand_as(image) for colour in plain]
    return torch.cat([*flat, blurred(image, image.shape[2] // 4, image.shape[3] // 4)])


def spatial_layer(module: nn.Module) -> nn.Module:
    """The layer that both libraries' documentation names: the last before pooling."""
    if hasattr(module, "layer4"):
        return module.get_submodule("layer4")
    # EfficientNet-Lite's last activation belongs to the whole network.
    return module.get_submodule("_swish")


@cache
def repaired(module: nn.Module) -> nn.Module:
    """A copy that captum's and shap's DeepLIFT run on."""
    found = copy.deepcopy(module)
    for block in found.modules():
        if isinstance(block, nn.ReLU):
            block.inplace = False
        if isinstance(block, BasicBlock):
            block.relu2 = nn.ReLU()
            block.forward = _block_forward.__get__(block)
    return found


def _block_forward(block: Any, images: Tensor) -> Tensor:
    out = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(images)))))
    summed: Tensor = block.relu2(out + (block.downsample(images) if block.downsample else images))
    return summed


def _eager(module: nn.Module, image: Tensor) -> Any:
    return module.inner(pixel_values=image, output_attentions=True)  # type: ignore[operator]


def _on_the_grid(relevance: Tensor) -> Values:
    patches = relevance[:, 0, 1:]
    side = round(patches.shape[1] ** 0.5)
    return _values(patches.reshape(-1, 1, side, side))


def _colour(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _values(found: Tensor) -> Values:
    return np.asarray(found.detach().cpu().numpy(), np.float32)
