"""From a spec to a model that is ready: frozen, measured, proved."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import cudnn

from heatmill.catalogue.models import ModelSpec, spec_labels
from heatmill.errors import ModelRefused, ModelUnavailable
from heatmill.jobs.model_records import entry_digest
from heatmill.schemas import ModelFacts
from heatmill.schemas.vocabulary import Activation
from heatmill_workers.engine.batching import BatchSizes, unless_out_of_memory
from heatmill_workers.engine.head import Head
from heatmill_workers.engine.introspection.spatial import Search, search
from heatmill_workers.engine.introspection.tokens import TokenSearch, search_tokens
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.engine.machine_faults import check_device, raise_machine_fault
from heatmill_workers.models.adapted import prefix
from heatmill_workers.models.digest import described, digest
from heatmill_workers.models.heads import with_head
from heatmill_workers.models.proof.inputs import NOISE, proof_images
from heatmill_workers.models.proof.own_weights import check_values
from heatmill_workers.models.proof.prove import Subject, laid_out, lay_out, prove, prove_gradients, reading, running
from heatmill_workers.models.proof.runs import reader

CUDNN_SWITCHES = ("enabled", "benchmark", "deterministic", "allow_tf32")


def pick_device() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Proofs:
    """Where the facts of models are kept.

    Args:
        code: What tells the code and the libraries from others; facts that other code found do not count.
        recall: The facts of a key, where there are any.
        keep: Stores facts; called with the model's entry and its facts.
    """

    code: str = ""
    recall: Callable[[str], ModelFacts | None] = lambda key: None
    keep: Callable[[ModelSpec, ModelFacts], None] = lambda spec, facts: None


NO_PROOFS = Proofs()


def load(spec: ModelSpec, device: torch.device, proofs: Proofs = NO_PROOFS) -> LoadedModel:
    """Build, freeze, digest, move and prove a model.

    Raises:
        ModelUnavailable: models.toml is wrong; the message names the model and the setting that cures it.
        ModelRefused: No method can be right on the model.
        WeightsUnavailable: The weights cannot be had on this machine now.
        DeviceUnusable: The device fails.
    """
    _check_names(spec)
    with _keeping_switches():
        built = _loader(spec)(spec)
    return prepare(spec, built, device, proofs)


@contextmanager
def _keeping_switches() -> Iterator[None]:
    """Leave torch's switches of the process as they are: an operator's module may set them when it is imported."""
    switches: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, _set_default_device),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.get_num_threads, torch.set_num_threads),
        *((partial(getattr, cudnn, name), partial(setattr, cudnn, name)) for name in CUDNN_SWITCHES),
    ]
    before = [read() for read, _ in switches]
    try:
        yield
    finally:
        for (read, write), value in zip(switches, before, strict=True):
            if read() != value:
                write(value)


def _set_default_device(device: torch.device) -> None:
    # Named, even the CPU costs each call of torch something.
    torch.set_default_device(None if device.type == "cpu" else device)


def _check_names(spec: ModelSpec) -> None:
    """Refuse a file of labels, or a config.json, that cannot be read or numbers its classes wrongly."""
    try:
        spec_labels(spec)
    except ValueError as error:
        raise ModelUnavailable(f"model {spec.name}: {error}") from error


def prepare(spec: ModelSpec, built: Built, device: torch.device, proofs: Proofs = NO_PROOFS) -> LoadedModel:
    """Make what a loader built ready to explain. The module is changed in place.

    Raises:
        ModelUnavailable: It is no classifier of such images, has other classes, or `cam_layer` is wrong.
        ModelRefused: No method can be right on it, or what it puts out cannot be told.
    """
    module, preprocessing = _frozen(spec.name, built.module), spec.preprocessing or built.preprocessing
    weights_digest = digest(module)
    images = proof_images(preprocessing).to(device)
    subject = Subject(spec, module.to(device), reader(spec.name, spec.output), images)
    labels = spec_labels(spec) or built.labels
    key = proof_key(spec, built, weights_digest, device, proofs.code)
    # A model may draw from torch's random numbers, which are the process'.
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _keeping_refusals(spec, key, proofs, device):
        facts = _facts(subject, key, proofs)
        run, head = _with_head(subject, facts, labels, built.activation)
        found, attention = _looked_into(subject, run, facts)
    model = LoadedModel(
        name=spec.name,
        module=run,
        device=device,
        dtype=getattr(torch, facts.dtype),
        digest=weights_digest,
        labels=labels,
        preprocessing=preprocessing,
        cut=found.cut,
        tokens=attention.tokens,
        missing=_reasons(found, attention, facts),
        opaque=spec.opaque,
        batch_sizes=BatchSizes(device),
        facts=facts,
        head=head,
    )
    model = replace(model, facts=facts.model_copy(update=_seen(head, model)))
    check_device(device)
    proofs.keep(spec, model.facts)
    return model


def _frozen(name: str, module: nn.Module) -> nn.Module:
    module.eval()
    check_values(name, module)
    # One by one: a TorchScript module refuses `requires_grad_`.
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _seen(head: Head, model: LoadedModel) -> dict[str, Any]:
    """Facts that are known once a model can explain."""
    return {"activation": head.activation, "outputs": head.outputs, "supports": tuple(sorted(model.supports))}


@contextmanager
def _keeping_refusals(spec: ModelSpec, key: str, proofs: Proofs, device: torch.device) -> Iterator[None]:
    try:
        yield
    except ModelRefused as error:
        # What a device that fails, or memory that has ended, makes of a model says nothing about it.
        raise_machine_fault(error)
        check_device(device)
        proofs.keep(spec, ModelFacts(key=key, refused=str(error)))
        raise


def proof_key(spec: ModelSpec, built: Built, weights_digest: str, device: torch.device, code: str) -> str:
    """What the facts of a model depend on, as a sha256 in hex."""
    preprocessing = spec.preprocessing or built.preprocessing
    # A folder may be edited and its weights stay the same. Facts of an operator's own code are not taken again.
    module = "" if spec.loader == "python" else described(built.module)
    of = [weights_digest, entry_digest(spec), preprocessing.model_dump_json(), built.activation, module]
    return hashlib.sha256(json.dumps([*of, device.type, code]).encode()).hexdigest()


def _facts(subject: Subject, key: str, proofs: Proofs) -> ModelFacts:
    """Known ones, or those of a proof. An operator's own code may have changed since: it is proved in each process."""
    known = None if subject.spec.loader == "python" else proofs.recall(key)
    if known is not None and known.refused is None:
        lay_out(subject, known)
        return known
    return prove_gradients(subject, prove(subject, key))


