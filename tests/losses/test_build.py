"""Building losses by name, what is refused, plugins, and deferred re-weighting."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import numpy as np
import pytest
import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn import functional as F

from tune_lt import losses, registry
from tune_lt.errors import InputError

COUNTS = [50, 20, 7, 0]


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 4, generator=generator), torch.randint(0, 4, (12,), generator=generator)


def test_the_names_that_study_files_use_are_still_there() -> None:
    assert {
        "softmax", "class_balanced", "focal", "ghm", "effective_number", "equalization", "seesaw", "ghm_cwap",
        "balanced_softmax", "logit_adjustment", "ldam", "vs",
    } <= losses.OWN  # fmt: skip


def test_ghm_cwap_has_the_method_studys_choices_as_defaults() -> None:
    defaults = {name: default for name, (_, default) in registry.parameters(losses.LOSSES["ghm_cwap"]).items()}

    assert defaults == {
        "alpha": 0.6, "gamma": 1.2, "regions": 30, "aura": True, "weight": "effective", "normalization": "batch_mean",
        "margin_counts": "effective", "size": "counts", "tau": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("name", losses.LOSSES)
def test_an_unknown_parameter_is_refused_naming_the_valid_ones(name: str) -> None:
    with pytest.raises(InputError, match=f"loss '{name}' has no parameter 'alhpa'.*valid: ") as error:
        losses.build(name, class_counts=COUNTS, alhpa=0.5)
    assert all(known in str(error.value) for known in registry.parameters(losses.LOSSES[name]))


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name in losses.LOSSES for key in registry.parameters(losses.LOSSES[name])]
)
def test_every_parameter_is_checked(name: str, key: str) -> None:
    """−1 is below every bound and no literal choice; only a bool has neither."""
    annotation = registry.parameters(losses.LOSSES[name])[key][0]
    if annotation is bool or get_args(annotation)[:1] == (bool,):
        return
    with pytest.raises(InputError, match=f"loss '{name}': {key} = -1, but"):
        losses.build(name, class_counts=COUNTS, **{key: -1})


def test_an_unknown_loss_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean 'ghm_cwap'"):
        losses.build("ghm_cwpa", class_counts=COUNTS)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], "at least 2"),
        ([5], "at least 2"),
        ([[5, 5]], "at least 2"),
        (7, "at least 2"),
        ([5, -1], r"class_counts\[1\] = -1"),
        ([5, 1.5], r"class_counts\[1\] = 1.5"),
        ([float("nan"), 5], r"class_counts\[0\] = nan"),
        ([5, float("inf")], r"class_counts\[1\] = inf"),
        ([0, 0], "all 0"),
        (["many", "few"], "whole numbers"),
        ([[1], [2, 3]], "whole numbers"),
        (None, "whole numbers"),
    ],
)
def test_impossible_class_counts_are_refused(counts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        losses.build("softmax", class_counts=counts)


@pytest.mark.parametrize("counts", [(5, 1), np.array([5, 1]), torch.tensor([5, 1]), [5.0, 1.0]])
def test_class_counts_come_in_any_sequence(counts: Any) -> None:
    assert losses.build("softmax", class_counts=counts).class_counts.tolist() == [5, 1]


@pytest.mark.parametrize(("logits", "targets"), [((4, 3), (4,)), ((4,), (4,)), ((4, 4), (4, 1)), ((4, 4), (3,))])
def test_wrong_shapes_are_refused(logits: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"they must be \(B, 4\) and \(B,\)"):
        losses.build("softmax", class_counts=COUNTS)(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))


def test_drw_leaves_the_loss_alone_before_its_start() -> None:
    """start = 0.5 of 3 epochs: round(1.5) = 2, so epochs 0 and 1 are plain."""
    loss = losses.build("softmax", class_counts=COUNTS, epochs=3, drw={"start": 0.5, "beta": 0.99})
    weight = losses.build("effective_number", class_counts=COUNTS, beta=0.99).class_weights

    for expected in (None, None, weight, weight):
        torch.testing.assert_close(loss(*batch()), F.cross_entropy(*batch(), weight=expected))
        loss.end_epoch()


@pytest.mark.parametrize(("start", "epochs", "first"), [(0.8, 200, 160), (0.8, 60, 48), (0.55, 100, 55), (1.0, 7, 7)])
def test_drw_starts_at_the_nearest_epoch(start: float, epochs: int, first: int) -> None:
    assert losses.build("ldam", class_counts=COUNTS, epochs=epochs, drw={"start": start}).first_epoch == first


def test_drw_starts_at_four_fifths_with_beta_0_9999_unless_told() -> None:
    assert {name: default for name, (_, default) in registry.parameters(losses.DRW).items()} == {
        "start": 0.8,
        "beta": 0.9999,
    }
    assert isinstance(losses.build("ldam", class_counts=COUNTS, epochs=10, drw={}), losses.DRW)


def test_drw_multiplies_into_the_weights_of_its_loss() -> None:
    """Class-balanced weights 1 / n and DRW's (1 − β) / (1 − β^n) are one weight under one division."""
    n = torch.tensor([50.0, 20.0, 7.0, 1.0])
    loss = losses.build("class_balanced", class_counts=COUNTS, epochs=1, drw={"start": 0.0, "beta": 0.9})

    expected = F.cross_entropy(*batch(), weight=0.1 / (1 - 0.9**n) / n)

    torch.testing.assert_close(loss(*batch()), expected)


