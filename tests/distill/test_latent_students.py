"""Students of a flow in latents decode what they draw, with the teacher's own autoencoder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rheos import core, nets, train
from rheos.core.errors import DataError
from rheos.data import Functions, LatentCodec, encoded, load
from rheos.distill import (
    BellmanSearch,
    ContestOptions,
    PairStore,
    Recipe,
    Rectification,
    SegmentRecipe,
    SegmentStore,
    Slimming,
    Stages,
    Straightening,
    boss,
    consistency,
    contest,
    distil,
    generate,
    generate_segments,
    given_pairs,
    instaflow,
    invert_pairs,
    mdt_dist,
    progressive,
    reflow,
    rfpp,
    slimflow,
    splitmeanflow,
)
from rheos.distill.inherited import LatentRows, inheriting
from rheos.nets import Autoencoder, UNet
from rheos.sample import draw
from strategies import randn

QUICK = train.Options(batch=8, ema=0.9, warmup=0, sample_every=0, save_every=0)
FEW = Recipe(steps=2, solver="euler", chunk=16)
N = 20


def small() -> UNet:
    torch.manual_seed(1)
    return UNet(4, width=8, multipliers=(1,), attention=(), classes=10)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> train.Run:
    """A flow of three steps in the latents of an autoencoder of two."""
    folder = tmp_path_factory.mktemp("teacher")
    digits = load("digits", limit=60)
    train.autoencoder(digits, net=Autoencoder(1, factor=2, width=8), steps=2, out=folder / "ae", options=QUICK,
                      progress=False)  # fmt: skip
    latents = load("digits", limit=60, codec=folder / "ae")
    torch.manual_seed(0)
    field = core.Field(UNet(4, width=8, multipliers=(1,), attention=(), classes=10))
    train.fit(field, core.FlowMatching(), latents, steps=3, out=folder / "run", options=QUICK, progress=False)
    return train.load(folder / "run")


def _pairs(run: train.Run, out: Path) -> PairStore:
    return generate(run, out / "pairs", N, recipe=FEW)


def _boss(run: train.Run, out: Path) -> train.Run:
    how = Straightening(rows=N, search=BellmanSearch(anchors=4, rows=4))
    return boss(run, 2, steps=2, out=out, how=how, options=QUICK, progress=False)


def _instaflow(run: train.Run, out: Path) -> train.Run:
    how = Stages(pairs=N, steps=2, distil=2, polish=0, teacher=FEW, straight=FEW, evaluations=2, targets="chord")
    return instaflow(run, out=out, how=how, options=QUICK, progress=False)


def _slimflow(run: train.Run, out: Path) -> train.Run:
    how = Slimming(pairs=N, recipe=FEW, steps=2, distil=2, source="flow")
    return slimflow(run, small(), out=out, how=how, options=QUICK, progress=False)


def _rfpp(run: train.Run, out: Path) -> train.Run:
    how = Rectification(loss="huber", finetune=1)
    return rfpp(run, out=out, pairs=N, steps=2, evaluations=3, real_fraction=0.5, how=how, options=QUICK,
                progress=False)  # fmt: skip


def _chords(run: train.Run, out: Path) -> train.Run:
    store = generate_segments(run, out / "segments", N, [0.0, 0.5, 1.0], recipe=SegmentRecipe(steps=2))
    return distil(run.field, store, steps=2, out=out / "student", options=QUICK, progress=False)


def _own_pairs(run: train.Run, out: Path) -> train.Run:
    pairs = given_pairs(
        randn(N, 4, 4, 4, seed=1).float(), randn(N, 4, 4, 4, seed=2).float(), label=torch.arange(N) % 10
    )
    return reflow(run, pairs, steps=2, out=out, options=QUICK, progress=False)


DISTILLERS: dict[str, Callable[[train.Run, Path], train.Run]] = {
    "reflow": lambda run, out: reflow(run.field, _pairs(run, out), steps=2, out=out / "s", options=QUICK),
    "reflow of own pairs": _own_pairs,
    "distil": lambda run, out: distil(run.field, _pairs(run, out), steps=2, out=out / "s", options=QUICK),
    "chords": _chords,
    "instaflow": _instaflow,
    "slimflow": _slimflow,
    "rfpp": _rfpp,
    "boss": _boss,
    "mdt_dist": lambda run, out: mdt_dist(run, run.data(), steps=2, out=out, options=QUICK),
    "splitmeanflow": lambda run, out: splitmeanflow(run, run.data(), steps=2, out=out, options=QUICK),
    "consistency": lambda run, out: consistency(run, run.data(), steps=2, out=out, options=QUICK),
    "progressive": lambda run, out: progressive(run, run.data(), steps=2, start=4, out=out, options=QUICK),
}


@pytest.mark.parametrize("name", DISTILLERS)
def test_a_student_has_its_teachers_codec_in_memory_and_in_its_directory(
    name: str, teacher: train.Run, tmp_path: Path
) -> None:
    run = DISTILLERS[name](teacher, tmp_path / "out")
    assert run.codec is not None
    assert run.path is not None
    shutil.move(run.path, tmp_path / "moved")
    moved = train.load(tmp_path / "moved")
    z = randn(3, 4, 4, 4).float()
    expected = teacher.decode(z)
    assert expected.shape == (3, 1, 8, 8)
    assert torch.equal(run.decode(z), expected)
    assert torch.equal(moved.decode(z), expected)
    assert moved.value_range == teacher.value_range == (-1.0, 1.0)
    saved = train.load(moved.save(tmp_path / "saved"))
    drawn = saved.decode(draw(saved.field, 2, label=1, steps=None if saved.field.times else 2))
    assert drawn.shape == (2, 1, 8, 8)


def test_a_student_says_which_rows_its_teacher_learned_from(teacher: train.Run, tmp_path: Path) -> None:
    run = reflow(teacher.field, _pairs(teacher, tmp_path), steps=1, options=QUICK, progress=False)
    real = {"source": "digits", "limit": 60, "codec": teacher.config["data"]["spec"]["codec"]}
    assert run.config["data"]["real"] == real
    again = generate(run, tmp_path / "again", N, recipe=FEW)  # a student's student
    assert again.data().about.real == real
    with pytest.raises(DataError, match="cannot be read again"):
        run.data()


def test_a_store_keeps_the_codec_for_whoever_opens_it(teacher: train.Run, tmp_path: Path) -> None:
    _pairs(teacher, tmp_path)
    generate_segments(teacher, tmp_path / "segments", N, recipe=SegmentRecipe(steps=2))
    invert_pairs(teacher, teacher.data(), tmp_path / "real", recipe=FEW)
    z = randn(3, 4, 4, 4).float()
    for store in (PairStore(tmp_path / "pairs"), SegmentStore(tmp_path / "segments"), PairStore(tmp_path / "real")):
        assert store.codec is not None
        coded = store.data().coded
        assert isinstance(coded, LatentRows)
        assert torch.equal(coded.decode(z), teacher.decode(z))
        assert store.data().visible
    # drawn by the field alone it knows no codec, until somebody hands it over
    plain = generate(teacher.field, tmp_path / "plain", N, recipe=FEW)
    assert plain.codec is None
    assert plain.data().coded is None
    assert plain.inheriting(teacher).data().coded is not None
    assert PairStore(tmp_path / "plain").codec is None
    assert torch.equal(plain.column("x1"), PairStore(tmp_path / "pairs").column("x1"))


def test_latent_rows_are_known_by_their_numbers_and_their_codec() -> None:
    x0, x1 = randn(6, 1, 2, 2, seed=1).float(), randn(6, 1, 2, 2, seed=2).float()
    one, two = (LatentCodec(Functions(lambda x: x / 2, lambda z: 2 * z, name=name), 1.0) for name in ("one", "two"))
    seen = set()
    for codec, x in ((one, x1), (two, x1), (one, x1 + 1)):
        data = given_pairs(x0, x)
        seen.add(LatentRows(codec, data.x).fingerprint)
    assert len(seen) == 3
    rows = LatentRows(one, x1).rows(torch.tensor([4, 1]))
    assert rows.fingerprint == LatentRows(one, x1[[4, 1]]).fingerprint
    assert torch.equal(rows.decode(x1), 2 * x1)


def test_real_rows_and_rows_with_a_codec_stay_as_they_are(teacher: train.Run) -> None:
    for data in (load("digits", limit=20), teacher.data()):
        kept = inheriting(data, teacher)
        assert kept.about.real is None
        assert kept.coded is data.coded or data.coded is None
    assert inheriting(teacher.data(), teacher.field).coded is not None


def test_pictures_on_the_way_are_decoded(teacher: train.Run, tmp_path: Path) -> None:
    options = train.Options(batch=8, ema=0.0, sample_every=1, sample_count=10, save_every=0)
    run = reflow(teacher.field, _pairs(teacher, tmp_path), steps=1, out=tmp_path / "s", options=options, progress=False)
    assert run.path is not None
    assert (run.path / "samples" / "step_000001.png").is_file()


def test_a_contest_in_latents_hands_the_codec_to_its_winners(teacher: train.Run, tmp_path: Path) -> None:
    shapes = []

    def judge(x: torch.Tensor, label: torch.Tensor | None, part: str) -> dict[str, float]:
        shapes.append(tuple(teacher.decode(x).shape[1:]))
        return {"size": float(x.square().mean())}

    options = ContestOptions((1,), ("reflow", "boss", "mdt_dist"), seconds=1.0, samples=10, teacher=FEW)
    for data in (teacher.data(), None):  # its own samples serve where no data are given
        out = tmp_path / str(data is None)
        found = contest(teacher, judge, data, out=out, options=options, progress=False)
        assert {e.error for e in found.entries} == {None}
        winner = train.load(out / "winner-1")
        z = randn(3, 4, 4, 4).float()
        assert torch.equal(winner.decode(z), teacher.decode(z))
        index = json.loads((out / "pairs" / "store.json").read_text())
        assert "codec" not in index  # stores of older versions go on
    assert set(shapes) == {(1, 8, 8)}


def test_a_codec_in_memory_reaches_the_student_too() -> None:
    digits = load("digits", limit=40)
    codec = LatentCodec(Functions(lambda x: x / 2, lambda z: 2 * z, name="half"), 1.0)
    torch.manual_seed(0)
    field = core.Field(nets.UNet(1, width=8, multipliers=(1,), attention=(), classes=10))
    run = train.fit(field, core.FlowMatching(), encoded(digits, codec), steps=1, options=QUICK, progress=False)
    student = boss(run, 1, steps=1, how=Straightening(rows=8, search=BellmanSearch(anchors=2, rows=2)), options=QUICK)
    assert student.codec is not None
    z = randn(2, 1, 8, 8).float()
    assert torch.equal(student.decode(z), 2 * z)
    assert codec.source is None  # the folder that held the segments is gone
