"""Other libraries' models as fields, and our solvers in their form: diffusers, k-diffusion, azula."""

from rheos.adapters.azula import AzulaDenoiser, as_azula, from_azula
from rheos.adapters.calls import CALLS, Call, DiTCall, FluxCall, SD3Call, UNetCall, UNetConditionCall, WanCall
from rheos.adapters.kdiffusion import KDenoiser, as_kdiffusion, from_kdiffusion, kdiffusion_sampler
from rheos.adapters.latent import LatentField, from_diffusers, network_of, parts, surround
from rheos.adapters.recipes import Recipe, from_scheduler
from rheos.adapters.scheduler import as_diffusers
from rheos.adapters.semantics import Semantics, semantics
from rheos.adapters.surroundings import open_pipeline
from rheos.adapters.table import StepTable

__all__ = [
    "CALLS",
    "AzulaDenoiser",
    "Call",
    "DiTCall",
    "FluxCall",
    "KDenoiser",
    "LatentField",
    "Recipe",
    "SD3Call",
    "Semantics",
    "StepTable",
    "UNetCall",
    "UNetConditionCall",
    "WanCall",
    "as_azula",
    "as_diffusers",
    "as_kdiffusion",
    "from_azula",
    "from_diffusers",
    "from_kdiffusion",
    "from_scheduler",
    "kdiffusion_sampler",
    "network_of",
    "open_pipeline",
    "parts",
    "semantics",
    "surround",
]
