"""Weights that lie in the object store: fetched once per machine, checked, and kept under their sha256."""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import structlog

from heatmill.catalogue.models import ModelSpec
from heatmill.errors import ModelUnavailable, WeightsUnavailable
from heatmill.storage.bucket import AccessRefused, ObjectMissing, S3Storage
from heatmill_workers.engine.machine_faults import raise_machine_fault

Localise = Callable[[ModelSpec], ModelSpec]

log = structlog.get_logger()


def localiser(storage: S3Storage, folder: Path) -> Localise:
    """What puts a model's weights on this machine: the same spec, with a file in place of a URI.

    Args:
        storage: Of any bucket; with rights to read the operator's.
        folder: Made where it is not there. A file in it was checked when it was put there.

    Raises (what it returns):
        WeightsUnavailable: Nothing lies there, it may not be read, or it cannot be written on this machine.
        DiskFull: It cannot be written for want of room.
        ModelUnavailable: It has another sha256.
        StorageUnavailable: The store does not answer.
    """
    folder = folder.expanduser()

    def localise(spec: ModelSpec) -> ModelSpec:
        if spec.weights_uri is None:
            return spec
        path = folder / f"{spec.sha256}{PurePosixPath(spec.weights_uri).suffix}"
        if not path.exists():
            _fetch_here(spec, storage, path)
        return spec.model_copy(update={"weights": path})

    return localise


def _fetch_here(spec: ModelSpec, storage: S3Storage, path: Path) -> None:
    try:
        _fetch(spec, storage, path)
    except OSError as error:
        raise_machine_fault(error)
        raise WeightsUnavailable(f"model {spec.name}: its weights cannot be kept in {path.parent}: {error}") from error


def _fetch(spec: ModelSpec, storage: S3Storage, path: Path) -> None:
    """Write the file in one step: another worker on this machine may look for it, or fetch it as well."""
    uri = str(spec.weights_uri)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder, (Path(folder) / path.name).open("w+b") as file:
        try:
            storage.of_bucket(bucket).download(key, file)
        except (ObjectMissing, AccessRefused) as error:
            raise WeightsUnavailable(
                f"model {spec.name}: {uri} cannot be read; correct `weights` in models.toml: {error}"
            ) from error
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != spec.sha256:
            raise ModelUnavailable(
                f"model {spec.name}: {uri} has sha256 {found}; `sha256` in models.toml is {spec.sha256}"
            )
        Path(file.name).replace(path)
    log.info("weights fetched", model=spec.name, uri=uri)
