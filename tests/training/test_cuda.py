"""What a GPU can fail. With TUNE_LT_DEVICE=cpu all that needs no CUDA graph runs on a CPU, as a rehearsal.

    pytest -m cuda tests/training/test_cuda.py
    TUNE_LT_DEVICE=cpu pytest -m cuda tests/training/test_cuda.py

Imports nothing that a bare machine with torch lacks. Convolutions on CUDA compute in TF32, as the product leaves them:
their numbers agree with the CPU's to three digits.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from PIL import Image
from torch import Tensor, nn

from tune_lt import data, losses, training
from tune_lt.config import Augment, CellConfig, Optimizer, Recipe
from tune_lt.training import checkpoint, loop, step
from tune_lt.training.step import RecordedStep, Step

DEVICE = os.environ.get("TUNE_LT_DEVICE", "cuda")
ON_CUDA = DEVICE.startswith("cuda")

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="no GPU; TUNE_LT_DEVICE=cpu rehearses"),
]
needs_graphs = pytest.mark.skipif(not ON_CUDA, reason="a CPU records no steps")
every_loss = pytest.mark.parametrize("name", sorted(losses.OWN))

CLASSES, SIDE = 5, 12
COUNTS = [60, 33, 18, 10, 6]  # of the training images with an imbalance of 10
RECIPE = Recipe(
    epochs=4, batch_size=24, optimizer=Optimizer(lr=0.05), augment=Augment(crop=2, flip=True), clip_norm=2.0
)
CELL = CellConfig({"name": "noise", "imbalance": 10.0}, {"name": "resnet8", "width": 4}, {"name": "ghm_cwap"}, RECIPE)
HELD_OUT: dict[str, Any] = {"fold": "holdout", "holdout": 0.3}


@functools.cache
def _dataset(channels: int = 3) -> data.Dataset:
    """Noise of five classes, each a little brighter than the one before: 60 images of each to train on, 10 to test."""
    generator = torch.Generator().manual_seed(0)

    def images(each: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(CLASSES).repeat_interleave(each)
        pixels = torch.randint(0, 128, (len(labels), channels, SIDE, SIDE), generator=generator)
        return (pixels + 30 * labels.view(-1, 1, 1, 1)).byte(), labels

    return data.Dataset.of(*images(60), *images(10), tuple("abcde"))


def _cell(loss: dict[str, Any], *, drw: bool = False, **recipe: Any) -> CellConfig:
    """The cell with another loss, perhaps re-weighted from the third epoch on, and other fields of its recipe."""
    loss = {**loss, "drw": {"start": 0.5, "beta": 0.99}} if drw else loss
    return dataclasses.replace(CELL, loss=loss, recipe=dataclasses.replace(RECIPE, **recipe))


def _surely(name: str) -> dict[str, Any]:
    """A loss that draws nothing which matters: equalization's spares every tail class, as a draw is always below 1.

    A CPU and a GPU draw different numbers from the same seed, so that no other setting can be compared.
    """
    return {"name": name, "gamma": 1.0} if name == "equalization" else {"name": name}


def _trained(
    cell: CellConfig, dataset: data.Dataset, device: str = DEVICE, stop: int | None = None, **options: Any
) -> list[training.EpochResult]:
    """The results of all epochs, or of the first ``stop``; then the process dies, so to speak."""
    run = training.run_epochs(cell, dataset=dataset, device=device, **options)
    results = list(itertools.islice(run, stop))
    run.close()
    return results


def _weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1).cpu() for parameter in network.parameters()])


def _numbers(results: list[training.EpochResult]) -> list[dict[str, float]]:
    return [result.as_metrics() for result in results]


def _batch(seed: int) -> tuple[Tensor, Tensor]:
    """Logits (64, classes) and targets (64,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(64, CLASSES, generator=generator)
    return logits, torch.multinomial(torch.tensor(COUNTS).float(), 64, replacement=True, generator=generator)


def test_the_cell_has_batches_of_which_the_last_is_short() -> None:
    """What the tests of recorded steps rely on."""
    run = loop.Training(CELL, _dataset(), torch.device("cpu"))
    assert list(run.class_counts) == COUNTS
    assert run.train.sizes == [24, 24, 24, 24, 24, 7]
    joined = loop.Training(CASES["a last image that joined"][0], _dataset(), torch.device("cpu"))
    assert joined.train.sizes == [21, 21, 21, 21, 21, 22]


@pytest.mark.parametrize("drw", [False, True], ids=["alone", "drw"])
@every_loss
def test_a_loss_and_its_gradient_are_the_cpus(name: str, drw: bool) -> None:
    """In each of four epochs, between which losses change; histograms and other states are equal at the end."""
    loss = _cell(_surely(name), drw=drw).loss
    here, there = (losses.build(**loss, class_counts=COUNTS, epochs=4).to(device) for device in ("cpu", DEVICE))
    for epoch, number in itertools.product(range(4), range(3)):
        logits, targets = _batch(3 * epoch + number)
        found = []
        for side, device in ((here, "cpu"), (there, DEVICE)):
            leaf = logits.clone().to(device).requires_grad_()
            value = side(leaf, targets.to(device))
            value.backward()
            assert leaf.grad is not None
            found.append((value.detach().cpu(), leaf.grad.cpu()))
        torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-6)
        if number == 2:
            here.end_epoch()
            there.end_epoch()
    for key, tensor in here.state_dict().items():
        torch.testing.assert_close(
            there.state_dict()[key].cpu(), tensor, rtol=1e-4, atol=1e-6, msg=lambda t, k=key: k + t
        )


