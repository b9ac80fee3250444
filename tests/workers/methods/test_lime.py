"""LIME is lime_image's, coefficient for coefficient, and shares one set of samples between the targets of an image."""

import numpy as np
import pytest
import torch
from lime.lime_image import ImageExplanation, LimeImageExplainer
from numpy.typing import NDArray
from torch import Tensor, nn

from heatmill.errors import ImageUnsuitable, InvalidRequest
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.perturbation.hiding import solid_colour
from heatmill_workers.engine.perturbation.segments import as_photos, segment
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.registry import register
from tests.workers.small import loaded, photos, small_resnet

SAMPLES = 80
TARGETS = torch.tensor([3, 7])


def smooth(count: int) -> Tensor:
    """Soft blobs of colour, which fall into segments as a photo does."""
    coarse = photos(count, side=8)
    return nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")


def explained(model: LoadedModel, images: Tensor, targets: Tensor, **params: object) -> list[Explanation]:
    entries = explain("lime", model, images, targets, {"samples": SAMPLES, **params})
    assert all(isinstance(entry, Explanation) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, Explanation)]


def lime_image(
    segments: NDArray[np.int64], hide: NDArray[np.float32] | None, label: int, samples: int = SAMPLES
) -> ImageExplanation:
    """The library on the same segments and draws; it sees the normalised photo."""

    def probabilities(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        inputs = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return np.asarray(small_resnet().module(inputs).softmax(1))

    return LimeImageExplainer(random_state=5).explain_instance(
        smooth(1)[0].permute(1, 2, 0).numpy(),
        probabilities,
        labels=(label,),
        top_labels=None,
        hide_color=hide,
        num_samples=samples,
        segmentation_fn=lambda image: segments,
        # Of its own segmentation, which is not used; without one it would take a number from the draws.
        random_seed=0,
    )


@pytest.mark.parametrize(
    ("segmentation", "hide"), [("quickshift", "mean"), ("slic", "mean"), ("grid", "black"), ("grid", "grey")]
)
def test_it_is_lime_images_on_the_same_segments_and_draws(segmentation: str, hide: str) -> None:
    model, images = small_resnet(), smooth(1)
    segments = segment(as_photos(images, model.preprocessing)[0], segmentation, 16, 5)  # type: ignore[arg-type]
    level = {"mean": None, "black": 0.0, "grey": 0.5}[hide]
    colour = None if level is None else solid_colour(level, model.preprocessing).flatten().numpy()
    wanted = lime_image(segments, colour, 7)
    coefficients = np.array([weight for _, weight in sorted(wanted.local_exp[7])])

    (entry,) = explained(model, images, TARGETS[1:], segmentation=segmentation, segments=16, seed=5, hide=hide)

    assert np.abs(coefficients).max() > 1e-3
    np.testing.assert_allclose(entry.attribution[0], coefficients[segments], atol=1e-5 * np.abs(coefficients).max())
    assert entry.checks["r2"] == pytest.approx(wanted.score, abs=1e-5)
    assert entry.checks["segments"] == len(coefficients)
    assert entry.checks["samples"] == SAMPLES


def grown(images: Tensor, targets: Tensor, model: LoadedModel | None = None, **params: object) -> list[Explanation]:
    """Of a grid of nine, starting from 20 samples."""
    chosen = {"segmentation": "grid", "segments": 9, "samples": 20, "seed": 5, "max_error": 0.1, **params}
    return explained(model or small_resnet(), images, targets, **chosen)


def test_with_max_error_it_ends_at_the_first_samples_that_meet_it_and_is_lime_images_there() -> None:
    (entry,) = grown(smooth(1), TARGETS[1:])

    samples = int(entry.checks["samples"])
    assert samples in (30, 45, 67, 100, 150, 225, 337, 505)
    assert float(entry.checks["standard_error"]) <= 0.1
    (less,) = grown(smooth(1), TARGETS[1:], max_error=None, samples=round(samples / 1.5 + 0.1))
    assert float(less.checks["standard_error"]) > 0.1
    segments = segment(as_photos(smooth(1), small_resnet().preprocessing)[0], "grid", 9, 5)
    wanted = lime_image(segments, None, 7, samples)
    coefficients = np.array([weight for _, weight in sorted(wanted.local_exp[7])])
    np.testing.assert_allclose(entry.attribution[0], coefficients[segments], atol=1e-5 * np.abs(coefficients).max())


def test_each_target_ends_by_itself_whatever_else_is_asked_of_the_images_beside_it() -> None:
    rows, targets = smooth(2).repeat_interleave(5, 0), torch.arange(10) % 5 * 2

    together = grown(rows, targets)

    assert len({entry.checks["samples"] for entry in together}) > 1
    for image, target, entry in zip(rows, targets, together, strict=True):
        (alone,) = grown(image[None], target[None])
        assert alone.checks["samples"] == entry.checks["samples"]
        np.testing.assert_allclose(entry.attribution, alone.attribution, rtol=1e-3, atol=1e-6)


def test_the_drawing_ends_at_max_samples_which_bounds_the_first_ones_too() -> None:
    for samples, most, ends in ((20, 50, 50), (200, 30, 30), (20, 20, 20)):
        (entry,) = grown(smooth(1), TARGETS[:1], max_error=1e-6, samples=samples, max_samples=most)
        assert entry.checks["samples"] == ends
        assert float(entry.checks["standard_error"]) > 1e-6
    (entry,) = grown(smooth(1), TARGETS[:1], max_error=None, samples=40, max_samples=30)
    assert entry.checks["samples"] == 40


@pytest.mark.parametrize("params", [{"max_error": 0}, {"max_error": 1.5}, {"max_samples": 9}, {"max_samples": 10001}])
def test_an_error_that_cannot_be_met_and_bounds_without_sense_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="params of lime"):
        explain("lime", small_resnet(), smooth(1), TARGETS[:1], params)