def test_drw_multiplies_into_the_weights_of_ghm_cwap() -> None:
    params = {"class_counts": COUNTS, "regions": 3, "alpha": 0.3}
    plain = losses.build("ghm_cwap", **params)
    loss = losses.build("ghm_cwap", **params, epochs=2, drw={"start": 0.5, "beta": 0.9})
    for each in (plain, loss):
        each(*batch())
        each.end_epoch()

    values, weights = plain.terms(*batch())
    weights = weights * losses.build("effective_number", class_counts=COUNTS, beta=0.9).class_weights[batch()[1]]

    torch.testing.assert_close(loss(*batch()), (weights * values).sum() / weights.sum())
    assert loss.base.frozen.counts.sum() == 12


@pytest.mark.parametrize(
    ("drw", "epochs", "message"),
    [
        ({}, None, "needs epochs"),
        ({}, 0, "needs epochs"),
        ({"strat": 0.5}, 10, "'drw' has no parameter 'strat'; did you mean 'start'"),
        ({"start": 1.5}, 10, "start = 1.5, but it must be <= 1"),
        ({"beta": 1.0}, 10, "beta = 1.0, but it must be < 1"),
        (True, 10, "must be a mapping; valid: beta, start"),
    ],
)
def test_impossible_drw_is_refused(drw: Any, epochs: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        losses.build("softmax", class_counts=COUNTS, epochs=epochs, drw=drw)


@pytest.fixture
def plugin() -> type[losses.Loss]:
    @losses.register("scaled")
    class Scaled(losses.Loss):
        """s · CE."""

        def __init__(self, class_counts: list[int], *, s: Annotated[float, Gt(0)] = 2.0) -> None:
            super().__init__(class_counts)
            self.s = s

        def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, None]:
            return self.s * F.cross_entropy(logits, targets, reduction="none"), None

    return Scaled


def test_a_plugin_is_built_checked_and_wrapped_like_any_other(plugin: type[losses.Loss]) -> None:
    loss = losses.build("scaled", class_counts=COUNTS, s=3.0)

    torch.testing.assert_close(loss(*batch()), 3 * F.cross_entropy(*batch()))
    assert losses.build("scaled", class_counts=COUNTS, epochs=1, drw={"start": 0.0})(*batch()).isfinite()
    with pytest.raises(InputError, match="s = 0, but it must be > 0"):
        losses.build("scaled", class_counts=COUNTS, s=0)


def test_a_plugin_replaces_no_loss(plugin: type[losses.Loss]) -> None:
    with pytest.raises(InputError, match="exists already"):
        losses.register("softmax")(plugin)