def test_equalization_spares_tail_classes_as_often_as_it_should() -> None:
    """Equal logits make an image's loss the logarithm of how many classes are not spared."""
    loss = losses.build("equalization", class_counts=COUNTS, gamma=0.7).to(DEVICE)
    logits, head = torch.zeros(4000, CLASSES, device=DEVICE), torch.zeros(4000, dtype=torch.int64, device=DEVICE)
    torch.manual_seed(1)
    first, second = (loss.terms(logits, head)[0].exp() for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(loss.terms(logits, head)[0].exp(), first)
    assert not torch.equal(second, first)
    tail = 2  # classes with less than half an even share of the images
    assert float(CLASSES - first.mean()) == pytest.approx(0.7 * tail, abs=0.05)


CASES: dict[str, tuple[CellConfig, int]] = {  # a cell, and the channels of its images
    **{name: (_cell({"name": name}), 3) for name in sorted(losses.OWN)},
    **{f"{name}, drw": (_cell({"name": name}, drw=True), 3) for name in sorted(losses.OWN)},
    "AdamW, clipped": (_cell({"name": "ghm_cwap"}, optimizer=Optimizer(name="adamw", lr=0.005), clip_norm=0.5), 3),
    "not clipped": (_cell({"name": "ghm_cwap"}, clip_norm=None), 3),
    "bfloat16": (_cell({"name": "ghm_cwap"}, precision="bfloat16"), 3),
    "a last image that joined": (_cell({"name": "ghm_cwap"}, batch_size=21), 3),
    "grey": (_cell({"name": "ghm_cwap"}), 1),
    "cosine head": (dataclasses.replace(_cell({"name": "ldam"}), model={**CELL.model, "head": "cosine"}), 3),
}


def _losses_of(run: loop.Training, steps: int) -> list[float]:
    """The loss of each step; epochs end, and the learning rate falls."""
    torch.manual_seed(0)  # equalization draws
    run.model.train()
    run.loss.train()
    found: list[float] = []
    for epoch in itertools.count(1):
        run._lr_to(run.cell.recipe.optimizer.lr / epoch)
        for (x, y), images in zip(run.train.epoch(epoch), run.train.sizes, strict=True):
            run.step.total.zero_()
            run.step(x, y, images)
            found.append(float(run.step.total) / images)
            if len(found) == steps:
                return found
        run.loss.end_epoch()
    raise AssertionError


@needs_graphs
@pytest.mark.parametrize("case", CASES)
def test_a_recorded_step_is_the_plain_one(case: str) -> None:
    """Over 20 steps, in which three epochs end: loss by loss, and the weights at the end."""
    cell, channels = CASES[case]
    plain, recorded = (loop.Training(cell, _dataset(channels), training.pick_device(DEVICE)) for _ in range(2))
    assert isinstance(recorded.step, RecordedStep)
    plain.step = Step(plain.model, plain.loss, plain.optimizer, cell.recipe.clip_norm, plain.place)
    expected = _losses_of(plain, 20)
    assert _losses_of(recorded, 20) == pytest.approx(expected, rel=1e-3)
    assert recorded.step._graph is not None
    assert max(expected) > 1.01 * min(expected)
    torch.testing.assert_close(_weights(recorded.model), _weights(plain.model), rtol=1e-2, atol=1e-3)


class _ReadsBack(losses.Loss):
    """Cross-entropy that looks at a value on the host, which a graph cannot hold."""

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, None]:
        assert math.isfinite(logits.sum().item())
        return nn.functional.cross_entropy(logits, targets, reduction="none"), None


