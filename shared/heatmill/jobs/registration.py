"""Make Redis know an open job: when it is accepted, and again when Redis has forgotten it."""

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.shard_set import CommittedTotals
from heatmill.jobs import index as job_index
from heatmill.jobs import records
from heatmill.jobs.status import summary
from heatmill.schemas import AcceptedJob, Plan
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId


def register_new(state: RedisJobStore, accepted: AcceptedJob, plan: Plan | None) -> None:
    """Make a job known that was accepted just now.

    Raises:
        QueueUnavailable: Redis does not answer; the job may be half known, and `register` makes it whole.
    """
    _register(state, accepted, plan, CommittedTotals())


def register(storage: S3Storage, state: RedisJobStore, job: JobId) -> None:
    """Make Redis know what the durable records say of an open job; what it knows already stays.

    Raises:
        JobNotFound: There is no such job.
    """
    accepted = records.load_request(storage, job)
    _register(state, accepted, records.load_plan(storage, job), records.committed(storage, job))
    if storage.exists(keys.cancelled(job)):
        state.cancel(job)


def _register(state: RedisJobStore, accepted: AcceptedJob, plan: Plan | None, committed: CommittedTotals) -> None:
    # Listed first: a repair passes over a job that the state knows, so that one would never reach the list.
    job_index.add(state, accepted)
    state.register(JobId(accepted.tenant, accepted.id), summary(accepted), plan, committed)
