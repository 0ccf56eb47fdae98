"""The settings of PPO: the paper's, and those that suit few episodes better."""

import math
from dataclasses import dataclass

FEW = 5000  # decisions in all, below which the learning rate is higher


@dataclass(frozen=True)
class Settings:
    """Proximal policy optimisation, by what its numbers mean.

    ``rollout`` decisions of all environments together make an update, in ``epochs`` passes of ``batch_size``.
    ``linear`` lowers the learning rate to 0 over the training. ``entropy`` and ``value`` weigh their losses, the
    latter without a half. An update ends early where the KL divergence exceeds 1.5 ``target_kl``. Actions are Gaussian
    with the logarithm of their deviation beginning at ``log_deviation``; policy and value have hidden layers of tanh.
    """

    rollout: int
    batch_size: int
    epochs: int
    gae_lambda: float
    gamma: float
    learning_rate: float
    linear: bool
    clip: float = 0.2
    entropy: float = 0.0
    value: float = 0.5
    gradient_norm: float = 0.5
    target_kl: float | None = None
    log_deviation: float = -0.7
    hidden: tuple[int, ...] = (64, 64)

    def steps(self, environments: int) -> int:
        """The decisions of each environment in a rollout: enough together, and whole batches."""
        whole = self.batch_size // math.gcd(self.batch_size, environments)
        return math.ceil(self.rollout / (environments * whole)) * whole


def paper() -> Settings:
    """Tessera et al. 2022, Table 6, as Acme's PPO of that time means it; for one environment.

    Its unroll length of 1 makes every advantage a one-step error of the value, which is a GAE lambda of 0.
    """
    return Settings(
        rollout=64,
        batch_size=64,
        epochs=1,
        gae_lambda=0.0,
        gamma=0.99,
        learning_rate=1e-3,
        linear=False,
        entropy=0.01,
        value=1.0,
        log_deviation=math.log(0.3),
    )


def plus(decisions: int, trainings: int, *, reward: str = "delta", shared: bool = False) -> Settings:
    """For ``trainings`` episodes of so many ``decisions``: longer advantages, more passes, a rate that falls to 0.

    ``reward`` is "acc" where the accuracy itself is paid; ``shared`` is for the policy that layers share.
    """
    return Settings(
        rollout=max(2 * decisions, 128),
        batch_size=64,
        epochs=10,
        gae_lambda=0.95,
        gamma=0.99 if reward == "acc" else 0.95,
        learning_rate=3e-3 if decisions * trainings < FEW else 1e-3,
        linear=True,
        target_kl=0.03 if shared else 0.05,
    )
