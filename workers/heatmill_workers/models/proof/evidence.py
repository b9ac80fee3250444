"""Whether outputs are what an activation makes of a tensor, and could not as well be plain numbers.

Far below 0 the logarithm of a sigmoid is its input, and a sigmoid is an exponential; near 0 both are straight lines; of
outputs that hardly differ everything can be said. There only the function that made the outputs tells.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from heatmill_workers.models.proof.calls import LOW_PRECISION
from heatmill_workers.models.proof.results import Candidate

Form = Literal["softmax", "sigmoid", "log_softmax", "log_sigmoid"]
Function = Callable[[Tensor], Tensor]

FORMS: dict[Form, Function] = {
    "softmax": lambda values: values.softmax(1),
    "sigmoid": torch.sigmoid,
    "log_softmax": lambda values: values.log_softmax(1),
    "log_sigmoid": functional.logsigmoid,
}
LOGARITHMS = {"log_softmax", "log_sigmoid"}
# The functions of torch that make a form, and what is done to their result.
MAKERS: dict[Form, tuple[tuple[str, Function], ...]] = {
    "softmax": (("softmax", torch.clone), ("log_softmax", torch.exp)),
    "sigmoid": (
        *((name, torch.clone) for name in ("sigmoid", "expit", "special_expit")),
        *((name, torch.exp) for name in ("logsigmoid", "log_sigmoid")),
    ),
    "log_softmax": (("log_softmax", torch.clone), ("softmax", torch.log)),
    "log_sigmoid": (
        *((name, torch.clone) for name in ("logsigmoid", "log_sigmoid")),
        *((name, torch.log) for name in ("sigmoid", "expit", "special_expit")),
        ("softplus", torch.neg),
    ),
}
# Rounding makes 1e-6; what was rounded to half precision before or behind the activation is off by more.
CLOSE = 1e-5
ROUNDING = 1e-6
SATURATED = 0.01
SMALLEST = 1e-30
# How many times farther off than the activation the best plain function has to be.
SEPARATION = 4


def as_probabilities(name: Form, values: Tensor) -> Tensor:
    """What a form makes, as probabilities."""
    return values.exp() if name in LOGARITHMS else values


def are_named(name: Form, candidates: Sequence[Candidate], outputs: Tensor) -> bool:
    """Whether one of torch's functions of that form made the outputs (N, K), to the last digit."""
    return any(
        candidate.maker == maker and _is_among(function(candidate.values), outputs)
        for candidate in candidates
        for maker, function in MAKERS[name]
    )


def _is_among(values: Tensor, outputs: Tensor) -> bool:
    """Whether outputs are a tensor's values; one value for each image is one of two columns of outputs."""
    made = values.reshape(len(values), -1).float()
    wanted = [outputs] if made.shape == outputs.shape else list(torch.split(outputs, 1, dim=1))
    roundings = [made, *(made.to(dtype).float() for dtype in LOW_PRECISION)]
    return any(torch.allclose(each, one, rtol=0, atol=0, equal_nan=True) for each in roundings for one in wanted)


def is_evidence(name: Form, before: Tensor, outputs: Tensor, *, named: bool) -> bool:
    """Whether outputs that a form makes of a tensor tell that it does.

    Args:
        name: The form.
        before: The tensor, (N, K).
        outputs: Of the model, (N, K); what the form makes of the tensor is close to them.
        named: One of torch's functions made them, so that the question is of which tensor.
    """
    if named:
        return _tell_tensors_apart(name, FORMS[name](before), outputs)
    wanted = as_probabilities(name, outputs)
    error = _distance(as_probabilities(name, FORMS[name](before)), wanted)
    allowed = SEPARATION * max(error, ROUNDING)
    # Of NaN, which minus infinity makes, nothing is close.
    plain = [torch.full_like(wanted, float(wanted.mean())), *_plain(name, before)]
    return not any(_distance(each, wanted) <= allowed for each in plain)


def _distance(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).abs().max())


def _plain(name: Form, before: Tensor) -> Iterator[Tensor]:
    """What plain functions that a form comes close to somewhere make of a tensor, as probabilities."""
    if name in {"softmax", "log_softmax"}:
        yield (before - before.amax(1, keepdim=True)).exp()
        line = (before - before.mean(1, keepdim=True)) / before.shape[1]
        yield line + 1 / before.shape[1]
        return
    yield before.clamp(max=0).exp()
    rest = (-before.clamp(min=0)).exp()
    yield 1 - rest
    if name == "sigmoid":
        yield 0.5 + before / 4
    else:
        yield (-rest).exp()
        yield 0.5 * (before / 2).exp()


def _tell_tensors_apart(name: Form, made: Tensor, outputs: Tensor) -> bool:
    """Whether the outputs tell tensors apart: at 0 and 1 all look alike, but for how small a number is."""
    if torch.equal(made, outputs) and bool((outputs != outputs[0, 0]).any()):
        return True
    probabilities = as_probabilities(name, outputs)
    if ((probabilities > CLOSE) & (probabilities < 1 - SATURATED)).any():
        return True
    made = as_probabilities(name, made)
    small = (probabilities > SMALLEST) & (probabilities <= CLOSE)
    return bool(small.any()) and torch.allclose(made[small], probabilities[small], rtol=SATURATED, atol=0)
