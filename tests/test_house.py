"""Rules of the house that no linter knows."""

import re
import subprocess
from pathlib import Path

from heatmill.local.servers.programs import script

ROOT = Path(__file__).parents[1]
CODE = ("shared/*.py", "api/*.py", "workers/*.py", "benchmarks/*.py", "docs/*.py")
MOST_LINES = 300
MAP = ROOT / "docs" / "architecture.md"
MOST_LINES_OF_THE_MAP = 120
# Hosts that serve packages, and folders of one machine; each differs elsewhere.
FOREIGN = re.compile(
    r"https?://[a-z0-9.-]*(pypi|pythonhosted|artifactory|nexus)|\.lib[r]ary\b|/work/|/home/", re.IGNORECASE
)
SELF = Path(__file__).relative_to(ROOT)


def files(*patterns: str) -> list[Path]:
    """What git tracks, and what it would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Path(line) for line in sorted(set(listed.stdout.splitlines())) if (ROOT / line).is_file()]


def test_every_source_file_can_be_read_at_one_go() -> None:
    lengths = {str(file): len((ROOT / file).read_text("utf-8").splitlines()) for file in files(*CODE)}
    assert {file: lines for file, lines in lengths.items() if lines > MOST_LINES} == {}


def test_the_map_stays_a_page() -> None:
    assert len(MAP.read_text("utf-8").splitlines()) <= MOST_LINES_OF_THE_MAP


def test_every_package_is_on_the_map() -> None:
    text = MAP.read_text("utf-8")
    rooms = {file.parts[2].removesuffix(".py") for file in files("shared/*.py", "api/*.py", "workers/*.py")}
    assert [room for room in sorted(rooms - {"__init__"}) if f"`{room}`" not in text] == []


def test_decisions_are_numbered_and_complete() -> None:
    pages = files("docs/decisions/*.md")
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = (ROOT / page).read_text("utf-8")
        assert all(
            part in text for part in ("\nStatus: ", "\n## Context", "\n## Decision", "\n## Consequences", "Cost:")
        )


def test_nothing_names_a_package_host_or_a_folder_of_another_machine() -> None:
    found = [
        f"{file}: {match[0]}"
        for file in files()
        if file != SELF and (ROOT / file).stat().st_size < 1_000_000
        for match in FOREIGN.finditer((ROOT / file).read_text("utf-8", errors="ignore"))
    ]
    assert not found


def test_the_lock_names_no_host() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text("utf-8")


def test_imports_point_one_way() -> None:
    program = script("lint-imports")
    assert program, "import-linter is one of the test dependencies"
    found = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_ci_runs_what_developers_run() -> None:
    text = (ROOT / ".ci" / "run").read_text("utf-8")
    assert text.splitlines()[-2:] == ["make test", "exec make verify"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