class Counts(nn.Module):
    """Notes the size of every batch that goes through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.rows: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.rows.append(len(images))
        logits: Tensor = self.inner(images)
        return logits


def test_the_targets_of_an_image_share_its_samples_and_batches_are_filled_over_images() -> None:
    counts = Counts(nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 10)))
    model, images = loaded(counts), smooth(2)
    rows, targets = images.repeat_interleave(torch.tensor([3, 2]), 0), torch.tensor([0, 3, 7, 3, 9])
    counts.rows.clear()

    shared = explained(model, rows, targets, segmentation="grid", samples=20)

    assert counts.rows == [8] * 5
    for image, target, entry in zip(rows, targets, shared, strict=True):
        (alone,) = explained(model, image[None], target[None], segmentation="grid", samples=20)
        np.testing.assert_allclose(entry.attribution, alone.attribution, rtol=1e-4, atol=1e-7)


def test_no_sample_is_asked_twice_and_what_is_precise_enough_is_asked_no_more() -> None:
    counts = Counts(nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 10)))
    model, images = loaded(counts), torch.cat([smooth(1), torch.zeros(1, 3, 64, 64)])
    counts.rows.clear()

    precise, empty = grown(images, TARGETS, model, max_error=0.05)

    # An image of one colour has nothing to be imprecise about.
    assert empty.checks["samples"] == 20 < int(precise.checks["samples"])
    assert sum(counts.rows) == 20 + int(precise.checks["samples"])


class Corner(nn.Module):
    """Sees the top left quarter and nothing else."""

    def forward(self, images: Tensor) -> Tensor:
        seen = images[:, :, :32, :32].mean((1, 2, 3))
        return torch.stack([seen, -seen, *[torch.zeros_like(seen)] * 8], 1)


def test_what_the_model_does_not_see_gets_nothing_and_the_sign_is_the_classes() -> None:
    images = torch.full((1, 3, 64, 64), 2.0)
    params: dict[str, object] = {"segmentation": "grid", "segments": 4, "samples": 400, "hide": "black"}

    (entry,) = explained(loaded(Corner()), images, torch.tensor([0]), **params)
    (against,) = explained(loaded(Corner()), images, torch.tensor([1]), **params)

    corner, rest = entry.attribution[0, 0, 0], entry.attribution[0, 32:, :]
    assert corner > 0.1
    # The penalty of the ridge keeps it from being nothing at all.
    assert np.abs(rest).max() < 5e-3 * corner
    assert against.attribution[0, 0, 0] < 0
    assert entry.verdict == "ok"
    assert float(entry.checks["r2"]) > 0.99


def test_too_few_samples_are_said_to_be_imprecise() -> None:
    (entry,) = explained(small_resnet(), smooth(1), TARGETS[:1], segmentation="grid", segments=64, samples=40)

    assert float(entry.checks["standard_error"]) > 0.2
    assert entry.verdict == "imprecise"


def test_an_image_of_one_segment_fails_alone_and_is_told_why() -> None:
    # In noise, SLIC joins all that it finds.
    images = torch.cat([photos(1), smooth(1), photos(1, seed=1)])

    entries = explain("lime", small_resnet(), images, torch.tensor([3, 7, 0]), {"samples": 20, "segmentation": "slic"})

    assert [type(entry) for entry in entries] == [ImageUnsuitable, Explanation, ImageUnsuitable]
    assert "64 x 64 pixels" in str(entries[0])


def test_where_no_image_has_segments_all_fail() -> None:
    entries = explain("lime", small_resnet(), photos(1), TARGETS[:1], {"segmentation": "slic"})

    assert [type(entry) for entry in entries] == [ImageUnsuitable]


def test_a_model_of_one_pixel_is_not_told_to_take_a_grid() -> None:
    model = loaded(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)), side=1)

    for segmentation in ("quickshift", "slic", "grid"):
        (entry,) = explain("lime", model, photos(1, side=1), TARGETS[:1], {"segmentation": segmentation})
        assert isinstance(entry, ImageUnsuitable)
        assert str(entry).endswith("found one in the 1 x 1 pixels that the model sees")


@pytest.mark.parametrize(("segments", "images"), [(1000, photos(1, side=16)), (9, torch.zeros(1, 3, 16, 16))])
def test_where_hiding_changes_nothing_the_map_is_blank(segments: int, images: Tensor) -> None:
    """Segments of one pixel are their own mean, and so are all of one colour."""
    model = loaded(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), side=16)

    (entry,) = explained(model, images, TARGETS[:1], segmentation="grid", segments=segments)

    assert not entry.attribution.any()
    assert entry.verdict == "blank"


@pytest.mark.parametrize("segmentation", ["quickshift", "slic", "grid"])
def test_the_largest_seed_is_one_for_every_segmentation(segmentation: str) -> None:
    largest = register()["lime"].params.model_json_schema()["properties"]["seed"]["maximum"]

    (entry,) = explained(small_resnet(), smooth(1), TARGETS[:1], segmentation=segmentation, seed=largest)

    assert np.isfinite(entry.attribution).all()


def test_another_seed_is_another_draw() -> None:
    one, same, other = (
        explained(small_resnet(), smooth(1), TARGETS[:1], segmentation="grid", seed=seed)[0] for seed in (0, 0, 1)
    )

    assert np.array_equal(one.attribution, same.attribution)
    assert not np.allclose(one.attribution, other.attribution)
