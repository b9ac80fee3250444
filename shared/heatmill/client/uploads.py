"""Local images, stored by their content: hash them, ask where to put them, put them there, past the API."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from heatmill.client.http import Transport, read_answer
from heatmill.errors import InvalidRequest
from heatmill.schemas import Problem
from heatmill.schemas.image_types import IMAGE_TYPES, NO_TABLES, ending

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
IMAGES_PER_CALL = 100
THREADS = 4

OnUpload = Callable[[int, int], None]
"""Told (images stored so far, all images)."""
OnRefused = Callable[[Path, str], None]
"""Told of a file that was not uploaded, and why."""


@dataclass(frozen=True)
class LocalImage:
    """An image file and what the service must know to take it."""

    path: Path
    sha256: str
    size: int
    content_type: str

    @property
    def uri(self) -> str:
        """How a job names the image once it is stored."""
        return f"upload://{self.sha256}"


class UploadTarget(BaseModel):
    """Where an image goes; without a URL it is stored already, or refused where there is an error."""

    url: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    error: Problem | None = None


class UploadTargets(BaseModel):
    """One per image, in the order asked for."""

    uploads: list[UploadTarget]


def upload(
    api: Transport,
    store: Transport,
    paths: Sequence[Path],
    on_upload: OnUpload | None = None,
    on_refused: OnRefused | None = None,
) -> list[str]:
    """Store images and give back their URIs, in order.

    An image that the service refuses, say for its size, has a URI too, under which nothing lies: its item fails, and
    the others do not suffer.

    Raises:
        InvalidRequest: A file cannot be read.
        ServiceUnavailable: The service or its object store cannot be reached.
    """
    uris: list[str] = []
    with ThreadPoolExecutor(THREADS, thread_name_prefix="upload") as pool:
        for start in range(0, len(paths), IMAGES_PER_CALL):
            images = list(pool.map(read_image, paths[start : start + IMAGES_PER_CALL]))
            targets = _targets(api, images)
            missing = [(image, target) for image, target in targets if target.url is not None]
            _tell_refused(on_refused, images, targets)
            stored = start + len(images) - len(missing)
            puts = [pool.submit(_put, store, image, target) for image, target in missing]
            for number in _completed(puts):
                _tell(on_upload, stored + number, len(paths))
            uris += [image.uri for image in images]
            _tell(on_upload, len(uris), len(paths))
    return uris


def is_uri(image: str) -> bool:
    """Whether an item's image is named by a URI; else it is a file here."""
    return URI.match(image) is not None


def read_image(path: Path) -> LocalImage:
    """Hash a file; what it holds is the workers' to judge.

    Raises:
        InvalidRequest: It cannot be read, or its name does not end as an image's.
    """
    content_type = IMAGE_TYPES.get(ending(path.name))
    if content_type is None:
        read = ", ".join(sorted(IMAGE_TYPES))
        raise InvalidRequest(f"{path} does not look like an image; read are {read}, and {NO_TABLES}")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise InvalidRequest(f"the image {path} cannot be read: {error.strerror or error}") from error
    return LocalImage(path, sha256, size, content_type)


def _targets(api: Transport, images: list[LocalImage]) -> list[tuple[LocalImage, UploadTarget]]:
    """The images, each content once, with where to put it."""
    wanted = {image.sha256: image for image in images}
    body = [{"sha256": one.sha256, "size": one.size, "content_type": one.content_type} for one in wanted.values()]
    answer = read_answer(api.send("POST", "/v1/uploads", json={"images": body}), UploadTargets)
    return list(zip(wanted.values(), answer.uploads, strict=True))


def _tell_refused(
    on_refused: OnRefused | None, images: list[LocalImage], targets: list[tuple[LocalImage, UploadTarget]]
) -> None:
    errors = {image.sha256: target.error for image, target in targets}
    for image in images:
        error = errors[image.sha256]
        if on_refused is not None and error is not None:
            # The service knows images by their hashes, the caller by their names.
            on_refused(image.path, (error.detail or error.title).replace(image.sha256, str(image.path)))


def _put(store: Transport, image: LocalImage, target: UploadTarget) -> None:
    # The headers say the size, which the signature covers: stores refuse bodies of unknown length.
    store.send("PUT", target.url or "", file=image.path, headers=target.headers)


def _completed(puts: list[Future[None]]) -> Iterator[int]:
    """How many have completed, each time one does; the first failure stops the others."""
    try:
        for number, put in enumerate(as_completed(puts), start=1):
            put.result()
            yield number
    finally:
        for put in puts:
            put.cancel()


def _tell(on_upload: OnUpload | None, stored: int, total: int) -> None:
    if on_upload is not None:
        on_upload(stored, total)
