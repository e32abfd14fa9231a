"""Which priors teach the two heads which objects, and how much: each head chooses for the other.

A prior may teach an object. With ``c`` the score that the classification head gives to the object's
class at the prior, and ``u`` the IoU of the regression head's box there with the object, in the
order of reading:

- :func:`bags`: an object's candidates, of largest ``c * u`` and with their centres in the object;
- :func:`keys`: ``c^(1-a) u^a`` orders a bag for regression, ``u^(1-a) c^a`` for classification;
- :func:`ranks` and :func:`weights`: ``exp(-rank / tau)`` in that order;
- :func:`settle`: what a prior learns that is in the bags of several objects.

Tensors in, tensors out, no gradients. The idea is the paper's (Gao, Wang and Wu, arXiv 2109.05986);
formulas and numbers are our reading of it, see :class:`~lip_mmdet.dense_heads.MuSuHead`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

# Objects that are compared with all priors at a time, so that crowded images need no matrix of all
# by all. Of a block the pairs inside are looked at, and the bags kept.
_BLOCK = 32


class Assignment(NamedTuple):
    """What the N priors of an image are to learn.

    Attributes:
        scores: (N, num_classes), soft targets of the classification head, 0 to 1.
        weights: (N,), of the regression loss, 0 where a prior learns no box.
        objects: (N,), long: the object whose box a prior learns; 0 where it learns none.
    """

    scores: Tensor
    weights: Tensor
    objects: Tensor


@torch.no_grad()
def assign(
    scores: Tensor,
    boxes: Tensor,
    centres: Tensor,
    truths: Tensor,
    labels: Tensor,
    *,
    bag_size: int,
    own_exponent: float,
    temperature: float,
) -> Assignment:
    """Weigh the priors of one image for both heads.

    Args:
        scores: (N, num_classes), predicted, after the sigmoid.
        boxes: (N, 4), predicted, x1, y1, x2, y2 in pixels.
        centres: (N, 2), of the priors, x and y in pixels; infinite for one that is to stay out.
        truths: (M, 4), the objects' boxes.
        labels: (M,), long, their classes.
        bag_size: candidates of an object at most.
        own_exponent: a, how much a head's own score says in the choice of its samples.
        temperature: tau, how fast weights fall with the rank; infinity weighs the bag evenly.
    """
    objects, priors, c, u = bags(scores, boxes, centres, truths, labels, bag_size)
    regression, classification = (
        weights(ranks(objects, key), temperature) for key in keys(c, u, own_exponent)
    )
    return settle(scores.shape, objects, priors, labels, classification, regression, u)


def bags(
    scores: Tensor, boxes: Tensor, centres: Tensor, truths: Tensor, labels: Tensor, bag_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each object's candidates as K pairs of an object and a prior.

    An object that holds no centre, being smaller than the finest stride, has the nearest prior.
    Where the grids of levels meet that is the finest level's, the first: large anchors cannot
    shrink to so small a box.

    Returns:
        The pairs' objects and their priors, (K,) and long, by object, then prior; c and u, (K,) and
        float32.
    """
    none = torch.empty(0, dtype=torch.long, device=centres.device)
    kept = [(none, none, none.float(), none.float())]
    for first in range(0, len(truths), _BLOCK):
        block = truths[first : first + _BLOCK, None].float()
        paired = inside(centres, block)
        empty = ~paired.any(1)
        middle = (block[empty, :, :2] + block[empty, :, 2:]) / 2
        paired[empty, (centres - middle).square().sum(-1).argmin(1)] = True
        objects, priors = paired.nonzero(as_tuple=True)
        c = scores[priors, labels[first + objects]].float()
        u = bbox_overlaps(boxes[priors].float(), block[objects, 0], is_aligned=True)
        best = ranks(objects, c * u) < bag_size
        kept.append((first + objects[best], priors[best], c[best], u[best]))
    objects, priors, c, u = (torch.cat(part) for part in zip(*kept))
    return objects, priors, c, u


def inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """Say which (..., 2) centres lie in (..., 4) boxes, borders included."""
    x, y = centres.unbind(-1)
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)


def keys(c: Tensor, u: Tensor, own_exponent: float) -> tuple[Tensor, Tensor]:
    """Return what orders candidates for the regression and for the classification head."""
    a = own_exponent
    return c ** (1 - a) * u**a, u ** (1 - a) * c**a


def ranks(groups: Tensor, *values: Tensor) -> Tensor:
    """Number the (K,) elements of each group by falling value, from 0.

    A later value decides where the earlier ones are equal, then the position.
    """
    order = torch.arange(len(groups), device=groups.device)
    for value in reversed(values):
        order = order[value[order].sort(stable=True, descending=True).indices]
    sorted_groups, by_group = groups[order].sort(stable=True)
    first = torch.searchsorted(sorted_groups, sorted_groups)
    rank = torch.empty_like(order)
    rank[order[by_group]] = torch.arange(len(order), device=order.device) - first
    return rank


def weights(rank: Tensor, temperature: float) -> Tensor:
    """Return ``exp(-rank / tau)``: 1 for the first of a bag, whatever the head has learned yet."""
    return torch.exp(-rank.float() / temperature)


def settle(
    shape: tuple[int, int],
    objects: Tensor,
    priors: Tensor,
    labels: Tensor,
    classification: Tensor,
    regression: Tensor,
    u: Tensor,
) -> Assignment:
    """Turn the weights of pairs into those of priors, where objects compete for one.

    A prior learns the largest classification weight for each class, and one object's box: that of
    the largest regression weight, then of the larger IoU, then the earlier object's.

    Args:
        shape: N and num_classes.
        objects: (K,), by object, as :func:`bags` returns the pairs.
        priors: (K,).
        labels: (M,), of the objects.
        classification: (K,), weights.
        regression: (K,), weights.
        u: (K,).
    """
    num_priors, num_classes = shape
    scores = classification.new_zeros(num_priors * num_classes)
    scores.scatter_reduce_(0, priors * num_classes + labels[objects], classification, 'amax')
    wins = ranks(priors, regression, u) == 0
    learned_weights = regression.new_zeros(num_priors)
    learned_weights[priors[wins]] = regression[wins]
    learned = objects.new_zeros(num_priors)
    learned[priors[wins]] = objects[wins]
    return Assignment(scores.view(num_priors, num_classes), learned_weights, learned)