def _cannot_be_recorded(_: int) -> None:
    """Steps of a loss that reads back are those of cross-entropy, and nothing else in the process has changed."""
    plain, other = (loop.Training(_cell({"name": "softmax"}), _dataset(), training.pick_device(DEVICE)) for _ in "ab")
    plain.step = Step(plain.model, plain.loss, plain.optimizer, RECIPE.clip_norm, plain.place)
    step = Step(other.model, _ReadsBack(COUNTS).to(DEVICE), other.optimizer, RECIPE.clip_norm, other.place)
    other.step = RecordedStep(step, RECIPE.batch_size)
    expected, stream = _losses_of(plain, 20), torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="not replayed as a CUDA graph"):
        found = _losses_of(other, 20)
    assert other.step._graph is None
    assert found == pytest.approx(expected, rel=1e-3)
    assert torch.cuda.current_stream() == stream, "everything goes on on the stream of the recording"
    again = loop.Training(_cell({"name": "softmax"}), _dataset(), training.pick_device(DEVICE))
    assert _losses_of(again, 20) == pytest.approx(expected, rel=1e-3)
    assert isinstance(again.step, RecordedStep)
    assert again.step._graph is not None


@needs_graphs
def test_what_cannot_be_recorded_runs_as_it_is() -> None:
    """In a process of its own: a recording that fails may spoil more than itself."""
    torch.multiprocessing.spawn(_cannot_be_recorded, nprocs=1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_fused_optimizer_takes_the_cpus_steps(name: str) -> None:
    """From the same weights with the same gradients, as the learning rate falls."""
    config = Optimizer(name=name, lr=0.05, weight_decay=0.01)  # type: ignore[arg-type]
    torch.manual_seed(0)
    here = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))
    here = here.to(memory_format=torch.channels_last)
    there, lr = copy.deepcopy(here).to(DEVICE), torch.zeros((), device=DEVICE)
    plain, fused = step.optimizer(config, here, None), step.optimizer(config, there, lr)
    assert fused.param_groups[0]["fused"]
    assert not plain.param_groups[0]["fused"]
    before = _weights(here)
    for number in range(6):
        lr.fill_(config.lr / (1 + number))
        plain.param_groups[0]["lr"] = config.lr / (1 + number)
        for one, other in zip(here.parameters(), there.parameters(), strict=True):
            one.grad = torch.empty_like(one).copy_(torch.randn(one.shape))
            other.grad = torch.empty_like(other).copy_(one.grad)
        plain.step()
        fused.step()
    torch.testing.assert_close(_weights(there), _weights(here), rtol=1e-5, atol=1e-6)
    assert (_weights(here) - before).abs().max() > 0.05


def _bytes(batches: data.AnyBatches, epoch: int) -> tuple[Tensor, Tensor]:
    """The pixels and labels of an epoch, of batches that normalise to [0, 1]."""
    found = list(batches.epoch(epoch))
    assert all(part.device.type == batches.device.type for pair in found for part in pair)
    return torch.cat([(255 * x).round().byte().cpu() for x, _ in found]), torch.cat([y.cpu() for _, y in found])


