"""How a model's outputs become probabilities."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from heatmill.schemas.vocabulary import Activation

Outputs = Literal["logits", "log-probabilities", "probabilities", "values"]
Quantity = Literal["logit", "log-probability", "probability", "value"]

QUANTITIES: dict[Outputs, Quantity] = {
    "logits": "logit",
    "log-probabilities": "log-probability",
    "probabilities": "probability",
    "values": "value",
}


@dataclass(frozen=True)
class Head:
    """What the numbers that a model puts out are.

    Args:
        activation: What turns logits into probabilities; "none" where they are probabilities or values already.
        outputs: "logits", "log-probabilities", "probabilities", or the "values" of a regression, which have no
            probability.
        one_output: Its two classes are made of one number, which its last layer puts out.
    """

    activation: Activation = "softmax"
    outputs: Outputs = "logits"
    one_output: bool = False

    @property
    def has_probabilities(self) -> bool:
        """Whether `scores` are probabilities."""
        return self.outputs != "values"

    @property
    def explains(self) -> Quantity:
        """What an attribution of one output adds up to."""
        return QUANTITIES[self.outputs]

    @property
    def scores_are(self) -> Quantity:
        """What `scores` are."""
        return "probability" if self.has_probabilities else "value"

    def scores(self, outputs: Tensor) -> Tensor:
        """Probabilities where there are any, else the values, in the outputs' shape (N, K)."""
        if self.activation == "softmax":
            return outputs.softmax(1)
        return outputs.sigmoid() if self.activation == "sigmoid" else outputs

    def ranking(self, scores: Tensor) -> list[int]:
        """The classes of one image's scores (K,), the most probable first; values in the model's own order."""
        if not self.has_probabilities:
            return list(range(len(scores)))
        found: list[int] = scores.argsort(descending=True, stable=True).tolist()
        return found
