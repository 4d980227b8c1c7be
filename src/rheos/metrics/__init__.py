"""Figures that say how good samples are, how straight the flow is, and what it cost.

Two sets of rows: `frechet`, `kernel_distance`, `mmd`, `wasserstein`, `sliced_wasserstein`, `prdc`, each with a
`standard_error`. Whether samples follow their conditions: `retrieval`. Trajectories: `straightness`, `path_energy`,
`transport_cost`, `turning`, `curvature`. Pictures against references: `psnr`, `ssim`. Masks: `mean_iou`. Cost: `Nfe`.
All compute in float64. Feature nets: `features`; a table's row of figures in one call: `quality`.
"""

from rheos.metrics.features import FeatureExtractor, FeatureNetInfo, features
from rheos.metrics.flowmaps import flow_map_consistency
from rheos.metrics.gaussian import frechet, frechet_gaussians
from rheos.metrics.jackknife import Estimate, standard_error
from rheos.metrics.kernels import kernel_distance, median_bandwidth, mmd
from rheos.metrics.neighbours import Prdc, prdc
from rheos.metrics.nfe import Nfe
from rheos.metrics.perceptual import LPIPS, FeatureMap, perceptual
from rheos.metrics.pictures import psnr, ssim
from rheos.metrics.report import Quality, quality
from rheos.metrics.retrieval import Retrieval, retrieval
from rheos.metrics.segmentation import class_iou, mean_iou
from rheos.metrics.trajectories import (
    curvature,
    normalised_path_energy,
    path_energy,
    straightness,
    transport_cost,
    turning,
)
from rheos.metrics.transport import sliced_wasserstein, wasserstein

__all__ = [
    "LPIPS",
    "Estimate",
    "FeatureExtractor",
    "FeatureMap",
    "FeatureNetInfo",
    "Nfe",
    "Prdc",
    "Quality",
    "Retrieval",
    "class_iou",
    "curvature",
    "features",
    "flow_map_consistency",
    "frechet",
    "frechet_gaussians",
    "kernel_distance",
    "mean_iou",
    "median_bandwidth",
    "mmd",
    "normalised_path_energy",
    "path_energy",
    "perceptual",
    "prdc",
    "psnr",
    "quality",
    "retrieval",
    "sliced_wasserstein",
    "ssim",
    "standard_error",
    "straightness",
    "transport_cost",
    "turning",
    "wasserstein",
]
