"""From an item to what the device takes: fetch, decode, preprocess. Runs in threads, ahead of the device."""

from dataclasses import dataclass

from torch import Tensor

from heatmill.errors import InvalidItem, ItemError
from heatmill.image_uris import SourceRules
from heatmill.images import ImageLimits, decode
from heatmill.schemas import Item
from heatmill.storage import S3Storage
from heatmill_workers.crashes import CrashWatch
from heatmill_workers.fetching import fetch
from heatmill_workers.models.loaded import LoadedModel
from heatmill_workers.models.preprocessing import Box, preprocess


@dataclass(frozen=True)
class Prepared:
    """An item whose photo is ready.

    Args:
        image: (3, H, W) float32, normalised for the model, on the CPU.
        box: Region of the photo that the model sees.
    """

    item: Item
    image: Tensor
    box: Box


@dataclass(frozen=True)
class Unprepared:
    """An item that failed before the device."""

    item: Item
    error: ItemError


@dataclass(frozen=True)
class Photos:
    """Where photos come from, and for whom."""

    storage: S3Storage
    rules: SourceRules
    limits: ImageLimits
    model: LoadedModel
    watch: CrashWatch

    def prepare(self, item: Item) -> Prepared | Unprepared:
        """One item, ready or failed.

        Raises:
            TransientError: The store does not answer.
        """
        try:
            if item.error is not None:
                raise InvalidItem(item.error.detail)
            self.watch.enter(item)
            image, box = self._read(item.image)
        except ItemError as error:
            return Unprepared(item, error)
        return Prepared(item, image, box)

    def picture(self, uri: str) -> Tensor | ItemError:
        """An image that a method's params name: (3, H, W) as in `Prepared`, or why there is none.

        Raises:
            TransientError: The store does not answer.
        """
        try:
            return self._read(uri)[0]
        except ItemError as error:
            return error

    def _read(self, uri: str) -> tuple[Tensor, Box]:
        data = fetch(uri, self.storage, self.rules, self.limits.max_bytes)
        return preprocess(decode(data, self.limits), self.model.preprocessing)