def _same_bytes(make: Callable[[str], data.AnyBatches], *, drawn: bool) -> None:
    """Both devices' batches of two epochs are equal; the epochs differ where something is ``drawn``."""
    here, there = make("cpu"), make(DEVICE)
    epochs = []
    for epoch in (1, 2):
        expected, found = _bytes(here, epoch), _bytes(there, epoch)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        epochs.append(found[0])
    assert torch.equal(epochs[0], epochs[1]) is not drawn


AUGMENTS = {
    "none": None,
    "order": Augment(crop=0, flip=False),
    "crop, flip": Augment(crop=2),
    "all": Augment(crop=3, vertical=True, rotate=True),
}


@pytest.mark.parametrize("name", AUGMENTS)
def test_batches_are_the_cpus_to_the_last_pixel(name: str) -> None:
    dataset, index = _dataset(), torch.arange(0, 300, 2)

    def make(device: str) -> data.Batches:
        options: dict[str, Any] = {"batch_size": 32, "mean": (0.0,) * 3, "std": (1.0,) * 3, "seed": 5}
        options |= {"augment": AUGMENTS[name], "device": device}
        assert isinstance(dataset.train_images, Tensor)
        return data.Batches(dataset.train_images, dataset.train_labels, index, **options)

    _same_bytes(make, drawn=AUGMENTS[name] is not None)


def _streamed_cell(root: Path) -> CellConfig:
    """Three classes of noise in JPEG and PNG files, each brighter than the one before; images stay on disk."""
    generator = np.random.default_rng(0)
    for part, counts in (("train", (14, 10, 6)), ("test", (4, 4, 4))):
        for label, count in enumerate(counts):
            (root / part / f"class{label}").mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(60 * label, 60 * label + 128, (40, 56, 3), dtype=np.uint8)
                kind = "png" if number % 2 else "jpg"
                Image.fromarray(pixels).save(root / part / f"class{label}" / f"{number}.{kind}")
    source = {"name": "image_folder", "root": str(root), "size": 32, "stream": True}
    recipe = dataclasses.replace(RECIPE, epochs=2, batch_size=8, augment=Augment(), optimizer=Optimizer(lr=0.01))
    return dataclasses.replace(CELL, data=source, recipe=recipe)


@pytest.mark.parametrize("loaders", [0, 2])
@pytest.mark.parametrize("augmented", [False, True])
def test_streamed_batches_are_the_cpus_to_the_last_pixel(tmp_path: Path, loaders: int, augmented: bool) -> None:
    dataset = training.load_dataset(_streamed_cell(tmp_path))
    augment = Augment(scale=(0.3, 1.0), vertical=True, rotate=True) if augmented else None
    options: dict[str, Any] = {"batch_size": 8, "mean": (0.0,) * 3, "std": (1.0,) * 3, "augment": augment, "seed": 5}
    files, index = dataset.train_images, torch.arange(1, 30)
    assert isinstance(files, data.ImageFiles)

    def make(device: str) -> data.StreamedBatches:
        workers = 0 if device == "cpu" else loaders
        return data.StreamedBatches(files, dataset.train_labels, index, device=device, loaders=workers, **options)

    _same_bytes(make, drawn=augmented)


def test_streamed_images_are_trained_on(tmp_path: Path) -> None:
    """The number of loaders changes nothing, and the CPU's loss is near."""
    cell = _streamed_cell(tmp_path)
    dataset = training.load_dataset(cell)
    found = _trained(cell, dataset, score_test=True)
    assert _numbers(_trained(cell, dataset, score_test=True, loaders=2)) == _numbers(found)
    assert found[0].train_loss == pytest.approx(_trained(cell, dataset, "cpu")[0].train_loss, rel=1e-2)
    assert found[0].train_loss != found[1].train_loss
    assert found[1].test is not None
    assert 0 <= found[1].test.top1 <= 1


RUNS = {
    "ghm_cwap": _cell({"name": "ghm_cwap"}),
    "ghm": _cell({"name": "ghm"}),
    "seesaw": _cell({"name": "seesaw"}),
    "equalization": _cell({"name": "equalization"}),
    "ldam, drw": _cell({"name": "ldam"}, drw=True),
    "AdamW": _cell({"name": "ghm_cwap"}, optimizer=Optimizer(name="adamw", lr=0.005)),
    "bfloat16": _cell({"name": "ghm_cwap"}, precision="bfloat16"),
}


