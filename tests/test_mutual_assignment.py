"""Mutual assignment, against a loop over Python's floats and the properties it must have."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lip_mmdet.dense_heads.mutual_assignment import assign, keys, ranks, settle, weights

ARGUMENTS = dict(bag_size=13, own_exponent=0.2, temperature=3.0)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def assign_by_loops(scores, boxes, centres, truths, labels, bag_size, own_exponent, temperature):
    """Return the targets as {(prior, class): target} and {prior: (weight, u, -object)}."""
    a = own_exponent
    targets, learned = {}, {}
    for j, (box, k) in enumerate(zip(truths, labels)):
        members = [
            i for i, (x, y) in enumerate(centres) if box[0] <= x <= box[2] and box[1] <= y <= box[3]
        ]
        if not members:
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            members = [min(range(len(centres)), key=lambda i: math.dist(centres[i], middle))]
        c = {i: scores[i][k] for i in members}
        u = {i: iou(boxes[i], box) for i in members}
        bag = sorted(sorted(members, key=lambda i: -c[i] * u[i])[:bag_size])
        for rank, i in enumerate(sorted(bag, key=lambda i: -(c[i] ** (1 - a)) * u[i] ** a)):
            mine = (math.exp(-rank / temperature), u[i], -j)
            learned[i] = max(learned.get(i, mine), mine)
        for rank, i in enumerate(sorted(bag, key=lambda i: -(u[i] ** (1 - a)) * c[i] ** a)):
            targets[i, k] = max(targets.get((i, k), 0), math.exp(-rank / temperature))
    return targets, learned


def scene(objects=12, anchors=1, size=160, seed=0):
    """Return scores of 3 classes, boxes and centres on a pyramid, and crowded objects."""
    torch.manual_seed(seed)
    centres = torch.cat(
        [
            torch.cartesian_prod(*[torch.arange(0, size, stride)] * 2).repeat_interleave(anchors, 0)
            for stride in (8, 16, 32, 64, 128)
        ]
    ).float()
    sizes = 10 + 60 * torch.rand(len(centres), 2)
    moved = centres + 8 * torch.randn_like(centres)
    boxes = torch.cat((moved - sizes / 2, moved + sizes / 2), 1)
    corners = size * 0.6 * torch.rand(objects, 2)
    truths = torch.cat((corners, corners + 3 + 60 * torch.rand(objects, 2)), 1)
    truths[0] = torch.tensor([42.0, 43.0, 45.0, 46.0])  # no centre in it
    return torch.rand(len(centres), 3), boxes, centres, truths, torch.arange(objects) % 3


def same(one, other, truths_of_one, truths_of_other):
    learns = one.weights > 0
    return (
        torch.equal(one.scores, other.scores)
        and torch.equal(one.weights, other.weights)
        and torch.equal(truths_of_one[one.objects[learns]], truths_of_other[other.objects[learns]])
    )


@pytest.mark.parametrize(
    ('anchors', 'own_exponent', 'temperature'),
    [(1, 0.2, 3.0), (3, 0.2, 3.0), (1, 0.0, 1.0), (3, 0.5, math.inf)],
)
def test_equals_a_loop(anchors, own_exponent, temperature):
    arguments = dict(bag_size=13 * anchors, own_exponent=own_exponent, temperature=temperature)
    inputs = scene(anchors=anchors)
    found = assign(*inputs, **arguments)
    targets, learned = assign_by_loops(*(x.tolist() for x in inputs), **arguments)
    assert len({-j for _, _, j in learned.values()}) == 12  # each object, in a crowd, is learned
    assert {tuple(where) for where in found.scores.nonzero().tolist()} == set(targets)
    for where, target in targets.items():
        assert found.scores[where].item() == pytest.approx(target, rel=1e-6)
    assert set(found.weights.nonzero()[:, 0].tolist()) == set(learned)
    for i, (weight, _, j) in learned.items():
        assert found.weights[i].item() == pytest.approx(weight, rel=1e-6)
        assert found.objects[i] == -j


def test_weights_and_keys_by_hand():
    one_bag = torch.zeros(3, dtype=torch.long)
    found = weights(ranks(one_bag, torch.tensor([0.2, 0.9, 0.5])), 1.0)
    torch.testing.assert_close(found, torch.tensor([0.1353, 1, 0.3679]), atol=5e-5, rtol=0)
    c, u = torch.tensor([0.9, 0.4, 0.1]), torch.tensor([0.3, 0.8, 0.6])
    regression, classification = keys(c, u, 0.2)
    expected = torch.tensor([[0.72247, 0.45948, 0.14310], [0.37372, 0.69644, 0.41930]])
    found = torch.stack((regression, classification))
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)
    rank = torch.arange(4)
    assert weights(rank, 1e-3).tolist() == [1, 0, 0, 0]
    assert weights(rank, math.inf).tolist() == [1, 1, 1, 1]


def test_each_head_chooses_for_the_other():
    torch.manual_seed(0)
    bag, c, u = torch.arange(40) // 8, torch.rand(40), torch.rand(40)
    regression, classification = (ranks(bag, key) for key in keys(c, u, 0.0))
    for increasing in (torch.sqrt, torch.exp, lambda x: x**3 - 7):
        assert torch.equal(ranks(bag, keys(c, increasing(u), 0.0)[0]), regression)
        assert torch.equal(ranks(bag, keys(increasing(c), u, 0.0)[1]), classification)
    assert not torch.equal(regression, classification)
    assert torch.equal(*(ranks(bag, key) for key in keys(c, u, 0.5)))


def test_neither_order_nor_far_priors_nor_place_matter():
    scores, boxes, centres, truths, labels = scene()
    found = assign(scores, boxes, centres, truths, labels, **ARGUMENTS)
    order = torch.randperm(len(truths))
    shuffled = assign(scores, boxes, centres, truths[order], labels[order], **ARGUMENTS)
    assert same(found, shuffled, truths, truths[order])
    places = [x + torch.full((x.shape[1],), 256.0) for x in (boxes, centres, truths)]
    moved = assign(scores, *places, labels, **ARGUMENTS)
    assert same(found, moved, truths, truths)
    far = [torch.cat((x, y)) for x, y in zip((scores, boxes, centres), (scores, *places))]
    with_far = assign(*far, truths, labels, **ARGUMENTS)
    assert not with_far.weights[len(scores) :].any()
    assert same(found, type(found)(*(x[: len(scores)] for x in with_far)), truths, truths)


def test_conflicts():
    # Prior 0: by weight; 1: by IoU where weights are equal; 2: the first, where IoUs are, too.
    objects, priors = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    pairs = dict(
        objects=objects,
        priors=priors,
        classification=torch.tensor([0.9, 0.2, 0.4, 0.8, 0.3, 0.4]),
        regression=torch.tensor([0.5, 1.0, 1.0, 0.7, 1.0, 1.0]),
        u=torch.tensor([0.9, 0.4, 0.6, 0.2, 0.5, 0.6]),
    )
    one_class = settle((4, 2), labels=torch.tensor([1, 1]), **pairs)
    torch.testing.assert_close(one_class.scores[:, 1], torch.tensor([0.9, 0.3, 0.4, 0]))
    assert not one_class.scores[:, 0].any()
    two_classes = settle((4, 2), labels=torch.tensor([1, 0]), **pairs)
    torch.testing.assert_close(two_classes.scores[:3, 1], pairs['classification'][:3])
    torch.testing.assert_close(two_classes.scores[:3, 0], pairs['classification'][3:])
    for found in (one_class, two_classes):
        assert found.objects[:3].tolist() == [1, 1, 0]
        torch.testing.assert_close(found.weights, torch.tensor([0.7, 1, 1, 0]))


def test_a_tiny_object_has_the_nearest_prior_of_the_finest_level():
    scores, boxes, centres, _, labels = scene()
    truths = torch.tensor(
        [[62.0, 61.0, 63.0, 62.0]]
    )  # near (64, 64), where all levels but one meet
    found = assign(scores, boxes, centres, truths, labels[:1], **ARGUMENTS)
    (i,) = found.weights.nonzero()[:, 0].tolist()
    assert i == 8 * 20 + 8
    assert (found.weights[i], found.scores[i, 0]) == (1, 1)
    # The same where that prior has to stay out.
    centres[i] = math.inf
    found = assign(scores, boxes, centres, truths, labels[:1], **ARGUMENTS)
    assert centres[found.weights.nonzero()[0, 0]].tolist() == [64, 64]


def test_no_gradient_and_no_objects():
    scores, boxes, centres, truths, labels = scene()
    scores, boxes = scores.requires_grad_(), boxes.requires_grad_()
    found = assign(scores, boxes, centres, truths, labels, **ARGUMENTS)
    assert not any(part.requires_grad for part in found)
    found = assign(scores, boxes, centres, truths[:0], labels[:0], **ARGUMENTS)
    assert found.scores.shape == scores.shape
    assert not any(part.any() for part in found)


def test_crowds_need_no_matrix_of_all_priors_by_all_objects():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(x, torch.Tensor):
                    self.size = max(self.size, x.numel() * x.element_size())
            return out

    inputs = scene(objects=300, anchors=3, size=800)
    with Largest() as largest:
        found = assign(*inputs, **dict(ARGUMENTS, bag_size=39))
    assert 300 < (found.weights > 0).sum() <= 300 * 39
    assert largest.size < 300 * len(inputs[2])  # bytes: less than a matrix of bools
