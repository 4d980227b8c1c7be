from dataclasses import replace

import pytest
import torch

from rheos.core import FlowMatching
from rheos.core.errors import ConditionError
from rheos.core.field import Field
from rheos.data import Data, embedded, load
from rheos.nets import DiT
from rheos.train import CrossFlow, Options, SourceLosses, SymmFlow, fit, inpainting
from rheos.train.suggestions import network_for

MASKED = {"embedding", "embedding_mask"}
BRIEF = Options(batch=4, sample_every=0)


def digits(**columns):
    data = load("digits", limit=20)
    return replace(data, columns={**data.columns, **columns}, conditions=tuple(columns))


def trains(field, objective, data):
    run = fit(field, objective, data, steps=1, options=BRIEF, progress=False)
    return run.step == 1


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (load("digits", limit=20), {"label"}),
        (load("digits", limit=20, conditions=[]), set()),
        (digits(embedding=torch.randn(20, 5)), {"embedding"}),
        (digits(embedding=torch.randn(20, 4, 5)), {"embedding"}),
        (digits(embedding=torch.randn(20, 4, 5), embedding_mask=torch.rand(20, 4) < 0.5), MASKED),
        (digits(mask=torch.arange(20 * 64).reshape(20, 8, 8) % 3), {"mask"}),
        (digits(concat=torch.randn(20, 2, 8, 8)), {"concat"}),
        (inpainting(load("digits", limit=20)), {"label", "known", "hole"}),
        (load("moons", limit=20), set()),
    ],
)
def test_a_network_takes_what_batches_carry(data, names):
    net = network_for(data)
    assert net.conditions == names
    assert trains(Field(net), FlowMatching(), data)


def test_what_no_network_is_built_for_is_said():
    with pytest.raises(ConditionError, match=r"\(4, 5, 6\) numbers a text"):
        network_for(digits(embedding=torch.randn(20, 4, 5, 6)))
    with pytest.raises(ConditionError, match="tokens of captions beside mask"):
        network_for(digits(embedding=torch.randn(20, 4, 5), mask=torch.zeros(20, 8, 8).long()))
    flat = Data(torch.zeros(4, 3), {"embedding": torch.zeros(4, 3, 3)}, conditions=("embedding",))
    with pytest.raises(ConditionError, match="a transformer for pictures"):
        network_for(flat)
    large = Data(torch.zeros(1, 1, 97, 97), {"embedding": torch.zeros(1, 3, 3)}, conditions=("embedding",))
    with pytest.raises(ConditionError, match=r"97 x 97 cannot be cut.*--size 64"):
        network_for(large)
    with pytest.raises(ConditionError, match="'hole', but not 'known'"):
        network_for(digits(hole=torch.zeros(20, 1, 8, 8)))
    flat = Data(torch.zeros(4, 3), {"mask": torch.zeros(4, 3, 3).long()}, conditions=("mask",))
    with pytest.raises(ConditionError, match="are vectors"):
        network_for(flat)


@pytest.mark.parametrize(("side", "patch"), [(8, 1), (16, 2), (28, 4), (31, 1), (32, 4), (33, 3), (64, 8), (256, 16)])
def test_pictures_are_cut_into_about_64_patches_if_they_can_be(side, patch):
    data = Data(torch.zeros(1, 1, side, side), {"embedding": torch.zeros(1, 3, 3)}, conditions=("embedding",))
    assert network_for(data).net.config["patch"] == patch


@pytest.mark.parametrize(
    ("source", "objective", "encoder"),
    [
        (torch.randn(20, 6), CrossFlow("c"), "VectorEncoder"),
        (torch.randn(20, 5, 27), CrossFlow("c"), "VectorEncoder"),
        (torch.randn(20, 16, 384), CrossFlow("c"), "TokenEncoder"),
        (torch.randn(20, 3, 8, 8), CrossFlow("c"), "PictureEncoder"),
        (torch.randn(20, 1, 4, 4), CrossFlow("c"), "PictureEncoder"),
        (torch.randn(20, 1, 4, 4), CrossFlow("c", losses=SourceLosses(0, 0), unconditional=0), "Upsampled"),
        (torch.randn(20, 6), CrossFlow("c", losses=SourceLosses(contrastive=0, reconstruction=1)), "VectorEncoder"),
    ],
)
def test_an_encoder_fits_its_source_and_the_losses_have_what_they_need(source, objective, encoder):
    data = digits(c=source)
    field = objective.suggest(data)
    assert type(field.net.encoder).__name__ == encoder
    assert field.net.guided == bool(objective.unconditional)
    assert trains(field, objective, data)


def test_the_way_out_for_tokens_is_one():
    letters = embedded(load("digits", limit=20), lambda texts: torch.randn(len(texts), 5, 27), name="tokens")
    assert trains(Field(DiT(1, 8, dim=16, depth=1, tokens=5, token_dim=27)), FlowMatching(), letters)


@pytest.mark.parametrize("width", [16, 5])
def test_tokens_with_a_mask_get_an_encoder_that_takes_it_however_few(width):
    mask = torch.arange(7).expand(20, 7) < 1 + torch.arange(20)[:, None] % 7
    data = digits(embedding=torch.randn(20, 7, width), embedding_mask=mask)
    field = CrossFlow().suggest(data)
    assert type(field.net.encoder).__name__ == "TokenEncoder"
    run = fit(field, CrossFlow(), data, steps=1, options=BRIEF, progress=False)
    assert run.objective.mask == "embedding_mask"
    bare = replace(data, conditions=("embedding",))
    assert type(CrossFlow().suggest(bare).net.encoder).__name__ == "VectorEncoder"
    with pytest.raises(ConditionError, match="Use a TokenEncoder"):
        fit(CrossFlow().suggest(bare), CrossFlow(), data, steps=1, options=BRIEF, progress=False)


def test_large_targets_get_a_tower_of_patches():
    data = Data(torch.zeros(4, 3, 40, 40, dtype=torch.uint8), {"c": torch.randn(4, 6)}, conditions=("c",))
    assert type(CrossFlow("c").suggest(data).net.tower).__name__ == "PictureTower"
    with pytest.raises(ConditionError, match=r"data\.embed=minilm"):
        CrossFlow().suggest(data)


def test_a_pair_of_pictures_and_labels_or_masks():
    data = load("digits", limit=20)
    assert trains(SymmFlow().suggest(data), SymmFlow(), data)
    masks = digits(mask=torch.arange(20 * 64).reshape(20, 8, 8) % 3)
    assert SymmFlow(column="mask").suggest(masks).net.codec.classes == 3
    assert trains(SymmFlow(column="mask").suggest(masks), SymmFlow(column="mask"), masks)
    with pytest.raises(ConditionError, match="no column 'mask'"):
        SymmFlow(column="mask").suggest(data)


def test_pixels_of_255_are_no_class_and_classes_are_those_of_the_whole_set():
    masks = torch.zeros(20, 8, 8, dtype=torch.int64)
    masks[:, 0], masks[7] = 255, 4
    for part in digits(mask=masks).split(0.5):
        net = network_for(part)
        assert net.maps == 5
        assert trains(Field(net), FlowMatching(), part)
    wide = digits(mask=masks + (masks == 4))
    with pytest.raises(ConditionError, match=r"built for masks of 5 classes, those of the data have 6"):
        trains(Field(network_for(digits(mask=masks))), FlowMatching(), wide)
