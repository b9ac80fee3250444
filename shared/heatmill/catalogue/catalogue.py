"""What can be asked for: the methods and the models, known without torch.

`data/` is written by `make methods` from the workers' code. An operator's
models.toml adds models, or replaces stock ones of the same name.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from heatmill.catalogue import labels
from heatmill.catalogue.methods import Method, method_of
from heatmill.catalogue.models import CAPABILITIES, ModelSpec, read_models, spec_labels
from heatmill.errors import InvalidRequest, MethodNotSupported, TargetUnknown, UnknownMethod, UnknownModel
from heatmill.schemas.bounded import MAX_FAULTS
from heatmill.schemas.json_pointer import pointer

NAMES_IN_A_MESSAGE = 10
# Their architectures are in models.json.
LOADERS_OF_STOCK = frozenset({"bundled", "torchvision"})
# What a model's `baseline` is called where methods ask for it.
PARAMS_OF_BASELINE = ("baseline", "masker")


@dataclass(frozen=True)
class Model:
    """A classifier.

    Args:
        spec: How the workers load it.
        input_size: (height, width) in pixels; None where only the workers know it.
        labels: Class names in the order of the logits.
        supports: Capabilities it has; None where only the workers know them.
    """

    name: str
    spec: ModelSpec
    input_size: tuple[int, int] | None
    labels: tuple[str, ...]
    supports: frozenset[str] | None

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Params that this model sets where a job does not, for the methods that have them."""
        baseline, background = self.spec.baseline, self.spec.background
        found: dict[str, Any] = dict.fromkeys(PARAMS_OF_BASELINE, baseline) if baseline else {}
        return found | ({"background": list(background)} if background else {})

    @property
    def operators(self) -> frozenset[str]:
        """What the operator has named for this model's background, images by URI among it: read for every tenant."""
        return frozenset(self.spec.background or ())

    def lacks(self, method: Method) -> list[str]:
        """What the method needs and this model does not have; nothing where only the workers know."""
        supports = self.supports
        return [] if supports is None else [need for need in method.needs if need not in supports]


