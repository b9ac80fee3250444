"""A TorchScript file. It is code; it is loaded only if it is the one whose sha256 the operator wrote down."""

import torch

from heatmill.catalogue.models import ModelSpec, Preprocessing, spec_labels
from heatmill.errors import ModelUnavailable
from heatmill_workers.engine.loaded_model import Built
from heatmill_workers.models.reasons import reason
from heatmill_workers.models.weights import checked_file


def build(spec: ModelSpec) -> Built:
    """The scripted module.

    Raises:
        ModelUnavailable: The file is another, or no TorchScript.
        WeightsUnavailable: There is no such file on this machine.
    """
    file = checked_file(spec)
    try:
        module = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ModelUnavailable(f"model {spec.name}: {spec.weights} is no TorchScript file: {reason(error)}") from error
    return Built(module, spec.preprocessing or Preprocessing(), spec_labels(spec) or ())
