"""What a model's outputs are: found when it is loaded, so that no activation is applied twice or left out.

What counts is, in this order: `activation` in models.toml; the `problem_type` of a transformers model's config.json;
what the model is seen to end in; one output is the logit of one of two classes; anything else is logits of softmax.
Where a model ends in softmax or sigmoid, what goes into it is explained, if it can be read: near 0 and 1 a probability
hardly changes, whatever the image shows. Log-probabilities are logits as they are.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec, given_labels
from heatmill.errors import ModelRefused, ModelUnavailable, UnsupportedOperation
from heatmill.schemas.vocabulary import Activation
from heatmill_workers.engine.head import Head
from heatmill_workers.models.proof.activation import CLOSE_IN_HALF, Ending, FinalActivation, Name, see_ending

KINDS: dict[Name, Activation] = {
    "softmax": "softmax",
    "log_softmax": "softmax",
    "sigmoid": "sigmoid",
    "log_sigmoid": "sigmoid",
}


UNTOLD: dict[Name, str] = {
    "bounded": "numbers that stay between bounds or never change their sign; whether they are probabilities cannot be "
    "told;",
    "mixed": "numbers of several kinds: some went through an activation such as softmax, and others beside them did "
    "not; put out the classes alone, name them with `output` in models.toml if the model puts out both apart, or",
}


class _Around(nn.Module):
    """Something around a model that keeps the names of the model's parts."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = False

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """The model's own, under their own names: `cam_layer` is one of them."""
        yield from self.inner.named_modules(memo, prefix, remove_duplicate)


class BeforeActivation(_Around):
    """A model that puts out what goes into its last activation."""

    def __init__(self, inner: nn.Module, final: FinalActivation) -> None:
        super().__init__(inner)
        self.final = final

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, K).

        Raises:
            UnsupportedOperation: The activation made something else of it than the model puts out.
        """
        if self.final.read is None:
            raise ValueError("what goes into the activation was not found")
        outputs, values = self.final.read(self.inner, images)
        before = self.final.before(values, outputs)
        # A pair of tensors, as DeepLIFT's, is compared by the rules of its own.
        if type(outputs) is Tensor and not outputs.is_meta:
            with torch.no_grad():
                # Also true of NaN, which an image may make.
                if (self.final.errors(before, outputs.float()) > CLOSE_IN_HALF).any():
                    raise UnsupportedOperation("the model computes differently for different images; its head moved")
        return before

    def extra_repr(self) -> str:
        """What is taken off."""
        return f"{self.final.name}, sides={self.final.sides}"


class TwoClasses(_Around):
    """One output as two classes: the one that it speaks against, and the one that it speaks for."""

    def __init__(self, inner: nn.Module, *, is_probability: bool) -> None:
        super().__init__(inner)
        self.is_probability = is_probability

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 2)."""
        one: Tensor = self.inner(images)
        return torch.cat([1 - one if self.is_probability else -one, one], 1)

    def extra_repr(self) -> str:
        """How the first class is made."""
        return f"is_probability={self.is_probability}"


def with_head(
    spec: ModelSpec, module: nn.Module, images: Tensor, labels: tuple[str, ...], stated: Activation | None = None
) -> tuple[nn.Module, Head]:
    """The module with one output per label, and what its outputs are.

    Args:
        spec: The operator's.
        module: (N, 3, H, W) to (N, K), in eval mode; it is not changed.
        images: A few, on its device: noise, zeros, photos.
        labels: As many as there are classes, with both of a model that has one output.
        stated: What the model's own files say, where models.toml says nothing.

    Raises:
        ModelUnavailable: There are more or fewer labels than classes.
        ModelRefused: What it puts out cannot be told, or contradicts what `activation` says.
    """
    activation = spec.activation or stated
    ending = see_ending(module, images)
    _check_labels(spec, ending, activation, labels)
    if activation == "none":
        # The operator wants the outputs as they are; rows that sum to 1 are probabilities all the same.
        return module, Head("none", "probabilities" if _is_distribution(ending) else "values")
    final = ending.final
    if ending.outputs == 1 and ending.is_constant:
        raise ModelRefused(
            f"model {spec.name} puts out one number that is the same for every image, as the softmax of one number is"
        )
    if final is not None:
        _check_final(spec, ending, final, activation)
    if final is None or final.name in UNTOLD:
        return _of_logits(spec, module, ending, activation)
    return _of_activated(module, ending, final)


