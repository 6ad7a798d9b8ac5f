"""Every benchmark, one after the other, each in a process of its own: ``make bench``.

python -m benchmarks [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    *("matching", "contrastive", "scoring", "training_step", "gradient_cache", "road"),
    *("text_components", "detector", "demo", "gpu"),
)

if __name__ == "__main__":
    chosen = sys.argv[1:] or NAMES
    for name in chosen:
        if name not in NAMES:
            sys.exit(f"unknown benchmark {name!r}: choose from {', '.join(NAMES)}")
    failed = []
    for name in chosen:
        print(f"\n{name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
    sys.exit(f"not measured: {', '.join(failed)}" if failed else 0)
