"""Each baseline against a loop in plain Python, by hand, and at the limits that make it a generalisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tune_lt import losses

COUNTS = [50, 20, 7, 1]
Batch = tuple[list[list[float]], list[int]]


def batches(number: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(number, 9, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (number, 9), generator=generator)
    return list(zip(z.tolist(), y.tolist(), strict=True))


def softmax(z: list[float]) -> list[float]:
    exponentials = [math.exp(x - max(z)) for x in z]
    return [x / sum(exponentials) for x in exponentials]


def cross_entropy(z: list[float], y: int) -> float:
    return -math.log(softmax(z)[y])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def weighted(z: list[list[float]], y: list[int], class_weights: list[float]) -> float:
    total = sum(class_weights[t] * cross_entropy(row, t) for row, t in zip(z, y, strict=True))
    return total / sum(class_weights[t] for t in y)


def focal(z: list[list[float]], y: list[int], gamma: float) -> float:
    return mean([(1 - softmax(r)[t]) ** gamma * cross_entropy(r, t) for r, t in zip(z, y, strict=True)])


def adjusted(z: list[list[float]], y: list[int], scale: list[float], shift: list[float]) -> float:
    return mean([cross_entropy([s * x + a for x, s, a in zip(r, scale, shift, strict=True)], t)
                 for r, t in zip(z, y, strict=True)])  # fmt: skip


def ldam(z: list[list[float]], y: list[int], max_m: float, s: float) -> float:
    margins = [max_m * n**-0.25 / max(k**-0.25 for k in COUNTS) for n in COUNTS]
    rows = [[s * (x - margins[t] * (c == t)) for c, x in enumerate(r)] for r, t in zip(z, y, strict=True)]
    return mean([cross_entropy(r, t) for r, t in zip(rows, y, strict=True)])


def seesaw(z: list[list[float]], y: list[int], p: float, q: float, counts: list[int]) -> float:
    values = []
    for row, t in zip(z, y, strict=True):
        prob = softmax(row)
        factors = [1.0] * len(row)
        for j in range(len(row)):
            if j != t:
                ratio = max(counts[j], 1) / max(counts[t], 1)
                confusion = prob[j] / max(prob[t], 1e-2)
                factors[j] = (ratio**p if ratio < 1 else 1) * (confusion**q if confusion > 1 else 1)
        denominator = sum(f * math.exp(x) for f, x in zip(factors, row, strict=True))
        values.append(-math.log(math.exp(row[t]) / denominator))
    return mean(values)


TOTAL = sum(COUNTS)
LOG_PRIOR = [math.log(n / TOTAL) for n in COUNTS]
NAIVE: list[tuple[str, dict[str, Any], Callable[[list[list[float]], list[int]], float]]] = [
    ("softmax", {}, lambda z, y: weighted(z, y, [1.0] * 4)),
    ("class_balanced", {}, lambda z, y: weighted(z, y, [1 / n for n in COUNTS])),
    ("effective_number", {"beta": 0.9}, lambda z, y: weighted(z, y, [0.1 / (1 - 0.9**n) for n in COUNTS])),
    ("effective_number", {}, lambda z, y: weighted(z, y, [1e-4 / (1 - 0.9999**n) for n in COUNTS])),
    ("focal", {}, lambda z, y: focal(z, y, 1.0)),
    ("focal", {"gamma": 2.5}, lambda z, y: focal(z, y, 2.5)),
    ("balanced_softmax", {}, lambda z, y: adjusted(z, y, [1.0] * 4, [math.log(n) for n in COUNTS])),
    ("logit_adjustment", {}, lambda z, y: adjusted(z, y, [1.0] * 4, LOG_PRIOR)),
    ("logit_adjustment", {"tau": 1.7}, lambda z, y: adjusted(z, y, [1.0] * 4, [1.7 * x for x in LOG_PRIOR])),
    ("vs", {}, lambda z, y: adjusted(z, y, [(n / 50) ** 0.3 for n in COUNTS], LOG_PRIOR)),
    ("vs", {"gamma": 0.2, "tau": 1.2},
     lambda z, y: adjusted(z, y, [(n / 50) ** 0.2 for n in COUNTS], [1.2 * x for x in LOG_PRIOR])),
    ("ldam", {}, lambda z, y: ldam(z, y, 0.5, 30.0)),
    ("ldam", {"max_m": 0.8, "s": 3.0}, lambda z, y: ldam(z, y, 0.8, 3.0)),
    ("seesaw", {"online": False}, lambda z, y: seesaw(z, y, 0.8, 2.0, COUNTS)),
    ("seesaw", {"online": False, "q": 0.0}, lambda z, y: seesaw(z, y, 0.8, 0.0, COUNTS)),
    ("seesaw", {"online": False, "p": 0.0, "q": 1.1}, lambda z, y: seesaw(z, y, 0.0, 1.1, COUNTS)),
]  # fmt: skip


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "params", "naive"), NAIVE, ids=[f"{name}-{params}" for name, params, _ in NAIVE])
def test_equals_the_naive_loop(name: str, params: dict[str, Any], naive: Callable[..., float]) -> None:
    loss = losses.build(name, class_counts=COUNTS, **params)
    for z, y in batches(3):
        assert loss(torch.tensor(z), torch.tensor(y)).item() == pytest.approx(naive(z, y), rel=1e-10)


@pytest.mark.usefixtures("double")
def test_seesaw_online_counts_the_labels_of_this_batch_and_all_before_it() -> None:
    loss = losses.build("seesaw", class_counts=COUNTS)
    seen = [0, 0, 0, 0]
    for z, y in batches(3):
        for t in y:
            seen[t] += 1
        assert loss(torch.tensor(z), torch.tensor(y)).item() == pytest.approx(seesaw(z, y, 0.8, 2.0, seen), rel=1e-10)
    loss.eval()
    loss(torch.tensor(z), torch.tensor(y))
    assert loss.labels_seen.tolist() == seen


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("divide_by_classes", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_ghm_equals_the_naive_loop_over_several_batches(momentum: float, divide_by_classes: bool) -> None:
    bins = 30  # of 36 outputs: some are empty in one batch and occupied in another
    loss = losses.build(
        "ghm", class_counts=COUNTS, bins=bins, momentum=momentum, divide_by_classes=divide_by_classes
    )  # fmt: skip
    average = [0.0] * bins
    for z, y in batches(5):
        outputs = []
        for row, t in zip(z, y, strict=True):
            for c, x in enumerate(row):
                sigma, truth = 1 / (1 + math.exp(-x)), float(c == t)
                bce = -math.log(sigma if truth else 1 - sigma)
                outputs.append((min(int(abs(sigma - truth) * bins), bins - 1), bce))
        in_bin = [sum(i == j for i, _ in outputs) for j in range(bins)]
        for j in range(bins):
            if in_bin[j]:
                average[j] = momentum * average[j] + (1 - momentum) * in_bin[j]
        occupied = sum(n > 0 for n in in_bin)
        expected = sum(len(outputs) / average[i] / occupied * bce for i, bce in outputs) / len(y)
        expected /= 4 if divide_by_classes else 1

        assert loss(torch.tensor(z), torch.tensor(y)).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("threshold", [None, 0.3, 0.05])
@pytest.mark.parametrize("gamma", [0.4, 1.0])
def test_equalization_equals_the_naive_loop_with_the_same_draws(gamma: float, threshold: float | None) -> None:
    loss = losses.build("equalization", class_counts=COUNTS, gamma=gamma, tail_threshold=threshold)
    limit = 0.5 / 4 if threshold is None else threshold
    for z, y in batches(3):
        torch.manual_seed(5)
        drawn = (torch.rand(9, 4) < gamma).tolist()
        values = []
        for b, (row, t) in enumerate(zip(z, y, strict=True)):
            w = [1 - drawn[b][k] * (COUNTS[k] / TOTAL < limit) * (k != t) for k in range(4)]
            values.append(-math.log(math.exp(row[t]) / sum(w[k] * math.exp(row[k]) for k in range(4))))
        torch.manual_seed(5)
        assert loss(torch.tensor(z), torch.tensor(y)).item() == pytest.approx(mean(values), rel=1e-10)


def test_equalization_spares_the_tail_as_negatives_only() -> None:
    """γ = 1, class 3 is tail: it gets no gradient from class 0's example, but its own example is unchanged."""
    loss = losses.build("equalization", class_counts=[100, 100, 100, 1], gamma=1.0)
    z = torch.zeros(2, 4, requires_grad=True)

    loss(z, torch.tensor([0, 3])).backward()

    torch.testing.assert_close(z.grad[0], torch.tensor([-2 / 3, 1 / 3, 1 / 3, 0]) / 2)
    torch.testing.assert_close(z.grad[1], torch.tensor([1 / 4, 1 / 4, 1 / 4, -3 / 4]) / 2)


