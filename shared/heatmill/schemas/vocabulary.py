"""What all schemas are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, WithJsonSchema

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Priority = Literal["interactive", "normal", "bulk"]
Layout = Literal["objects", "webdataset"]
JobState = Literal["queued", "running", "succeeded", "partly_failed", "failed", "cancelled"]
Verdict = Literal["ok", "imprecise", "blank"]
# What turns a model's outputs into probabilities.
Activation = Literal["softmax", "sigmoid", "none"]
# Described as arrays: makers of clients, and of tests, trip over tuples.
Size = Annotated[
    tuple[int, int], WithJsonSchema({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2})
]
Box = Annotated[
    tuple[float, float, float, float],
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}),
]


class Schema(BaseModel):
    """Frozen, and an unknown field is an error: a typo is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Schema):
    """An RFC 9457 problem, as it stands in a failed row and in an error response."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int | None = None
    detail: str = ""


def problem_type(code: str) -> str:
    """The stable URI reference of an error code."""
    return f"https://heatmill.dev/problems/{code}"
