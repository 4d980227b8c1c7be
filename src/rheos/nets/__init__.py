"""Networks that accept (x, t, **cond), and what surrounds them: attention taps, averages, counts."""

from rheos.nets.attention import Inner, Tap, attend, written_out
from rheos.nets.autoencoder import Autoencoder, Posterior, Reconstruction
from rheos.nets.base import Net
from rheos.nets.classifier import FeatureNet
from rheos.nets.conditioning import Conditioning, time_features
from rheos.nets.conditions import Conditions
from rheos.nets.count import flops, parameters
from rheos.nets.dit import DiT
from rheos.nets.edm import EDM
from rheos.nets.ema import EMA
from rheos.nets.lora import LoRA
from rheos.nets.mlp import MLP
from rheos.nets.multires import MultiRes
from rheos.nets.source_encoder import Latent, SourceEncoder, TokenEncoder, VectorEncoder
from rheos.nets.source_picture import PictureEncoder, Upsampled
from rheos.nets.suggest import suggest
from rheos.nets.text_autoencoder import TextAutoencoder
from rheos.nets.tower import PictureTower, Tower, VectorTower
from rheos.nets.two_times import TwoTimeAdapter
from rheos.nets.unet import UNet

__all__ = [
    "EDM",
    "EMA",
    "MLP",
    "Autoencoder",
    "Conditioning",
    "Conditions",
    "DiT",
    "FeatureNet",
    "Inner",
    "Latent",
    "LoRA",
    "MultiRes",
    "Net",
    "PictureEncoder",
    "PictureTower",
    "Posterior",
    "Reconstruction",
    "SourceEncoder",
    "Tap",
    "TextAutoencoder",
    "TokenEncoder",
    "Tower",
    "TwoTimeAdapter",
    "UNet",
    "Upsampled",
    "VectorEncoder",
    "VectorTower",
    "attend",
    "flops",
    "parameters",
    "suggest",
    "time_features",
    "written_out",
]
