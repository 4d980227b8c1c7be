"""Data sets in memory: embedded ones and the user's own; and autoencoders that make latents of pictures."""

from rheos.data.about import About, Coded
from rheos.data.arrays import save
from rheos.data.codecs import Functions, LatentCodec
from rheos.data.dataset import Batch, Data
from rheos.data.embedding import embedded, embedder
from rheos.data.holes import Holes
from rheos.data.latents import Latents, encoded
from rheos.data.loading import SOURCES, load
from rheos.data.ranges import check_range
from rheos.data.text import CLIPText, EmojiCaptions, Letters, MiniLM, T5Text
from rheos.data.toys import toy

__all__ = [
    "SOURCES",
    "About",
    "Batch",
    "CLIPText",
    "Coded",
    "Data",
    "EmojiCaptions",
    "Functions",
    "Holes",
    "LatentCodec",
    "Latents",
    "Letters",
    "MiniLM",
    "T5Text",
    "check_range",
    "embedded",
    "embedder",
    "encoded",
    "load",
    "save",
    "toy",
]
