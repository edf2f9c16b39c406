"""GHM-CWAP against a reference in plain Python, by hand, at its limits, over two ranks."""

from __future__ import annotations

import copy
import itertools
import math
import multiprocessing
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from tune_lt import losses
from tune_lt.losses.formulas import log_odds

N = 6
COUNTS = [40, 12, 5, 3, 0, 4]  # 2, 3 and 5 have fewer than N images; 4 has none, 5 has some but is never met
CHOICES: dict[str, tuple[Any, ...]] = {
    "weight": ("effective", "reciprocal", "none"),
    "normalization": ("batch_mean", "none"),
    "margin_counts": ("effective", "raw"),
    "size": ("counts", "density"),
    "aura": (True, False),
}
OPTIONS = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]


class Reference:
    """The formulas of `GHMCWAP` in loops over examples, classes and regions, on Python floats."""

    def __init__(self, counts: list[int], alpha: float, gamma: float, regions: int, **options: Any) -> None:
        self.n, self.alpha, self.gamma, self.regions, self.options = counts, alpha, gamma, regions, options
        equal = [i / regions for i in range(regions + 1)]
        self.live_edges = [list(equal) for _ in counts]
        self.live_counts = [[0] * regions for _ in counts]
        self.frozen: list[tuple[list[float], list[int]] | None] = [None for _ in counts]

    def region(self, edges: list[float], g: float) -> int:
        for i in range(self.regions):
            if edges[i] <= g < edges[i + 1]:
                return i
        return self.regions - 1

    def v(self, c: int, i: int) -> float:
        edges, counts = self.frozen[c]  # type: ignore[misc]
        return counts[i] / (self.regions * (edges[i + 1] - edges[i]))

    def effective_size(self, c: int) -> float:
        if self.frozen[c] is None:
            return max(self.n[c], 1)
        total = 0.0
        for i in range(self.regions):
            if self.frozen[c][1][i] > 0:  # type: ignore[index]
                mass = self.frozen[c][1][i] if self.options["size"] == "counts" else self.v(c, i)  # type: ignore[index]
                total += mass**self.alpha
        return total

    def margin(self, m: int, n: int) -> float:
        if self.options["margin_counts"] == "raw":
            s_m, s_n = max(self.n[m], 1), max(self.n[n], 1)
        else:
            s_m, s_n = self.effective_size(m), self.effective_size(n)
        return self.gamma * math.log(min(1, s_n / s_m))

    def weight(self, c: int, i: int) -> float:
        if self.frozen[c] is None:
            return 1.0
        v = max(self.v(c, i), 1)
        if self.options["weight"] == "effective":
            return v ** (self.alpha - 1)
        if self.options["weight"] == "reciprocal":
            return self.effective_size(c) / v**self.alpha
        return 1.0

    def step(self, logits: list[list[float]], targets: list[int]) -> tuple[float, list[list[float]]]:
        """The batch's loss and its gradient; counts the examples."""
        found = []
        for z, y in zip(logits, targets, strict=True):
            adjusted = [z[n] + self.margin(y, n) for n in range(len(z))]
            p = softmax(adjusted)
            g = sum(p[n] for n in range(len(z)) if n != y)
            w = 1.0 if self.frozen[y] is None else self.weight(y, self.region(self.frozen[y][0], g))
            self.live_counts[y][self.region(self.live_edges[y], g)] += 1
            found.append((w, -math.log(p[y]), [p[n] - (n == y) for n in range(len(z))]))
        divisor = sum(w for w, _, _ in found) if self.options["normalization"] == "batch_mean" else len(found)
        return sum(w * ce for w, ce, _ in found) / divisor, [[w * d / divisor for d in grad] for w, _, grad in found]

    def end_epoch(self) -> None:
        for c, n in enumerate(self.n):
            if sum(self.live_counts[c]) == 0:
                continue
            self.frozen[c] = (self.live_edges[c], self.live_counts[c])
            self.live_counts[c] = [0] * self.regions
            if self.options["aura"] and n >= self.regions:
                d = [1 / math.log(math.e + self.v(c, i)) for i in range(self.regions)]
                edges = [sum(d[:i]) / sum(d) for i in range(self.regions)]
                self.live_edges[c] = [*edges, 1.0]


