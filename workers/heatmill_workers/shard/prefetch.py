"""From an item to what the device takes: fetch, decode, preprocess. Runs in threads, ahead of the device.

What the cache knows of an item is taken here, before the device is asked.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from threading import Semaphore

import structlog
from torch import Tensor

from heatmill.errors import InternalError, InvalidItem, ItemError
from heatmill.images import Box, ImageLimits, Photo, decode_reduced
from heatmill.images.source_uri import UPLOAD, SourceRules
from heatmill.schemas import ImageRead, Item, Row
from heatmill.storage.bucket import S3Storage
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.machine_faults import raise_lasting_fault
from heatmill_workers.models.preprocessing import least_side, preprocess_photo
from heatmill_workers.outputs.preview import Previews, kept_preview, preview
from heatmill_workers.result_cache.cache import ResultCache
from heatmill_workers.shard.crash_guard import CrashGuard
from heatmill_workers.shard.fetch import fetch
from heatmill_workers.shard.strict_jpeg import decode_jpeg

log = structlog.get_logger()


@dataclass(frozen=True)
class ReadyItem:
    """An item whose photo is ready.

    Args:
        image: (3, H, W) float32, normalised for the model, on the CPU.
        box: Region of the photo that the model sees.
        known: Rows that need not be made, by method.
        read: How the photo was read, for its rows.
    """

    item: Item
    image: Tensor
    box: Box
    known: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    read: ImageRead | None = None


@dataclass(frozen=True)
class FailedItem:
    """An item that failed before the device."""

    item: Item
    error: ItemError


@dataclass(frozen=True)
class CachedItem:
    """An item of which nothing remains to be done."""

    item: Item
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Photos:
    """Where photos come from, and for whom.

    Args:
        turn: Held to fetch and decode: bounds what lies in memory, and the threads that take the processor's time.
        cache: What is known of them, where it is used.
        previews: Takes what the model sees of them, where that is kept.
    """

    storage: S3Storage
    rules: SourceRules
    limits: ImageLimits
    model: LoadedModel
    watch: CrashGuard
    decode_slots: Semaphore
    cache: ResultCache | None
    previews: Previews | None = None

    def prepare(self, item: Item) -> ReadyItem | FailedItem | CachedItem:
        """One item, ready, failed or known already.

        Raises:
            TransientError: The store does not answer.
            MachineError: The machine fails.
        """
        if item.error is not None:
            return FailedItem(item, InvalidItem(item.error.detail))
        try:
            self.watch.enter(item)
            return self._prepared(item)
        except ItemError as error:
            # Such as a disk that is full, which a decoder has taken for a damaged image.
            raise_lasting_fault(error)
            return FailedItem(item, error)
        except Exception as error:  # noqa: BLE001 - raised again if it is not the image
            return FailedItem(item, _unforeseen(error, item.id))

    def picture(self, uri: str) -> Tensor | ItemError:
        """An image that a method's params name: (3, H, W) as in `ReadyItem`, or why there is none.

        Raises:
            TransientError: The store does not answer.
        """
        try:
            with self.decode_slots:
                return preprocess_photo(self._photo(self._fetched(uri)), self.model.preprocessing)[0]
        except ItemError as error:
            return error
        except Exception as error:  # noqa: BLE001 - raised again if it is not the image
            return _unforeseen(error, uri)

    def _prepared(self, item: Item) -> ReadyItem | CachedItem:
        data = None
        known: Mapping[str, tuple[Row, ...]] = {}
        if self.cache is not None:
            sha256, data = self._named(item.image)
            known = self.cache.lookup(item, sha256)
            if self.cache.covers_all_methods(known):
                rows = tuple(chain.from_iterable(known.values()))
                self._recall_preview(item, rows, data)
                return CachedItem(item, rows)
        with self.decode_slots:
            data = self._fetched(item.image) if data is None else data
            photo = self._photo(data)
            image, box = preprocess_photo(photo, self.model.preprocessing)
            self._take_preview(item, photo, box)
        return ReadyItem(item, image, box, known, _read(photo, data))

    def _take_preview(self, item: Item, photo: Photo, box: Box) -> None:
        if self.previews is not None:
            self.previews.take(item.index, preview(photo, box, self.model.preprocessing.input_size))

    def _recall_preview(self, item: Item, rows: tuple[Row, ...], data: bytes | None) -> None:
        """Of an item of which all is known: what an earlier job kept, else it is made of the photo again."""
        if self.previews is None:
            return
        if (known := kept_preview(self.storage, rows[0])) is not None:
            self.previews.take(item.index, known)
            return
        with self.decode_slots, suppress(ItemError):
            photo = self._photo(self._fetched(item.image) if data is None else data)
            self._take_preview(item, photo, rows[0].heatmap.box if rows[0].heatmap else (0, 0, *photo.size))

    def _named(self, uri: str) -> tuple[str, bytes | None]:
        """An image's sha256; its bytes too where they had to be read for that, which the name of an upload saves."""
        if upload := UPLOAD.fullmatch(uri):
            return upload[1], None
        with self.decode_slots:
            data = self._fetched(uri)
        return hashlib.sha256(data).hexdigest(), data

    def _fetched(self, uri: str) -> bytes:
        return fetch(uri, self.storage, self.rules, self.limits.max_bytes)

    def _photo(self, data: bytes) -> Photo:
        return decode_reduced(data, self.limits, least_side(self.model.preprocessing), decode_jpeg)


def _unforeseen(error: Exception, what: str) -> InternalError:
    """The error of an image that cannot be prepared, and nobody knows why.

    Raises:
        TransientError, MachineError: It is not the image.
    """
    raise_lasting_fault(error)
    log.error("preparing failed", what=what, exc_info=error)
    return InternalError(f"the image cannot be prepared: {type(error).__name__}; the worker's log has the trace")


def _read(photo: Photo, data: bytes) -> ImageRead:
    return ImageRead(
        format=photo.format,
        size=photo.size,
        reduced_by=photo.reduced_by,
        notes=photo.notes,
        sha256=hashlib.sha256(data).hexdigest(),
    )
