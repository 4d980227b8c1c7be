"""Claim `splitmeanflow`: splitting intervals teaches one-step maps as MeanFlow does, for less time and memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import ClassVar, cast, final

import torch
from torch import Tensor

from rheos.claims.harness import Say
from rheos.claims.memory import peak_bytes
from rheos.claims.record import Figure, Outcome, spread
from rheos.claims.teacher import Bench, bench, train_teacher
from rheos.claims.timing import in_turn, one_thread
from rheos.core.draws import Draws
from rheos.core.field import Field
from rheos.core.flowmap import FlowMapField
from rheos.core.objectives import FlowMatching, Objective, Plan
from rheos.core.times import TwoTimes
from rheos.distill import FlowMapLoss, Teacher
from rheos.metrics import flow_map_consistency, frechet
from rheos.nets import MLP, TwoTimeAdapter
from rheos.sample import draw
from rheos.train import Options, fit

__all__ = ["CLAIM", "SplitClaim", "objectives", "published_step"]

EVALUATIONS = (1, 2, 4)
PLAIN = FlowMatching(dropout=0.0)
BATCH = 128
BASELINE, SPLIT = "flow matching", "SplitMeanFlow"
MEAN = "MeanFlow"
ONCE = (
    "SplitMeanFlow, a tenth on s = t",
    "SplitMeanFlow without a teacher",
    "improved MeanFlow",
    "MeanFlow, intervals, teacher and squares as SplitMeanFlow",
)
"""Looked at with the first seed alone."""


def objectives(teacher: Field) -> Mapping[str, Objective]:
    """What is compared, by name; the first is the baseline."""
    half, tenth = (TwoTimes("uniform", share) for share in (0.5, 0.1))
    guide = Teacher(teacher)
    return {
        BASELINE: PLAIN,
        SPLIT: FlowMapLoss("split", half, PLAIN, guide),
        "half-split": FlowMapLoss("half", half, PLAIN, guide),
        MEAN: FlowMapLoss("jvp"),
        ONCE[0]: FlowMapLoss("split", tenth, PLAIN, guide),
        ONCE[1]: FlowMapLoss("split", half, PLAIN),
        ONCE[2]: FlowMapLoss("imf"),
        ONCE[3]: FlowMapLoss("jvp", half, PLAIN, guide),
    }


@final
@dataclass
class Found:
    """Fréchet distances by name and evaluations, a value a seed; of the teacher's ODE; and how the maps agree."""

    distances: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    ode: list[float] = field(default_factory=list)
    agreement: dict[str, list[float]] = field(default_factory=dict)

    def once(self, name: str) -> list[float]:
        """Distances in one evaluation."""
        return self.distances[name][1]


@final
@dataclass(frozen=True)
class SplitClaim:
    """Digits in one, two and four evaluations; time and memory of a step."""

    slug: ClassVar[str] = "splitmeanflow"
    statement: ClassVar[str] = (
        "From scratch and in one budget, a flow map trained by splitting intervals generates digits in one evaluation "
        "at a twentieth of the Fréchet distance of flow matching, no worse than MeanFlow by more than three tenths, "
        "and its training step takes four fifths of the time and memory of one with a Jacobian-vector product."
    )

    def run(self, quick: bool, seeds: tuple[int, ...], progress: Say) -> Outcome:
        """See `Claim.run`."""
        with one_thread():
            found = measure(400 if quick else 2000, 600 if quick else 4000, 500 if quick else 2000, seeds, progress)
            progress("Timing training steps in turn.")
            seconds, bytes_ = costs(7 if quick else 41)
        limits = (0.3, 2.0, 1.0, 1.0) if quick else (0.05, 1.3, 0.8, 0.8)
        once = "digits, 1 evaluation: Fréchet distance"
        figures = (
            Figure.ratio(f"{once}, {SPLIT} / {BASELINE}", found.once(SPLIT), found.once(BASELINE), "<=", limits[0]),
            Figure.ratio(f"{once}, {SPLIT} / {MEAN}", found.once(SPLIT), found.once(MEAN), "<=", limits[1]),
            Figure("time of a training step, split / Jacobian-vector product, the same intervals",
                   seconds["split"] / seconds["jvp"], "<=", limits[2]),
            Figure("peak memory of a training step, split / Jacobian-vector product as published",
                   bytes_["split"] / bytes_["published"], "<=", limits[3]),
        )  # fmt: skip
        return Outcome(figures, _notes(found, seconds, bytes_), _picture(found))


def measure(steps: int, before: int, rows: int, seeds: tuple[int, ...], progress: Say) -> Found:
    """Train and sample every objective with every seed; `ONCE` with the first."""
    data, found = bench(), Found()
    for seed in seeds:
        progress(f"Training the teacher, seed {seed}.")
        teacher = train_teacher(data.train, before, seed)
        found.ode.append(_distance(data, draw(teacher, rows, steps=64, solver="rk4", seed=40_000)))
        for name, loss in objectives(teacher).items():
            if name in ONCE and seed != seeds[0]:
                continue
            progress(f"Training {name}, seed {seed}.")
            made = train(data, loss, steps, seed)
            solver = "euler" if name == BASELINE else "jump"
            by = found.distances.setdefault(name, {n: [] for n in EVALUATIONS})
            for n in EVALUATIONS:
                by[n].append(_distance(data, draw(made, rows, steps=n, solver=solver, seed=40_000)))
            if name != BASELINE:
                noise = torch.as_tensor(Draws(torch.arange(256)).normal(torch.empty(256, *data.train.shape), "noise"))
                found.agreement.setdefault(name, []).append(flow_map_consistency(made, noise))
    return found


