"""Writes what the API must know without torch.

python -m heatmill_workers.export         methods.json, models.json and the labels, for `make methods`
python -m heatmill_workers.export FILE    the methods of other packages, for HEATMILL_METHODS_FILE
"""

import json
import sys
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torchvision.models import ResNet18_Weights

from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill_workers.engine.introspection.spatial import find_cam_layer
from heatmill_workers.engine.introspection.tokens import find_tokens
from heatmill_workers.engine.loaded_model import capabilities
from heatmill_workers.methods.contract import Method
from heatmill_workers.methods.registry import register
from heatmill_workers.models import digits
from heatmill_workers.models.loaders import bundled, torchvision
from heatmill_workers.models.loading import load

Entry = dict[str, Any]


def main() -> None:
    """Write the files into the package, or the file that is named."""
    if len(sys.argv) > 1:
        _write(Path(sys.argv[1]), methods(own=False))
        return
    # In a checkout the package is a plain folder.
    package = Path(str(files("heatmill.catalogue"))) / "data"
    _write(package / "labels" / "imagenet.json", ResNet18_Weights.DEFAULT.meta["categories"])
    _write(package / "labels" / "digits.json", digits.LABELS)
    _write(package / "methods.json", methods())
    _write(package / "models.json", models(torchvision.names()))


def methods(*, own: bool = True) -> list[Entry]:
    """An entry for every explainer of this project, or for every other one, by name."""
    chosen = [each for each in register().values() if each.function.__module__.startswith("heatmill_workers.") == own]
    return [_method(method) for method in sorted(chosen, key=lambda method: method.name)]


def models(names: Iterable[str]) -> list[Entry]:
    """An entry for each bundled model and for each of torchvision's, by name."""
    entries = [*map(_bundled_model, bundled.LABELS), *map(_torchvision_model, names)]
    return sorted(entries, key=lambda entry: str(entry["name"]))


class _WithoutWeights(TorchFunctionMode):
    """Parameters and buffers have shapes only, so that 644 million of them cost nothing.

    `torch.device("meta")` would also take the numbers from which RegNet computes its widths.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Entry | None = None
    ) -> Any:
        if func in {torch.empty, torch.zeros, torch.ones}:
            kwargs = {**(kwargs or {}), "device": "meta"}
        return func(*args, **(kwargs or {}))


def _method(method: Method) -> Entry:
    return {
        "name": method.name,
        "title": method.title,
        "summary": method.summary,
        "params": method.params.model_json_schema(),
        "needs": list(method.needs),
        "picture": method.picture,
        "passes": {
            "base": method.passes.base,
            "per": dict(method.passes.per_unit),
            "until": dict(method.passes.upper_bound),
        },
    }


def _bundled_model(name: str) -> Entry:
    model = load(ModelSpec(name=name, loader="bundled"), torch.device("cpu"))
    own: Entry = {"labels": bundled.LABELS[name]}
    if name in bundled.BASELINES:
        own["baseline"] = bundled.BASELINES[name]
    return _model(model.name, "bundled", model.preprocessing, model.supports) | own


def _torchvision_model(name: str) -> Entry:
    preprocessing = torchvision.published_preprocessing(name)
    with _WithoutWeights():
        module = torchvision.architecture(name, 1000, preprocessing.input_size[0])
    image = torch.empty(1, 3, *preprocessing.input_size, device="meta")
    module = module.to("meta").eval().requires_grad_(False)
    supports = capabilities(find_cam_layer(module, image), find_tokens(module, image), gradients=True, operations=True)
    return _model(name, "torchvision", preprocessing, supports)


def _model(name: str, loader: str, preprocessing: Preprocessing, supports: frozenset[str]) -> Entry:
    size = list(preprocessing.input_size)
    return {"name": name, "loader": loader, "input_size": size, "labels": "imagenet", "supports": sorted(supports)}


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
