"""Claim `lfm`: a flow of latents is better than one of pixels in as many steps, can be guided, and fills holes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor

from rheos.claims.crops import PrincipalComponents, crops, random_features
from rheos.claims.harness import Say
from rheos.claims.record import Figure, Outcome, spread
from rheos.claims.timing import one_thread
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.data import Data, encoded, load
from rheos.data.holes import halves
from rheos.metrics import features, frechet, prdc
from rheos.nets import MLP, Autoencoder, UNet
from rheos.sample import draw
from rheos.train import Options, Run, fit
from rheos.train.autoencoder import autoencoder, codec_of
from rheos.train.lfm import ConcatCondition, inpainting, latent_field

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CLAIM", "LatentFlowMatching"]

EULER = (50, 5)
Values = dict[str, list[float]]


@final
@dataclass(frozen=True)
class Budget:
    """How long everything is trained, and how many rows are compared."""

    autoencoder: int = 700
    flow: int = 1000
    digits: int = 2000
    holes: int = 1000
    train: int = 8192
    rows: int = 2000


@final
@dataclass(frozen=True)
class LatentFlowMatching:
    """Crops of photographs in latents and in pixels; digits with guidance; digits with their lower half hidden."""

    slug: ClassVar[str] = "lfm"
    statement: ClassVar[str] = (
        "With the same network and as many training steps, a flow of an autoencoder's latents gives samples nearer to "
        "unseen crops of photographs than a flow of their pixels; guidance makes class-conditional samples more "
        "recognisable; and a network that sees what surrounds a hole fills it far better "
        "than an unconditional sample pasted into it."
    )

    def run(self, quick: bool, seeds: tuple[int, ...], progress: Say) -> Outcome:
        """See `Claim.run`."""
        budget = Budget(80, 150, 300, 150, 1000, 300) if quick else Budget()
        with one_thread():
            latent, notes, sheets = latent_or_pixel(budget, seeds, progress, 1.0 if quick else 0.7)
            guided, more = guidance(budget, seeds, progress, 0.0 if quick else 0.05)
            filled, rest, holes = hole_filling(budget, seeds, progress, 0.8 if quick else 0.6)
        return Outcome((*latent, guided, filled), (*notes, *more, *rest), _picture(sheets | holes))


def options(steps: int, seed: int, **more: int) -> Options:
    """Adam's learning rate 1e-3 and an average of weights, for all flows alike."""
    return replace(Options(lr=1e-3, seed=seed, sample_every=0, save_every=0, log_every=steps), **more)  # type: ignore[arg-type]


def every(data: Data) -> Tensor:
    """All rows as delivered."""
    return replace(data, conditions=()).batch(torch.arange(len(data))).x


def flow(data: Data, steps: int, seed: int) -> Run:
    """The same residual MLP for latents and for pixels: width 256, two blocks, batch 128."""
    numbers = data.batch(torch.zeros(1, dtype=torch.int64)).x.numel()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = MLP(numbers, hidden=256, depth=2, activation="silu", residual=True, time_features=64)
    return fit(latent_field(net), FlowMatching(), data, steps=steps, options=options(steps, seed), progress=False)


