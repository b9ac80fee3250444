"""Every failure heatmill names, split by who must act.

    HeatmillError
    ├── RequestError          the caller changes the request
    │   ├── MalformedRequest          the body is not JSON, or not of a type that is read here
    │   ├── InvalidRequest            a field is wrong; the message names it
    │   ├── UnknownModel, UnknownMethod, MethodNotSupported
    │   ├── TooLarge                  over a stated limit
    │   ├── JobNotFound, ResultNotFound, JobFinished, JobUnfinished
    │   │   └── JobDeleted            there was such a job
    │   ├── IdempotencyKeyReused      the key belongs to a job with another body
    │   └── Unauthorized
    ├── ItemError             this item failed, the job goes on
    │   ├── InvalidItem               a line of a manifest, or a file by its name, is not an item
    │   ├── SourceUnreadable          a job's source lists nothing, or too much, or is not there
    │   ├── ImageNotFound, ImageUnreadable, ImageTooLarge
    │   ├── TargetUnknown             the model has no such class
    │   ├── BadAttribution            an explainer returned something that is not finite
    │   ├── ImageUnsuitable           the method has no answer for this image
    │   ├── UnsupportedOperation      the method has no right answer on this model
    │   ├── ModelUnavailable, ModelRefused    it cannot be built; it was tried, and cannot be explained rightly
    │   ├── ItemTooLargeForDevice     one image alone does not fit the device
    │   ├── MapUnavailable            no map can be made of the job's items
    │   └── InternalError, WorkerCrashed      heatmill, or an operator's code, failed on this item; so did the worker
    ├── MachineError          the operator acts: the shard goes back, the worker stops taking and says why
    │   ├── DeviceUnusable            the worker's device is not there, or computes nothing any more
    │   ├── DiskFull                  the machine has no room for a file that the work needs
    │   ├── MemoryExhausted           the machine has not enough memory, for a model say
    │   ├── WeightsUnavailable        the model's weights cannot be had on this machine now
    │   ├── ModelNotOnThisWorker, MethodNotOnThisWorker      in models.toml; among the installed packages
    │   ├── RedisUnsuitable           the setting names no Redis that heatmill can work with
    │   └── RecordTooNew              a newer heatmill wrote a record that this one cannot read
    ├── RecordDamaged         a stored record is not what its key says: it is set aside, and made again where it can be
    └── TransientError        nobody acts: it is tried again
        ├── StorageUnavailable, QueueUnavailable
        │   ├── StorageFull               the object store has no room left; the operator makes some
        │   └── QueueFull                 Redis has no memory left; the operator gives it more
        ├── ServiceUnavailable        heatmill itself, seen from the client
        ├── BeingRepaired             a stored record is damaged, and is made again
        ├── ClaimLost                 another worker holds the shard now
        ├── ShardUnfinished           a worker gives a shard back, the parts that are done apart
        └── Unconfirmed               work failed in a way that nobody foresaw, and no second worker agrees yet

`code` is stable and documented: it is the last part of a problem's `type`. HTTP status codes live in the API only.
"""

import re
from typing import ClassVar


class HeatmillError(Exception):
    """Base of everything raised on purpose."""

    code: ClassVar[str] = "heatmill_error"

    def __init_subclass__(cls) -> None:
        """Derive the code from the class name: `ImageTooLarge` is `image_too_large`."""
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @property
    def title(self) -> str:
        """The code as words: what a person reads first."""
        return self.code.replace("_", " ").capitalize()