def softmax(z: list[float]) -> list[float]:
    exponentials = [math.exp(x - max(z)) for x in z]
    return [x / sum(exponentials) for x in exponentials]


def epochs(absent: int = 3) -> list[list[tuple[list[list[float]], list[int]]]]:
    """Four epochs of batches of 16, the last of 12 (9 in the third epoch, where class ``absent`` is missing)."""
    rng = random.Random(0)
    result = []
    for epoch in range(4):
        targets = [c for c, n in enumerate(COUNTS[:4]) for _ in range(n) if not (epoch == 2 and c == absent)]
        rng.shuffle(targets)
        skill = 1.0 * epoch  # peaked histograms later, as in training
        logits = [[rng.gauss(0, 1.5) + skill * (n == y) for n in range(len(COUNTS))] for y in targets]
        result.append([(logits[i : i + 16], targets[i : i + 16]) for i in range(0, len(targets), 16)])
    return result


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_equals_the_reference_over_several_epochs(options: dict[str, Any]) -> None:
    """Losses, gradients, edges, S and W, with a short last batch, an absent class and two that are never seen."""
    reference = Reference(COUNTS, alpha=0.7, gamma=0.8, regions=N, **options)
    loss = losses.build("ghm_cwap", class_counts=COUNTS, alpha=0.7, gamma=0.8, regions=N, **options)

    for epoch in epochs():
        for logits, targets in epoch:
            z = torch.tensor(logits, requires_grad=True)
            value = loss(z, torch.tensor(targets))
            value.backward()
            expected, gradient = reference.step(logits, targets)
            assert value.item() == pytest.approx(expected, rel=1e-10)
            torch.testing.assert_close(z.grad, torch.tensor(gradient), rtol=1e-9, atol=1e-12)
        loss.end_epoch()
        reference.end_epoch()
        torch.testing.assert_close(loss.live.edges, torch.tensor(reference.live_edges), rtol=1e-12, atol=1e-12)
        weights = [[reference.weight(c, i) for i in range(N)] if reference.frozen[c] else [1.0] * N for c in range(6)]
        torch.testing.assert_close(loss.weights, torch.tensor(weights), rtol=1e-10, atol=0)
        if options["margin_counts"] == "effective":
            sizes = torch.tensor([reference.effective_size(c) for c in range(6)])
            torch.testing.assert_close(loss.log_size.exp(), sizes, rtol=1e-10, atol=0)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.5])
@pytest.mark.usefixtures("double")
def test_equals_the_reference_at_other_alphas(alpha: float) -> None:
    options = {name: values[0] for name, values in CHOICES.items()}
    reference = Reference(COUNTS, alpha=alpha, gamma=1.3, regions=4, **options)
    loss = losses.build("ghm_cwap", class_counts=COUNTS, alpha=alpha, gamma=1.3, regions=4)

    for epoch in epochs(absent=0):
        for logits, targets in epoch:
            expected, _ = reference.step(logits, targets)
            assert loss(torch.tensor(logits), torch.tensor(targets)).item() == pytest.approx(expected, rel=1e-10)
        loss.end_epoch()
        reference.end_epoch()


