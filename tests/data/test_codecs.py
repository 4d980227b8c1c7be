"""Codecs and latents: round trips, scales, caches, holes, and everything that is refused."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rheos.core import Draws, row_seeds
from rheos.core.errors import CheckpointError, DataError, OptionError, RunError, ShapeError
from rheos.data import Data, Functions, Holes, LatentCodec, encoded, load, save
from rheos.data.codecs import Spread
from rheos.data.holes import check_hole, halves
from rheos.nets import Autoencoder, Posterior

ROUNDING = 1e-12  # float64


def autoencoder(channels: int = 1, factor: int = 2, seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    return Autoencoder(channels, factor=factor, width=8).eval().requires_grad_(False)


def linear(seed: int = 0, n: int = 8) -> LatentCodec:
    """Channels mixed by an invertible matrix."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, generator=g, dtype=torch.float64) + 3 * torch.eye(n, dtype=torch.float64)
    encode, decode = (lambda v, m=m: torch.einsum("ij,bj...->bi...", m.to(v), v) for m in (a, torch.linalg.inv(a)))
    return LatentCodec(Functions(encode, decode, name="linear"), scale=0.37, shift=-1.5)


@pytest.fixture
def digits() -> Data:
    return load("digits", limit=90)


def test_the_round_trip_of_an_invertible_autoencoder_is_exact_with_scale_and_shift():
    codec = linear()
    x = torch.randn(5, 8, 3, dtype=torch.float64)
    torch.testing.assert_close(codec.decode(codec.encode(x)), x, rtol=0, atol=ROUNDING)
    per_channel = codec.rescaled([0.5 + i for i in range(8)], [float(-i) for i in range(8)])
    z = per_channel.encode(x)
    raw = codec.moments(x).mean
    torch.testing.assert_close(z[:, 3], (raw[:, 3] + 3) * 3.5, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(per_channel.decode(z), x, rtol=0, atol=ROUNDING)


def test_the_fitted_scale_gives_latents_of_unit_variance_the_posteriors_own_included():
    def encode(x):
        return Posterior(3 * x + 1, torch.full_like(x, 4.0))

    codec = LatentCodec(Functions(encode, lambda z: (z - 1) / 3, name="wide"))
    x = torch.randn(4000, 2, 3, 3, dtype=torch.float64) * torch.tensor([1.0, 2.0]).reshape(2, 1, 1)
    one = codec.fit_scale(x)
    draws = Draws(row_seeds(0, len(x)))
    z = one.encode(x, draws)
    n = z.numel()
    assert abs(float(z.std()) - 1) < 4 * (2 * n) ** -0.5 + 1e-3  # four standard errors of a standard deviation
    assert abs(1 / one.scale - (9 * 2.5 + 16) ** 0.5) < 0.1  # Var = 9 (1 + 4) / 2 + 16
    each = codec.fit_scale(x, per_channel=True, centre=True).encode(x, draws)
    torch.testing.assert_close(each.std((0, 2, 3)), torch.ones(2, dtype=torch.float64), atol=0.02, rtol=0)
    torch.testing.assert_close(each.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64), atol=0.03, rtol=0)


def test_a_scale_looks_at_the_first_rows_only_and_takes_batches_tensors_and_sets(digits):
    codec = LatentCodec(autoencoder(), chunk=7)
    x = digits.batch(torch.arange(90)).x
    first = codec.fit_scale(x[:40]).scale
    assert codec.fit_scale(x, rows=40).scale == pytest.approx(first, rel=1e-6)  # chunks end elsewhere
    assert codec.fit_scale(digits, rows=40).scale == pytest.approx(first, rel=1e-6)
    assert codec.fit_scale(x.split(13), rows=40).scale == pytest.approx(first, rel=1e-6)
    with pytest.raises(DataError, match="needs pictures, and there were none"):
        codec.fit_scale([])
    with pytest.raises(DataError, match="All latents are equal"):
        LatentCodec(Functions(lambda x: 0 * x, lambda z: z, name="nothing")).fit_scale(x)


def test_chunks_change_nothing():
    x = torch.randn(10, 1, 8, 8)
    net = autoencoder()
    whole, cut = LatentCodec(net, 1.0, chunk=64), LatentCodec(net, 1.0, chunk=3)
    torch.testing.assert_close(cut.encode(x), whole.encode(x), rtol=0, atol=1e-5)  # float32 sums in another order
    torch.testing.assert_close(cut.decode(whole.encode(x)), whole.decode(whole.encode(x)), rtol=0, atol=1e-5)


