"""The comparison runs, its rows are as documented, and where a library is right heatmill says the same."""

from functools import partial

import pytest

from benchmarks import references
from benchmarks.methods import CASES, LITE, RESNET, Case, Passes, Reference, measure

FIELDS = {
    "method", "model", "reference", "images_per_second", "reference_images_per_second", "ratio", "limit_ratio",
    "parity_error", "completeness_error",
}  # fmt: skip
lime, partition = (
    partial(references.lime_image, samples=30),
    partial(references.shap_partition, evaluations=20),
)
LIBRARIES: dict[str, tuple[str, str, Reference, dict[str, object], float]] = {
    "grad-cam": ("grad_cam", RESNET, references.pytorch_grad_cam, {}, 1e-4),
    "captum": ("deep_lift", RESNET, references.captum_deep_lift, {}, 5e-2),
    "shap": ("partition_shap", LITE, partition, {"max_evals": 20}, 1e-4),
    "lime": ("lime", LITE, lime, {"samples": 30}, 5e-2),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_row_compares_with_the_library(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The fastest batch of a bare pass takes a while to be found.
    monkeypatch.setattr("benchmarks.limits.SIZES", (1,))
    method, model, reference, params, error = LIBRARIES[library]
    scaled = library == "grad-cam"
    case = Case(method, model, library, reference, Passes(forward=1), params, (1, 1), scaled=scaled, warm=False)

    (row,) = measure(quick=True, cases=[case])

    assert set(row) == FIELDS
    assert (row["method"], row["model"], row["reference"]) == (method, model, library)
    assert row["parity_error"] < error
    assert min(row[name] for name in ("images_per_second", "reference_images_per_second", "limit_ratio")) > 0
    assert row["ratio"] == pytest.approx(row["images_per_second"] / row["reference_images_per_second"])


def test_what_is_compared_is_in_the_catalogue() -> None:
    from heatmill.catalogue.catalogue import load_catalogue

    assert {case.method for case in CASES} <= {method.name for method in load_catalogue().methods}
