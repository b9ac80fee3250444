"""A model whose rows depend on one another, or on chance, is refused in words; one that only looks so is not."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill.errors import ModelRefused, ModelUnavailable
from tests.workers.models.proof.subjects import Net, noise, proved, seeded


class OwnStatistics(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)


class TrainsItsNorm(Net):
    def features(self, images: Tensor) -> Tensor:
        maps = functional.batch_norm(self.first(images), self.norm.running_mean, self.norm.running_var, training=True)
        features: Tensor = self.second(maps.relu()).relu()
        return features


class VectorNorm(Net):
    """Batch norm of vectors without statistics, behind the pooling."""

    def read(self, features: Tensor) -> Tensor:
        return functional.batch_norm(features.mean((2, 3)), None, None, training=True)


class ScaledByTheLargest(Net):
    def read(self, features: Tensor) -> Tensor:
        return features.amax((2, 3)) / features.max().item()


class AttendsOverTheBatch(Net):
    """Hands (N, tokens, width) to an attention that takes (tokens, N, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def read(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        mixed: Tensor = self.attention(tokens, tokens, tokens)[0].mean(1)
        return mixed


class LessTheFirst(Net):
    """The first image of a batch is what the others are compared with."""

    def read(self, features: Tensor) -> Tensor:
        return (features - 0.5 * features[:1]).mean((2, 3))


class ScoredWithinTheBatch(Net):
    def forward(self, images: Tensor) -> Tensor:
        return functional.normalize(super().forward(images), dim=0)


class GhostNorm(Net):
    """Normalises groups of eight rows; fewer are left as they are."""

    def read(self, features: Tensor) -> Tensor:
        groups = [group - group.mean(0) if len(group) == 8 else group for group in torch.split(features, 8)]
        return torch.cat(groups).mean((2, 3))


class BrightBatch(Net):
    """A decision over the whole batch, at a level between black and white."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images) * (3 if bool(images.mean() > 0.3) else 1)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OwnStatistics, "batch norm"),
        (TrainsItsNorm, "batch norm"),
        (VectorNorm, "batch norm"),
        (ScaledByTheLargest, "max"),
        (AttendsOverTheBatch, "% of their spread"),
        (LessTheFirst, "% of their spread"),
        (ScoredWithinTheBatch, "% of their spread"),
        (GhostNorm, "mean"),
        (BrightBatch, "mean"),
    ],
)
def test_rows_that_depend_on_one_another_are_refused(kind: type[nn.Module], words: str) -> None:
    with pytest.raises(
        ModelRefused,
        match=rf"(?s)shapes.*rows depend on one another: .*outputs (change by|cannot be had).*{words}",
    ):
        proved(seeded(kind))


class DropsAlways(Net):
    def read(self, features: Tensor) -> Tensor:
        return functional.dropout2d(features, 0.3).mean((2, 3))


class MonteCarlo(Net):
    """Dropout that is kept in training on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)

    def train(self, mode: bool = True) -> "MonteCarlo":
        super().train(mode)
        self.drop.training = True
        return self

    def read(self, features: Tensor) -> Tensor:
        dropped: Tensor = self.drop(features.mean((2, 3)))
        return dropped


class NumpysNoise(Net):
    """Random numbers that torch knows nothing of."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images + float(np.random.default_rng().normal()))


class SkipsARowNowAndThen(Net):
    """Stochastic depth that was left on, rarely."""

    def read(self, features: Tensor) -> Tensor:
        kept = torch.rand(len(features), 1, 1, 1) > 0.1
        return (features * kept).mean((2, 3))


class OneOfTwoWays(Net):
    def read(self, features: Tensor) -> Tensor:
        return features.mean((2, 3)) if random.random() < 0.5 else features.amax((2, 3))  # noqa: S311


class FlipsByItsOwnGenerator(Net):
    """Draws rarely, from numbers that are no module's but its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = random.Random(4)  # noqa: S311

    def features(self, images: Tensor) -> Tensor:
        return super().features(images.flip(-1) if self.generator.random() < 0.1 else images)


class MixesWithAnyOther(Net):
    """Each image with one that chance picks: alone it is always itself."""

    def read(self, features: Tensor) -> Tensor:
        means = features.mean((2, 3))
        return means + 0.5 * means[torch.randperm(len(means))]


NUMBERS = np.random.default_rng(2)


class NoiseFromItsFile(Net):
    """Draws rarely, from a generator beside the class."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images + (0.5 if NUMBERS.random() < 0.1 else 0))


class SeededNoise(Net):
    """The same numbers at each call, another for each row of a batch."""

    def features(self, images: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return super().features(images + torch.randn(images.shape, generator=generator))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (DropsAlways, "random.*dropout2d"),
        (MonteCarlo, "random.*dropout"),
        (NumpysNoise, "random"),
        (SkipsARowNowAndThen, "random.*rand"),
        (OneOfTwoWays, "random"),
        (FlipsByItsOwnGenerator, r"random.*generator \(Random\)"),
        (MixesWithAnyOther, "random.*randperm"),
        (NoiseFromItsFile, r"random.*NUMBERS \(Generator\)"),
    ],
)
def test_chance_is_refused(kind: type[nn.Module], words: str) -> None:
    with pytest.raises(ModelRefused, match=rf"shapes.*{words}"):
        proved(seeded(kind))


def test_noise_that_is_seeded_is_refused_as_well() -> None:
    with pytest.raises(ModelRefused, match=r"rows depend on one another.*randn"):
        proved(seeded(SeededNoise))


def test_an_operation_that_is_called_often_is_named_once() -> None:
    with pytest.raises(ModelRefused) as caught:
        proved(seeded(OwnStatistics))
    assert str(caught.value).count("batch norm with the statistics of the batch") == 1


def test_the_proof_leaves_torchs_random_state_alone() -> None:
    module = seeded(DrawsNothingThatCounts)
    state = torch.get_rng_state()

    proved(module)

    assert torch.equal(torch.get_rng_state(), state)


class DrawsNothingThatCounts(Net):
    """Makes random numbers for a mask that is used in training only."""

    def features(self, images: Tensor) -> Tensor:
        mask = torch.rand(len(images), 1, 1, 1) if self.training else torch.rand(1) * 0 + 1
        return super().features(images * mask)


class RowsByThemselves(Net):
    """Looks at each image's own mean, one after the other."""

    def features(self, images: Tensor) -> Tensor:
        return torch.cat(
            [super(RowsByThemselves, self).features(one / (1 + one.std())) for one in torch.split(images, 1)]
        )


class LargeLogits(Net):
    """Logits of 1e4 that move by a few: rounding is a visible share of what moves."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images) + 1e4
        return logits


@pytest.mark.parametrize("kind", [DrawsNothingThatCounts, RowsByThemselves, LargeLogits])
def test_what_only_looks_like_it_is_explained(kind: type[nn.Module]) -> None:
    module = seeded(kind)
    wanted = module(noise())

    torch.testing.assert_close(proved(seeded(kind)).module(noise()), wanted, rtol=1e-3, atol=1e-3)


class NotANumberOnBlack(Net):
    """Divides by the image's own contrast, which an image of one colour has not."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images / images.std((1, 2, 3), keepdim=True))


class NeverANumber(Net):
    def read(self, features: Tensor) -> Tensor:
        return features.mean((2, 3)) * float("nan")


def test_an_image_without_an_answer_does_not_refuse_the_model() -> None:
    assert proved(seeded(NotANumberOnBlack)).facts.refused is None


def test_a_model_that_never_puts_out_a_number_is_refused() -> None:
    with pytest.raises(ModelRefused, match="not finite for every input"):
        proved(seeded(NeverANumber))


class OneImageOnly(Net):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images.view(1, 3, *images.shape[2:]))
        return logits


