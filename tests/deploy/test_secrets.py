"""What the instructions make with a secret inside is never committed by accident."""

import re
import subprocess

import pytest

from tests.deploy.files import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "k8s/README.md", ROOT / ".env.example", ROOT / "docker-compose.yml"]
# What the instructions redirect into, or copy to; of those, files that hold a password or a key.
MADE = re.compile(r"(?:>|cp \S+) ?(\.env|[\w./-]*(?:key|keys|secret)[\w.-]*\.json)\b")


def is_ignored(name: str) -> bool:
    done = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", name], cwd=ROOT, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("name", [".env", ".env.local", "api-keys.json", "k8s/api-keys.json", "keys.json", "redis.key"])
def test_a_file_with_secrets_is_ignored_wherever_it_lies(name: str) -> None:
    assert is_ignored(name)


def test_every_file_that_the_instructions_make_is_ignored() -> None:
    made = {name for document in DOCUMENTS for name in MADE.findall(document.read_text("utf-8"))}
    assert {".env", "api-keys.json"} <= made
    assert all(map(is_ignored, made))


def test_nothing_that_is_committed_is_ignored() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == ""
