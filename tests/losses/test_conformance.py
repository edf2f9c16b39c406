"""What holds for every loss of the registry, alone and under deferred re-weighting."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor
from watch import Watch

from tune_lt import losses, registry
from tune_lt.losses.margins import Seesaw

COUNTS = [30, 14, 6, 2, 0]
C = len(COUNTS)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in losses.LOSSES),
    ("focal", {"gamma": 0.5}),
    ("seesaw", {"online": False}),
    ("ghm", {"momentum": 0.0, "divide_by_classes": True}),
    ("ghm_cwap", {"aura": False, "weight": "reciprocal"}),
    ("ghm_cwap", {"normalization": "none", "size": "density", "regions": 5}),
]
CASES = [
    pytest.param(name, {**params, **({"drw": {"start": 0.0}, "epochs": 1} if drw else {})},
                 id="-".join([name, *map(str, params.values()), *(["drw"] if drw else [])]))
    for name, params in VARIANTS for drw in (False, True)
]  # fmt: skip
every_loss = pytest.mark.parametrize(("name", "params"), CASES)


def batch(seed: int = 0, size: int = 24, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, C, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(0, C - 1, (size,), generator=generator)  # class 4 has no training images


def trained(name: str, params: dict[str, Any], counts: list[int] = COUNTS) -> losses.Loss:
    """The loss after two epochs of two batches, so that its state is not the initial one."""
    loss = losses.build(name, class_counts=counts, **params)
    for seed in range(4):
        loss(*batch(seed))
        if seed % 2:
            loss.end_epoch()
    return loss


def value(loss: losses.Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss as a pure function: the same draws and the same state each time."""
    torch.manual_seed(0)
    return copy.deepcopy(loss)(logits, targets)


