"""Children get what any program inherits and the stack's own settings, and nothing of another AWS account."""

from pathlib import Path

import pytest

from heatmill.local.environment import inherited, of_services


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_SESSION_TOKEN": "the operator's own",
        "AWS_PROFILE": "work",
        "HEATMILL_DEVICE": "cpu",
        "HEATMILL_REDIS_URL": "redis://elsewhere",
        "HEATMILL_S3_PUBLIC_ENDPOINT": "https://elsewhere",
        "HTTP_PROXY": "http://proxy",
        "NO_PROXY": "example.org",
        "CUDA_VISIBLE_DEVICES": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("no_proxy", raising=False)


def test_other_programs_inherit_all_but_aws_credentials() -> None:
    variables = inherited()
    assert variables["CUDA_VISIBLE_DEVICES"] == "1"
    assert "PATH" in variables
    assert not [name for name in variables if name.startswith("AWS_")]


def test_a_proxy_is_not_asked_for_loopback() -> None:
    assert inherited()["NO_PROXY"] == "example.org,127.0.0.1,localhost"
    assert inherited()["no_proxy"] == "127.0.0.1,localhost"


def test_the_stacks_settings_win_and_the_operators_others_stay() -> None:
    told = of_services({"redis_url": "redis://here", "s3_public_endpoint": None}, {"AWS_ACCESS_KEY_ID": "ours"})
    assert told["HEATMILL_REDIS_URL"] == "redis://here"
    assert "HEATMILL_S3_PUBLIC_ENDPOINT" not in told
    assert told["HEATMILL_DEVICE"] == "cpu"
    assert told["AWS_ACCESS_KEY_ID"] == "ours"
    assert "AWS_SESSION_TOKEN" not in told
    assert "AWS_PROFILE" not in told


@pytest.mark.parametrize("name", ["HEATMILL_API_KEYS_FILE", "HEATMILL_MODELS_FILE"])
def test_the_operators_files_are_found_from_where_children_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "some.toml")
    assert of_services({}, {})[name] == str(tmp_path / "some.toml")
    monkeypatch.setenv(name, "")
    assert of_services({}, {})[name] == ""
