"""Train the feature nets that rheos.metrics ships: python scripts/train_features.py [digits mnist5k emoji]

Plain torch, about eight minutes on one core, seeds fixed; with OMP_NUM_THREADS=1 the shipped files come back bit by
bit on the same kind of machine, another number of threads rounds differently. Each net is trained on the first part of
`load(name).split(0.2, seed=0)` and measured on the second, which it never sees. Pictures are shown at several
sizes, slightly shifted, turned and scaled; nothing else is done to them. The last weights are kept: none are
chosen by the held-out rows.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from rheos.data import Data, load
from rheos.metrics.features import FeatureNetInfo, save_feature_net
from rheos.nets import FeatureNet

WEIGHTS = Path(__file__).parents[1] / "src" / "rheos" / "metrics" / "weights"
SPLIT = (0.2, 0)
SEED = 0
BATCH = 128


@dataclass(frozen=True)
class Plan:
    """How one net is trained.

    Args:
        sides: Sizes in pixels that it is shown.
        width: Channels of the net's first stage.
        epochs: Passes over the training rows.
        floor: Held-out accuracy at every size, below which nothing is written.
        flip: Mirror half of the pictures.
        background: Value that comes in at the edges of a moved picture.
        balance: Rows are drawn in proportion to (size of their class) to the power of minus this.
    """

    sides: tuple[int, ...]
    width: int
    epochs: int
    floor: float
    flip: bool = False
    background: float = -1.0
    balance: float = 0.0


PLANS = {
    "digits": Plan(sides=(8,), width=24, epochs=60, floor=0.97),
    "mnist5k": Plan(sides=(16, 20, 24, 28, 32), width=24, epochs=32, floor=0.97),
    "emoji": Plan(sides=(16, 24, 32), width=32, epochs=45, floor=0.75, flip=True, background=1.0, balance=0.5),
}


def moved(x: Tensor, plan: Plan, generator: torch.Generator) -> Tensor:
    """Each picture shifted by up to an eighth, turned by up to 0.2 radians, scaled by up to 15 %."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(x), generator=generator) * 2 - 1) * limit

    angle, scale = uniform(0.2), uniform(0.15).exp()
    cos, sin = angle.cos() * scale, angle.sin() * scale
    mirror = torch.where(torch.rand(len(x), generator=generator) < 0.5 * plan.flip, -1.0, 1.0)
    rows = (torch.stack((cos * mirror, -sin, uniform(0.25)), 1), torch.stack((sin * mirror, cos, uniform(0.25)), 1))
    grid = affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return grid_sample(x - plan.background, grid, align_corners=False) + plan.background


def whole(data: Data) -> tuple[Tensor, Tensor]:
    batch = data.batch(torch.arange(len(data)))
    return batch.x, batch.cond["label"]


@torch.no_grad()
def accuracy(net: FeatureNet, x: Tensor, label: Tensor) -> tuple[float, float]:
    """Fraction of rows put right, and the mean of that fraction over the classes present."""
    net.eval()
    right = (torch.cat([net(part) for part in x.split(512)]).argmax(1) == label).double()
    by_class = [float(right[label == c].mean()) for c in label.unique()]
    return float(right.mean()), sum(by_class) / len(by_class)


def train(name: str, plan: Plan) -> tuple[FeatureNet, FeatureNetInfo]:
    parts = {side: load(name, size=side).split(*SPLIT) for side in plan.sides}
    shown = {side: whole(train)[0] for side, (train, _) in parts.items()}
    first, held_out = parts[plan.sides[-1]]
    label = whole(first)[1]

    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    net = FeatureNet(first.shape[0], first.classes, plan.sides[-1], width=plan.width, features=64)
    net = net.to(memory_format=torch.channels_last)
    steps = plan.epochs * len(first) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    chance = (label.bincount(minlength=first.classes).clamp(min=1).double() ** -plan.balance)[label]
    started = time.perf_counter()
    net.train()
    for step in range(steps):
        rows = torch.multinomial(chance, BATCH, replacement=True, generator=generator)
        side = plan.sides[int(torch.randint(len(plan.sides), (1,), generator=generator))]
        x = moved(shown[side][rows], plan, generator).contiguous(memory_format=torch.channels_last)
        loss = cross_entropy(net(x), label[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % (steps // 5) == 0:
            print(
                f"{name}: step {step + 1} of {steps}, loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s",
                flush=True,
            )

    measured = {side: accuracy(net, *whole(held)) for side, (_, held) in parts.items()}
    return net, FeatureNetInfo(
        name=name,
        classes=tuple(first.class_names),
        channels=first.shape[0],
        sizes=(plan.sides[0], plan.sides[-1]),
        features=64,
        parameters=sum(p.numel() for p in net.parameters()),
        accuracy={side: value for side, (value, _) in measured.items()},
        balanced_accuracy={side: value for side, (_, value) in measured.items()},
        trained=len(first),
        held_out=len(held_out),
        split=SPLIT,
        fingerprint=load(name).split(*SPLIT)[1].fingerprint,
        seed=SEED,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the feature nets that rheos.metrics ships.")
    parser.add_argument("names", nargs="*", choices=[[], *PLANS], help="which nets; all of them by default")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write NAME.safetensors into")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or PLANS:
        net, info = train(name, PLANS[name])
        worst = min(info.accuracy.values())
        if worst < PLANS[name].floor:
            raise SystemExit(f"{name}: held-out accuracy {worst:.4f} is below {PLANS[name].floor}; nothing written.")
        path = args.out / f"{name}.safetensors"
        save_feature_net(path, net, info)
        balanced = ", ".join(f"{v:.4f}" for v in info.balanced_accuracy.values())
        print(
            f"{info}; mean over classes {balanced}; {info.parameters} parameters; {path.stat().st_size} bytes in {path}"
        )


if __name__ == "__main__":
    main()