@pytest.mark.usefixtures("double")
def test_two_epochs_by_hand() -> None:
    """Counts (4, 1), N = 2 equal regions, α = ½, γ = 1.

    Epoch 1, M[0] = (0, log ¼) from the counts, M[1] = 0, W = 1:
      class 0, z = (0, 0) thrice:      odds 1 : ¼, p̃ = 4/5, g = 1/5, region 0, CE = log 5/4
      class 0, z = (−log 8, 0) once:   odds ⅛ : ¼, p̃ = 1/3, g = 2/3, region 1, CE = log 3
      class 1, z = (log 3, 0) once:    odds 3 : 1, p̃ = 1/4, g = 3/4, region 1, CE = log 4
    Then v = ((3, 1), (0, 1)), S = (√3 + 1, 1), W = ((1/√3, 1), (1, 1)), M[0, 1] = −log(1 + √3).
    Epoch 2:
      class 0, z = (0, 0):             odds 1 : 1/(1 + √3), g = 1/(2 + √3) = .27, W = 1/√3, CE = log (2 + √3)/(1 + √3)
      class 1, z = (log 3, 0):         as before, W = 1, CE = log 4
    """
    loss = losses.build("ghm_cwap", class_counts=[4, 1], alpha=0.5, gamma=1.0, regions=2, aura=False)
    easy, hard, other = [0.0, 0.0], [-math.log(8), 0.0], [math.log(3), 0.0]

    first = loss(torch.tensor([easy, easy, easy, hard, other]), torch.tensor([0, 0, 0, 0, 1]))
    loss.end_epoch()
    second = loss(torch.tensor([easy, other]), torch.tensor([0, 1]))

    assert first.item() == pytest.approx((3 * math.log(5 / 4) + math.log(3) + math.log(4)) / 5)
    assert loss.frozen.counts.tolist() == [[3, 1], [0, 1]]
    root = math.sqrt(3)
    assert loss.log_size.exp().tolist() == pytest.approx([root + 1, 1])
    expected = (math.log((2 + root) / (1 + root)) / root + math.log(4)) / (1 / root + 1)
    assert second.item() == pytest.approx(expected)


def train(loss: losses.Loss, seed: int = 0) -> list[float]:
    """Two epochs in which every image is seen once; the losses of all batches."""
    generator = torch.Generator().manual_seed(seed)
    counts = loss.class_counts.tolist()
    targets = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    values = []
    for _ in range(2):
        order = torch.randperm(len(targets), generator=generator)
        logits = 2 * torch.randn(len(targets), len(counts), generator=generator)
        values += [loss(z, y).item() for z, y in zip(logits.split(16), targets[order].split(16), strict=True)]
        loss.end_epoch()
    return values


def build(**options: Any) -> losses.Loss:
    return losses.build("ghm_cwap", class_counts=[50, 20, 7], **{"regions": 5, **options})


def test_no_margin_and_no_weights_is_cross_entropy() -> None:
    expected = train(losses.build("softmax", class_counts=[50, 20, 7]))

    assert train(build(gamma=0.0, weight="none")) == pytest.approx(expected, rel=1e-6)


def test_alpha_one_with_equal_regions_is_the_margin_with_raw_counts() -> None:
    """v^0 = 1, and S_c = Σ_i v[c, i] = n_c when each image is seen once per epoch."""
    margin = build(weight="none", margin_counts="raw")

    assert train(build(alpha=1.0, aura=False)) == pytest.approx(train(margin), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.8, 1.7])
def test_margin_with_raw_counts_is_the_mitigation_factor_of_seesaw(gamma: float) -> None:
    seesaw = losses.build("seesaw", class_counts=[50, 20, 7], p=gamma, q=0.0, online=False)

    margin = build(weight="none", margin_counts="raw", gamma=gamma)

    assert train(margin) == pytest.approx(train(seesaw), rel=1e-6)


def test_tau_without_margin_and_weights_is_logit_adjustment() -> None:
    expected = train(losses.build("logit_adjustment", class_counts=[50, 20, 7], tau=0.7))

    assert train(build(tau=0.7, gamma=0.0, weight="none")) == pytest.approx(expected, rel=1e-5)


def test_tau_adds_the_scaled_log_counts_before_all_else() -> None:
    """So the loss of logits that have them already is the same, weights and gradient norms included."""
    own, given = build(tau=0.7), build()
    prior = 0.7 * torch.tensor([50.0, 20.0, 7.0]).log()
    z, y = 2 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    for _ in range(3):
        assert own(z, y).item() == pytest.approx(given(z + prior, y).item(), rel=1e-5)
        torch.testing.assert_close(own.gradient_norm(z, y), given.gradient_norm(z + prior, y))
        for loss in (own, given):
            loss.end_epoch()
    torch.testing.assert_close(own.weights, given.weights)


