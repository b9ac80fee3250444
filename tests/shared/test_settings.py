"""What an operator sets."""

import pytest

from heatmill.settings import Settings


def test_a_variable_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_ENDPOINT", "BUCKET", "MODELS_FILE", "MAX_ATTEMPTS"):
        monkeypatch.setenv(f"HEATMILL_{name}", "")
    assert Settings() == Settings.model_construct()