def test_a_class_exactly_at_equalizations_threshold_is_no_tail() -> None:
    """n = (7, 1): class 1 has 1/8 of all images. Below 1/8 is nobody; just above, class 1 is spared by class 0."""
    z, y = torch.zeros(1, 2), torch.tensor([0])
    for threshold, expected in ((1 / 8, math.log(2)), (1 / 8 + 1e-3, 0.0)):
        loss = losses.build("equalization", class_counts=[7, 1], gamma=1.0, tail_threshold=threshold)
        assert loss(z, y).item() == pytest.approx(expected)


@pytest.mark.usefixtures("double")
def test_class_balanced_by_hand() -> None:
    """n = (3, 1): weights 1/3 and 1. z = (log 3, 0): CE = log 4/3 for class 0 and log 4 for class 1.

    (⅓ log 4/3 + log 4) / (⅓ + 1) = ¼ log 4/3 + ¾ log 4 = log 4 − ¼ log 3.
    """
    z = torch.tensor([[math.log(3), 0.0]] * 2)

    value = losses.build("class_balanced", class_counts=[3, 1])(z, torch.tensor([0, 1]))

    assert value.item() == pytest.approx(math.log(4) - math.log(3) / 4)


@pytest.mark.usefixtures("double")
def test_effective_number_by_hand() -> None:
    """β = ½, n = (2, 1): weights ½ / ¾ = ⅔ and ½ / ½ = 1. z = 0: both CE are log 2, but only if divided by Σ w."""
    loss = losses.build("effective_number", class_counts=[2, 1], beta=0.5)

    assert loss.class_weights.tolist() == pytest.approx([2 / 3, 1])
    assert loss(torch.zeros(2, 2), torch.tensor([0, 1])).item() == pytest.approx(math.log(2))


