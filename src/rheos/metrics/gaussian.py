r"""The Fréchet distance: how far apart two sets are when each is summed up by its mean and covariance.

It is the squared 2-Wasserstein distance of two Gaussians, and with features of a classifier what is called
FID. For symmetric factors $C_i = F_i F_i^\top$ the covariance part is an orthogonal Procrustes problem,
$\min_R \lVert F_1 - F_2 R \rVert_F^2$. Solved in that form it is a sum of squares: never negative, exact for
singular covariances, and free of the cancellation of traces for sets that are nearly equal.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from rheos.core.errors import NonFiniteError, OptionError, ShapeError
from rheos.metrics._sets import pair

__all__ = ["frechet", "frechet_gaussians"]


def frechet(a: Float[Tensor, "_n *_d"], b: Float[Tensor, "_m *_d2"]) -> float:
    r"""Fréchet distance of two sets, $\lVert\mu_a-\mu_b\rVert^2 + \mathrm{tr}(C_a + C_b - 2(C_a C_b)^{1/2})$.

    Smaller is better; 0 means equal means and covariances, not equal sets. Finite sets bias it upwards, the
    more the smaller they are, so compare only figures with the same counts, and name the feature net.

    Args:
        a: Samples or features (N, ...), N ≥ 2.
        b: The other set (M, ...), M ≥ 2; rows as long as a's.

    Raises:
        ShapeError: Fewer than two rows, or rows of different lengths.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> a = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        >>> round(frechet(a, a + torch.tensor([3.0, 4.0])), 9)
        25.0

    Reference: Heusel et al. (2017), https://arxiv.org/abs/1706.08500, equation 6
    """
    x, y = pair(a, b, least=2)
    means = [z.mean(0) for z in (x, y)]
    columns = max(len(x), len(y))
    if columns < x.shape[1]:  # fewer rows than dimensions: the centred rows are the smaller factor
        centred = [(z - mean).T / (len(z) - 1) ** 0.5 for z, mean in zip((x, y), means, strict=True)]
        factors = [pad(f, (0, columns - f.shape[1])) for f in centred]
    else:
        factors = [_factor(torch.cov(z.T).reshape(z.shape[1], -1)) for z in (x, y)]
    return _distance(means[0], factors[0], means[1], factors[1])


def frechet_gaussians(
    mean1: Float[Tensor, " _d"],
    cov1: Float[Tensor, "_d2 _d3"],
    mean2: Float[Tensor, " _d4"],
    cov2: Float[Tensor, "_d5 _d6"],
) -> float:
    r"""Squared 2-Wasserstein distance of $N(\mu_1, C_1)$ and $N(\mu_2, C_2)$; singular covariances are welcome.

    Args:
        mean1: (D,).
        cov1: (D, D), symmetric and positive semi-definite.
        mean2: (D,).
        cov2: (D, D).

    Raises:
        ShapeError: Shapes other than (D,), (D, D), (D,), (D, D).
        OptionError: A matrix that is no covariance.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> one = torch.eye(2)
        >>> round(frechet_gaussians(torch.zeros(2), one, torch.ones(2), 9 * one), 9)  # 2 + 2 (3 - 1)²
        10.0

    Reference: Dowson and Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X
    """
    d = mean1.shape[0]
    shapes = [tuple(z.shape) for z in (mean1, cov1, mean2, cov2)]
    if shapes != [(d,), (d, d), (d,), (d, d)]:
        raise ShapeError(f"Expected shapes (D,), (D, D), (D,), (D, D), got {', '.join(map(str, shapes))}.")
    means = [z.detach().to(torch.float64) for z in (mean1, mean2)]
    covs = [_covariance(z, f"cov{i}") for i, z in enumerate((cov1, cov2), 1)]
    if not all(z.isfinite().all() for z in means):
        raise NonFiniteError("A mean holds NaN or infinite numbers.")
    return _distance(means[0], _factor(covs[0]), means[1], _factor(covs[1]))


def _covariance(cov: Tensor, name: str) -> Tensor:
    cov = cov.detach().to(torch.float64)
    if not cov.isfinite().all():
        raise NonFiniteError(f"{name} holds NaN or infinite numbers.")
    slack = 1e-5 * float(cov.abs().max())  # what float32 leaves of a covariance
    if float((cov - cov.T).abs().max()) > slack or float(torch.linalg.eigvalsh(cov)[0]) < -slack:
        raise OptionError(f"{name} is not symmetric and positive semi-definite; pass torch.cov(x.T) of rows x.")
    return (cov + cov.T) / 2


def _factor(cov: Tensor) -> Tensor:
    """F with F Fᵀ = C; eigenvalues below zero are rounding and count as zero."""
    values, vectors = torch.linalg.eigh(cov)
    factor: Tensor = vectors * values.clamp(min=0.0).sqrt()
    return factor


def _distance(mean1: Tensor, f1: Tensor, mean2: Tensor, f2: Tensor) -> float:
    u, _, vh = torch.linalg.svd(f2.T @ f1)
    return float((mean1 - mean2).square().sum() + (f1 - f2 @ (u @ vh)).square().sum())