def train(data: Bench, loss: Objective, steps: int, seed: int) -> Field:
    """One training; flow matching has the network of the flow maps, with both times equal."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = TwoTimeAdapter(MLP(64, hidden=160, depth=2, activation="silu", residual=True, time_features=64))
    options = Options(batch=BATCH, lr=1e-3, seed=seed, sample_every=0, save_every=0, log_every=steps)
    return fit(FlowMapField(net), loss, data.train, steps=steps, options=options, progress=False).field


def _distance(data: Bench, x: Tensor) -> float:
    return frechet(data.net.features(x), data.real)


# --- what a step costs ----------------------------------------------------------------------------------------------


def costs(repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of a training step, in turn, and its peak bytes: uniform intervals, half of the rows on s = t."""
    loss = {name: FlowMapLoss(name, TwoTimes("uniform", 0.5), PLAIN) for name in ("split", "half", "jvp", "fd", "imf")}
    functions = {name: _stepper(one) for name, one in loss.items()}
    functions["published"] = _stepper(loss["jvp"], published_step)
    seconds = in_turn(functions, repeats)
    return seconds, {name: float(peak_bytes(f)) for name, f in functions.items()}


def published_step(flow: FlowMapField, plan: Plan) -> Tensor:
    """MeanFlow's loss as its code has it: value and derivative of all rows from one transform that keeps its graph."""
    s, t = cast(Tensor, plan.t).float().unbind(1)
    sample = flow.path.sample(plan.x0, plan.x1, s)
    x, v = cast(Tensor, sample.xt), cast(Tensor, sample.u)

    def average(a: Tensor, b: Tensor) -> Tensor:
        return cast(Tensor, flow.between(a, b, t, {}))

    value, slope = torch.func.jvp(average, (x, s), (v, torch.ones_like(s)))  # type: ignore[misc]
    length = (t - s).reshape(-1, *(1,) * (x.ndim - 1))
    target = (v + length * slope).detach()
    return cast(Tensor, (value - target).square().mean())


def _stepper(loss: FlowMapLoss, value: Callable[[FlowMapField, Plan], Tensor] | None = None) -> Callable[[], None]:
    """A function that takes a training step on noise of the digits' shape."""
    torch.manual_seed(0)
    net = TwoTimeAdapter(MLP(64, hidden=160, depth=2, activation="silu", residual=True, time_features=64))
    flow, x = FlowMapField(net), torch.randn(BATCH, 64)
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)
    state = {"step": 0}

    def run() -> None:
        state["step"] += 1
        plan = loss.prepare(flow, x, {}, Draws.training(0, state["step"], BATCH))
        optimiser.zero_grad()
        whole = loss.loss(flow, plan).value if value is None else value(flow, plan)
        whole.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return run


# --- what is told ---------------------------------------------------------------------------------------------------


def _notes(found: Found, seconds: Mapping[str, float], bytes_: Mapping[str, float]) -> tuple[str, ...]:
    lines = [
        f"Fréchet distance of {name} by evaluations: "
        + "; ".join(f"{n}: {', '.join(f'{v:.3g}' for v in by[n])}" for n in EVALUATIONS)
        + (" (first seed)." if name in ONCE else ".")
        for name, by in found.distances.items()
    ]
    lines.append(spread("Fréchet distance of the teacher's ODE, 64 steps of RK4", found.ode))
    agree = ", ".join(f"{name} {median(v):.2g}" for name, v in found.agreement.items())
    lines.append(f"Two jumps against one, relative squared distance (flow_map_consistency): {agree}.")
    lines.append(f"Step times, medians in turn: {', '.join(f'{n} {1e3 * s:.2f} ms' for n, s in seconds.items())}.")
    lines.append(f"Peak memory of a step: {', '.join(f'{n} {b / 2**20:.2f} MiB' for n, b in bytes_.items())}.")
    lines.append(
        "'published' takes value and derivative of all rows from one transform and keeps its graph; our 'jvp' "
        "differentiates the rows with s < t without a graph and calls the network once more, which is why its memory "
        "is that of splitting. The network has 0.30 M parameters; distances are between samples and held-out digits in "
        "the features of the net 'digits'. Flow matching has the same network with both times equal, and Euler's steps."
    )
    return tuple(lines)


def _picture(found: Found) -> bytes:
    from rheos.show import curves, figure_png

    shown = {n: by for n, by in found.distances.items() if n not in ONCE}
    lines = {n: (list(EVALUATIONS), [fmean(by[k]) for k in EVALUATIONS]) for n, by in shown.items()}
    ode = fmean(found.ode)
    lines["teacher's ODE"] = ([EVALUATIONS[0], EVALUATIONS[-1]], [ode, ode])
    return figure_png(curves(lines, "network evaluations", "Fréchet distance"))


CLAIM = SplitClaim()