@pytest.mark.usefixtures("double")
def test_focal_by_hand() -> None:
    """z = (log 3, 0), y = 0: p = ¾, so (¼)² · log 4/3 at γ = 2."""
    value = losses.build("focal", class_counts=[1, 1], gamma=2.0)(
        torch.tensor([[math.log(3), 0.0]]), torch.tensor([0])
    )  # fmt: skip

    assert value.item() == pytest.approx(math.log(4 / 3) / 16)


@pytest.mark.usefixtures("double")
def test_balanced_softmax_by_hand() -> None:
    """z = 0, n = (3, 1): p = (¾, ¼), so the tail example costs log 4."""
    value = losses.build("balanced_softmax", class_counts=[3, 1])(torch.zeros(1, 2), torch.tensor([1]))

    assert value.item() == pytest.approx(math.log(4))


@pytest.mark.usefixtures("double")
def test_ldam_by_hand() -> None:
    """n = (16, 1), max_m = ½: m = ½ · ((1/16)^¼, 1) = (¼, ½). s = 4, z = 0, y = 1: CE of (0, −2) = log(1 + e²)."""
    value = losses.build("ldam", class_counts=[16, 1], max_m=0.5, s=4.0)(torch.zeros(1, 2), torch.tensor([1]))

    assert value.item() == pytest.approx(math.log(1 + math.e**2))


@pytest.mark.usefixtures("double")
def test_ldams_largest_margin_is_that_of_the_rarest_class_there_is() -> None:
    """n = (256, 16): m = ½ · ((1/16)^¼, 1) = (¼, ½), as for n = (16, 1): the same loss, log(1 + e²)."""
    value = losses.build("ldam", class_counts=[256, 16], max_m=0.5, s=4.0)(torch.zeros(1, 2), torch.tensor([1]))

    assert value.item() == pytest.approx(math.log(1 + math.e**2))


@pytest.mark.usefixtures("double")
def test_seesaw_by_hand() -> None:
    """n = (4, 1), p = ½, q = 0, z = 0. y = 0: the rare class is pushed with ¼^½ = ½, CE = log 3/2. y = 1: log 2."""
    loss = losses.build("seesaw", class_counts=[4, 1], p=0.5, q=0.0, online=False)

    assert loss(torch.zeros(1, 2), torch.tensor([0])).item() == pytest.approx(math.log(1.5))
    assert loss(torch.zeros(1, 2), torch.tensor([1])).item() == pytest.approx(math.log(2))


@pytest.mark.usefixtures("double")
def test_ghm_by_hand() -> None:
    """One example of class 0, z = (log 3, 0), 2 bins, no momentum: g = (¼, ½), one output in each of K = 2 bins.

    w = 2 · 1 / 1 / 2 = 1 for both; Σ BCE = log 4/3 + log 2, divided by B = 1.
    """
    loss = losses.build("ghm", class_counts=[1, 1], bins=2, momentum=0.0)

    value = loss(torch.tensor([[math.log(3), 0.0]]), torch.tensor([0]))

    assert value.item() == pytest.approx(math.log(4 / 3) + math.log(2))