@pytest.mark.parametrize("name", RUNS)
def test_equal_cells_give_equal_numbers(name: str) -> None:
    """To the last digit, as cuDNN is told to; another seed gives others."""
    cell = dataclasses.replace(RUNS[name], **HELD_OUT)
    first = _numbers(_trained(cell, _dataset()))
    torch.rand(17, device=DEVICE)  # the state of the global generator must not matter
    assert _numbers(_trained(cell, _dataset())) == first
    assert _numbers(_trained(dataclasses.replace(cell, init_seed=1), _dataset())) != first


@pytest.mark.parametrize("stop", [2, 3])
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_gives_what_an_uninterrupted_one_gives(tmp_path: Path, name: str, stop: int) -> None:
    """Within rounding: to the last digit is promised on the CPU only. A warning says where it is not to the last."""
    cell = dataclasses.replace(RUNS[name], **HELD_OUT)
    whole = _trained(cell, _dataset())
    before = _trained(cell, _dataset(), stop=stop, save_to=tmp_path / "state.pt")
    torch.manual_seed(999)
    after = _trained(cell, _dataset(), save_to=tmp_path / "state.pt")
    assert [result.epoch for result in after] == list(range(stop, 5))  # the epoch nobody had confirmed is repeated
    for expected, results in ((whole[:stop], before), (whole[stop - 1 :], after)):
        for one, other in zip(expected, results, strict=True):
            assert other.train_loss == pytest.approx(one.train_loss, rel=1e-3)
    if _numbers(after) != _numbers(whole[stop - 1 :]):
        warnings.warn(f"{name}, resumed in epoch {stop}: not to the last digit", stacklevel=1)
    assert len({result.train_loss for result in whole}) == 4


