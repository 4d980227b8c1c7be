"""`rheos bench`: run the benchmarks, print ratios, keep them in bench/results.json."""

import json
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import bellman, couplings, distillation, flowmaps, latents, sampling, solvers, training
from bench.harness import Ratio
from bench.peers import absent
from rheos.core.files import write_whole

BENCHES: dict[str, Callable[[], list[Ratio]]] = {
    "step": training.step,
    "compile": training.compiled,
    "draws": training.draws,
    "sampling": sampling.overhead,
    "memory": sampling.memory,
    "solvers": solvers.overhead,
    "accuracy": solvers.accuracy,
    "couplings": couplings.couplings,
    "latents": latents.caching,
    "bellman": bellman.search,
    "flowmaps": flowmaps.flow_maps,
    "pairs": distillation.generation,
    "one-step": distillation.one_step,
}
RESULTS = Path(__file__).with_name("results.json")
PACKAGES = ("torch", "rheos", "torchcfm", "flow-matching", "azula", "torchdiffeq", "diffusers")


def main(names: Sequence[str] = (), say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Run the named benchmarks (all unless named) and store their ratios beside the older ones.

    Args:
        names: Of `BENCHES`.
        say: Called with a line a ratio.

    Raises:
        KeyError: For an unknown name.
    """
    rows: list[dict[str, Any]] = []
    if not names or {"solvers", "accuracy"} & set(names):
        for line in absent():
            say(line)
    for name in names or BENCHES:
        for ratio in BENCHES[name]():
            row = {"bench": name, **ratio.to_dict(), "versions": _versions()}
            verdict = "holds" if ratio.holds else "fails"
            target = f"(target {ratio.op} {ratio.target}) {verdict}"
            unit = "" if ratio.unit == "ratio" else f" {ratio.unit}"
            say(f"{ratio.name} / {ratio.peer}: {ratio.value:.3f}{unit} {target}; {ratio.detail}")
            rows.append(row)
    _store(rows)
    return rows


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _store(rows: list[dict[str, Any]]) -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    new = {(r["name"], r["peer"]) for r in rows}
    merged = [r for r in kept if (r["name"], r["peer"]) not in new] + rows
    write_whole(RESULTS, json.dumps(sorted(merged, key=lambda r: (r["bench"], r["peer"])), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
