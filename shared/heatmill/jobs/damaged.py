"""Records that are damaged: found once, moved out of the way, and made again by whoever needs them."""

import structlog

from heatmill.errors import RecordDamaged
from heatmill.jobs import documents, records
from heatmill.schemas import Plan
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId

log = structlog.get_logger()


def set_aside(storage: S3Storage, damaged: RecordDamaged) -> None:
    """Move a damaged record out of the way, and say so: once, since nobody finds it there again."""
    log.error("a damaged record is set aside", key=damaged.key, reason=str(damaged))
    documents.set_aside(storage, damaged.key)
    job = keys.owner(damaged.key)
    if damaged.key == keys.job_map(job, "json") and (plan := readable_plan(storage, job)) is not None:
        # It is made again where its commit record is not there.
        storage.delete([keys.commit(job, plan.shards)])


def readable_plan(storage: S3Storage, job: JobId) -> Plan | None:
    """The job's plan; None where there is none, and where it is damaged, which is then set aside."""
    try:
        return records.load_plan(storage, job)
    except RecordDamaged as error:
        set_aside(storage, error)
        return None