def latent_or_pixel(
    budget: Budget, seeds: tuple[int, ...], progress: Say, limit: float
) -> tuple[list[Figure], list[str], "dict[str, Image]"]:
    """Part (a)."""
    from rheos.show import grid, upscale

    train, test = crops(budget.train, "train"), every(crops(budget.rows, "test"))
    looks: dict[str, Callable[[Tensor], Tensor]] = {
        "PCA-64": PrincipalComponents(every(train)), "random convolutions": random_features
    }  # fmt: skip
    found: dict[tuple[str, int, str], list[float]] = {}
    seconds: Values = {"autoencoder": [], "latent": [], "pixel": []}
    rebuilt: Values = {name: [] for name in looks}
    sheets = {"unseen crops": upscale(grid(train.to_pictures(test[:64]), 8), 320)}
    for seed in seeds:
        progress(f"Training the autoencoder, seed {seed}.")
        begun = time.perf_counter()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            net = Autoencoder(3, latent=4, factor=4, width=16)
        own = Options(batch=64, seed=seed, sample_every=0, save_every=0, log_every=budget.autoencoder)
        run = autoencoder(train, net=net, steps=budget.autoencoder, options=own, progress=False)
        codec = codec_of(run).fit_scale(train)
        seconds["autoencoder"].append(time.perf_counter() - begun)
        for name, look in looks.items():
            rebuilt[name].append(frechet(look(codec.decode(codec.encode(test))), look(test)))
        for kind, data in (("latent", encoded(train, codec)), ("pixel", train)):
            progress(f"Training the flow of {kind}s, seed {seed}.")
            begun = time.perf_counter()
            trained = flow(data, budget.flow, seed)
            seconds[kind].append(time.perf_counter() - begun)
            for steps in EULER:
                x = draw(trained.field, budget.rows, steps=steps, solver="euler", seed=10_000)
                x = codec.decode(x) if kind == "latent" else x
                for name, look in looks.items():
                    found.setdefault((name, steps, kind), []).append(frechet(look(x.clamp(-1, 1)), look(test)))
                if seed == seeds[0] and steps == EULER[0]:
                    sheets[f"{kind} flow"] = upscale(grid(train.to_pictures(x[:64]), 8), 320)
    figures = [
        Figure.ratio(f"photographs: Fréchet distance in {name}, {steps} Euler steps, latent / pixel",
                     found[name, steps, "latent"], found[name, steps, "pixel"], "<=", limit)
        for name in looks for steps in EULER
    ]  # fmt: skip
    notes = [
        spread(f"Fréchet distance in {name}, {steps} steps, {kind}", v) for (name, steps, kind), v in found.items()
    ]
    notes += [spread(f"Fréchet distance in {name} of reconstructed test crops", v) for name, v in rebuilt.items()]
    floors = ", ".join(f"{name} {frechet(look(every(train)), look(test)):.3g}" for name, look in looks.items())
    notes.append(f"Train crops against test crops, which no model of the train crops beats for long: {floors}.")
    notes += [spread(f"Seconds of training, {name}", v, " s") for name, v in seconds.items()]
    notes.append(
        f"{budget.train} crops of 16 x 16, {budget.rows} samples against as many test crops; autoencoder to 4 x 4 x 4 "
        f"in {budget.autoencoder} steps of 64; flows: residual MLP 256 x 2, {budget.flow} steps of 128. The training "
        "of the autoencoder is not counted in the steps of the flow."
    )
    notes.append(
        "Part of the gap is the network: 768 numbers pass through layers of 256, so the flow of pixels cannot carry "
        "its noise through and some of it stays in the picture. Latents of 64 numbers pass."
    )
    return figures, notes, sheets


