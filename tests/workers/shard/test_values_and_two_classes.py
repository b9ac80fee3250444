"""Jobs on a regression and on a model of one logit, from submission to their tables and maps."""

import io
import json

import pyarrow.parquet as pq
import pytest
from torch import Tensor, nn

from heatmill.catalogue.catalogue import Catalogue, load_catalogue
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.control.finish import finish
from heatmill_workers.control.schedule import feed, plan
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import accept, sent, upload
from tests.workers.photos import noise
from tests.workers.processed import control_of, rows_of

MODELS = f"""
[[models]]
name = "age"
loader = "python"
architecture = "{__name__}:brightness"
labels = ["age"]
activation = "none"
preprocessing = {{ resize = 32, crop = 32 }}

[[models]]
name = "scan"
loader = "python"
architecture = "{__name__}:brightness"
labels = ["sick"]
preprocessing = {{ resize = 32, crop = 32 }}
"""
METHODS = [
    {"name": "saliency"},
    {"name": "lime", "params": {"samples": 20, "segmentation": "grid", "segments": 4}},
]


class Brightness(nn.Module):
    """The sum of the channels' means."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 1)
        nn.init.constant_(self.last.weight, 1)
        nn.init.constant_(self.last.bias, 0.25)

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.last(images.mean((2, 3)))
        return values


def brightness() -> nn.Module:
    return Brightness()


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    path = tmp_path_factory.mktemp("models") / "models.toml"
    path.write_text(MODELS)
    return load_catalogue(path)


def worked_off(worker: WorkerContext, *, target: int | None = None, **request: object) -> JobId:
    items = [{"image": upload(worker.storage, noise(seed)), "target": target} for seed in range(4)]
    job = accept(worker.storage, items=items, methods=METHODS, cache=False, **request)  # type: ignore[arg-type]
    plan(control_of(worker), job)
    while messages := sent(worker.state):
        for name, number in messages:
            process_shard(worker, JobId.parse(name), number)
        feed(control_of(worker))
    finish(control_of(worker), job)
    return job


def table(worker: WorkerContext, name: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(io.BytesIO(worker.storage.get(name))).to_pylist()
    return found


def test_a_regression_says_its_value_everywhere_and_a_probability_nowhere(worker: WorkerContext) -> None:
    job = worked_off(worker, model="age", map={"method": "tsne", "perplexity": 5})

    rows = [row for row in rows_of(worker, job) if row.target]
    assert len(rows) == 12
    assert {row.target.label for row in rows if row.target} == {"age"}
    assert all(row.target and row.target.probability is None and row.target.value is not None for row in rows)
    explained = {row.method: row.provenance.get("explained") for row in rows}
    assert explained == {"saliency": "value", "lime": "value", "tsne": None}
    for each in table(worker, keys.table(job, 0)):
        assert each["target_probability"] is None
        assert isinstance(each["target_value"], float)
    points = [json.loads(line) for line in worker.storage.get(keys.job_map(job, "jsonl")).splitlines()]
    assert table(worker, keys.job_map(job, "parquet")) == points
    assert [(point["class_label"], point["probability"]) for point in points] == [("age", None)] * 4


@pytest.mark.parametrize("label", ["not sick", "sick"])
def test_each_class_of_one_logit_is_explained(worker: WorkerContext, label: str) -> None:
    job = worked_off(worker, model="scan", target=worker.catalogue.target_index("scan", label))

    rows = rows_of(worker, job)
    assert [row.status for row in rows] == ["succeeded"] * 8
    assert {row.method: row.provenance["explained"] for row in rows} == {"saliency": "logit", "lime": "probability"}
    for row in rows:
        assert row.target is not None
        assert (row.target.label, row.target.value) == (label, None)
        assert 0 < (row.target.probability or 0) < 1


def test_the_probabilities_of_the_two_classes_of_one_logit_sum_to_1(worker: WorkerContext) -> None:
    rows = rows_of(worker, worked_off(worker, model="scan", top_k=2))

    sums: dict[tuple[str, str], float] = {}
    for row in rows:
        assert row.target is not None
        sums[row.item, row.method] = sums.get((row.item, row.method), 0) + (row.target.probability or 0)
    assert list(sums.values()) == pytest.approx([1] * 8)
