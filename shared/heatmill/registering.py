"""Make Redis know an open job: when it is accepted, and again when Redis has forgotten it."""

from heatmill import job_index, keys, records
from heatmill.committed import Committed
from heatmill.keys import JobId
from heatmill.progress import summary
from heatmill.schemas import AcceptedJob, Plan
from heatmill.state import RedisJobStore
from heatmill.storage import S3Storage


def register_new(state: RedisJobStore, accepted: AcceptedJob, plan: Plan | None) -> None:
    """Make a job known that was accepted just now.

    Raises:
        QueueUnavailable: Redis does not answer; the job may be half known, and `register` makes it whole.
    """
    _register(state, accepted, plan, Committed())


def register(storage: S3Storage, state: RedisJobStore, job: JobId) -> None:
    """Make Redis know what the durable records say of an open job; what it knows already stays.

    Raises:
        JobNotFound: There is no such job.
    """
    accepted = records.load_request(storage, job)
    _register(state, accepted, records.load_plan(storage, job), records.committed(storage, job))
    if storage.exists(keys.cancelled(job)):
        state.cancel(job)


def _register(state: RedisJobStore, accepted: AcceptedJob, plan: Plan | None, committed: Committed) -> None:
    # Listed first: a repair passes over a job that the state knows, so that one would never reach the list.
    job_index.add(state, accepted)
    state.register(JobId(accepted.tenant, accepted.id), summary(accepted), plan, committed)
