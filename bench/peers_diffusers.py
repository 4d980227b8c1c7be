"""The schedulers of diffusers as peers: minus the velocity at noise levels sigma = 1 - t, a call a step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.peers import Model, Peer, Walk, as_solver
from rheos.core import Solver
from rheos.sample import DEIS, Ancestral, DPMSinglestep, DPMSolver, UniPC

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
TAKES_SIGMAS = {"FlowMatchEulerDiscrete", "UniPCMultistep", "LTXEulerAncestralRF"}
"""Schedulers that walk what they are told; by itself FlowMatchEuler would waste a call."""
SAME = "with our noise levels"
OWN = "over its own times, from noise level 0.999"


def scheduler(name: str, **config: Any) -> Any:
    import diffusers

    return getattr(diffusers, f"{name}Scheduler")(**config)


def _make(name: str, config: dict[str, Any], stride: int) -> Callable[[Model, int, int], Walk]:
    def make(model: Model, rows: int, steps: int) -> Walk:
        steps *= stride  # a scheduler counts calls
        walker = scheduler(name, **config)

        def begin() -> None:
            if name in TAKES_SIGMAS:
                walker.set_timesteps(sigmas=_sigmas(name, steps))
            else:
                walker.set_timesteps(steps)

        begin()
        sigmas = walker.sigmas.double().tolist()
        clocks = [torch.full((rows,), 1 - s, dtype=torch.float64) for s in sigmas]
        walked = [1 - s for k, s in enumerate(sigmas) if k == 0 or s < sigmas[k - 1]]

        def solve(x: Tensor) -> Tensor:
            begin()
            with torch.no_grad():
                for k, t in enumerate(walker.timesteps):
                    clock = clocks[k] if model.exact else t.float().expand(rows) / 1000  # as its pipelines do
                    x = walker.step(model.backward(x, clock), t, x, return_dict=False)[0]
            return x

        return Walk(tuple(walked[::stride]), solve)

    return make


def _sigmas(name: str, steps: int) -> Any:
    """Uniform noise levels as the scheduler wants them: an array, or a list, with its end or without."""
    sigmas = [1 - k / steps for k in range(steps)]
    return np.array(sigmas) if name == "UniPCMultistep" else [*sigmas, 0.0] if name.startswith("LTX") else sigmas


def _peer(
    name: str,
    label: str,
    ours: str | Solver,
    note: str = OWN,
    *,
    stride: int = 1,
    noise: bool = False,
    **config: Any,
) -> Peer:
    made = _make(name, config, stride)
    return Peer(f"diffusers {label}", as_solver(ours), made, note, torch.randn_like if noise else None)


def _dpm(label: str, ours: str | Solver, note: str = OWN, **options: Any) -> Peer:
    return _peer("DPMSolverMultistep", f"DPMSolverMultistep {label}", ours, note, **FLOW, **options)


def diffusers_peers() -> list[Peer]:
    """Every scheduler that walks a flow; its "dpmsolver", on the noise, takes no velocities."""
    import diffusers  # noqa: F401

    published = f"{OWN}; the same formula, without a factor 2"
    factor = f"{OWN}; its third order lacks a factor 2, ours has it"
    inside = f"{OWN}, two or three steps of its grid for one of ours; ours asks half-way in lambda, it in time"
    deis = "over its own times, from noise level 0.999 to 1 / N: its last call is wasted"
    peers = [
        _peer("FlowMatchEulerDiscrete", "FlowMatchEuler", "euler", SAME),
        _peer("FlowMatchHeunDiscrete", "FlowMatchHeun", "heun-edm", "over its own times, from 1 to 1e-3 and 0"),
        _dpm("dpmsolver++ 1", DPMSolver(order=1), solver_order=1),
        _dpm("dpmsolver++ 2", "dpm++2m", solver_order=2),
        _dpm("dpmsolver++ 2 heun", DPMSolver(variant="heun"), solver_order=2, solver_type="heun"),
        _dpm("dpmsolver++ 3", DPMSolver(order=3, compat="published"), published, solver_order=3),
        _dpm("dpmsolver++ 3", "dpm++3m", factor, solver_order=3),
        _dpm("sde-dpmsolver++ 2", "sde-dpm++2m", noise=True, solver_order=2, algorithm_type="sde-dpmsolver++"),
        _peer("LTXEulerAncestralRF", "LTXEulerAncestralRF", Ancestral(), SAME, noise=True),
    ]
    for order in (2, 3):
        same = DPMSolver(order=order, estimates="noise", variant="heun")
        for ours, how in (
            (same, "; the same polynomial in log rho"),
            (DEIS(order=order), "; it in log rho, ours in rho"),
        ):
            peers.append(_peer("DEISMultistep", f"DEIS {order}", ours, deis + how, solver_order=order, **FLOW))
        single = {"stride": order, "solver_order": order, "lower_order_final": True, **FLOW}
        peers.append(
            _peer("DPMSolverSinglestep", f"DPMSolverSinglestep {order}", DPMSinglestep(order=order), inside, **single)
        )
    for order in (1, 2, 3):  # its bh1 gives NaN where the noise ends at 0
        note = (
            "with our noise levels; of its last steps the orders are 3, 2, 1, ours are 3, 3, 1" if order == 3 else SAME
        )
        options = {"solver_order": order, "final_sigmas_type": "zero", **FLOW}
        peers.append(_peer("UniPCMultistep", f"UniPC {order}", UniPC(order=order), note, **options))
    return peers
