"""A first study file for a folder of images, which suits its classes, the size of its images and this machine."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from tune_lt.data.decode import EXTENSIONS, Unreadable, opened
from tune_lt.data.sources.folder import training_files
from tune_lt.errors import InputError

LOOKED_AT = 400  # files whose size is read, spread evenly over the folder
STEPS_GPU, STEPS_CPU = 12_000, 800  # of one training: the CIFAR-LT recipe has 19,400 in its 200 epochs
TRIALS_GPU, TRIALS_CPU = 12, 6
SAYS_NOTHING = (  # parts of a path that do not tell one data set from another
    *("content", "data", "dataset", "datasets", "downloads", "home", "image", "images", "img", "imgs", "media", "mnt"),
    *("photos", "pictures", "root", "tmp", "train", "training", "workspace"),
)
SMALL, MEDIUM = 48, 112  # pixels of the shorter side up to which images are taken as 32 and as 64 pixels


@dataclass(frozen=True)
class Look:
    """What a folder holds: training images of each class, and the median shorter side of some of them, in pixels."""

    counts: dict[str, int]
    side: int

    @property
    def images(self) -> int:
        return sum(self.counts.values())

    @property
    def imbalance(self) -> float:
        """Images of the largest class for one of the smallest."""
        return max(self.counts.values()) / min(self.counts.values())


def look(root: Path) -> Look:
    """Count the images below ``root`` as `image_folder` would, and read the sizes of up to `LOOKED_AT` of them.

    Raises InputError if the folder is no data set, or if none of these files is an image.
    """
    every = training_files(root)
    files = {name: [path for path in some if path.suffix.lower() in EXTENSIONS] for name, some in every.items()}
    paths = [path for of_class in files.values() for path in of_class]
    sides = []
    for path in paths[:: -(-len(paths) // LOOKED_AT)]:
        with contextlib.suppress(Unreadable), opened(path) as image:  # plan and run name those that cannot be read
            sides.append(min(image.size))
    if not sides:
        raise InputError(f"{root}: none of the files looked at can be read as an image")
    return Look({name: len(of_class) for name, of_class in files.items()}, round(statistics.median(sides)))


def study(root: Path, seen: Look, *, gpu: bool, name: str = "") -> str:
    """The text of a study file for what `look` saw, for a machine with or without a GPU. ``name``: else `name_of`.

    The study searches each of its losses that has hyper-parameters with the same number of trials on folds of the
    training images. Then it trains softmax and all of these losses with five seeds, and scores them once on the sealed
    test.
    """
    size = 32 if seen.side <= SMALL else 64 if seen.side <= MEDIUM or not gpu else 224
    large = size == 224
    batch = max(16, min(128, 2 ** (seen.images // 8).bit_length() // 2))
    steps = STEPS_GPU if gpu else STEPS_CPU
    epochs = max(10, min(200, round(steps * batch / seen.images)))
    largest, smallest = (pick(seen.counts, key=seen.counts.__getitem__) for pick in (max, min))
    where = json.dumps(str(root.expanduser().resolve()), ensure_ascii=False)  # a JSON string is a YAML string
    if large:
        network = "{name: torchvision, architecture: resnet18, weights: IMAGENET1K_V1}"
        aside = "weights: null trains from nothing; {name: timm, architecture: …} knows others"
        optimizer, augment = "{name: adamw, lr: 0.0003, weight_decay: 0.05}", "{scale: [0.3, 1.0]}"
    else:
        network = "{name: resnet32}" if gpu else "{name: resnet8}"
        aside = "resnet8 is faster" if gpu else "resnet32 is better, and six times slower"
        optimizer, augment = "{name: sgd, lr: 0.1, weight_decay: 5.0e-4}", f"{{crop: {size // 8}, flip: true}}"
    lines = [
        "# Which loss for these images? Written by tune-lt init; every line may be changed.",
        "#",
        f"# found     {seen.images:,} training images of {len(seen.counts)} classes, {seen.counts[largest]:,} of "
        f"{json.dumps(largest, ensure_ascii=False)} down to {seen.counts[smallest]:,} of "
        f"{json.dumps(smallest, ensure_ascii=False)}; the shorter side is {seen.side} pixels (median)",
        "# command   tune-lt plan FILE says what it costs, tune-lt run FILE does it",
        f"name: {json.dumps(name or name_of(root))}",
        f"data: {{name: image_folder, root: {where}, size: {size}{', stream: true' if large else ''}, "
        "validation: {folds: 3}}",
        f"model: {network}   # {aside}",
        "recipe:",
        f"  epochs: {epochs}",
        f"  batch_size: {batch}",
        f"  optimizer: {optimizer}",
        f"  augment: {augment}   # flip: false where left and right matter, as in writing",
        "  clip_norm: 2.0",
        *(["  precision: bfloat16"] if large else []),
        "loss: {name: ghm_cwap, alpha: {uniform: [0.3, 1.0]}, gamma: {uniform: [0.0, 1.5]}}",
        f"search: {{trials: {TRIALS_GPU if gpu else TRIALS_CPU}}}   # for each loss that has something to search",
        "compare:",
        "  losses:",
        "    - balanced_softmax",
        "    - logit_adjustment",
        "    - vs",
        "    - {loss: {name: ldam, drw: {start: 0.8}}, model: {head: cosine}}",
        "rows:",
        "  softmax: {loss: {name: softmax}}   # plain cross-entropy: what the others are measured against",
        "seeds: [0, 1, 2, 3, 4]   # every run has all images; {resample: [0, 1, 2, 3, 4]} draws from them",
        f"resources: {{cpus: {4 if large else 1}, gpus: {(1 if large else 0.25) if gpu else 0}}}",
    ]
    return "\n".join(lines) + "\n"


def name_of(path: Path) -> str:
    """A study's name: the last part of a path that tells one data set from another, in characters that are allowed."""
    parts = [cleaned(part) for part in path.expanduser().resolve().parts]
    return next((part for part in reversed(parts) if part and part.lower() not in SAYS_NOTHING), "images")


def cleaned(name: str) -> str:
    """The letters, digits, dots, dashes and underlines of a name, the first 50; "" if there are none."""
    return re.sub(r"[^\w.-]+", "-", name)[:50].strip("-._")