def test_margin_vanishes_when_classes_and_their_histograms_are_equal() -> None:
    loss = losses.build("ghm_cwap", class_counts=[10, 10], regions=4, weight="none")
    z = 2 * torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    batch = torch.cat([z, z.flip(1)]), torch.tensor([0] * 10 + [1] * 10)  # class 1 is class 0's mirror image
    loss(*batch)
    loss.end_epoch()

    torch.testing.assert_close(loss(*batch), F.cross_entropy(*batch))


def test_small_classes_keep_equal_widths_and_large_ones_do_not() -> None:
    loss = losses.build("ghm_cwap", class_counts=[50, 6, 5], regions=6)
    train(loss)

    equal = torch.tensor([1 / 6]).expand(6)
    torch.testing.assert_close(loss.live.widths[2], equal)
    assert (loss.live.widths[:2] - equal).abs().amax(1).gt(1e-3).all()


def test_nothing_is_counted_in_eval_mode() -> None:
    loss = build()
    before = copy.deepcopy(loss.state_dict())

    loss.eval()
    train(loss)

    for name, value in loss.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)


def test_ending_an_epoch_without_training_keeps_everything() -> None:
    loss = build()
    train(loss)
    before = copy.deepcopy(loss.state_dict())

    loss.end_epoch()

    for name, value in loss.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=name)


def test_what_is_counted_changes_nothing_before_the_epoch_ends() -> None:
    loss = build()
    z, y = torch.randn(32, 3), torch.arange(32) % 3

    assert loss(z, y).item() == loss(z, y).item()


def test_buffers_stay_where_they_are() -> None:
    """A captured graph holds their addresses."""
    loss = build()
    before = {name: buffer.data_ptr() for name, buffer in loss.named_buffers()}

    train(loss)

    assert {name: buffer.data_ptr() for name, buffer in loss.named_buffers()} == before


def test_a_copy_goes_its_own_way() -> None:
    loss = build()
    other = copy.deepcopy(loss)

    train(other)

    assert loss.frozen.counts.sum() == 0
    assert train(loss) == train(copy.deepcopy(build()))


def test_gradient_norms_lie_in_the_regions_that_were_counted() -> None:
    """They are recorded from log-odds, and binned from the cross-entropy."""
    loss = build()
    z, y = 2 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    expected = [[0] * 5 for _ in range(3)]
    for g, label in zip(loss.gradient_norm(z, y).tolist(), y.tolist(), strict=True):
        expected[label][min(int(5 * g), 4)] += 1

    loss(z, y)

    assert loss.live.counts.tolist() == expected


def test_gradient_norm_keeps_its_digits_near_certainty() -> None:
    """1 − p = e^−20 / (1 + e^−20); 1 − exp(log p) is 0 in float32."""
    g = torch.sigmoid(log_odds(torch.tensor([[20.0, 0.0]]), torch.tensor([0])))

    assert g.item() == pytest.approx(math.exp(-20) / (1 + math.exp(-20)), rel=1e-6)


def _one_rank(rank: int, folder: Path) -> dict[str, torch.Tensor]:
    """One epoch over every second example, as one of two processes."""
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        loss = build()
        z, y = torch.load(folder / "batch.pt")
        loss(z[rank::2], y[rank::2])
        loss.end_epoch()
        return loss.state_dict()
    finally:
        dist.destroy_process_group()


def _other_rank(folder: Path) -> None:
    torch.save(_one_rank(1, folder), folder / "other.pt")


@pytest.mark.long
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")
def test_counts_are_summed_over_ranks(tmp_path: Path) -> None:
    z, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    torch.save((z, y), tmp_path / "batch.pt")
    alone = build()
    alone(z, y)
    alone.end_epoch()

    other = multiprocessing.get_context("spawn").Process(target=_other_rank, args=(tmp_path,))
    other.start()
    states = [_one_rank(0, tmp_path)]
    other.join(60)
    states.append(torch.load(tmp_path / "other.pt"))

    for state in states:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, msg=name)
