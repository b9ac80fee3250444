"""Attention of the last layer is what each library's own slow path gives."""

import numpy as np
import pytest

from tests.workers.small import photos
from tests.workers.vits import FAMILIES, explained


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_class_tokens_row_of_the_librarys_own_attention(family: str) -> None:
    build, attended = FAMILIES[family]
    model = build()
    _, maps = attended(model.module, photos(2))

    wanted = maps[-1].mean(1)[:, 0, 1:].detach().numpy().reshape(2, 1, 4, 4)

    np.testing.assert_allclose(explained("attention", model), wanted, rtol=1e-5)


def test_it_is_a_share_of_all_attention() -> None:
    sums = explained("attention", FAMILIES["timm"][0]()).sum((1, 2, 3))

    assert ((sums > 0.5) & (sums < 1)).all()
