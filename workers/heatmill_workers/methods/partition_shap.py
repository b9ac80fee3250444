"""Partition SHAP.

Lundberg, Lee: A Unified Approach to Interpreting Model Predictions (2017), with Owen values over a hierarchy of boxes:
see `engine/owen.py`. With evaluations enough they are exact. Where both sides are powers of two they are those of
shap.PartitionExplainer under shap.maskers.Image on the target's logit, summed over colours: a pixel is not split into
its three channels. Of an odd side shap gives the larger half to the top or left, this module to the bottom or right, so
that the hierarchies and their values differ. The values sum to the logit on the image less that on the image all
hidden, and so the verdict says little more than whether these two differ.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from heatmill.catalogue.methods import MethodCost
from heatmill_workers.engine.baselines import MEAN, answers, baseline_checks
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.perturbation.hiding import blurred, solid_colour
from heatmill_workers.engine.perturbation.owen import Box, BoxNode, Shown, masks, owen_values
from heatmill_workers.engine.perturbation.sharing import group_ids, group_starts
from heatmill_workers.engine.rounding import Change, matched, of_outputs
from heatmill_workers.methods.contract import MethodOutput, method
from heatmill_workers.methods.self_check import completeness

# shap's documentation blurs 224 pixels over 128.
BLUR = Fraction(4, 7)
LEVELS = {"black": 0.0, "grey": 0.5, "white": 1.0}
Game = Generator[list[Shown], Sequence[float], list[BoxNode]]


class Params(BaseModel):
    """What hides a region, and how finely the image is divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    masker: Literal["blur", "mean", "black", "grey", "white"] = Field(
        "blur",
        description=f"What hides a region: the image blurred over 4/7 of its sides, {MEAN}, or a level.",
    )
    max_evals: int = Field(500, ge=4, le=20000, description="Images with some regions hidden; each costs a pass.")


@method(Params, picture="signed", passes=MethodCost(base=0, per_unit={"max_evals": 1}))
def partition_shap(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """How much each region adds to the class score, fairly shared out over all orders in which regions may appear."""
    owner = group_ids(images)
    distinct = images[group_starts(owner)]
    classes = pad_sequence(list(torch.split(targets, owner.bincount().tolist())), batch_first=True)
    outputs = _Outputs(model, distinct, matched(_hidden(model, distinct, params), distinct), classes)
    whole = (0, images.shape[2], 0, images.shape[3])
    column = torch.arange(len(owner)) - group_starts(owner)[owner]
    players = [(int(image), int(of)) for image, of in zip(owner, column, strict=True)]
    nodes = _play([owen_values(whole, params.max_evals) for _ in players], players, outputs)
    values = torch.stack([_spread(of_row, whole) for of_row in nodes])
    checks = baseline_checks(
        model, [answers(model, torch.stack([outputs.of_hidden[row] for row in range(len(distinct))]))]
    )
    measured = []
    for (image, of), total in zip(players, values.sum((1, 2, 3), dtype=torch.float64), strict=True):
        difference = outputs.known[image, (whole,)][of] - outputs.known[image, ()][of]
        measured.append(completeness(float(total), difference, **checks[image]))
    return MethodOutput(values, measured, _change(outputs, players))


@dataclass(frozen=True, eq=False)
class _Outputs:
    """The model's answers to masks. The targets of an image share them: each mask is asked of the model once.

    Args:
        images: (M, 3, H, W), distinct.
        hidden: (M, 3, H, W), what is seen where nothing is shown.
        classes: (M, K), padded.
        known: The logits of an image's classes, by image and mask.
        of_hidden: All logits of an image with everything hidden, by image.
    """

    model: LoadedModel
    images: Tensor
    hidden: Tensor
    classes: Tensor
    known: dict[tuple[int, Shown], list[float]] = field(default_factory=dict)
    of_hidden: dict[int, Tensor] = field(default_factory=dict)

    def learn(self, wanted: Iterable[tuple[int, Shown]]) -> None:
        """Ask the model for what is not known yet, in full batches over all images."""
        new = [key for key in dict.fromkeys(wanted) if key not in self.known]
        for rows, logits in in_batches(
            lambda rows: self._logits(new[rows.start : rows.stop]),
            len(new),
            self.model.batch_sizes,
            partition_shap.name,
        ):
            self.known.update(zip(new[rows.start : rows.stop], logits.tolist(), strict=True))

    def _logits(self, keys: Sequence[tuple[int, Shown]]) -> Tensor:
        height, width = self.images.shape[2:]
        image = torch.tensor([index for index, _ in keys], device=self.images.device)
        shown = masks([boxes for _, boxes in keys], height, width, self.images.device)
        inputs = torch.where(shown, self.images[image], self.hidden[image])
        with torch.no_grad():
            logits: Tensor = self.model.module(inputs.contiguous(memory_format=torch.channels_last))
        self.of_hidden.update({key[0]: row for key, row in zip(keys, logits, strict=True) if not key[1]})
        return logits.gather(1, self.classes[image])


def _hidden(model: LoadedModel, images: Tensor, params: Params) -> Tensor:
    """The images with everything hidden."""
    if params.masker == "blur":
        return blurred(images, *(max(1, BLUR.numerator * side // BLUR.denominator) for side in images.shape[2:]))
    if params.masker == "mean":
        return torch.zeros_like(images)
    return solid_colour(LEVELS[params.masker], model.preprocessing).to(images).expand_as(images)


def _change(outputs: _Outputs, players: Sequence[tuple[int, int]]) -> Change:
    """How far apart each row's logits lie, and their rounding; masks that all show one image change nothing."""
    by_image: dict[int, list[list[float]]] = {}
    for (image, _), of_mask in outputs.known.items():
        by_image.setdefault(image, []).append(of_mask)
    size, rounding = [], []
    for image, column in players:
        logits = torch.tensor(by_image[image])[:, column]
        one_image = torch.equal(outputs.images[image], outputs.hidden[image])
        size.append(logits.new_zeros(()) if one_image else logits.max() - logits.min())
        rounding.append(of_outputs(outputs.model, outputs.of_hidden[image].cpu()[None], logits[None]).max())
    both = (torch.stack(each).to(outputs.images.device) for each in (size, rounding))
    return Change(*both)


def _play(games: Sequence[Game], players: Sequence[tuple[int, int]], outputs: _Outputs) -> list[list[BoxNode]]:
    """All games in step, so that their masks fill batches.

    Args:
        games: One per row.
        players: Each row's image, and its column among that image's classes.
        outputs: Learns what the games ask for.
    """
    asked = {row: next(game) for row, game in enumerate(games)}
    ended: dict[int, list[BoxNode]] = {}
    while asked:
        outputs.learn((players[row][0], shown) for row, wanted in asked.items() for shown in wanted)
        for row, wanted in list(asked.items()):
            image, column = players[row]
            try:
                asked[row] = games[row].send([outputs.known[image, shown][column] for shown in wanted])
            except StopIteration as end:
                ended[row] = end.value
                del asked[row]
    return [ended[row] for row in range(len(games))]


def _spread(nodes: Sequence[BoxNode], whole: Box) -> Tensor:
    """Each node's share, evenly over its pixels; (1, H, W)."""
    values = torch.zeros(1, whole[1], whole[3], dtype=torch.float64)
    for node in nodes:
        top, bottom, left, right = node.box
        values[:, top:bottom, left:right] += node.share / ((bottom - top) * (right - left))
    return values.float()
