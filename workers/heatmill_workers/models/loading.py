"""From a spec to a model that is ready: frozen, measured, probed."""

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn

from heatmill.errors import ModelUnavailable
from heatmill.models import ModelSpec, spec_labels
from heatmill_workers.engine.batching import BatchSizes
from heatmill_workers.engine.spatial import find_cut
from heatmill_workers.engine.tokens import find_tokens
from heatmill_workers.models.fusing import fuse
from heatmill_workers.models.loaded import Built, LoadedModel
from heatmill_workers.models.weights import digest


def pick_device() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(spec: ModelSpec, device: torch.device) -> LoadedModel:
    """Build, freeze, digest, move and probe a model.

    Raises:
        ModelUnavailable: The message names the model and the setting that cures it.
    """
    return prepare(spec, _loader(spec)(spec), device)


def prepare(spec: ModelSpec, built: Built, device: torch.device) -> LoadedModel:
    """Make what a loader built ready to explain. The module is changed in place.

    Raises:
        ModelUnavailable: It is no classifier of such images, has other classes, or `cam_layer` is wrong.
    """
    module = built.module.eval()
    # One by one: a TorchScript module refuses `requires_grad_`.
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    weights_digest = digest(module)
    # channels_last: 25-28 ms an image where it was 65-91 (ResNet-18, two cores, forward and backward).
    module = _channels_last(module.to(device))
    preprocessing = spec.preprocessing or built.preprocessing
    labels = spec_labels(spec) or built.labels
    image = torch.zeros(1, 3, *preprocessing.input_size, device=device)
    _check_classes(spec, _try_forward(spec, module, image), labels)
    if not spec.opaque:
        # A seventh of the time of EfficientNet-Lite0 was batch norm's; of ResNet-18's, a twentieth.
        fuse(module, image.shape, spec.cam_layer)
    try:
        cut = None if spec.opaque else find_cut(module, image, spec.cam_layer)
    except ValueError as error:
        raise ModelUnavailable(f"model {spec.name}: `cam_layer` in models.toml: {error}") from error
    return LoadedModel(
        name=spec.name,
        module=module,
        device=device,
        dtype=torch.float32,
        digest=weights_digest,
        labels=labels,
        preprocessing=preprocessing,
        cut=cut,
        tokens=None if spec.opaque else find_tokens(module, image),
        opaque=spec.opaque,
        batch_sizes=BatchSizes(device),
    )


def _channels_last(module: nn.Module) -> nn.Module:
    """In place, where there are four dimensions; `Module.to` gives up on a module that also has five."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


def _loader(spec: ModelSpec) -> Callable[[ModelSpec], Built]:
    build: Callable[[ModelSpec], Built] = import_module(f"heatmill_workers.models.loaders.{spec.loader}").build
    return build


def _try_forward(spec: ModelSpec, module: nn.Module, image: Tensor) -> object:
    try:
        with torch.no_grad():
            return module(image)
    # What modules raise on a size that they were not built for.
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        height, width = image.shape[2:]
        raise ModelUnavailable(
            f"model {spec.name} does not run on {height} x {width} pixels; see `preprocessing` in models.toml: {error}"
        ) from error


def _check_classes(spec: ModelSpec, logits: object, labels: tuple[str, ...]) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        raise ModelUnavailable(f"model {spec.name} does not put out logits (N, classes)")
    if logits.shape[1] != len(labels):
        raise ModelUnavailable(
            f"model {spec.name} has {logits.shape[1]} classes and {len(labels)} labels; correct `labels` in models.toml"
        )