@pytest.mark.parametrize("name", ["ghm_cwap", "AdamW", "ldam, drw"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("first", "second"), [(DEVICE, "cpu"), ("cpu", DEVICE)], ids=["to the CPU", "from the CPU"])
def test_a_state_goes_on_on_another_device(tmp_path: Path, first: str, second: str, channels: int, name: str) -> None:
    """The second epoch is trained on both, from the state after the first."""
    cell, dataset = RUNS[name], _dataset(channels)
    one, two = _trained(cell, dataset, first, stop=2, save_to=tmp_path / "state.pt")
    place = training.pick_device(second)
    run = loop.Training(cell, dataset, place)
    saved = checkpoint.load(tmp_path / "state.pt", run.identity)
    assert saved is not None
    run.restore(saved)
    taken = checkpoint.snapshot(run.state(1))
    for part in ("model", "loss"):
        assert all(torch.equal(taken[part][key], tensor) for key, tensor in saved[part].items())
    for number, state in saved["optimizer"]["state"].items():
        assert all(torch.equal(taken["optimizer"]["state"][number][key], tensor) for key, tensor in state.items())
    after = _trained(cell, dataset, second, save_to=tmp_path / "state.pt", score_test=True)
    assert [result.epoch for result in after] == [2, 3, 4]
    assert after[0].train_loss == pytest.approx(two.train_loss, rel=1e-2)
    assert one.train_loss != pytest.approx(two.train_loss, rel=2e-2)
    assert after[-1].test is not None
    assert after[-1].test.top1 > 1 / CLASSES


@every_loss
def test_the_first_epochs_loss_is_near_the_cpus(name: str) -> None:
    cell = dataclasses.replace(_cell(_surely(name), optimizer=Optimizer(lr=0.01)), **HELD_OUT)
    (here,), (there,) = (_trained(cell, _dataset(), device, stop=1) for device in ("cpu", DEVICE))
    assert there.train_loss == pytest.approx(here.train_loss, rel=1e-2)
    assert there.val is not None
    for score in (there.val.top1, there.val.balanced, *there.val.per_class):
        assert 0 <= score <= 1


def test_bfloat16_trains_weights_in_float32() -> None:
    """Convolutions compute in bfloat16; the training loss is near float32's, and not the same."""
    place = training.pick_device(DEVICE)
    mixed, full = (
        loop.Training(_cell({"name": "ghm_cwap"}, precision=precision), _dataset(), place)
        for precision in ("bfloat16", "float32")
    )
    for epoch in (1, 2):
        for run in (mixed, full):
            run.train_epoch(epoch)
        assert mixed.train_loss == pytest.approx(full.train_loss, rel=5e-2)
        assert mixed.train_loss != full.train_loss
    seen: list[torch.dtype] = []
    network = mixed.model.network
    assert isinstance(network, nn.Module)
    handle = network.get_submodule("conv").register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    x, y = next(iter(mixed.train.epoch(3)))
    logits = mixed.model(x)
    handle.remove()
    assert seen == [torch.bfloat16]
    assert logits.dtype == mixed.loss(logits, y).dtype == mixed.step.total.dtype == torch.float32
    tensors = [*mixed.model.parameters(), *(p.grad for p in mixed.model.parameters() if p.grad is not None)]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def _one_of_two(number: int, folder: Path, barrier: Any) -> None:
    torch.set_num_threads(1)
    barrier.wait(120)
    numbers = _numbers(_trained(dataclasses.replace(CELL, **HELD_OUT), _dataset()))
    (folder / f"{number}.json").write_text(json.dumps(numbers))


def test_two_processes_at_once_give_what_one_gives(tmp_path: Path) -> None:
    barrier = torch.multiprocessing.get_context("spawn").Barrier(2)
    torch.multiprocessing.spawn(_one_of_two, args=(tmp_path, barrier), nprocs=2)
    alone = _numbers(_trained(dataclasses.replace(CELL, **HELD_OUT), _dataset()))
    for number in range(2):
        assert json.loads((tmp_path / f"{number}.json").read_text()) == alone


def test_the_trained_network_says_on_the_cpu_what_it_said_on_the_device(tmp_path: Path) -> None:
    """Where two classes are nearly as probable either may win."""
    cell, dataset = _cell({"name": "ghm_cwap"}, posthoc_tau=1.0), _dataset()
    last = _trained(cell, dataset, score_test=True, save_to=tmp_path / "state.pt")[-1]
    classifier = training.trained(cell, dataset, tmp_path / "state.pt")
    assert isinstance(dataset.test_images, Tensor)
    with torch.no_grad():
        p = classifier(dataset.test_images).softmax(1)
    best = p.topk(2).values
    clear = best[:, 0] - best[:, 1] > 0.02
    assert clear.float().mean() > 0.5
    assert last.by_image is not None
    right = torch.tensor(last.by_image.right, dtype=torch.bool)
    assert torch.equal((p.argmax(1) == dataset.test_labels)[clear], right[clear])
    own = p[torch.arange(len(p)), dataset.test_labels]
    torch.testing.assert_close(torch.tensor(last.by_image.p), own, rtol=0, atol=0.01)
    assert own.max() - own.min() > 0.1


def test_the_last_epoch_tells_of_norms_and_images() -> None:
    *earlier, last = _trained(CELL, _dataset(), score_test=True)
    assert all(result.norms is None and result.by_image is None for result in earlier)
    assert last.norms is not None
    assert last.by_image is not None
    assert last.test is not None
    counts, edges, precision = last.norms.counts, last.norms.edges, last.norms.precision
    assert edges is not None
    assert precision is not None
    assert all(len(row) == last.norms.bins == 100 for row in counts.values())
    assert sum(counts["all"]) == sum(COUNTS)
    assert (sum(counts["largest"]), sum(counts["smallest"])) == (COUNTS[0], COUNTS[-1])
    assert all(row[0] == 0 and row[-1] == 1 and row == sorted(row) and len(row) == 31 for row in edges.values())
    assert all(len(row) == CLASSES and np.isfinite(row).all() for row in precision.values())
    label, right, p = last.by_image.label, last.by_image.right, last.by_image.p
    assert label == _dataset().test_labels.tolist()
    assert sum(right) / len(right) == pytest.approx(last.test.top1)
    assert len(right) == len(p) == len(label)
    assert min(p) >= 0
    assert max(p) <= 1