@dataclass(frozen=True)
class Catalogue:
    """The methods and the models, each sorted by name."""

    methods: tuple[Method, ...]
    models: tuple[Model, ...]

    def method(self, name: str) -> Method:
        """The method of that name.

        Raises:
            UnknownMethod: There is none; the message names the closest.
        """
        for method in self.methods:
            if method.name == name:
                return method
        raise UnknownMethod(_nothing_called("method", name, [method.name for method in self.methods]))

    def model(self, name: str) -> Model:
        """The model of that name.

        Raises:
            UnknownModel: There is none; the message names the closest.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise UnknownModel(_nothing_called("model", name, [model.name for model in self.models]))

    def resolve_params(
        self, method: str, params: Mapping[str, Any], defaults: Mapping[str, Any] = MappingProxyType({})
    ) -> dict[str, Any]:
        """The params with their defaults filled in: the model's where they are the method's to have, then its own.

        Raises:
            UnknownMethod: There is no such method.
            InvalidRequest: A param is unknown or out of bounds; `errors` has one entry for each, up to `MAX_FAULTS`.
        """
        schema = self.method(method).params
        found = islice(Draft202012Validator(schema).iter_errors(dict(params)), MAX_FAULTS)
        faults = sorted(found, key=lambda fault: fault.json_path)
        if faults:
            errors: list[dict[str, object]] = [_pointed(fault, schema) for fault in faults]
            raise InvalidRequest(f"params of {method}: {errors[0]['detail']}", errors)
        properties: Mapping[str, Any] = schema["properties"]
        # A method of somebody's own may mean something else by the same name.
        chosen = {name: value for name, value in defaults.items() if _has(schema, name, value)} | dict(params)
        values = {name: chosen.get(name, field.get("default")) for name, field in properties.items()}
        # JSON Schema counts 50.0 as an integer; one spelling keeps cache keys equal.
        return {name: int(value) if _is_integer(properties[name], value) else value for name, value in values.items()}

    def check_supported(self, model: str, method: str) -> None:
        """Refuse what cannot be right; where only the workers know, they refuse.

        Raises:
            UnknownModel, UnknownMethod: There is no such thing.
            MethodNotSupported: The model lacks what the method needs.
        """
        known = self.model(model)
        if missing := known.lacks(self.method(method)):
            others = ", ".join(other.name for other in self.methods if not known.lacks(other))
            raise MethodNotSupported(
                f"{method} needs {CAPABILITIES[missing[0]]}, which {model} does not have; it supports {others}"
            )

    def target_index(self, model: str, target: int | str) -> int:
        """The index of the model's class that a caller means.

        Raises:
            UnknownModel: There is no such model.
            InvalidRequest: No class, or more than one, answers to it; the message names the closest.
        """
        try:
            return labels.target_index(self.model(model).labels, target)
        except TargetUnknown as error:
            raise InvalidRequest(f"{model}: {error}; see GET /v1/models/{model} for all classes") from error

    def passes(self, method: str, params: Mapping[str, Any]) -> float:
        """Cost of one image and target in forward passes, at resolved params.

        Raises:
            UnknownMethod: There is no such method.
        """
        return self.method(method).passes.estimate(params)


def load_catalogue(models_toml: Path | None = None, methods_file: Path | None = None) -> Catalogue:
    """The stock catalogue, and what an operator added to it.

    Raises:
        ValueError: models.toml or a file that it names is wrong, or the file of methods is.
    """
    added_methods = [] if methods_file is None else _read_methods(methods_file)
    methods = {method.name: method for method in (*map(method_of, _stock("methods.json")), *added_methods)}
    stock = {entry["name"]: _stock_model(entry) for entry in _stock("models.json")}
    added = {spec.name: _added_model(spec, stock) for spec in (read_models(models_toml) if models_toml else ())}
    models = sorted((stock | added).values(), key=lambda model: model.name)
    return Catalogue(tuple(sorted(methods.values(), key=lambda method: method.name)), tuple(models))


def _has(schema: Mapping[str, Any], param: str, value: Any) -> bool:
    return param in schema["properties"] and Draft202012Validator(schema).is_valid({param: value})


def _read_methods(path: Path) -> list[Method]:
    try:
        return [method_of(entry) for entry in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no file of methods, as `heatmill_workers.export` writes it: {error}") from error


def _stock(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(files("heatmill.catalogue").joinpath("data", name).read_text("utf-8"))
    return entries


def _stock_model(entry: dict[str, Any]) -> Model:
    height, width = entry["input_size"]
    spec = ModelSpec(name=entry["name"], loader=entry["loader"], baseline=entry.get("baseline"))
    names = labels.stock_labels(entry["labels"])
    return Model(spec.name, spec, (height, width), names, frozenset(entry["supports"]))


def _added_model(spec: ModelSpec, stock: Mapping[str, Model]) -> Model:
    if spec.loader not in LOADERS_OF_STOCK:
        return _foreign_model(spec)
    like = stock.get(spec.builds)
    if like is None or like.spec.loader != spec.loader:
        raise ValueError(_nothing_called(f"{spec.loader} architecture", spec.builds, stock))
    size = spec.preprocessing.input_size if spec.preprocessing else like.input_size
    spec = spec.model_copy(update={"baseline": spec.baseline or like.spec.baseline})
    supports = like.supports or frozenset()
    capabilities = supports | {"spatial layer"} if spec.cam_layer else supports
    return Model(spec.name, spec, size, spec_labels(spec) or like.labels, capabilities)


def _foreign_model(spec: ModelSpec) -> Model:
    """A model whose inside only the workers know, unless nobody can look into it."""
    names = spec_labels(spec)
    if names is None:
        raise ValueError(f"model {spec.name}: give `labels`, or a folder with a config.json as `architecture`")
    size = spec.preprocessing.input_size if spec.preprocessing else None
    return Model(spec.name, spec, size, names, frozenset({"gradients"}) if spec.opaque else None)


def _nothing_called(kind: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = get_close_matches(name, names, n=NAMES_IN_A_MESSAGE, cutoff=0.5)
    if close:
        return f"there is no {kind} {name!r}; the closest are {', '.join(close)}"
    more = f" and {len(names) - NAMES_IN_A_MESSAGE} more" if len(names) > NAMES_IN_A_MESSAGE else ""
    return f"there is no {kind} {name!r}; there are {', '.join(names[:NAMES_IN_A_MESSAGE])}{more}"


def _pointed(fault: ValidationError, schema: Mapping[str, Any]) -> dict[str, object]:
    where = pointer(fault.absolute_path)
    if fault.validator == "additionalProperties":
        unknown = sorted(set(fault.instance) - set(schema["properties"]))
        known = ", ".join(sorted(schema["properties"])) or "none"
        return {"pointer": pointer([unknown[0]]), "detail": f"unknown param {unknown[0]!r}; the params are: {known}"}
    detail = _detail(fault)
    return {"pointer": where, "detail": f"{where[1:]}: {detail}" if where else detail}


def _detail(fault: ValidationError) -> str:
    """The fault in words: not of the pattern, but of what it stands for; of alternatives, the one that was meant."""
    if fault.validator == "pattern" and "description" in fault.schema:
        return f"{fault.instance!r} is not {fault.schema['description']}"
    inner = fault.context or ()
    meant = [each.message for each in inner if each.validator != "type"] or [each.message for each in inner]
    return ", and ".join(meant) or fault.message


def _is_integer(field: Mapping[str, Any], value: object) -> bool:
    return field.get("type") == "integer" and isinstance(value, float)
