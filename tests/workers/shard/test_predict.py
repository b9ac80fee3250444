"""Probabilities of a batch."""

from dataclasses import replace

import torch

from heatmill_workers.engine.batching import BatchSizes
from heatmill_workers.shard.predict import predict
from tests.workers.small import CPU, LABELS, photos, small_resnet


def test_probabilities_are_the_softmax_of_the_logits_row_by_row() -> None:
    model, images = replace(small_resnet(), batch_sizes=BatchSizes(CPU, 2)), photos(5)

    probabilities = predict(model, images)

    assert probabilities.shape == (5, len(LABELS))
    with torch.no_grad():
        torch.testing.assert_close(probabilities, model.module(images).softmax(1), rtol=1e-4, atol=1e-6)


def test_no_images_have_no_probabilities() -> None:
    assert predict(small_resnet(), photos(0)).shape == (0, len(LABELS))
