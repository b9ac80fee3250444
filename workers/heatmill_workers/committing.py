"""The last step of a shard: its commit record, written once, and not after the job's end."""

from heatmill import keys, records
from heatmill.errors import ClaimLost
from heatmill.schemas import CommitHeader, Row
from heatmill.storage import S3Storage, WriteConflict
from heatmill_workers.claims import ClaimedShard, HeldShard
from heatmill_workers.worker import Worker


def commit(worker: Worker, shard: ClaimedShard, ours: HeldShard, rows: list[Row], seconds: float) -> CommitHeader:
    """Write the commit record, last; where another worker was first, its record stands.

    Raises:
        ClaimLost: The shard is not ours any more, or the job has ended without it.
    """
    ours.check()
    # Redis, where it has forgotten a cancelled job that is over, cannot say so; a POST that came late may have made it
    # known again.
    if worker.storage.exists(keys.final(shard.job)):
        worker.state.forget(shard.job)
        raise ClaimLost("the job has ended without this shard")
    header, record = records.commit_record(shard.number, rows, seconds, worker.name)
    try:
        worker.storage.write_once(keys.commit(shard.job, shard.number), record, "application/jsonl")
    except WriteConflict:
        header = records.load_header(worker.storage, shard.job, shard.number) or header
    _take_back_if_late(worker.storage, shard)
    return header


def _take_back_if_late(storage: S3Storage, shard: ClaimedShard) -> None:
    """Remove the record of a worker that stood still in its write until a cancelled job had ended without it.

    Raises:
        ClaimLost: It is removed.
    """
    record, final = keys.commit(shard.job, shard.number), keys.final(shard.job)
    if not (storage.exists(final) and storage.exists(keys.cancelled(shard.job))):
        return
    written = {entry.key: entry.modified for key in (record, final) for entry in storage.list(key)}
    # What the end counted was there before it; stores tell seconds, and in doubt a record stays.
    if record in written and final in written and written[record] > written[final]:
        storage.delete([record])
        raise ClaimLost("the job ended while the commit record was on its way")
