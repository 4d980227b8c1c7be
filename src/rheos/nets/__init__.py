"""Networks that accept (x, t, **cond), and what surrounds them: attention taps, averages, counts."""

from rheos.nets.attention import Inner, Tap, attend, written_out
from rheos.nets.base import Net
from rheos.nets.classifier import FeatureNet
from rheos.nets.conditioning import Conditioning, time_features
from rheos.nets.conditions import Conditions
from rheos.nets.count import flops, parameters
from rheos.nets.dit import DiT
from rheos.nets.edm import EDM
from rheos.nets.ema import EMA
from rheos.nets.mlp import MLP
from rheos.nets.suggest import suggest
from rheos.nets.unet import UNet

__all__ = [
    "EDM",
    "EMA",
    "MLP",
    "Conditioning",
    "Conditions",
    "DiT",
    "FeatureNet",
    "Inner",
    "Net",
    "Tap",
    "UNet",
    "attend",
    "flops",
    "parameters",
    "suggest",
    "time_features",
    "written_out",
]
