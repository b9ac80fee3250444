"""How a model's outputs become probabilities."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from heatmill.models import Activation

Outputs = Literal["logits", "probabilities", "values"]


@dataclass(frozen=True)
class Head:
    """What the numbers that a model puts out are.

    Args:
        activation: What turns logits into probabilities; "none" where they are probabilities or values already.
        outputs: "logits", "probabilities", or the "values" of a regression, which have no probability.
    """

    activation: Activation = "softmax"
    outputs: Outputs = "logits"

    @property
    def has_probabilities(self) -> bool:
        """Whether `scores` are probabilities."""
        return self.outputs != "values"

    def scores(self, outputs: Tensor) -> Tensor:
        """Probabilities where there are any, else the values, in the outputs' shape (N, K)."""
        if self.activation == "softmax":
            return outputs.softmax(1)
        return outputs.sigmoid() if self.activation == "sigmoid" else outputs
