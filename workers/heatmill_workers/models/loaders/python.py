"""A model of the operator's own code: `architecture = "package.module:factory"`, and `factory()` makes the module.

The code runs in the worker with all its rights; it is the operator's, and callers cannot name it.
"""

from importlib import import_module

from torch import nn

from heatmill.catalogue.models import ModelSpec, Preprocessing, spec_labels
from heatmill.errors import ModelUnavailable
from heatmill_workers.engine.loaded_model import Built
from heatmill_workers.models.reasons import reason
from heatmill_workers.models.weights import fill, read_weights


def build(spec: ModelSpec) -> Built:
    """What the factory makes, with the weights of the operator's file where there is one.

    Raises:
        ModelUnavailable: There is no such factory, it fails, it makes no module, or the operator's file does not fit.
        WeightsUnavailable: There is no such file on this machine.
    """
    module = _made(spec)
    if spec.weights:
        fill(spec, module, read_weights(spec, spec.weights))
    return Built(module, spec.preprocessing or Preprocessing(), spec_labels(spec) or ())


def _made(spec: ModelSpec) -> nn.Module:
    package, _, factory = spec.builds.partition(":")
    try:
        made = getattr(import_module(package), factory)()
    except Exception as error:
        raise ModelUnavailable(
            f"model {spec.name}: {spec.builds} cannot be called ({type(error).__name__}: {reason(error)}); "
            f"`architecture` in models.toml is `module:factory`"
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelUnavailable(f"model {spec.name}: {spec.builds} made a {type(made).__name__}, no torch.nn.Module")
    return made
