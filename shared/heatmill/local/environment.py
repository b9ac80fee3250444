"""The environment of children: what any program inherits, and heatmill's settings built here."""

import os
from collections.abc import Mapping
from pathlib import Path

from heatmill.local.ports import LOOPBACK

PROXY_EXCEPTIONS = ("NO_PROXY", "no_proxy")
FILES = ("HEATMILL_API_KEYS_FILE", "HEATMILL_METHODS_FILE", "HEATMILL_MODELS_FILE")


def inherited() -> dict[str, str]:
    """PATH, HOME, locale, CUDA and the like, and the operator's `HEATMILL_*`; nothing of another AWS account."""
    # The one place outside of the settings that reads the environment: children need most of it, whatever it is.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}  # noqa: TID251
    for name in PROXY_EXCEPTIONS:
        variables[name] = ",".join(filter(None, (variables.get(name), LOOPBACK, "localhost")))
    for name in filter(variables.get, FILES):
        # Children run in a folder of their own, and the operator meant this one.
        variables[name] = str(Path(variables[name]).absolute())
    return variables


def of_services(settings: Mapping[str, str | None], credentials: Mapping[str, str]) -> dict[str, str]:
    """What API and workers get: these settings win over the operator's, and an empty one removes it.

    Args:
        settings: Fields of `Settings` by name, each as text.
        credentials: `AWS_*` variables.
    """
    variables = inherited()
    for name, value in settings.items():
        variables.pop(f"HEATMILL_{name.upper()}", None)
        if value is not None:
            variables[f"HEATMILL_{name.upper()}"] = value
    quiet = {
        # The operator's own AWS profile must not shine through, nor the network be asked for credentials.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONUNBUFFERED": "1",
    }
    return {**variables, **quiet, **credentials}