@every_loss
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_loss_and_gradient_are_finite(name: str, params: dict[str, Any], scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    signs = 2.0 * torch.randint(0, 2, (20, C), generator=generator) - 1
    logits = (scale * signs).requires_grad_()
    targets = torch.arange(20) % C  # the class without training images too
    loss = trained(name, params)

    for _ in range(2):
        (gradient,) = torch.autograd.grad(result := loss(logits, targets), logits)
        assert result.ndim == 0
        assert result.isfinite()
        assert result >= 0
        assert gradient.isfinite().all()
        loss.end_epoch()


@every_loss
def test_gradient_is_that_of_the_formula_with_its_detached_factors_held_fixed(
    name: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights found in a histogram are constant between its edges; Seesaw's margins are not, and are frozen here."""
    logits, targets = batch(5, size=7, dtype=torch.float64)
    loss = trained(name, params)
    if name != "equalization":  # which draws in training mode only, from a generator that `value` seeds
        loss.eval()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(value(loss, logits, targets), logits)

    base = loss.base if isinstance(loss, losses.DRW) else loss
    if isinstance(base, Seesaw):
        margins = base.margins(logits, targets)
        monkeypatch.setattr(Seesaw, "margins", lambda self, logits, targets: margins)
    assert torch.autograd.gradcheck(lambda z: value(loss, z, targets), logits)
    (frozen,) = torch.autograd.grad(value(loss, logits, targets), logits)
    torch.testing.assert_close(gradient, frozen)


@every_loss
def test_renaming_the_classes_changes_nothing(name: str, params: dict[str, Any]) -> None:
    if name == "equalization":
        params = {**params, "gamma": 1.0}  # draws by position cannot follow the classes: make them certain
    order = torch.tensor([3, 0, 4, 1, 2])  # column j of the renamed logits is the old column order[j]
    new_name = torch.argsort(order)
    loss = losses.build(name, class_counts=COUNTS, **params)
    renamed = losses.build(name, class_counts=[COUNTS[c] for c in order], **params)

    for seed in range(6):
        logits, targets = batch(seed)
        logits, other = logits.requires_grad_(), logits.detach()[:, order].requires_grad_()
        one, two = loss(logits, targets), renamed(other, new_name[targets])
        torch.testing.assert_close(one, two)
        (g1,), (g2,) = torch.autograd.grad(one, logits), torch.autograd.grad(two, other)
        torch.testing.assert_close(g1[:, order], g2)
        if seed % 2:
            loss.end_epoch()
            renamed.end_epoch()


@every_loss
def test_the_order_of_the_batch_changes_nothing(name: str, params: dict[str, Any]) -> None:
    if name == "equalization":
        params = {**params, "gamma": 1.0}
    loss = losses.build(name, class_counts=COUNTS, **params)
    other = copy.deepcopy(loss)

    for seed in range(6):
        logits, targets = batch(seed)
        torch.testing.assert_close(loss(logits, targets), other(logits.flip(0), targets.flip(0)))
        if seed % 2:
            loss.end_epoch()
            other.end_epoch()


@every_loss
def test_state_goes_round_in_the_middle_of_an_epoch(name: str, params: dict[str, Any]) -> None:
    loss = trained(name, params)
    loss(*batch(8))
    restored = losses.build(name, class_counts=COUNTS, **params)

    restored.load_state_dict(copy.deepcopy(loss.state_dict()))

    for seed in range(9, 15):
        results = []
        for each in (loss, restored):
            torch.manual_seed(seed)
            results.append(each(*batch(seed)).item())
        assert results[0] == results[1]
        if seed % 2:
            loss.end_epoch()
            restored.end_epoch()


@every_loss
def test_nothing_is_learned_in_eval_mode(name: str, params: dict[str, Any]) -> None:
    loss = trained(name, params).eval()
    before = copy.deepcopy(loss.state_dict())

    loss(*batch(8))

    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())


@every_loss
@pytest.mark.parametrize("label", [0, 4])
def test_a_batch_of_one_class(name: str, params: dict[str, Any], label: int) -> None:
    loss = trained(name, params)
    logits, targets = batch()
    logits.requires_grad_()

    for _ in range(2):
        (gradient,) = torch.autograd.grad(result := loss(logits, torch.full_like(targets, label)), logits)
        assert result.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        loss.end_epoch()


@every_loss
def test_a_batch_of_one_example(name: str, params: dict[str, Any]) -> None:
    loss = trained(name, params)

    assert loss(*batch(size=1)).isfinite()
    loss.end_epoch()
    assert loss(*batch()).isfinite()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, params: dict[str, Any], dtype: torch.dtype) -> None:
    loss = trained(name, params)
    logits, targets = batch(dtype=dtype)
    logits.requires_grad_()

    result = value(loss, logits, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = value(loss, logits, targets)

    assert result.dtype == torch.float32
    torch.testing.assert_close(result, value(loss, logits.detach().float(), targets))
    torch.testing.assert_close(under_autocast, result)
    assert torch.autograd.grad(result, logits)[0].dtype == dtype


@every_loss
def test_float64_stays_float64(name: str, params: dict[str, Any]) -> None:
    loss = trained(name, params)

    result = value(loss, *batch(dtype=torch.float64))

    assert result.dtype == torch.float64
    torch.testing.assert_close(result.float(), value(loss, *batch()))


@every_loss
def test_inputs_are_left_alone(name: str, params: dict[str, Any]) -> None:
    logits, targets = batch()
    before = logits.clone(), targets.clone()

    trained(name, params)(logits, targets)

    assert torch.equal(logits, before[0])
    assert torch.equal(targets, before[1])


@every_loss
def test_a_step_neither_waits_for_the_device_nor_builds_a_matrix_of_classes(name: str, params: dict[str, Any]) -> None:
    classes, size = 400, 8
    loss = losses.build(name, class_counts=[400 - c for c in range(classes)], **params)
    logits, targets = torch.randn(size, classes, requires_grad=True), torch.arange(size)

    with Watch(largest=40 * classes) as watch:
        loss(logits, targets).backward()

    assert len(watch.seen) > 3
    with Watch(largest=40 * classes):
        loss.end_epoch()


@every_loss
def test_logits_that_diverged_give_nan(name: str, params: dict[str, Any]) -> None:
    logits, targets = batch()

    assert trained(name, params)(logits * torch.nan, targets).isnan()


@every_loss
def test_buffers_are_all_the_state_and_move_together(name: str, params: dict[str, Any]) -> None:
    loss = trained(name, params).to("meta")

    assert (
        loss(torch.zeros(6, C, device="meta"), torch.zeros(6, dtype=torch.int64, device="meta")).device.type == "meta"
    )
    loss.end_epoch()
    assert not list(loss.parameters())


# Every option changes something. A numeric option without a Knob in its signature needs other values here.
OTHER_VALUES: dict[tuple[str, str], list[Any]] = {
    ("ghm_cwap", "tau"): [0.5],
    ("drw", "start"): [0.2],
    ("drw", "beta"): [0.9],
}
FEW_REGIONS = {"regions": 5}  # so that AURA applies to classes of these sizes


def values_of(key: tuple[str, str], builder: Callable[..., Any]) -> list[Any]:
    annotation, default = registry.parameters(builder)[key[1]]
    if annotation is bool or get_args(annotation)[:1] == (bool,):
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    ends = registry.knob(annotation)
    assert ends or key in OTHER_VALUES, f"{key} has no Knob: say in OTHER_VALUES what else it can be"
    return list(dict.fromkeys([default, *(ends.values if ends else OTHER_VALUES[key])]))


def three_epochs(name: str, **params: Any) -> list[float]:
    torch.manual_seed(0)
    loss = losses.build(name, class_counts=COUNTS, epochs=3, **params)
    results = []
    for seed in range(6):
        results.append(loss(*batch(seed, size=30, dtype=torch.float64)).item())
        if seed % 2:
            loss.end_epoch()
    return results


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *((name, option) for name in losses.LOSSES for option in registry.parameters(losses.LOSSES[name])),
        *(("drw", option) for option in registry.parameters(losses.DRW)),
    ],
)
def test_every_value_of_every_option_changes_the_loss(name: str, option: str) -> None:
    builder = losses.DRW if name == "drw" else losses.LOSSES[name]
    runs = []
    for choice in values_of((name, option), builder):
        if name == "drw":
            runs.append(three_epochs("softmax", drw={"start": 0.4, option: choice}))
        else:
            base = FEW_REGIONS if name == "ghm_cwap" else {}
            runs.append(three_epochs(name, **{**base, option: choice}))

    for i, run in enumerate(runs):
        for other in runs[:i]:
            assert max(abs(a - b) for a, b in zip(run, other, strict=True)) > 1e-4
