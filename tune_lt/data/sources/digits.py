"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import numpy as np
import torch

from tune_lt.data.dataset import Dataset

_TEST_PER_CLASS = 50
_SEED = 0  # of the choice of the sealed test, which is the same for every data seed


def digits() -> Dataset:
    """1,797 grey images (1, 8, 8) of the ten digits: 50 of each are the sealed test, 1,297 are training images.

    Pixels 0 … 16 are scaled to 0 … 255. The largest class of a long-tailed profile has 120 images.

    Source: `sklearn.datasets.load_digits`, the test part of UCI's "Optical Recognition of Handwritten Digits".
    """
    from sklearn.datasets import load_digits  # only here: nothing else in the package needs scikit-learn

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    generator = np.random.default_rng(_SEED)
    sealed = [generator.permutation(np.flatnonzero(bunch.target == c))[:_TEST_PER_CLASS] for c in range(10)]
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[torch.from_numpy(np.concatenate(sealed))] = True
    return Dataset.of(
        images[~is_test], labels[~is_test], images[is_test], labels[is_test], [str(c) for c in range(10)], largest=120
    )