class RequestError(HeatmillError):
    """The caller must change the request.

    Args:
        message: Names the thing and the limit.
        errors: One entry per fault, `{"pointer": "/items/3/image", "detail": ...}` or `{"line": 8, "detail": ...}`.
    """

    def __init__(self, message: str, errors: list[dict[str, object]] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or []


class MalformedRequest(RequestError):
    """The body cannot be read at all."""


class InvalidRequest(RequestError):
    """A field of the request is wrong."""


class UnknownModel(RequestError):
    """No model of that name is in the catalogue."""


class UnknownMethod(RequestError):
    """No method of that name is in the catalogue."""


class MethodNotSupported(RequestError):
    """The method cannot be right on this model."""


class TooLarge(RequestError):
    """The request is over a stated limit."""


class JobNotFound(RequestError):
    """This tenant has no such job."""


class JobDeleted(JobNotFound):
    """The job was deleted, or its time was over."""


class ResultNotFound(RequestError):
    """The job has no such result, or not yet."""


class JobFinished(RequestError):
    """The job is terminal and cannot be changed."""


class JobUnfinished(RequestError):
    """The job must be terminal for this; wait for it, or cancel it."""


class IdempotencyKeyReused(RequestError):
    """The Idempotency-Key belongs to a job that was asked for in other words."""


class Unauthorized(RequestError):
    """The API key is missing or unknown."""


class ItemError(HeatmillError):
    """This item failed; the job goes on and keeps an error row for it."""


class InvalidItem(ItemError):
    """A manifest line is not an item, or a file's name cannot be an item's id."""


class SourceUnreadable(ItemError):
    """A job's source lists nothing, or too much, or is not there."""


class ImageNotFound(ItemError):
    """Nothing is stored under the item's image URI."""


class ImageUnreadable(ItemError):
    """The bytes are not an image of an accepted format, or are damaged."""


class ImageTooLarge(ItemError):
    """The image has more bytes or pixels than the limit."""


class TargetUnknown(ItemError):
    """The model has no class of that index or label."""


class BadAttribution(ItemError):
    """An explainer returned values that are not finite."""


class ImageUnsuitable(ItemError):
    """The method has no answer for this image, such as one that does not fall into regions."""


class UnsupportedOperation(ItemError):
    """The model contains an operation for which the method has no right answer."""


class ModelUnavailable(ItemError):
    """The model cannot be loaded: its weights are missing, unsafe or do not match."""


class ModelRefused(ItemError):
    """The model was run on a few inputs and cannot be explained rightly; nothing but another model cures that."""


class ItemTooLargeForDevice(ItemError):
    """One item alone does not fit the device."""


class MapUnavailable(ItemError):
    """No map can be made of a job's items; what was asked for beside it goes on."""


class InternalError(ItemError):
    """A fault in heatmill or in an operator's own code; the worker's log has the trace."""


class WorkerCrashed(ItemError):
    """The worker process died while this item was processed."""


class MachineError(HeatmillError):
    """The operator acts: this machine cannot do the work, another one may.

    Args:
        message: Names the thing, and what is wrong with it.
        lacks: The model or the method that this machine cannot serve, where it can do other work.
    """

    def __init__(self, message: str, *, lacks: str | None = None) -> None:
        super().__init__(message)
        self.lacks = lacks


class DeviceUnusable(MachineError):
    """The worker's device is not there, or computes nothing any more."""


class DiskFull(MachineError):
    """The machine has no room for a file that the work needs."""


class MemoryExhausted(MachineError):
    """The machine has not enough memory for something that is not one image's own."""


class WeightsUnavailable(MachineError):
    """The model's weights cannot be had on this machine now."""


class ModelNotOnThisWorker(MachineError):
    """The worker's models.toml does not name the model: it is older than the API's, or another."""


class MethodNotOnThisWorker(MachineError):
    """The package that brings the method is not installed on the worker."""


class RedisUnsuitable(MachineError):
    """`HEATMILL_REDIS_URL` names no single Redis, or cannot be read."""


class RecordTooNew(MachineError):
    """A record has a newer format than this heatmill reads; one of a newer version does."""

    def __init__(self, key: str, stated: int, known: int) -> None:
        super().__init__(
            f"{key} has format {stated}, and this heatmill reads up to {known}: a newer version wrote it",
            lacks=f"records of format {stated}",
        )


class RecordDamaged(HeatmillError):
    """The record under a key cannot be read, or is that of something else."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} is damaged: {reason}")
        self.key = key


class TransientError(HeatmillError):
    """Nobody has to act: the work is tried again."""


class StorageUnavailable(TransientError):
    """The object store does not answer."""


class StorageFull(StorageUnavailable):
    """The object store has no room left, and takes nothing more."""


class QueueUnavailable(TransientError):
    """Redis does not answer."""


class QueueFull(QueueUnavailable):
    """Redis has no memory left, and takes nothing more."""


class ServiceUnavailable(TransientError):
    """The service cannot be reached, or cannot answer now."""


class BeingRepaired(TransientError):
    """A stored record is damaged or missing, and a control worker was asked to make it again."""


class ClaimLost(TransientError):
    """The shard's claim ran out and may be held by another worker."""


class ShardUnfinished(TransientError):
    """A worker gives a shard back before it is done; the parts that are committed stay.

    Args:
        message: Why.
        goes_alone: The next attempt must take its items one by one, as this one did.
    """

    def __init__(self, message: str, *, goes_alone: bool = False) -> None:
        super().__init__(message)
        self.goes_alone = goes_alone


class Unconfirmed(TransientError):
    """Work failed in a way that nobody foresaw; it fails for good when a second worker agrees."""
