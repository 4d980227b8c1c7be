"""Codecs: what goes in comes out, under the worst noise that they may add."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheos.core import Draws, config, row_seeds
from rheos.core.errors import ConditionError, OptionError, ShapeError, UnknownOptionError
from rheos.data.codecs import LatentCodec
from rheos.nets.autoencoder import Autoencoder
from rheos.train import LatentCode, OneHotCode, PaletteCode, ScalarCode
from rheos.train.latents import decoded, encoded

PICTURE = (1, 6, 5)
MAKERS = {"one-hot": OneHotCode, "scalar": ScalarCode, "palette": PaletteCode}
FORMS = ("vector", "map", "mask")


def labels_of(classes: int, form: str) -> torch.Tensor:
    every = torch.arange(classes)
    if form != "mask":
        return every
    return (torch.arange(classes * 30) % classes).reshape(classes, 6, 5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("classes", [2, 3, 10, 60])
@pytest.mark.parametrize("name", MAKERS)
def test_every_class_survives_the_round_trip_with_noise(name: str, classes: int, form: str) -> None:
    codec, labels = MAKERS[name](classes, form), labels_of(classes, form)
    y = codec.encode(labels, PICTURE, Draws(row_seeds(3, classes)))
    assert tuple(y.shape[1:]) == codec.shape(PICTURE)
    assert torch.equal(codec.decode(y), labels)


@pytest.mark.parametrize("classes", [2, 5, 10])
@pytest.mark.parametrize("name", MAKERS)
def test_the_half_gap_holds_at_the_corners_of_the_noise_that_point_at_a_neighbour(name: str, classes: int) -> None:
    codec = MAKERS[name](classes)
    for a in range(classes):
        for b in range(classes):
            if a != b:
                worst = codec.words[a] + codec.noise * (codec.words[b] - codec.words[a]).sign()
                assert int(codec.decode(worst[None])) == a
    assert codec.margin > 0


def test_the_scalar_code_is_the_papers_formula() -> None:
    codec, k = ScalarCode(10, beta=4.0), torch.arange(10)
    expected = 4 / 2 * (2 * k / 9 - 1)
    torch.testing.assert_close(codec.words[:, 0], expected.double(), rtol=1e-6, atol=1e-7)
    assert codec.noise == pytest.approx(4 / 2 / 9 / 2)  # half of the interval (beta / 2) / (K - 1)
    spacing = 4 / 2 * 2 / 9
    assert spacing > 2 * codec.noise


@given(m=st.floats(-5, 5), classes=st.integers(2, 20))
def test_the_scalar_code_is_read_by_rounding_and_clamping_its_mean(m: float, classes: int) -> None:
    unit = (m / 2 / 2 + 0.5) * (classes - 1)
    if abs(unit - round(unit)) > 0.49:  # a tie, which rounding to even and the nearest word break differently
        return
    y = torch.full((1, 1, 2, 2), m, dtype=torch.float64)
    assert int(ScalarCode(classes, "map").decode(y)) == min(max(round(unit), 0), classes - 1)


def test_the_one_hot_words_are_a_centred_simplex_of_the_given_spacing_and_by_default_of_twice_the_noises_power() -> (
    None
):
    words = OneHotCode(7, spacing=3.0).words
    apart = torch.cdist(words, words)[~torch.eye(7, dtype=torch.bool)]
    torch.testing.assert_close(apart, torch.full_like(apart, 3.0))
    torch.testing.assert_close(words.sum(0), torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(OneHotCode(7).words.square().mean()) == pytest.approx(2.0)


def test_the_palette_of_a_grid_is_spread_over_all_of_it() -> None:
    assert PaletteCode(64).palette.tolist() == [
        [75 * a, 75 * b, 75 * c] for a in range(4) for b in range(4) for c in range(4)
    ]
    palette = PaletteCode(182, "mask", grid=(6, 50), beta=6.0).palette
    assert len(palette.unique(dim=0)) == 182
    assert palette[0].tolist() == [0, 0, 0]
    assert palette[-1].tolist() == [250, 250, 250]


def test_palette_noise_is_the_papers_interval() -> None:
    y = PaletteCode(2, "map", beta=10.0).encode(
        torch.zeros(64, dtype=torch.int64), (3, 16, 16), Draws(row_seeds(0, 64))
    )
    noise = (y + 1) * 127.5  # colour 0 is -1
    assert float(noise.abs().max()) <= 5.0 + 1e-3  # float32 at 127
    assert float(noise.abs().max()) > 4.99
    assert float(noise.var()) == pytest.approx(100 / 12, rel=0.02)  # 49,152 draws: a standard error of 0.4 %


def test_painted_masks_are_read_back() -> None:
    codec = PaletteCode(5, "mask", ignore=255)
    masks = labels_of(5, "mask")
    assert torch.equal(codec.read(codec.paint(masks)), masks)
    holes = masks.clone()
    holes[0, 0, 0] = 255
    assert codec.paint(holes)[0, :, 0, 0].tolist() == [255, 255, 255]


def test_pools_agree_where_all_pixels_do_and_the_mode_outvotes_an_outlier() -> None:
    y = torch.zeros(1, 1, 3, 3)
    y[0, 0] = -2.0  # class 0 of 5
    y[0, 0, 0, :2] = 40.0
    by_mean, by_mode = ScalarCode(5, "map"), ScalarCode(5, "map", pool="mode")
    assert int(by_mean.decode(y)) == 4
    assert int(by_mode.decode(y)) == 0
    torch.testing.assert_close(by_mode.scores(y)[0], torch.tensor([7 / 9, 0, 0, 0, 2 / 9], dtype=torch.float64))
    flat = torch.full((1, 1, 3, 3), 1.1)
    assert {int(ScalarCode(5, "map", pool=p).decode(flat)) for p in ("mean", "distance", "mode")} == {3}


def test_distances_double_as_scores() -> None:
    codec = PaletteCode(4, "map")
    y = codec.words[2].float()[None, :, None, None].expand(1, 3, 4, 4)
    scores = codec.scores(y)[0].double()
    torch.testing.assert_close(
        -scores, torch.cdist(codec.words[2:3], codec.words)[0], rtol=0, atol=2e-3
    )  # sqrt of 1e-7


def test_a_row_of_codes_depends_on_its_own_seed_alone() -> None:
    codec, labels, seeds = OneHotCode(3, "map"), torch.tensor([2, 0, 1]), row_seeds(0, 3)
    whole = codec.encode(labels, PICTURE, Draws(seeds))
    assert torch.equal(codec.encode(labels[1:2], PICTURE, Draws(seeds[1:2])), whole[1:2])


def test_noise_of_the_grain_of_a_map_leaves_it_constant() -> None:
    codec, labels = OneHotCode(3, "map", grain="map"), torch.arange(3)
    y = codec.encode(labels, PICTURE, Draws(row_seeds(0, 3)))
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y))
    assert float((y - codec.encode(labels, PICTURE)).abs().min()) > 0
    assert torch.equal(codec.decode(y), labels)
    with pytest.raises(OptionError, match="whole map needs the form 'map', got 'mask'"):
        OneHotCode(3, "mask", grain="map")


def test_maps_take_a_size_of_their_own() -> None:
    codec = OneHotCode(3, "map", size=(2, 4))
    assert codec.encode(torch.tensor([1]), PICTURE).shape == (1, 3, 2, 4)


def test_ignored_pixels_have_the_code_zero_and_are_named() -> None:
    codec = OneHotCode(3, "mask", ignore=255)
    masks = torch.tensor([[[0, 255], [2, 1]]])
    y = codec.encode(masks, (1, 2, 2), Draws(row_seeds(0, 1)))
    assert y[0, :, 0, 1].abs().max() == 0
    ignored = codec.ignored(masks)
    assert ignored is not None
    assert ignored.tolist() == [[[False, True], [False, False]]]
    assert OneHotCode(3, "mask").ignored(masks) is None


COLOURS = ((0, 0, 0), (9, 99, 0), (0, 0, 200))


@pytest.mark.parametrize(
    "codec", [OneHotCode(4, "map", spacing=2.0), PaletteCode(3, colours=COLOURS), ScalarCode(3, ignore=9)]
)
def test_codecs_are_plain_values(codec: OneHotCode) -> None:
    assert config.load(config.dump(codec)) == codec


class Halves:
    """An autoencoder that halves pictures: its posterior has the mode x / 2 and a standard deviation of 1."""

    mean: torch.Tensor
    std: torch.Tensor

    def encode(self, x: torch.Tensor) -> "Halves":
        self.mean, self.std = x / 2, torch.ones_like(x)
        return self

    @property
    def latent_dist(self) -> "Halves":
        return self

    def mode(self) -> torch.Tensor:
        return self.mean

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return 2 * z


def test_latent_codes_take_the_mode_and_pictures_a_sample() -> None:
    vae, x = Halves(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(encoded(vae, x, 0.18215), x / 2 * 0.18215)
    draws = Draws(row_seeds(0, 2))
    torch.testing.assert_close(encoded(vae, x, 0.5, draws=draws), (x / 2 + draws.normal(x, "posterior")) * 0.5)
    torch.testing.assert_close(decoded(vae, encoded(vae, x, 0.3, 0.1), 0.3, 0.1), x)
    codec = LatentCode(PaletteCode(4, "map"), vae, 0.18215)
    y = codec.encode(torch.arange(4), (3, 4, 4))
    assert codec.shape((3, 4, 4)) == tuple(y.shape[1:])
    assert torch.equal(codec.decode(y), torch.arange(4))


def test_our_own_autoencoders_and_latent_codecs_are_understood() -> None:
    torch.manual_seed(0)
    net = Autoencoder(3, latent=2, factor=2, width=8, blocks=1).eval().requires_grad_(False)
    codec, x, draws = LatentCodec(net, scale=0.7, shift=0.1), torch.rand(2, 3, 8, 8), Draws(row_seeds(0, 2))
    mean, std = net.encode(x)
    assert std is not None
    sampled = mean + std * draws.normal(mean, "posterior")
    torch.testing.assert_close(encoded(net, x, 0.7, 0.1, draws), (sampled - 0.1) * 0.7)
    torch.testing.assert_close(encoded(codec, x, draws=draws), (sampled - 0.1) * 0.7)
    torch.testing.assert_close(decoded(codec, encoded(codec, x)), net.decode(mean), rtol=1e-4, atol=1e-5)
    assert LatentCode(PaletteCode(4, "map"), codec).shape((3, 8, 8)) == (2, 4, 4)


def test_bad_codecs_are_refused_with_the_way_out() -> None:
    with pytest.raises(OptionError, match=r"4\^3 = 64 colours is too small for 65 classes.*more levels"):
        PaletteCode(65)
    with pytest.raises(OptionError, match=r"overlap.*smaller beta"):
        PaletteCode(64, beta=75.0)  # half-gaps are 37.5
    with pytest.raises(OptionError, match="overlap"):
        PaletteCode(2, colours=((1, 1, 1), (1, 1, 1)))
    with pytest.raises(OptionError, match="2 colours for 3 classes"):
        PaletteCode(3, colours=((1, 1, 1), (1, 1, 9)))
    with pytest.raises(OptionError, match=r"colours \(r, g, b\) in 0..255"):
        PaletteCode(2, colours=((1, 1, 1), (1, 1, 999)))
    with pytest.raises(OptionError, match="levels - 1"):
        PaletteCode(2, grid=(4, 100))
    with pytest.raises(OptionError, match=r"overlap.*beta below 1"):
        OneHotCode(3, beta=1.0)
    with pytest.raises(OptionError, match="spacing must be positive"):
        OneHotCode(3, spacing=0.0)
    with pytest.raises(OptionError, match=r"overlap.*positive beta"):
        ScalarCode(3, beta=0.0)
    with pytest.raises(OptionError, match="at least 2, got 1"):
        ScalarCode(1)
    with pytest.raises(OptionError, match=r"outside the classes 0 .. 2, got 2"):
        OneHotCode(3, "mask", ignore=2)
    with pytest.raises(OptionError, match="size is of maps and masks"):
        OneHotCode(3, "vector", size=(2, 2))
    with pytest.raises(UnknownOptionError, match=r"form 'maks'.*'mask'"):
        OneHotCode(3, "maks")  # type: ignore[arg-type]
    with pytest.raises(UnknownOptionError, match="pool"):
        OneHotCode(3, pool="median")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="'map' or 'mask'"):
        LatentCode(OneHotCode(3), Halves())


def test_bad_labels_and_codes_are_refused_with_the_way_out() -> None:
    masks = torch.full((1, 6, 5), 255)
    with pytest.raises(
        ConditionError, match=r"0 .. 2, got 255\. If that marks pixels without a class, give it as ignore"
    ):
        OneHotCode(3, "mask").encode(masks, PICTURE)
    with pytest.raises(ConditionError, match=r"0 .. 2, got -1"):
        OneHotCode(3).encode(torch.tensor([-1]), PICTURE)
    with pytest.raises(ConditionError, match=r"whole numbers 0 .. 2, got torch.float32"):
        OneHotCode(3).encode(torch.zeros(1), PICTURE)
    with pytest.raises(ShapeError, match=r"encodes masks \(B, 6, 5\), got \(1, 3, 3\)"):
        OneHotCode(3, "mask").encode(masks[:, :3, :3], PICTURE)
    with pytest.raises(ShapeError, match=r"encodes labels \(B\), got \(1, 6, 5\)"):
        OneHotCode(3).encode(masks, PICTURE)
    with pytest.raises(ShapeError, match="lies beside pictures"):
        OneHotCode(3, "map").encode(torch.tensor([1]), (7,))
    with pytest.raises(ShapeError, match=r"3 channels and 4 axes, got shape \(1, 1, 6, 5\)"):
        PaletteCode(3, "mask").decode(torch.zeros(1, 1, 6, 5))
    with pytest.raises(ShapeError, match="A mask that holds class numbers already needs no palette"):
        PaletteCode(3, "mask").read(torch.zeros(1, 1, 6, 5, dtype=torch.uint8))


def test_what_is_no_autoencoder_is_refused() -> None:
    with pytest.raises(OptionError, match="lacks encode"):
        encoded(object(), torch.zeros(1))
    with pytest.raises(OptionError, match=r"Words.decode returned str; a tensor"):
        decoded(Words(), torch.zeros(1))


class Words:
    def decode(self, z: torch.Tensor) -> str:
        return "words"
