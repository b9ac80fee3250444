"""Commands that tell what can be asked for: `methods`, `models`."""

from typing import Any

import click

from heatmill.cli.connection import Service, connected, json_option, service_options
from heatmill.cli.output import print_json, print_table


@click.command()
@json_option
@service_options
def methods(service: Service, *, as_json: bool) -> None:
    """List the ways to explain, and their params."""
    with connected(service) as client:
        listed = client.methods()
    if as_json:
        print_json(listed)
        return
    print_table(
        ("method", "params", "what it answers"), [(one["name"], _params(one), one["summary"]) for one in listed]
    )


@click.command()
@json_option
@service_options
def models(service: Service, *, as_json: bool) -> None:
    """List the models, and the methods that each supports."""
    with connected(service) as client:
        listed = client.models()
    if as_json:
        print_json(listed)
        return
    print_table(
        ("model", "classes", "input", "methods"),
        [
            (one["name"], str(one["classes"]), _size(one["input_size"]), ", ".join(one["supports"] or ["?"]))
            for one in listed
        ],
    )


def _params(method: dict[str, Any]) -> str:
    """The params with their defaults, as `submit --method` takes them."""
    properties: dict[str, dict[str, Any]] = method["params"].get("properties", {})
    return ",".join(f"{name}={field.get('default', '...')}" for name, field in properties.items())


def _size(size: list[int] | None) -> str:
    return "?" if size is None else f"{size[1]} x {size[0]}"
