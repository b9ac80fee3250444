"""A classifier that is ready to explain."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from heatmill.catalogue.models import CAPABILITIES, Preprocessing
from heatmill.errors import ItemError, UnsupportedOperation
from heatmill.schemas import ModelFacts
from heatmill.schemas.vocabulary import Activation
from heatmill_workers.engine.batching import BatchSizes
from heatmill_workers.engine.dense_parts import dense_parts
from heatmill_workers.engine.forward_pass import ForwardPass
from heatmill_workers.engine.head import Head
from heatmill_workers.engine.introspection.spatial import CamLayer
from heatmill_workers.engine.introspection.tokens import Tokens


@dataclass(frozen=True)
class Built:
    """What a loader hands back: on the CPU, weights in place, as the loader's library made it.

    Args:
        activation: What the model's own files say of its outputs; None where they say nothing.
    """

    module: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    activation: Activation | None = None


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A classifier in eval mode, parameters frozen, proved; shared between threads and never changed.

    Args:
        module: (N, 3, H, W) float32 to (N, K): logits, or what `head` says.
        digest: sha256 of the weights, as loaded.
        labels: K class names.
        cut: Its last spatial map; None where it has none.
        tokens: How its attention is laid out; None where it does not attend between all patches.
        facts: What its proof found.
        head: How its outputs become probabilities.
        missing: Why it lacks a capability, in words, where that is known.
        opaque: It is compiled; only logits and their gradients can be had.
        batch_sizes: What has been found to fit the device.
        pictures: What a job's params name by URI: (3, H, W) float32, normalised for the model, or why it is not there.
        kept: The pass that predicted the images which are explained now; see `engine.passes`.
    """

    name: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    digest: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    cut: CamLayer | None
    tokens: Tokens | None
    opaque: bool
    batch_sizes: BatchSizes
    facts: ModelFacts
    head: Head = field(default_factory=Head)
    missing: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Tensor | ItemError] = field(default_factory=dict)
    kept: ForwardPass | None = None

    @property
    def supports(self) -> frozenset[str]:
        """The capabilities that methods may need."""
        gradients = not self.facts.gradient_fault
        follows = not self.opaque and not self.facts.one_by_one
        return capabilities(self.cut, self.tokens, gradients=gradients, operations=follows)

    def why_missing(self, capability: str) -> str:
        """What a message adds about a capability that it does not have: a colon and the reason, or nothing."""
        reason = self.missing.get(capability)
        return f": {reason}" if reason else ""

    def attention_layout(self) -> Tokens:
        """How its attention is laid out.

        Raises:
            UnsupportedOperation: It does not attend between all patches.
        """
        if self.tokens is None:
            raise UnsupportedOperation(
                f"{self.name} does not have {CAPABILITIES['attention']}{self.why_missing('attention')}"
            )
        return self.tokens

    @property
    def nbytes(self) -> int:
        """Memory of parameters and buffers."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return sum(part.nbytes for tensor in tensors for part in dense_parts(tensor).values())


def capabilities(cut: CamLayer | None, tokens: Tokens | None, *, gradients: bool, operations: bool) -> frozenset[str]:
    """What methods may need, by what was found in a model."""
    found = {
        "gradients": gradients,
        "spatial layer": cut is not None,
        "attention": tokens is not None,
        "operations": operations,
    }
    return frozenset(name for name, has in found.items() if has)
