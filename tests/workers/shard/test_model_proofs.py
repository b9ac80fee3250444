"""What the proof of a model means for jobs: one that is refused fails as a whole, and facts are stored and named."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.jobs.model_records import load_newest_facts
from heatmill_workers.models.store import ModelStore
from heatmill_workers.shard.context import WorkerContext, proofs_in
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import upload
from tests.workers.photos import noise
from tests.workers.processed import planned_fresh, rows_of


class Noisy(nn.Module):
    """A classifier whose answer is another each time."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.mean((2, 3))
        return logits + torch.rand_like(logits)


def test_a_model_that_is_refused_fails_the_whole_job_at_the_first_attempt(
    worker: WorkerContext, tmp_path: Path
) -> None:
    models_toml = tmp_path / "models.toml"
    models_toml.write_text(
        f'[[models]]\nname = "noisy"\nloader = "python"\narchitecture = "{__name__}:Noisy"\nlabels = ["a", "b", "c"]\n'
        "[models.preprocessing]\nresize = 32\ncrop = 32\n"
    )
    catalogue = load_catalogue(models_toml)
    spec = catalogue.model("noisy").spec
    sick = replace(worker, catalogue=catalogue, models=ModelStore([spec], proofs=proofs_in(worker.storage, "code")))
    photos = [{"image": upload(worker.storage, noise(number))} for number in range(2)]
    job = planned_fresh(sick, model="noisy", items=photos, methods=[{"name": "saliency"}, {"name": "lime"}])

    process_shard(sick, job, 0)

    rows = rows_of(sick, job)
    assert {row.error.type.rsplit("/", 1)[1] for row in rows if row.error} == {"model_refused"}
    assert len(rows) == 4
    assert all(row.error and "is random" in row.error.detail and "rand_like" in row.error.detail for row in rows)
    facts = load_newest_facts(worker.storage, spec)
    assert facts is not None
    assert facts.refused == rows[0].error.detail  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_the_proof_of_a_model_found_is_stored_and_named_by_each_row(worker: WorkerContext, dtype: str) -> None:
    spec = worker.catalogue.model("digits_vit").spec.model_copy(update={"dtype": dtype})
    proved = replace(worker, models=ModelStore([spec], proofs=proofs_in(worker.storage, "code")))
    item = {"image": upload(worker.storage, noise(1))}
    job = planned_fresh(proved, model="digits_vit", items=[item], methods=[{"name": "saliency"}])

    process_shard(proved, job, 0)

    (row,) = rows_of(proved, job)
    facts = load_newest_facts(worker.storage, spec)
    assert facts is not None
    assert (row.provenance["proof"], row.provenance["dtype"]) == (facts.key, dtype)
    assert (facts.refused, facts.dtype, facts.gradient_fault) == (None, dtype, "")
    assert load_newest_facts(worker.storage, spec.model_copy(update={"cam_layer": "other"})) is None