def test_a_sample_of_the_posterior_belongs_to_its_rows_stream():
    codec = LatentCodec(autoencoder(), 1.0)
    x, draws = torch.randn(6, 1, 8, 8), Draws(row_seeds(3, 6))
    order = torch.tensor([4, 0, 5, 1, 3, 2])
    torch.testing.assert_close(codec.encode(x[order], draws.select(order)), codec.encode(x, draws)[order])
    assert (codec.encode(x, draws) - codec.encode(x)).abs().max() > 0.1


def test_no_gradient_reaches_the_autoencoder_and_the_decoder_is_differentiable_in_latents():
    codec = LatentCodec(autoencoder(), 1.0)
    z = torch.randn(2, 4, 4, 4, requires_grad=True)
    codec.decode(z).sum().backward()
    assert float(z.grad.abs().max()) > 0
    assert all(p.grad is None for p in codec.model.parameters())
    assert not codec.encode(torch.randn(2, 1, 8, 8)).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_autoencoder_in_half_precision_is_used_in_float32(dtype):
    net = autoencoder().to(dtype)
    codec = LatentCodec(net, 1.0)
    assert {p.dtype for p in codec.model.parameters()} == {torch.float32}
    assert {p.dtype for p in net.parameters()} == {dtype}  # the given one is left alone
    assert codec.decode(torch.full((1, 4, 4, 4), 3e4)).isfinite().all()


def test_what_is_no_frozen_autoencoder_is_refused():
    with pytest.raises(OptionError, match=r"in training mode\. Freeze it: model\.eval\(\)\.requires_grad_\(False\)"):
        LatentCodec(Autoencoder(1, factor=2, width=8).requires_grad_(False))
    with pytest.raises(OptionError, match=r"not frozen: \d+ of its weights"):
        LatentCodec(Autoencoder(1, factor=2, width=8).eval())
    with pytest.raises(OptionError, match="Linear lacks encode"):
        LatentCodec(nn.Linear(1, 1).eval().requires_grad_(False))
    codec = LatentCodec(autoencoder(), 1.0)
    codec.model.train()
    with pytest.raises(OptionError, match="in training mode"):
        codec.encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(OptionError, match="in training mode"):
        codec.decode(torch.zeros(1, 4, 4, 4))


def test_numbers_and_shapes_that_do_not_fit_are_refused():
    net = autoencoder()
    with pytest.raises(OptionError, match="scale must be positive, got 0"):
        LatentCodec(net, 0.0)
    with pytest.raises(OptionError, match="scale must be finite"):
        LatentCodec(net, float("nan"))
    with pytest.raises(OptionError, match="chunk must be at least 1"):
        LatentCodec(net, chunk=0)
    with pytest.raises(ShapeError, match=r"divisible by the autoencoder's factor 2, got 9 x 8"):
        LatentCodec(net).encode(torch.zeros(1, 1, 9, 8))
    with pytest.raises(ShapeError, match=r"a scale for 3 channels, the latents are \(1, 4, 4, 4\)"):
        LatentCodec(net, [1.0, 2.0, 3.0]).encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(OptionError, match="encode returned str, which is no latent"):
        LatentCodec(Functions(lambda x: "z", lambda z: z, name="text")).encode(torch.zeros(1, 1))
    with pytest.raises(OptionError, match="decode returned str, which is no picture"):
        LatentCodec(Functions(lambda x: x, lambda z: "x", name="text")).decode(torch.zeros(1, 1))
    with pytest.raises(ShapeError, match="gave 1 rows for 3 pictures"):
        LatentCodec(Functions(lambda x: x[:1], lambda z: z, name="one")).encode(torch.zeros(3, 1))


def test_the_hash_is_of_class_configuration_and_weights_not_of_scale():
    net = autoencoder()
    assert LatentCodec(net, 1.0).hash == LatentCodec(autoencoder(), 2.0).hash
    assert LatentCodec(net, 1.0).fingerprint != LatentCodec(net, 2.0).fingerprint
    assert LatentCodec(net).hash != LatentCodec(autoencoder(seed=1)).hash
    a, b = (Functions(lambda x: x, lambda z: z, name=n) for n in ("a", "b"))
    assert LatentCodec(a).hash != LatentCodec(b).hash