@pytest.mark.parametrize(
    ("name", "params", "counts"),
    [
        ("softmax", {}, COUNTS),
        ("class_balanced", {}, [9, 9, 9, 9]),
        ("focal", {"gamma": 0.0}, COUNTS),
        ("effective_number", {"beta": 0.0}, COUNTS),
        ("equalization", {"gamma": 0.0}, COUNTS),
        ("equalization", {"tail_threshold": 0.0}, COUNTS),
        ("equalization", {}, [9, 9, 9, 9]),
        ("seesaw", {"p": 0.0, "q": 0.0}, COUNTS),
        ("seesaw", {"q": 0.0, "online": False}, [9, 9, 9, 9]),
        ("ghm_cwap", {"gamma": 0.0, "weight": "none"}, COUNTS),
        ("balanced_softmax", {}, [9, 9, 9, 9]),
        ("logit_adjustment", {"tau": 0.0}, COUNTS),
        ("logit_adjustment", {}, [9, 9, 9, 9]),
        ("ldam", {"max_m": 0.0, "s": 1.0}, COUNTS),
        ("vs", {"gamma": 0.0, "tau": 0.0}, COUNTS),
    ],
)
def test_is_cross_entropy_at_its_limit(name: str, params: dict[str, Any], counts: list[int]) -> None:
    loss = losses.build(name, class_counts=counts, **params)
    for z, y in batches(2):
        logits, targets = torch.tensor(z, dtype=torch.float64), torch.tensor(y)
        torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits, targets))
        loss.end_epoch()


def test_equalization_is_cross_entropy_in_eval_mode() -> None:
    ((z, y),) = batches()
    loss = losses.build("equalization", class_counts=COUNTS).eval()

    torch.testing.assert_close(
        loss(torch.tensor(z), torch.tensor(y)), F.cross_entropy(torch.tensor(z), torch.tensor(y))
    )


def test_logit_adjustment_at_one_is_balanced_softmax() -> None:
    ((z, y),) = batches()
    logits, targets = torch.tensor(z), torch.tensor(y)

    one, other = (losses.build(name, class_counts=COUNTS) for name in ("logit_adjustment", "balanced_softmax"))

    torch.testing.assert_close(one(logits, targets), other(logits, targets))


def test_effective_number_tends_to_class_balanced() -> None:
    ((z, y),) = batches()
    logits, targets = torch.tensor(z), torch.tensor(y)
    near = losses.build("effective_number", class_counts=COUNTS, beta=1 - 1e-9)

    torch.testing.assert_close(
        near(logits, targets), losses.build("class_balanced", class_counts=COUNTS)(logits, targets)
    )


@pytest.mark.parametrize("name", ["class_balanced", "effective_number"])
def test_class_weights_reduce_as_in_pytorch(name: str) -> None:
    ((z, y),) = batches()
    logits, targets = torch.tensor(z), torch.tensor(y)
    loss = losses.build(name, class_counts=COUNTS)

    torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits, targets, weight=loss.class_weights))


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_focal_has_a_finite_gradient_and_curvature_where_the_model_is_certain(gamma: float) -> None:
    z = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(
        losses.build("focal", class_counts=[1, 1], gamma=gamma)(z, torch.tensor([0, 0])), z, create_graph=True
    )  # fmt: skip
    (curvature,) = torch.autograd.grad(gradient.sum(), z)

    assert gradient.isfinite().all()
    assert curvature.isfinite().all()
    assert gradient[1].tolist() == pytest.approx([-0.5, 0.5])  # the worst mistake counts in full


def test_focal_under_drw_takes_p_from_the_unweighted_cross_entropy() -> None:
    """The widely copied p = exp(−w · CE) would put the class weight into the modulating factor."""
    ((z, y),) = batches()
    logits, targets = torch.tensor(z), torch.tensor(y)
    weights = losses.build("effective_number", class_counts=COUNTS).class_weights[targets]
    p = logits.softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)

    loss = losses.build("focal", class_counts=COUNTS, gamma=2.0, epochs=1, drw={"start": 0.0})

    expected = (weights * (1 - p) ** 2 * -p.log()).sum() / weights.sum()
    torch.testing.assert_close(loss(logits, targets), expected)
