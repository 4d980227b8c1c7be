"""Training: one loop for every objective, runs that survive, and reading them back."""

from rheos.train.autoencoder import Autoencoding, autoencoder, codec_of
from rheos.train.codes import OneHotCode, PaletteCode, ScalarCode
from rheos.train.concat import ConcatCondition, expand_in_conv
from rheos.train.crossflow import CrossFlow, SourceLosses
from rheos.train.crossnet import CrossNet
from rheos.train.drawing import Drawn, draw_run
from rheos.train.fit import fit
from rheos.train.latent_bound import W2Bound, latent_w2_bound
from rheos.train.lfm import LatentFlow, inpainting, latent_field
from rheos.train.options import Options
from rheos.train.pairnet import PairNet
from rheos.train.run import Run, load
from rheos.train.sampling import Sampling
from rheos.train.semantics import LatentCode, SemanticCodec
from rheos.train.symmflow import SymmFlow
from rheos.train.tokens import TokenCondition
from rheos.train.trackers import Tracker

__all__ = [
    "Autoencoding",
    "ConcatCondition",
    "CrossFlow",
    "CrossNet",
    "Drawn",
    "LatentCode",
    "LatentFlow",
    "OneHotCode",
    "Options",
    "PairNet",
    "PaletteCode",
    "Run",
    "Sampling",
    "ScalarCode",
    "SemanticCodec",
    "SourceLosses",
    "SymmFlow",
    "TokenCondition",
    "Tracker",
    "W2Bound",
    "autoencoder",
    "codec_of",
    "draw_run",
    "expand_in_conv",
    "fit",
    "inpainting",
    "latent_field",
    "latent_w2_bound",
    "load",
]