def test_a_codec_is_saved_whole_and_read_again(tmp_path):
    codec = LatentCodec(autoencoder(3, 4), [1.0, 2.0, 3.0, 4.0], 0.25, delivers=(0.0, 1.0))
    again = LatentCodec.read(codec.save(tmp_path / "codec"))
    assert (again.scale, again.shift, again.delivers) == (codec.scale, codec.shift, codec.delivers)
    assert again.hash == codec.hash
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(again.encode(x), codec.encode(x))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codec"]  # nothing half-written beside it
    with pytest.raises(RunError, match="exists already"):
        codec.save(tmp_path / "codec")


def test_damaged_foreign_and_absent_codecs_are_refused(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        LatentCodec.read(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds neither codec\.json nor a run"):
        LatentCodec.read(tmp_path / "empty")
    path = LatentCodec(autoencoder(), 1.0).save(tmp_path / "codec")
    about = json.loads((path / "codec.json").read_text())
    for change, match in (
        ({"format": 9}, "has format 9, this rheos reads 1"),
        ({"hash": "0"}, "was changed after it was written"),
        ({"model": {"kind": "Autoencoder", "channels": 3}}, "was written for another autoencoder"),
        ({"scale": {"a": 1}}, "is no codec of rheos"),
    ):
        (path / "codec.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(CheckpointError, match=match):
            LatentCodec.read(path)
    (path / "codec.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        LatentCodec.read(path)
    (path / "codec.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is no file of rheos"):
        LatentCodec.read(path)
    (path / "codec.json").write_text(json.dumps(about))
    (path / "autoencoder.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        LatentCodec.read(path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"field": {"net": {"kind": "UNet"}}}))
    with pytest.raises(DataError, match="is the run of UNet, not of an autoencoder"):
        LatentCodec.read(tmp_path / "run")


def small_kl(**more):
    import diffusers

    net = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4, **more,
    )  # fmt: skip
    return net.eval().requires_grad_(False)


def test_diffusers_autoencoder_brings_scale_and_shift_and_is_read_from_a_file(tmp_path):
    net = small_kl(scaling_factor=0.5, shift_factor=0.1)
    codec = LatentCodec(net)
    x = torch.randn(2, 3, 8, 8)
    posterior = net.encode(x).latent_dist
    assert (codec.scale, codec.shift, codec.factor) == (0.5, 0.1, 2)
    torch.testing.assert_close(codec.encode(x), (posterior.mean - 0.1) * 0.5)
    noise = Draws(row_seeds(0, 2)).normal(posterior.mean, "posterior")
    torch.testing.assert_close(
        codec.encode(x, Draws(row_seeds(0, 2))), (posterior.mean + posterior.std * noise - 0.1) * 0.5
    )
    z = torch.randn(2, 4, 4, 4)
    torch.testing.assert_close(codec.decode(z), net.decode(z / 0.5 + 0.1).sample)
    again = LatentCodec.read(codec.save(tmp_path / "kl"))
    assert torch.equal(again.encode(x), codec.encode(x))
    assert again.hash == codec.hash


def test_means_and_deviations_of_channels_are_read_as_the_adapters_read_them():
    from rheos.adapters.surroundings import _scaling

    net = small_kl(latents_mean=[0.0, 1.0, 2.0, 3.0], latents_std=[1.0, 2.0, 4.0, 8.0], scaling_factor=0.5)
    codec, z = LatentCodec(net), torch.randn(2, 4, 4, 4)
    scale, shift = _scaling(net, z)
    torch.testing.assert_close(codec.decode(z), net.decode(z / scale + shift).sample)


def test_diffusers_tiny_autoencoder_has_no_posterior():
    import diffusers

    net = diffusers.AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    codec = LatentCodec(net.eval().requires_grad_(False))
    x = torch.rand(2, 3, 16, 16)
    assert codec.factor == 8
    assert torch.equal(codec.encode(x, Draws(row_seeds(0, 2))), codec.encode(x))
    assert codec.decode(codec.encode(x)).shape == x.shape


def test_batches_of_latents_have_the_posteriors_mean_and_variance(digits):
    one = digits.subset(torch.zeros(4000, dtype=torch.int64))  # the same picture again and again
    codec = LatentCodec(autoencoder()).fit_scale(digits)
    latents = encoded(one, codec)
    rows = torch.arange(4000)
    z = latents.batch(rows, Draws.training(0, 7, 4000)).x.double()
    mean, std = (v[0].double() for v in codec.moments(one.batch(rows[:1]).x))
    error = std * codec.scale / 4000**0.5
    assert float(((z.mean(0) - mean * codec.scale).abs() / error).max()) < 4.5  # 64 numbers, standard errors
    assert float((z.std(0) / (std * codec.scale) - 1).abs().max()) < 4.5 * (2 * 4000) ** -0.5
    assert (latents.batch(rows[:2], Draws.training(0, 8, 2)).x - z[:2]).abs().max() > 0.01  # fresh in each step


def test_without_draws_a_batch_has_the_means(digits):
    codec = LatentCodec(autoencoder(), 2.0, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        latents = encoded(digits, codec)
    x = digits.batch(torch.arange(5)).x
    torch.testing.assert_close(latents.batch(torch.arange(5)).x, codec.encode(x), rtol=0, atol=1e-5)


def test_mirrored_rows_are_latents_of_mirrored_pictures(digits):
    codec = LatentCodec(autoencoder()).fit_scale(digits)
    mirrored = replace(digits, flip=True)
    latents = encoded(mirrored, LatentCodec(Functions(lambda x: x, lambda z: z, name="same"), 1.0))
    rows, draws = torch.arange(90), Draws.training(0, 3, 90)
    assert torch.equal(latents.batch(rows, draws).x, mirrored.batch(rows, draws).x)  # the same flips as of pictures
    both = encoded(mirrored, codec)
    x = digits.batch(rows[:4]).x
    torch.testing.assert_close(both.x[:4, 1, 0], codec.moments(x.flip(-1)).mean, rtol=0, atol=1e-5)
    assert (both.x[:4, 1, 0] - both.x[:4, 0, 0].flip(-1)).abs().max() > 0.01  # not the mirrored latent


def test_labels_stay_with_their_latents_and_pictures_come_back(digits):
    codec = LatentCodec(Functions(lambda x: 4 * x, lambda z: z / 4, name="four"), 0.25)
    latents = encoded(digits, codec)
    some = latents.where(3)
    assert set(some.columns["label"].tolist()) == {3}
    assert torch.equal(some.to_pictures(some.batch(torch.arange(2)).x), digits.where(3).x[:2])
    assert (latents.shape, latents.layout, latents.delivers, latents.visible) == ((1, 8, 8), "CHW", None, True)


def test_a_cache_is_read_in_place_of_encoding_and_holds_what_encoding_gives(digits, tmp_path, monkeypatch):
    codec = LatentCodec(autoencoder(), chunk=32).fit_scale(digits)
    file = tmp_path / "deep" / "latents.safetensors"
    first = encoded(digits, codec, cache=file)
    assert torch.equal(first.x, encoded(digits, codec).x)
    monkeypatch.setattr(LatentCodec, "moments", lambda self, x: pytest.fail("it was encoded again"))
    again = encoded(digits, codec, cache=file)
    assert torch.equal(first.x, again.x)
    assert first.fingerprint == again.fingerprint
    assert [p.name for p in file.parent.iterdir()] == ["latents.safetensors"]


def test_another_scale_needs_no_other_cache(digits, tmp_path):
    codec = LatentCodec(autoencoder()).fit_scale(digits)
    file = tmp_path / "l.safetensors"
    a, b = (encoded(digits, codec.rescaled(codec.scale * f), cache=file) for f in (1, 2))
    rows = torch.arange(3)
    torch.testing.assert_close(2 * a.batch(rows).x, b.batch(rows).x)
    assert a.fingerprint != b.fingerprint


def test_a_cache_of_another_autoencoder_or_other_pictures_is_refused(digits, tmp_path):
    file = tmp_path / "l.safetensors"
    codec = LatentCodec(autoencoder()).fit_scale(digits)
    encoded(digits, codec, cache=file)
    with pytest.raises(DataError, match="holds latents of another autoencoder"):
        encoded(digits, LatentCodec(autoencoder(seed=1)), cache=file)
    with pytest.raises(DataError, match="holds latents of other pictures"):
        encoded(digits.subset(torch.arange(90).flip(0)), codec, cache=file)
    with pytest.raises(DataError, match="holds latents of another choice of flip"):
        encoded(replace(digits, flip=True), codec, cache=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="truncated or no safetensors file"):
        encoded(digits, codec, cache=file)
    from safetensors.torch import save_file

    save_file({"moments": torch.zeros(1)}, file)
    with pytest.raises(DataError, match="holds no latents of rheos"):
        encoded(digits, codec, cache=file)


def test_encoding_that_is_cut_short_leaves_no_file(digits, tmp_path, monkeypatch):
    codec = LatentCodec(autoencoder(), 1.0, chunk=40)
    real, calls = LatentCodec.moments, []

    def stops(self, x):
        calls.append(len(x))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, x)

    monkeypatch.setattr(LatentCodec, "moments", stops)
    with pytest.raises(KeyboardInterrupt):
        encoded(digits, codec, cache=tmp_path / "l.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_kept_in_memory_with_a_note(digits, tmp_path):
    (tmp_path / "file").write_text("in the way")
    latents = encoded(digits, LatentCodec(autoencoder()), cache=tmp_path / "file" / "l.safetensors")
    assert any("kept in memory" in note for note in latents.notes)


def test_latents_are_mapped_into_memory_not_read(digits, tmp_path):
    maps = tmp_path / "l.safetensors"
    latents = encoded(digits, LatentCodec(autoencoder()), cache=maps)
    with Path("/proc/self/maps").open() as found:
        assert any(str(maps) in line for line in found)
    assert latents.x.is_contiguous()


def test_a_set_of_latents_is_read_again_by_its_spec(tmp_path):
    codec = LatentCodec(autoencoder(), 1.0)
    codec.save(tmp_path / "codec")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        latents = load("digits", limit=50, flip=True, codec=tmp_path / "codec")
        assert json.loads(json.dumps(latents.spec)) == latents.spec
        assert load(**latents.spec).fingerprint == latents.fingerprint
        part = latents.split(0.2, seed=1)[0]
        assert load(**part.spec).fingerprint == part.fingerprint
    assert len(list((tmp_path / "codec" / "latents").iterdir())) == 2  # of all rows, and of the part


def test_a_scale_that_was_fitted_on_all_rows_is_not_that_of_a_part(tmp_path, digits):
    LatentCodec(autoencoder()).save(tmp_path / "codec")
    latents = load("digits", limit=50, codec=tmp_path / "codec")
    assert any("latents' scale is" in note for note in latents.notes)
    assert load(**latents.spec).fingerprint == latents.fingerprint
    assert latents.split(0.2)[0].spec["source"] is None


def test_a_scale_that_belongs_to_another_autoencoder_is_warned_of(digits):
    right = LatentCodec(autoencoder()).fit_scale(digits)
    with pytest.warns(UserWarning, match=rf"standard deviation is 10.*fit_scale\(data\) gives {right.scale:.4g}"):
        encoded(digits, right.rescaled(10 * right.scale))
    encoded(digits, right.rescaled(2 * right.scale))  # a factor of two is nobody's business


def test_sets_that_hold_no_pictures_for_the_codec_are_refused(digits):
    codec = LatentCodec(autoencoder())
    latents = encoded(digits, codec)
    with pytest.raises(DataError, match="holds latents already"):
        encoded(latents, codec)
    with pytest.raises(DataError, match="Only pictures"):
        encoded(load("moons", limit=9), codec)
    with pytest.raises(DataError, match=r"made for pictures in \(0, 1\), the set delivers \(-1\.0, 1\.0\)"):
        encoded(digits, LatentCodec(autoencoder(), delivers=(0, 1)))
    with pytest.raises(OptionError, match="this codec has none: save it first"):
        encoded(digits, codec, cache="auto")
    with pytest.raises(OptionError, match="encode the pictures with flip=True"):
        replace(latents, flip=True)


def test_flips_that_would_leave_a_condition_behind_are_refused(digits):
    columns = {**digits.columns, "known": torch.zeros(90, 1, 8, 8)}
    with pytest.raises(OptionError, match=r"mirror the samples but not the condition 'known' of shape \(1, 8, 8\)"):
        replace(digits, columns=columns, conditions=("known",), flip=True)


def test_latents_cannot_be_saved_as_pictures_but_pictures_can(digits, tmp_path):
    save(digits, tmp_path / "d.npz")
    latents = load(tmp_path / "d.npz", codec=LatentCodec(autoencoder()).save(tmp_path / "codec"))
    assert latents.shape == (4, 4, 4)


def test_sums_in_pieces_equal_sums_of_all():
    x, std = torch.randn(50, 3, 4, 4).double(), torch.rand(50, 3, 4, 4).double()
    spread = Spread()
    for part in torch.arange(50).split(7):
        spread.add(x[part], std[part])
    torch.testing.assert_close(spread.mean, x.mean((0, 2, 3)), rtol=0, atol=ROUNDING)
    expected = x.var((0, 2, 3), correction=0) + std.square().mean((0, 2, 3))
    torch.testing.assert_close(spread.variance, expected, rtol=0, atol=1e-11)
    total = x.var(correction=0) + std.square().mean()
    assert spread.std == pytest.approx(float(total.sqrt()), abs=1e-11)


def test_a_hole_is_a_function_of_its_own_stream():
    draws = Draws(row_seeds(5, 20))
    all_at_once = Holes()(draws, 24, 16)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Holes()(draws.select(order), 24, 16), all_at_once[order])
    assert set(all_at_once.unique().tolist()) == {0.0, 1.0}
    assert len({float(h.mean()) for h in all_at_once}) > 15


def test_a_box_alone_covers_its_sides():
    fixed = Holes(strokes=(0, 0), boxes=(1, 1), side=(0.5, 0.5))
    hole = fixed(Draws(row_seeds(0, 200)), 32, 64)
    areas = hole.sum((1, 2, 3))
    assert set(areas.tolist()) <= {16.0 * 32.0}  # half of either side, wherever it lies
    assert float(hole.mean((0, 1)).std()) > 0.1  # and it lies in many places


def test_a_stroke_is_as_thick_as_it_says_and_as_long_as_its_reach():
    g = Holes(strokes=(1, 1), corners=1, reach=0.5, thickness=(0.1, 0.1), boxes=(0, 0))
    areas = g(Draws(row_seeds(0, 2000)), 64, 64).sum((1, 2, 3))
    radius = 3.2
    assert float(areas.max()) <= 2 * radius * 32 + 3.15 * radius**2 + 70  # a capsule, and its pixels' rims
    assert float(areas.mean()) > 2 * radius * 10


def test_counts_of_strokes_and_boxes_lie_between_their_limits():
    none_or_one = Holes(strokes=(0, 0), boxes=(0, 1), side=(0.5, 0.5))(Draws(row_seeds(1, 4000)), 8, 8)
    share = float((none_or_one.sum((1, 2, 3)) > 0).double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / 4000**0.5  # standard error of a fair coin


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"strokes": (3, 1)}, "strokes must be two increasing"),
        ({"side": (0.5, 2.0)}, "side must be two increasing"),
        ({"corners": 0}, "corners and reach must be positive"),
        ({"strokes": (0, 0), "boxes": (0, 0)}, "nothing is hidden"),
    ],
)
def test_holes_out_of_range_are_refused(options, match):
    with pytest.raises(OptionError, match=match):
        Holes(**options)


def test_halves_hide_the_half_that_they_name():
    hole = halves(1, 4, 6, "right")[0, 0]
    assert hole[:, 3:].all()
    assert not hole[:, :3].any()
    from rheos.core.errors import UnknownOptionError

    with pytest.raises(UnknownOptionError, match="half 'botom' is unknown"):
        halves(1, 4, 4, "botom")


def test_masks_of_other_values_shapes_or_polarity_do_not_pass_in_silence():
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(OptionError, match=r"got values from 0 to 0\.5"):
        check_hole(torch.tensor([0.0, 0.5]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4), x)
    with pytest.raises(ShapeError, match=r"\(2, 1, 4, 4\), got \(2, 4, 4\)"):
        check_hole(torch.zeros(2, 4, 4), x)
    with pytest.warns(UserWarning, match="100% of the pictures is hidden"):
        check_hole(torch.ones(2, 1, 4, 4), x)
