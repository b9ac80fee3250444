"""README.md is true as far as that can be told without running it: commands parse, links lead somewhere."""

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from heatmill import Client
from heatmill.catalogue.catalogue import load_catalogue
from heatmill.catalogue.methods import MethodCost
from heatmill.catalogue.models import ModelSpec
from heatmill.cli import main

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "k8s/README.md",
    "docs/architecture.md",
    "docs/extending/method.md",
    "docs/images.md",
    "docs/models.md",
    "docs/methods.md",
)
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """Every call of a program: in shell blocks, and in the text between backticks."""
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    words = [shlex.split(line, comments=True) for line in (*lines, *quoted) if line.startswith(f"{program} ")]
    return [each[1:] for each in words]


@pytest.mark.parametrize("words", commands("heatmill"), ids=" ".join)
def test_a_command_parses(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.toml").touch()
    name, *arguments = words
    main.commands[name].make_context(name, arguments)


def test_commands_are_found() -> None:
    assert {words[0] for words in commands("heatmill")} >= {"up", "submit", "jobs", "results", "fetch", "methods"}


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_a_make_target_exists(words: list[str]) -> None:
    assert all(re.search(rf"^{word}:", MAKEFILE, re.MULTILINE) for word in words)


def test_the_json_in_the_curl_command_is_json() -> None:
    (request,) = re.findall(r"-F 'request=(.*)'", README)
    assert json.loads(request)["methods"] == [{"name": "grad_cam"}]


def test_the_python_example_uses_what_the_client_has() -> None:
    (example,) = blocks("python")
    called = [
        node.attr
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "client"
    ]
    assert called
    assert all(callable(getattr(Client, name)) for name in called)


def test_the_model_in_the_example_is_one() -> None:
    (example,) = blocks("toml")
    (entry,) = tomllib.loads(example)["models"]
    assert ModelSpec.model_validate(entry).builds == "resnet18"


def test_the_table_names_methods_that_there_are() -> None:
    methods = json.loads((ROOT / "shared/heatmill/catalogue/data/methods.json").read_text("utf-8"))
    named = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert set(named) <= {each["name"] for each in methods}
    assert len(set(named)) == len(named) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text("utf-8"))
    here = [link for link in links if not link.startswith("https://")]
    assert all(((ROOT / page).parent / link).exists() for link in here)


def test_a_method_of_the_methods_page_is_described_there() -> None:
    page = (ROOT / "docs/methods.md").read_text("utf-8")
    for name in re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE):
        assert f"**`{name}`**" in page


def test_the_methods_page_has_the_costs_of_the_catalogue() -> None:
    page = (ROOT / "docs/methods.md").read_text("utf-8")
    written = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))

    catalogue = load_catalogue()
    assert written == {name: _cost(catalogue.method(name).passes) for name in written}


def _cost(passes: MethodCost) -> str:
    bounds = [f"with `{name}` up to {_sum(passes.base, bound)}" for name, bound in passes.upper_bound.items()]
    return ", ".join([_sum(passes.base, passes.per_unit), *bounds])


def _sum(base: float, factors: Mapping[str, float]) -> str:
    terms = [f"`{param}`" if factor == 1 else f"{factor:g} x `{param}`" for param, factor in sorted(factors.items())]
    return " + ".join([f"{base:g}", *terms] if base else terms)
