"""Attention rollout agrees with the paper's product, by hand in float64."""

import numpy as np
import pytest

from tests.workers.small import photos
from tests.workers.vits import FAMILIES, explained


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_product_of_the_layers_by_hand(family: str) -> None:
    build, attended = FAMILIES[family]
    model = build()
    _, maps = attended(model.module, photos(2))

    wanted = []
    for image in range(2):
        product = np.eye(17)
        for layer in maps:
            of_layer = 0.5 * layer[image].detach().numpy().mean(0) + 0.5 * np.eye(17)
            product = (of_layer / of_layer.sum(1, keepdims=True)) @ product
        wanted.append(product[0, 1:].reshape(1, 4, 4))

    np.testing.assert_allclose(explained("attention_rollout", model), np.stack(wanted), rtol=1e-5)
