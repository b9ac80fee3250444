"""What a claimed shard asks for."""

from dataclasses import dataclass

from heatmill.jobs.parts import Part, parts_of
from heatmill.schemas import Item, Plan
from heatmill.storage.bucket import S3Storage
from heatmill_workers.outputs.layout import Layout, ShardOutputs, SingleObjects
from heatmill_workers.outputs.tar import ShardTars
from heatmill_workers.shard.commit import ShardCommits
from heatmill_workers.shard.lease import ClaimedShard, ShardLease
from heatmill_workers.shard.second_opinion import SecondOpinion


@dataclass(frozen=True)
class ShardWork:
    """What a claimed shard asks for.

    Args:
        items: All of the shard.
        ours: The claim.
        commits: What is committed of it.
        opinion: What workers have seen of its failures.
    """

    shard: ClaimedShard
    plan: Plan
    items: tuple[Item, ...]
    lease: ShardLease
    commits: ShardCommits
    opinion: SecondOpinion

    def open_layout(self, storage: S3Storage) -> Layout:
        """Takes its results."""
        outputs = ShardOutputs(self.shard.job, self.shard.number, self.items[0].index, parts_of(len(self.items)))
        return (SingleObjects if self.plan.layout == "objects" else ShardTars)(storage, outputs)

    def parts_left(self) -> tuple[Part, ...]:
        """The parts that are not committed."""
        return self.commits.left(parts_of(len(self.items)))

    def items_of(self, part: Part) -> tuple[Item, ...]:
        """In their order."""
        return self.items[part.positions.start : part.positions.stop]