class RowsOfPositions(Net):
    """Flattens to a width that its maps do not have."""

    def read(self, features: Tensor) -> Tensor:
        return features.reshape(-1, 8)


def test_a_model_that_makes_other_rows_than_images_is_refused() -> None:
    with pytest.raises(ModelRefused, match=f"puts out {5 * 11 * 11} rows for 5 images of 24 x 24 pixels"):
        proved(seeded(RowsOfPositions))


def test_a_model_for_one_image_at_a_time_is_refused() -> None:
    with pytest.raises(ModelRefused, match="runs on one image, and not on a batch of 5"):
        proved(seeded(OneImageOnly))


class InitialisedByItsFirstImages(Net):
    """Sets its own scale when it runs for the first time, as ActNorm does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(6, 1, 1))

    def features(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        if not self.scale.any():
            self.scale.data.copy_(1 / maps.std((0, 2, 3)).view(-1, 1, 1))
        found: Tensor = self.second((maps * self.scale).relu()).relu()
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_model_that_changes_its_own_weights_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ModelRefused, match=r"changes its own weights \(scale\)"):
        proved(seeded(InitialisedByItsFirstImages).to(dtype))


def test_parameters_without_values_are_named() -> None:
    with pytest.raises(ModelUnavailable, match=r"0\.weight has no shape yet"):
        proved(nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))
    with pytest.raises(ModelUnavailable, match="is on the meta device"):
        proved(seeded(Net).to("meta"))
