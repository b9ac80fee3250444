"""How a result is made: all that it depends on beside the image and its classes, as one digest."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from heatmill.images import ImageLimits
from heatmill.models import ModelSpec
from heatmill.schemas import MethodRequest
from heatmill_workers.models.loaded import LoadedModel

# Some modules print where in memory a function lies.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class Making:
    """All that a result depends on beside the image, the class and the method.

    Args:
        code: The worker's code version.
    """

    code: str
    spec: ModelSpec
    model: LoadedModel
    limits: ImageLimits

    @property
    def is_known(self) -> bool:
        """Whether that is all: an operator's own code may change and its weights stay the same."""
        return self.spec.loader != "python"

    def digest(self, method: MethodRequest) -> str:
        """Stands for all of it, and for one method."""
        return digest(rest=self._rest, method=method.model_dump(mode="json"))

    @cached_property
    def _rest(self) -> str:
        model = self.model
        return digest(
            code=self.code,
            model=[model.name, model.digest, self.spec.loader, self.spec.builds, self.spec.sha256, self.spec.cam_layer],
            structure=ADDRESS.sub("", repr(model.module)),
            labels=model.labels,
            preprocessing=model.preprocessing.model_dump(mode="json"),
            device=[model.device.type, str(model.dtype)],
            limits=[self.limits.max_bytes, self.limits.max_pixels],
        )


def digest(**of: Any) -> str:
    """The sha256 of JSON values by name, in hex."""
    return hashlib.sha256(json.dumps(of, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
