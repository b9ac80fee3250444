"""Other code is another version, whether it is installed anew or edited in place."""

from pathlib import Path

import pytest

from heatmill_workers.result_cache.code_version import OWN_PACKAGES, code_version, sources


def test_it_is_the_same_as_long_as_the_code_is() -> None:
    first = code_version()
    code_version.cache_clear()
    assert code_version() == first
    assert len(first) == 64


def test_every_source_file_of_ours_counts() -> None:
    names = {name for name, _ in sources(OWN_PACKAGES)}
    assert {"heatmill_workers/methods/lime.py", "heatmill_workers/engine/deeplift/pairs.py"} <= names
    assert {"heatmill_workers/outputs/heatmap.py", "heatmill/images/decode.py"} <= names


@pytest.mark.parametrize("file", ["package_of_one/__init__.py", "package_of_one/inner/deep.py", "module_of_one.py"])
def test_an_edited_file_of_a_package_that_adds_methods_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    path = tmp_path / file
    for place in (tmp_path / "package_of_one/__init__.py", path):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("STEPS = 1")
    monkeypatch.syspath_prepend(tmp_path)
    packages = [file.split("/", maxsplit=1)[0].removesuffix(".py")]
    before = sources(packages)

    path.write_text("STEPS = 2")

    assert before
    assert sources(packages) != before


def test_a_new_version_of_any_library_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def versioned(version: str) -> str:
        folder = tmp_path / "lens-1.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lens\nVersion: {version}\n")
        code_version.cache_clear()
        return code_version()

    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert versioned("1") == versioned("1") != versioned("2")
    finally:
        code_version.cache_clear()
