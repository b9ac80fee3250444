"""Where in the bucket the results of a shard lie: a function of ids, so that doing a shard twice writes the same."""

from dataclasses import dataclass

from heatmill import keys
from heatmill.keys import JobId
from heatmill.schemas import Item


@dataclass(frozen=True)
class ShardOutputs:
    """The keys of one shard's results.

    Args:
        first_index: Of its items.
    """

    job: JobId
    number: int
    first_index: int

    def heatmap(self, item: Item, method: str, target: int) -> str:
        """Key of a picture."""
        return keys.heatmap(self.job, self.number, self._name(item, method, target))

    def attribution(self, item: Item, method: str, target: int) -> str:
        """Key of an array."""
        return keys.attribution(self.job, self.number, self._name(item, method, target))

    def _name(self, item: Item, method: str, target: int) -> str:
        return f"{item.index - self.first_index:04}.{method}.{target}"
