"""Many runs from one file: a table's rows, several seeds each, resumable, one table and one plot.

A sweep file is YAML:

    name: comalign_layers
    config: configs/comalign_flickr8k.yaml   # of `intarsia train`
    options: {init: "runs/flickr8k/clip-{seed}", trainer.epochs: 10}
    rows:                                    # or grid: {method.init_args.layers: [1, 2, 4]}
      "1 layer": {method.init_args.layers: 1}
      "2 layers": {method.init_args.layers: 2}
    seeds: [0, 1, 2]
    tune: {data: flickr8k, split: "train[-500:]"}          # optional
    evaluate: {protocol: retrieval, data: flickr8k, split: dev}   # or a list of such
    metrics: [i2t_r1, t2i_r1]                # of whichever evaluation has it first
    published: {"1 layer": [54.78, 37.60]}   # optional, shown beside

``{seed}`` in an option stands for the seed. Differences are paired and against the first row. A
protocol may bring arguments (``boxes --protocol clipself``). A row with ``interpolate: W`` is not
trained: its weights lie between the ``init`` (0) and the result (1) of the row of the same options.

Before anything is trained, the data of every row, of the tuning and of every evaluation are read,
and the metrics looked for among those that the evaluations can give.

What is there already stands if its keys (:mod:`intarsia.identity`) are those of what is asked: a
run of the same config, data and start; a result of the same data, weights, config and code. Each
thing that is made anew is told in one line, with the reason; a run of other keys is set aside.
"""

from intarsia.sweep.checks import metrics_of, require_metrics
from intarsia.sweep.file import Sweep, run_arguments, slug
from intarsia.sweep.run import Verbs, run_sweep

__all__ = [
    "Sweep",
    "Verbs",
    "metrics_of",
    "require_metrics",
    "run_arguments",
    "run_sweep",
    "slug",
]
