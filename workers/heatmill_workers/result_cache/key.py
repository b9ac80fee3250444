"""The key of a result in the cache: a digest of all that the worker is given, minus what is known not to matter.

What is left out stands in `LEFT_OUT`, each field with its reason. A field that is added to a job's plan, an item, a
model or the settings is in the key until somebody writes down why it need not be.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import structlog
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec
from heatmill.schemas import Item, MethodRequest, Plan
from heatmill.settings import Settings
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.models.digest import described

log = structlog.get_logger()


def _because(reason: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, reason)


LEFT_OUT: Mapping[type, Mapping[str, str]] = {
    Plan: {
        "job": "says whose plan it is",
        **_because("counts the job's work", "shards", "items", "results"),
        "methods": "an entry is of one method, whose own request is in; what others compute beside it is its alone",
        "top_k": "is in, with the item, where the item has no target of its own",
        "layout": "says where results lie; an entry's are copied into the job's own layout",
        "previews": "says whether what the model saw is stored, on which no result depends",
        "cache": "says whether earlier results are taken, not how they are made",
        **_because("a map is made anew for each job, and no result depends on it", "map", "map_error"),
        "error": "of a job without items",
    },
    Item: {
        **_because("the caller's name for the image, and its place in the job", "index", "id"),
        "image": "the sha256 of its bytes is in",
        "error": "an item that has failed has no results",
    },
    ModelSpec: {
        **_because("says where the file lies; the digest of the weights, as loaded, is in", "weights", "weights_uri"),
        "labels": "may say where they lie; the class names, as read, are in",
    },
    LoadedModel: {
        "batch_sizes": "says how many images run at once; an image's result does not depend on the others",
        "pictures": "what a method's params name: uploads by their sha256; where there are others, nothing is cached",
        "kept": "a pass of the images at hand",
    },
    Settings: {
        **_because(
            "says where things lie and who may ask; what is read there is in by its content",
            *("redis_url", "s3_endpoint", "s3_public_endpoint", "s3_region", "bucket", "source_prefixes"),
            *("models_file", "methods_file", "api_keys_file", "weights_dir"),
        ),
        **_because(
            "bounds requests, before there is an image",
            *("max_body_bytes", "max_json_bytes", "max_upload_files", "presigned_seconds"),
            *("max_held_bytes", "max_connections", "max_connections_of_address", "access_log"),
        ),
        **_because("says whether results are kept, and for how long", "result_cache", "retention_days"),
        **_because(
            "cuts and paces the work; an image's result does not depend on the others in its shard",
            *("shard_seconds", "seconds_per_pass", "window_shards", "queue_patience_seconds", "claim_seconds"),
            *("consumer_patience_seconds", "timer_seconds", "max_attempts", "shard_limit_seconds"),
            *("model_memory_bytes", "decode_threads"),
        ),
        "device": "the type of the device that the model lies on is in",
    },
}


@dataclass(frozen=True)
class ResultFingerprint:
    """All that the results of one shard depend on, beside their images.

    Args:
        code: The worker's code version.
        spec: The model as the operator describes it.
        model: The model as it was loaded.
    """

    code: str
    settings: Settings
    spec: ModelSpec
    model: LoadedModel
    plan: Plan

    @property
    def is_known(self) -> bool:
        """Whether that is all that they depend on, so that results may be cached."""
        # An operator's own code may change and its weights stay the same.
        return self.spec.loader != "python" and self._job is not None

    def key(self, item: Item, image_sha256: str, method: MethodRequest) -> str:
        """The sha256 that stands for an item's results of one method, in hex."""
        top_k = self.plan.top_k if item.target is None else None
        return _digest([self._job, plain(method), plain(item), image_sha256, top_k])

    @cached_property
    def _job(self) -> str | None:
        """Of what all items and methods share; None where it holds something that has no digest."""
        try:
            return _digest([self.code, *map(plain, (self.settings, self.spec, self.model, self.plan))])
        except TypeError as error:
            log.warning("results are not cached", model=self.spec.name, reason=str(error))
            return None


def plain(value: object) -> Any:
    """A value as JSON has it, without the fields that are left out; the same in every process.

    Raises:
        TypeError: Its type is not one whose content is known.
    """
    if isinstance(value, BaseModel | Mapping) or (is_dataclass(value) and not isinstance(value, type)):
        return {str(name): plain(entry) for name, entry in _entries(value)}
    if isinstance(value, Set):
        return sorted(map(plain, value), key=json.dumps)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(entry) for entry in value]
    return _plain_leaf(value)


def _entries(value: Any) -> Iterable[tuple[object, object]]:
    """Names and values of a model, a dataclass or a mapping."""
    if isinstance(value, Mapping):
        return value.items()
    names = list(type(value).model_fields) if isinstance(value, BaseModel) else [field.name for field in fields(value)]
    more = (value.model_extra or {}).items() if isinstance(value, BaseModel) else ()
    left_out = {name for kind, table in LEFT_OUT.items() if isinstance(value, kind) for name in table}
    return [*((name, getattr(value, name)) for name in names if name not in left_out), *more]


def _plain_leaf(value: object) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Path() | torch.dtype():
            return str(value)
        case torch.device():
            # Two cards of one machine make the same.
            return value.type
        case Tensor():
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return [str(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest()]
        case nn.Module():
            # Its weights have a digest of their own.
            return described(value)
    raise TypeError(f"a {type(value).__name__} has no digest")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
