"""A model of the operator's own code: `architecture = "package.module:factory"`, and `factory()` makes the module.

The code runs in the worker with all its rights; it is the operator's, and callers cannot name it.
"""

from importlib import import_module

from torch import nn
from torch._dynamo import OptimizedModule

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
    return Built(_as_written(module), spec.preprocessing or Preprocessing(), spec_labels(spec) or ())


def _as_written(module: nn.Module) -> nn.Module:
    """The module and its parts without what `torch.compile` puts around them, inside of which nothing can be seen."""
    for parent in list(module.modules()):
        if parent._compiled_call_impl is not None:  # noqa: SLF001 - what `module.compile()` sets
            parent._compiled_call_impl = None  # noqa: SLF001
        for name, part in list(parent.named_children()):
            if isinstance(part, OptimizedModule):
                setattr(parent, name, part._orig_mod)  # noqa: SLF001 - torch's name of it in state dicts, too
    return module._orig_mod if isinstance(module, OptimizedModule) else module  # noqa: SLF001


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