def _is_distribution(ending: Ending) -> bool:
    final = ending.final
    return final is not None and (final.name == "softmax" or final.sides is not None)


def _of_logits(
    spec: ModelSpec, module: nn.Module, ending: Ending, activation: Activation | None
) -> tuple[nn.Module, Head]:
    if ending.outputs > 1:
        return module, Head(activation or "softmax")
    if activation == "softmax":
        raise ModelRefused(
            f"model {spec.name} puts out one number, whose softmax is always 1; `activation` in models.toml is "
            f'"sigmoid" for the logit of one of two classes, "none" for a value'
        )
    return TwoClasses(module, is_probability=False), Head("sigmoid", one_output=True)


def _of_activated(module: nn.Module, ending: Ending, final: FinalActivation) -> tuple[nn.Module, Head]:
    one = ending.outputs == 1
    if final.name == "log_softmax":
        # They are logits as well, and what the model's own library differentiates.
        return module, Head("softmax", "log-probabilities")
    if final.read is not None:
        before = BeforeActivation(module, final)
        wrapped = TwoClasses(before, is_probability=False) if one else before
        return wrapped, Head(KINDS[final.name], one_output=one or final.sides is not None)
    return TwoClasses(module, is_probability=True) if one else module, Head("none", "probabilities", one)


def _check_labels(spec: ModelSpec, ending: Ending, activation: Activation | None, labels: tuple[str, ...]) -> None:
    given = given_labels(spec)
    classes = 2 if ending.outputs == 1 and activation != "none" else ending.outputs
    if classes != len(labels) and ending.outputs == 1:
        raise ModelUnavailable(_labels_of_one(spec, activation, labels))
    # One label stands for two classes of one output, not for two outputs.
    count = len(labels) if given is None or ending.outputs == 1 else len(given)
    if classes != count:
        raise ModelUnavailable(
            f"model {spec.name} has {ending.outputs} classes and {count} labels; correct `labels` in models.toml"
        )


def _labels_of_one(spec: ModelSpec, activation: Activation | None, labels: tuple[str, ...]) -> str:
    if activation == "none":
        why = "" if spec.activation else '; its config.json says that it is a regression: set `activation = "none"`'
        return f"model {spec.name} puts out one value and has {len(labels)} labels; give one in `labels`{why}"
    return (
        f"model {spec.name} puts out one number, the logit of one of two classes, and has {len(labels)} labels; give "
        f'`labels` one or two names, or set `activation` to "none" where it is a regression\'s value'
    )


def _check_final(spec: ModelSpec, ending: Ending, final: FinalActivation, activation: Activation | None) -> None:
    """Refuse what cannot be told, or is told in two ways."""
    if final.name in UNTOLD:
        if activation is None:
            raise ModelRefused(
                f"model {spec.name} puts out {UNTOLD[final.name]} set `activation` in models.toml: "
                f'"softmax" or "sigmoid" makes probabilities of them, "none" takes them as values'
            )
        return
    # Shares of two classes that sum to 1 are those of a softmax and those of a sigmoid.
    are_shares = final.sides is not None or (final.read is None and ending.outputs == 2)
    if activation and KINDS[final.name] != activation and not are_shares:
        raise ModelRefused(
            f'model {spec.name}: `activation` is "{activation}", but the model ends in {final.name} already; leave '
            f"`activation` out, or have the model put out its logits"
        )
    if final.name == "log_sigmoid" and final.read is None:
        raise ModelRefused(f"model {spec.name} puts out logarithms of sigmoids; have it put out its logits")