def _with_head(
    subject: Subject, facts: ModelFacts, labels: tuple[str, ...], stated: Activation | None
) -> tuple[nn.Module, Head]:
    """By all proof images together, or by noise alone where memory does not suffice for them."""

    def found(images: Tensor) -> tuple[nn.Module, Head]:
        # A compiled file can be looked into as long as nothing is around it.
        inner = reading(subject, facts)
        module, head = with_head(subject.spec, inner, laid_out(images, facts), labels, stated)
        return running(module, facts), head

    return unless_out_of_memory(partial(found, subject.images)) or found(subject.images[NOISE : NOISE + 1])


def _looked_into(subject: Subject, module: nn.Module, facts: ModelFacts) -> tuple[Search, TokenSearch]:
    """The spatial layer and the attention, of a model that can be looked into and differentiated."""
    spec = subject.spec
    if spec.opaque or facts.gradient_fault:
        return Search(None), TokenSearch(None)
    # Not of zeros, from which a network without biases takes no gradient anywhere.
    image = laid_out(subject.images[NOISE : NOISE + 1], facts)
    cam_layer = spec.cam_layer and prefix(module, subject.module) + spec.cam_layer
    try:
        found = search(module, image, cam_layer)
    except ValueError as error:
        raise ModelUnavailable(f"model {spec.name}: `cam_layer` in models.toml: {error}") from error
    return found, search_tokens(module, image)


def _reasons(found: Search, attention: TokenSearch, facts: ModelFacts) -> dict[str, str]:
    """Why the model lacks what methods may need."""
    fault = facts.gradient_fault
    looked_for = {"spatial layer": found.reason or fault, "attention": attention.reason or fault}
    return {"gradients": fault, "operations": fault, **looked_for}


def _loader(spec: ModelSpec) -> Callable[[ModelSpec], Built]:
    build: Callable[[ModelSpec], Built] = import_module(f"heatmill_workers.models.loaders.{spec.loader}").build
    return build
