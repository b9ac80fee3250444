"""A small classifier, what people do to one, and how it is loaded and asked."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.models.loading import prepare
from tests.workers.small import CPU

SIDE = 24
LABELS = ("circle", "square", "triangle")
PREPROCESSING = Preprocessing(resize=SIDE, crop=SIDE)
PARAMS: dict[str, dict[str, object]] = {
    "saliency": {},
    "integrated_gradients": {"steps": 6},
    "gradient_shap": {"samples": 8},
    "grad_cam": {},
    "deep_lift": {"baseline": "blur"},
    "partition_shap": {"max_evals": 12},
    "lime": {"samples": 40, "segmentation": "grid", "segments": 9},
}


class Net(nn.Module):
    """Two convolutions with batch norm, pooled, and a linear layer; a subclass changes one step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 8, 3, stride=2), nn.Linear(8, len(LABELS))

    def features(self, images: Tensor) -> Tensor:
        """(N, 8, h, w)."""
        maps: Tensor = self.second(self.norm(self.first(images)).relu()).relu()
        return maps

    def read(self, features: Tensor) -> Tensor:
        """(N, 8, h, w) to (N, 8)."""
        return features.mean((2, 3))

    def forward(self, images: Tensor) -> Any:
        """(N, 3, H, W) to (N, 3)."""
        return self.head(self.read(self.features(images)))


class Flattens(Net):
    """`.view`, which only contiguous maps allow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 11 * 11, len(LABELS))

    def read(self, features: Tensor) -> Tensor:
        return features.view(-1, 8 * 11 * 11)


def seeded(kind: type[nn.Module]) -> nn.Module:
    """The same weights each time, and batch norms that have seen something."""
    torch.manual_seed(1)
    module = kind()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_var is not None:
            nn.init.uniform_(part.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def entry(**fields: Any) -> ModelSpec:
    """An operator's own module, as models.toml names it."""
    known = {"name": "shapes", "loader": "python", "architecture": "nets:net", "labels": LABELS}
    return ModelSpec(**{**known, "preprocessing": PREPROCESSING, **fields})


def proved(module: nn.Module, **fields: Any) -> LoadedModel:
    """A module as a worker would have it."""
    spec = entry(**fields)
    return prepare(spec, Built(module, spec.preprocessing or PREPROCESSING, LABELS), CPU)


def noise(count: int = 3) -> Tensor:
    """Normalised images of different brightness, (count, 3, SIDE, SIDE)."""
    brightness = torch.linspace(-0.6, 0.9, count).view(-1, 1, 1, 1)
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7)) + brightness


def maps(method: str, model: LoadedModel, images: Tensor) -> Tensor:
    """Attributions of class 1, (N, C, h, w); an error is raised."""
    answers = explain(method, model, images, torch.ones(len(images), dtype=torch.int64), PARAMS[method])
    for answer in answers:
        if not isinstance(answer, Explanation):
            raise answer
    return torch.stack([torch.from_numpy(answer.attribution) for answer in answers if isinstance(answer, Explanation)])


def gradients(module: nn.Module, images: Tensor) -> Tensor:
    """Of class 1, by a module that nobody touched, and never of a single row."""
    leaf = images.clone().requires_grad_()
    logits = module(torch.cat([leaf, images.flip(0)]).clone())[: len(images)]
    (found,) = torch.autograd.grad(logits[:, 1].sum(), leaf)
    return found


def scripted(kind: type[nn.Module], path: Path) -> nn.Module:
    """The kind as a TorchScript file that was read again."""
    torch.jit.trace(seeded(kind), noise(2)).save(str(path))  # type: ignore[no-untyped-call]
    module: nn.Module = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return module


def exported(kind: type[nn.Module], path: Path) -> nn.Module:
    """The kind as a file of torch.export that was read again."""
    free = ({0: torch.export.Dim("count", min=1)},)
    torch.export.save(torch.export.export(seeded(kind), (noise(2),), dynamic_shapes=free), path)
    from heatmill_workers.models.loaders.torch_export import Exported

    return Exported(torch.export.load(path).module())