def guidance(budget: Budget, seeds: tuple[int, ...], progress: Say, limit: float) -> tuple[Figure, list[str]]:
    """Part (b): class-conditional digits with a tenth of the labels dropped."""
    train, held_out = load("digits").split(0.2, seed=0)
    net = features("digits")
    real = net.features(every(held_out))
    label = torch.arange(budget.rows) % train.classes
    accuracy: dict[float, list[float]] = {1.0: [], 2.0: []}
    distance: dict[float, list[float]] = {1.0: [], 2.0: []}
    recall: dict[float, list[float]] = {1.0: [], 2.0: []}
    for seed in seeds:
        progress(f"Training a class-conditional flow of digits, seed {seed}.")
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            mlp = MLP(64, hidden=160, depth=2, activation="silu", residual=True, time_features=64, classes=10)
        own = options(budget.digits, seed)
        run = fit(latent_field(mlp), FlowMatching(dropout=0.1), train, steps=budget.digits, options=own, progress=False)
        for scale in accuracy:
            x = draw(run.field, budget.rows, steps=50, solver="euler", guidance=scale, seed=10_000, label=label)
            accuracy[scale].append(net.accuracy(x, label))
            distance[scale].append(frechet(net.features(x), real))
            recall[scale].append(prdc(real, net.features(x)).recall)
    gain = [b - a for a, b in zip(accuracy[1.0], accuracy[2.0], strict=True)]
    notes = [spread(f"Digits, guidance {s:g}: share recognised as their label", v) for s, v in accuracy.items()]
    notes += [spread(f"Digits, guidance {s:g}: Fréchet distance", v) for s, v in distance.items()]
    notes += [
        spread(f"Digits, guidance {s:g}: recall, the share of real digits near a sample", v) for s, v in recall.items()
    ]
    ratio = fmean(distance[2.0]) / fmean(distance[1.0])
    notes.append(
        f"The trade-off: guidance 2 has {ratio:.2g} times the Fréchet distance of guidance 1, and recall goes from "
        f"{fmean(recall[1.0]):.3f} to {fmean(recall[2.0]):.3f}."
    )
    what = "digits: share recognised as their label, guidance 2 minus guidance 1"
    return Figure.mean(what, gain, ">=", limit), notes


def hole_filling(
    budget: Budget, seeds: tuple[int, ...], progress: Say, limit: float
) -> tuple[Figure, list[str], "dict[str, Image]"]:
    """Part (c): the lower half of digits from the upper one."""
    from rheos.guide import Inpaint, restore
    from rheos.show import grid, upscale

    train, held_out = load("digits", conditions=[]).split(0.2, seed=0)
    x = every(held_out)
    hole = halves(len(x), *x.shape[2:])
    holed = inpainting(train, holes=halves)
    errors: Values = {"concat condition": [], "pasted": [], "completed": []}
    known: dict[str, Any] = dict(inpainting(held_out, holes=halves).batch(torch.arange(len(x))).cond)
    sheets = {}
    for seed in seeds:
        progress(f"Training flows that fill holes in digits, seed {seed}.")
        own = options(budget.holes, seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            plain = latent_field(UNet(1, width=16, multipliers=(1, 2)))
            torch.manual_seed(seed)
            seeing = latent_field(ConcatCondition(UNet(1, width=16, multipliers=(1, 2), concat=2), known=1))
        free = _fitted(plain, train, budget.holes, own)
        filled = draw(_fitted(seeing, holed, budget.holes, own), len(x), steps=50, solver="euler", seed=10_000, **known)
        pasted = draw(free, len(x), steps=50, solver="euler", seed=10_000)
        completed = restore(free, x, Inpaint(1 - hole), steps=50, seed=10_000)
        for name, found in (("concat condition", filled), ("pasted", pasted), ("completed", completed)):
            errors[name].append(float(((found - x).square() * hole).sum() / hole.sum()))
            if seed == seeds[0] and name != "completed":
                whole = torch.where(hole == 1, found, x)[:64]
                sheets[f"lower half, {name}"] = upscale(grid(held_out.to_pictures(whole), 8), 320)
    notes = [spread(f"Digits: squared error in the hole, {name}", v) for name, v in errors.items()]
    notes.append("Completed: the unconditional flow steered without training (guide.restore), for context.")
    what = "digits, lower half hidden: squared error, concat condition / pasted sample"
    return Figure.ratio(what, errors["concat condition"], errors["pasted"], "<=", limit), notes, sheets


def _fitted(field: Field, data: Data, steps: int, own: Options) -> Field:
    return fit(field, FlowMatching(dropout=0.0), data, steps=steps, options=own, progress=False).field


def _picture(sheets: "dict[str, Image]") -> bytes:
    from rheos.show import beside, png

    return png(beside(sheets))


CLAIM = LatentFlowMatching()
