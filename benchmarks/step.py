"""A whole training of the product against the bare step, and against the loop that most people start from.

    python benchmarks/step.py                     # on the CPU: about 8 minutes on 2 cores
    python benchmarks/step.py --device cuda --images 12406

Sides, each over as many images of 3 x 32 x 32 as ``--images`` says, in turns:

- bare: forward, cross-entropy, backward, SGD on one batch that never changes, the last one shorter; nothing else;
- softmax, ghm_cwap: an epoch of `tune_lt.training.run_epochs` as a study runs it (order, crops, flips, norms clipped if
  the recipe says so, histograms, mean loss, metrics);
- public loop: the recipe of LDAM-DRW (Cao et al. 2019) in our own words: see `PublicLoop`.

The network is ResNet-32 everywhere. No side scores images. On a GPU the public loop has cuDNN choose its algorithms by
trying (``benchmark``), as its code does; the product does not, so that equal cells give equal numbers.
"""

from __future__ import annotations

import torch
from lib import timing
from lib.one_step import compare, sides


def main() -> None:
    parser = timing.parser(__doc__)
    parser.add_argument("--images", type=int, default=2560, help="an epoch has so many; CIFAR-10-LT has 12,406")
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 4], help="of the public loop; its default is 4")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(timing.heading(options.device, options.threads))
    timed = sides(options.images, options.device, options.workers)
    print(compare(timed, options.images, options.device, options.repetitions))


if __name__ == "__main__":
    main()
