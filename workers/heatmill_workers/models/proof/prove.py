"""The proof of a model: a dozen passes over five inputs, before it explains anything."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec
from heatmill.schemas import ModelFacts
from heatmill_workers.engine.batching import BatchSizes, unless_out_of_memory
from heatmill_workers.models.adapted import Adapted, Needs, adapt
from heatmill_workers.models.proof.companions import check_companions, decides_inside
from heatmill_workers.models.proof.comparison import Reference, tolerance
from heatmill_workers.models.proof.counters import check_counters, numbers
from heatmill_workers.models.proof.fusing import fuse
from heatmill_workers.models.proof.generators import generators
from heatmill_workers.models.proof.gradients import Differentiability, check_gradients, quantised_layer
from heatmill_workers.models.proof.memories import check_memories, held
from heatmill_workers.models.proof.memory_layout import set_layout, try_channels_last
from heatmill_workers.models.proof.own_weights import check_unchanged, fingerprint
from heatmill_workers.models.proof.precision import convert, find_precision
from heatmill_workers.models.proof.rows import LARGE_BATCH, check_rows
from heatmill_workers.models.proof.runs import Runs
from heatmill_workers.models.proof.slopes import slope_fault

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Subject:
    """A model that is proved.

    Args:
        spec: Its entry in models.toml.
        module: In eval mode, parameters frozen, on its device; changed in place.
        read: Takes the logits (N, K) out of what it puts out for N images.
        images: (5, C, H, W) float32 on its device, as `proof_images` makes them.
    """

    spec: ModelSpec
    module: nn.Module
    read: Callable[[object, int], Tensor]
    images: Tensor


def prove(subject: Subject, key: str) -> ModelFacts:
    """Find out how a model is to be run, and lay it out so; or that it cannot be explained.

    Raises:
        ModelRefused: No method can be right on it.
        ModelUnavailable: It does not run on these images, or puts out no logits of its classes.
    """
    spec, module, images = subject.spec, subject.module, subject.images
    are_as_wanted = []

    def read(outputs: object, images: int) -> Tensor:
        logits = subject.read(outputs, images)
        are_as_wanted.append(logits is outputs and logits.dtype == torch.float32)
        return logits

    precision = find_precision(spec.name, module, images[:1], DTYPES[spec.dtype])
    # Its integers are scaled by the range of the whole batch.
    needs = Needs(precision.of_images, contiguous=True, one_by_one=bool(quantised_layer(module)), reading=True)
    forward = Adapted(module, read, replace(needs, hookless=True))
    runs = _runs(subject, forward)
    wanted = _checked(runs, module, images)
    facts = ModelFacts(
        key=key,
        dtype=NAMES[runs.calls.dtype],
        input_dtype=NAMES[needs.dtype],
        converted=precision.converted,
        reads_outputs=not all(are_as_wanted),
        writes_its_input=runs.writes,
        one_by_one=needs.one_by_one,
        tensor_hooks=forward.met_hooks,
    )
    # A model that decides by its values what it computes may do what was not seen here.
    return facts if runs.calls.branches else _at_its_fastest(subject, facts, wanted)


def _checked(runs: Runs, module: nn.Module, images: Tensor) -> Reference:
    """What it puts out, which depends on each image alone.

    Raises:
        ModelRefused: It does not.
    """
    weights, counted, kept = fingerprint(module), numbers(module), held(module)
    wanted = Reference(runs.first(images), tolerance(runs.calls.dtype))
    check_rows(runs, images, wanted)
    check_companions(runs, images, wanted, decides_inside=decides_inside(module))
    check_counters(runs, module, images, wanted, counted)
    check_memories(runs, module, images, wanted, kept)
    check_unchanged(runs.name, module, weights)
    return wanted


def prove_gradients(subject: Subject, facts: ModelFacts) -> ModelFacts:
    """Find out whether a model that is laid out has gradients, and whether they are its own.

    Raises:
        ModelRefused: An image's gradient depends on the other images of its batch.
    """
    images, allowed = laid_out(subject.images, facts), tolerance(DTYPES[facts.dtype])
    # A model may put hooks on its tensors only where there are gradients.
    module = adapted(subject, facts.model_copy(update={"tensor_hooks": True}))
    # A device that has no memory for two rows cannot be handed an image twice either.
    found = unless_out_of_memory(partial(check_gradients, subject.spec.name, module, images, allowed))
    found = found or Differentiability()
    is_precise = facts.dtype == "float32"
    look = partial(slope_fault, module, images, is_precise=is_precise)
    fault = found.fault or unless_out_of_memory(look) or ""
    met = any(part.met_hooks for part in module.modules() if isinstance(part, Adapted))
    return facts.model_copy(update={"gradient_fault": fault, "two_rows": found.two_rows, "tensor_hooks": met})


def lay_out(subject: Subject, facts: ModelFacts) -> None:
    """Do to the module what its proof did to it, by facts that are known."""
    if facts.converted:
        convert(subject.module, DTYPES[facts.input_dtype])
    if facts.channels_last:
        set_layout(subject.module, torch.channels_last)
    if facts.folded_norms:
        _fold(subject, facts, lambda found: True)


def adapted(subject: Subject, facts: ModelFacts) -> nn.Module:
    """The module as it was proved: (N, C, H, W) float32 to (N, K) float32."""
    return running(reading(subject, facts), facts)


def reading(subject: Subject, facts: ModelFacts) -> nn.Module:
    """The module in its own precision, whose outputs are float32 logits."""
    needs = Needs(dtype=DTYPES[facts.input_dtype], reading=facts.reads_outputs, hookless=facts.tensor_hooks)
    return adapt(subject.module, subject.read, needs)


def running(module: nn.Module, facts: ModelFacts) -> nn.Module:
    """A module whose images are handed to it as it needs them."""
    needs = Needs(
        contiguous=not facts.channels_last,
        own_images=facts.writes_its_input,
        one_by_one=facts.one_by_one,
        two_rows=facts.two_rows,
    )
    return adapt(module, None, needs)


def laid_out(images: Tensor, facts: ModelFacts) -> Tensor:
    """Images in the memory layout that the model runs in."""
    return images.contiguous(memory_format=torch.channels_last if facts.channels_last else torch.contiguous_format)


def _runs(subject: Subject, forward: nn.Module) -> Runs:
    # All of them together, unless memory ends.
    sizes = BatchSizes(subject.images.device, fixed=len(LARGE_BATCH))
    return Runs(subject.spec.name, forward, sizes, generators(subject.module))


def _at_its_fastest(subject: Subject, facts: ModelFacts, wanted: Reference) -> ModelFacts:
    """Lay convolutions channels-last and fold batch norms, where the outputs stay what they were."""

    def run() -> Tensor:
        tried = facts.model_copy(update={"channels_last": True})
        return _runs(subject, adapted(subject, tried))(laid_out(subject.images, tried))

    channels_last = try_channels_last(subject.module, run, wanted.is_met)
    facts = facts.model_copy(update={"channels_last": channels_last})
    # A folded weight is rounded otherwise, which half precision shows.
    folded = _fold(subject, facts, wanted.is_met) if facts.dtype == "float32" else 0
    return facts.model_copy(update={"folded_norms": folded})


def _fold(subject: Subject, facts: ModelFacts, is_same: Callable[[Tensor], bool]) -> int:
    if subject.spec.opaque:
        return 0
    runs, images = _runs(subject, adapted(subject, facts)), laid_out(subject.images, facts)
    return fuse(subject.module, lambda: runs(images), is_same, subject.spec.cam_layer)
