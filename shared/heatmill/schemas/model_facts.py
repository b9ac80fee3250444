"""What was seen of a model when it was run on a few inputs, before it explained anything."""

from typing import Literal

from pydantic import Field

from heatmill.schemas.vocabulary import Activation, Schema, Sha256


class ModelFacts(Schema):
    """models/<key>/facts.json: what the proof of a model found."""

    format: Literal[1] = 1
    key: Sha256 = Field(
        description="Digest of the weights, the models.toml entry, the code, the libraries and the type of device."
    )
    refused: str | None = Field(None, description="Why no method may explain the model.")
    activation: Activation | None = Field(None, description="What turns its outputs into probabilities.")
    outputs: str = Field("logits", description="What it puts out: logits, log-probabilities, probabilities, or values.")
    dtype: str = Field("float32", description="The lowest precision that it computes in.")
    input_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="The precision of the images that it is given."
    )
    converted: bool = Field(False, description="Its parameters were converted to that precision.")
    reads_outputs: bool = Field(False, description="Its logits are picked out of its outputs, or converted to float32.")
    channels_last: bool = Field(False, description="It runs with images that lie channels-last in memory.")
    writes_its_input: bool = Field(False, description="It changes the images that it is given, and gets a copy.")
    folded_norms: int = Field(0, ge=0, description="Batch norms that were folded into the convolutions before them.")
    gradient_fault: str = Field("", description="Why it has no gradients; empty where it has.")
    tensor_hooks: bool = Field(False, description="It puts hooks on tensors of its own pass, which are left out.")
    one_by_one: bool = Field(False, description="Images are handed to it one by one, since it is quantised.")
    two_rows: bool = Field(False, description="An image alone is handed to it twice where a gradient is wanted.")
    supports: tuple[str, ...] = Field((), description="What it has that methods may need.")
