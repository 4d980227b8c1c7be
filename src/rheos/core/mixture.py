r"""The exact flow of a Gaussian mixture: truth without training.

For data $\sum_k w_k N(\mu_k, \mathrm{diag}(s_k^2))$ and source N(0, I) the marginal at t is the mixture of
$N(\alpha \mu_k, \alpha^2 s_k^2 + \sigma^2)$; velocity, score, posterior and likelihood follow in closed form. Solvers,
guides and editors are tested against it.
"""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.core.field import Field
from rheos.core.paths import KINDS, AffinePath, Time
from rheos.core.query import Query, Reply
from rheos.core.schedule import Schedule
from rheos.core.state import affine

__all__ = ["GaussianMixtureField"]


class GaussianMixtureField(Field):
    """A field whose every estimate is exact.

    Args:
        means: (K, D) component means.
        stds: (K,) or (K, D) standard deviations, positive.
        weights: (K,) positive weights, uniform unless given; they are normalised.
        path: The affine path, or the name of a schedule.
        labels: (K,) class of each component; then the condition "label" restricts the mixture to a class, and the
            null label (number of classes) means all of it.

    Raises:
        ShapeError: If the shapes do not fit.
        OptionError: For weights or standard deviations that are not positive.

    Example:
        >>> field = GaussianMixtureField(means=[[2.0], [-2.0]], stds=[0.5, 0.5])
        >>> field(torch.zeros(1, 1), 0.5)
        tensor([[0.]])
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor
    classes: Tensor

    path: AffinePath

    def __init__(
        self,
        means: Tensor | list[list[float]],
        stds: Tensor | list[float] | list[list[float]],
        weights: Tensor | list[float] | None = None,
        path: AffinePath | str = "linear",
        labels: Tensor | list[int] | None = None,
    ) -> None:
        m = torch.as_tensor(means, dtype=torch.float64)
        s = torch.as_tensor(stds, dtype=torch.float64)
        if m.ndim != 2 or s.shape not in ((len(m),), m.shape):
            raise ShapeError(f"means are (K, D) and stds (K,) or (K, D), got {tuple(m.shape)} and {tuple(s.shape)}.")
        super().__init__(nn.Identity(), path, "velocity", shape=(m.shape[1],))
        w = torch.as_tensor([1.0] * len(m) if weights is None else weights, dtype=torch.float64)
        if w.shape != (len(m),) or not bool((w > 0).all()) or not bool((s > 0).all()):
            raise OptionError(
                f"{len(m)} weights and all stds must be positive, got {w.tolist()} and stds from {float(s.min())}."
            )
        self.register_buffer("means", m)
        self.register_buffer("variances", (s if s.ndim == 2 else s[:, None].expand_as(m)).square())
        self.register_buffer("log_weights", (w / w.sum()).log())
        classes = torch.zeros(len(m), dtype=torch.int64) if labels is None else torch.as_tensor(labels)
        if classes.shape != (len(m),):
            raise ShapeError(f"labels are one class a component, ({len(m)},), got {tuple(classes.shape)}.")
        self.register_buffer("classes", classes)
        self.conditions = frozenset() if labels is None else frozenset({"label"})

    @classmethod
    def fit(
        cls, x: Float[Tensor, "n *d"], components: int = 10, path: AffinePath | str = "linear", seed: int = 0
    ) -> "GaussianMixtureField":
        """The mixture that fits real rows best (expectation maximisation, diagonal covariances).

        Args:
            x: Data, flattened to (n, D).
            components: K.
            path: The affine path.
            seed: Of the initialisation.
        """
        from sklearn.mixture import GaussianMixture

        flat = x.flatten(1).double().cpu().numpy()
        found = GaussianMixture(components, covariance_type="diag", random_state=seed, reg_covar=1e-4).fit(flat)
        as_tensor = torch.as_tensor
        return cls(as_tensor(found.means_), as_tensor(found.covariances_).sqrt(), as_tensor(found.weights_), path)

    def null(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        """The label that means every component."""
        return {name: torch.full_like(v, int(self.classes.max()) + 1) for name, v in cond.items()}

    def _null(self, name: str, n: int) -> Tensor:
        return torch.full((n,), int(self.classes.max()) + 1, device=self.means.device)

    def _components(self, x: Tensor, t: Time, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Joint log weight (B, K), deviation (B, K, D), marginal variance (B, K, D) and the alpha of each row."""
        a, s = (
            cast(Tensor, f(self._clock_of(t, x)))[:, None, None] for f in (self.path.law.alpha, self.path.law.sigma)
        )
        flat = x.flatten(1).double()
        gap = flat[:, None] - a * self.means
        variance = a * a * self.variances + s * s
        log = self.log_weights - 0.5 * (gap.square() / variance + (2 * math.pi * variance).log()).sum(-1)
        if label is not None:
            anything = label == int(self.classes.max()) + 1
            fits = (self.classes[None] == label[:, None]) | anything[:, None]
            log = log.masked_fill(~fits, -torch.inf)
            log = log - torch.where(fits, self.log_weights, -torch.inf).logsumexp(1, keepdim=True)
        return log, gap, variance, a

    def _clock_of(self, t: Time, x: Tensor) -> Tensor:
        if isinstance(t, dict):
            raise ShapeError("A mixture has one time a row, not one a variable.")
        return torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(x.shape[0])

    def posterior(
        self, x: Float[Tensor, "b *d"], t: Time, label: Tensor | None = None
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k dim"], Float[Tensor, "b k dim"]]:
        """The law of x1 given x_t = x: a mixture with these weights, means and variances."""
        log, gap, variance, a = self._components(x, t, label)
        gain = a * self.variances / variance
        left = torch.clamp(self.variances * (1 - a * gain), min=0.0)
        return log.softmax(1), self.means + gain * gap, left.expand_as(gap)

    def log_density(self, x: Float[Tensor, "b *d"], t: Time = 1.0, label: Tensor | None = None) -> Float[Tensor, " b"]:
        """The log density of the marginal at t, in nats, float64."""
        return self._components(x, t, label)[0].logsumexp(1)

    def responsibilities(self, x: Float[Tensor, "b *d"], t: Time = 1.0) -> Float[Tensor, "b k"]:
        """The posterior probability of each component."""
        return self._components(x, t, None)[0].softmax(1)

    def answer(self, q: Query) -> Reply:
        """The exact estimate of any kind."""
        check_choice("kind", q.kind, KINDS)
        x = cast(Tensor, q.x)
        cond = q.cond if q.cond.keys() == self.conditions else self.complete(q.cond, len(x))
        t = self._clock_of(q.t, x)
        log, gap, variance, a = self._components(x, t, cond.get("label"))
        weight = log.softmax(1)[..., None]
        data = (weight * (self.means + a * self.variances / variance * gap)).sum(1)
        pull = (weight * gap / variance).sum(1)  # minus the score, so that x0 = sigma pull
        value = self._form(q.kind, t, data, pull)
        return Reply(value.reshape(x.shape).to(x.dtype))

    def _form(self, kind: str, t: Tensor, data: Tensor, pull: Tensor) -> Tensor:
        """An estimate of any kind from the data estimate and the pull, finite at both ends of time."""
        law = self.path.law
        if kind == "data":
            return data
        if kind == "score":
            return -pull
        if kind == "velocity":  # alpha' x1 + sigma' x0, with sigma sigma' in one piece
            return cast(Tensor, affine(law.d_alpha(t), data, 0.5 * _d_sigma_squared(law, t), pull))
        noise = cast(Tensor, law.sigma(t))[:, None] * pull
        if kind == "noise":
            return noise
        p, q = self.path.form(t, kind)
        return cast(Tensor, affine(p, data, q, noise))

    def flow_map(self, x: Float[Tensor, "b d"], s: Time, t: Time) -> Float[Tensor, "b d"]:
        r"""The exact solution $X_{s \to t}(x) = \alpha_t \mu + \sqrt{V_t / V_s} (x - \alpha_s \mu)$ of one component.

        Raises:
            OptionError: If the mixture has more than one component.
        """
        if len(self.means) != 1:
            raise OptionError(f"Only one component has a closed flow map, this mixture has {len(self.means)}.")
        law = self.path.law
        start, end = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1) for v in (s, t))
        before = law.alpha(start) ** 2 * self.variances + law.sigma(start) ** 2
        after = law.alpha(end) ** 2 * self.variances + law.sigma(end) ** 2
        stretch = (after / before).sqrt()
        moved = law.alpha(end) * self.means + stretch * (x.double() - law.alpha(start) * self.means)
        return moved.to(x.dtype)

    def sample_data(self, n: int, seed: int = 0) -> Float[Tensor, "n d"]:
        """Exact draws of the data law, float64."""
        from rheos.core.draws import Draws, row_seeds

        draws = Draws(row_seeds(seed, n))
        edges = self.log_weights.exp().cumsum(0)
        which = torch.searchsorted(edges, draws.uniform("component")).clamp(max=len(self.means) - 1)
        z = cast(Tensor, draws.normal(torch.empty(n, self.means.shape[1], dtype=torch.float64), "data"))
        return self.means[which] + self.variances[which].sqrt() * z


def _d_sigma_squared(law: Schedule, t: Tensor) -> Tensor:
    """The derivative of sigma^2, also where sigma' is infinite and sigma zero."""
    product = cast(Tensor, 2 * law.sigma(t) * law.d_sigma(t))
    if bool(product.isnan().any()):
        near = t.clamp(max=1 - 1e-9)
        product = torch.where(product.isnan(), cast(Tensor, 2 * law.sigma(near) * law.d_sigma(near)), product)
    return product
