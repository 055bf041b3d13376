"""The other side of `hiper bench update`: the same PPO step in torch.

Written to be fast: fused attention, logits of response positions only, no gradient
where none is needed, gradients added up over micro-batches. Rows are laid as is usual
there: prompts padded on the left, responses on the right.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from hiper_jax.update.objective import Settings


class Rows(NamedTuple):
    """M rows of P + R tokens."""

    tokens: torch.Tensor  # [M, P + R] int64
    mask: torch.Tensor  # [M, P + R] int64, 1 on real tokens
    response: torch.Tensor  # [M, R] int64
    old_log_prob: torch.Tensor  # [M, R]
    carries: torch.Tensor  # [M, R] bool, tokens that carry policy loss
    advantage: torch.Tensor  # [M, R]
    value_low: torch.Tensor  # [M] int64, response position of V_low
    starts: torch.Tensor  # [M] bool, the row starts a segment
    returns: torch.Tensor  # [M, 3]: high, low, switch


def padded_rows(
    batch, advantage, carries, starts, returns, P: int, R: int, device
) -> Rows:
    """Our flat rows -> left-padded prompts of P and responses of R tokens.

    Args:
      batch: our `Batch`, numpy, every row a turn.
      advantage: [M, R'] per response token.
      carries: [M, R'] bool.
      starts: [M] bool.
      returns: [M, 3].
      P: room for prompts.
      R: room for responses.
      device: where to.
    """
    M = len(batch.start)
    tokens, mask = np.zeros((M, P + R), np.int64), np.zeros((M, P + R), np.int64)
    for m in range(M):
        at = P - batch.start[m]
        real = batch.length[m]
        tokens[m, at : at + real] = batch.tokens[m, :real]
        mask[m, at : at + real] = 1
    arrays = (
        tokens,
        mask,
        np.asarray(batch.response[:, :R], np.int64),
        np.asarray(batch.old_log_prob[:, :R]),
        np.asarray(carries[:, :R]),
        np.asarray(advantage[:, :R]),
        np.asarray(batch.value_low_at, np.int64),
        np.asarray(starts),
        np.asarray(returns),
    )
    return Rows(*(torch.tensor(np.array(x)).to(device) for x in arrays))


class Critic(torch.nn.Module):
    """A trunk and three values."""

    def __init__(self, trunk, weight: np.ndarray, bias: np.ndarray):
        super().__init__()
        self.trunk = trunk
        self.head = torch.nn.Linear(weight.shape[0], weight.shape[1])
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(np.array(weight.T)))
            self.head.bias.copy_(torch.tensor(np.array(bias)))
        self.head.to(next(trunk.parameters()).device)

    def _states(self, rows: Rows) -> torch.Tensor:
        """[M, R, D] before each response token."""
        R = rows.response.shape[1]
        hidden = self.trunk(
            input_ids=rows.tokens,
            attention_mask=rows.mask,
            position_ids=_positions(rows.mask),
            use_cache=False,
        ).last_hidden_state
        return hidden[:, -R - 1 : -1]

    def forward(self, rows: Rows) -> torch.Tensor:
        """[M, 3] values high, low, switch where decisions are made."""
        hidden = self._states(rows)
        low = hidden[torch.arange(len(hidden)), rows.value_low]
        with torch.autocast(hidden.device.type, enabled=False):
            first = self.head(hidden[:, 0].float())
            planned = self.head(low.float())
        return torch.stack([first[:, 0], planned[:, 1], first[:, 2]], dim=1)


class TokenCritic(Critic):
    """A trunk and a value before every response token."""

    def forward(self, rows: Rows) -> torch.Tensor:
        """[M, R, 1] values."""
        hidden = self._states(rows)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.float())


def score(model, rows: Rows, temperature: float, with_entropy: bool = True):
    """Log-probs [M, R] and entropies of the responses."""
    R = rows.response.shape[1]
    logits = model(
        input_ids=rows.tokens,
        attention_mask=rows.mask,
        position_ids=_positions(rows.mask),
        logits_to_keep=R + 1,
        use_cache=False,
    ).logits[:, :-1]
    log_p = F.log_softmax(logits.float() / temperature, dim=-1)
    chosen = log_p.gather(-1, rows.response[..., None])[..., 0]
    return chosen, -(log_p.exp() * log_p).sum(-1) if with_entropy else None


def split(rows: Rows, micro: int) -> list[Rows]:
    """`micro` rows at a time."""
    parts = zip(*(x.split(micro) for x in rows), strict=True)
    return [Rows(*part) for part in parts]


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


class Learner:
    """Actor, critic, reference and two Adams; `step` is one PPO update."""

    heads: tuple[str, ...] = ("high", "low", "switch")

    def __init__(
        self,
        actor,
        critic,
        reference,
        settings: Settings,
        *,
        rates: tuple[float, float],
        max_norm: float,
        half: bool,
    ):
        self.actor, self.critic, self.reference = actor, critic, reference
        self.settings, self.max_norm = settings, max_norm
        nets = zip((actor, critic), rates, strict=True)
        self.optimizers = [
            self._optimizer(net.parameters(), rate) for net, rate in nets
        ]
        self.autocast = torch.autocast(
            next(actor.parameters()).device.type,
            dtype=torch.bfloat16,
            enabled=half,
        )

    def step(self, rows: Rows, micro: int) -> dict[str, float]:
        """One update on one minibatch, `micro` rows at a time.

        Returns:
          its losses, and the norms of both gradients.
        """
        s = self.settings
        chunks = split(rows, micro)
        with torch.no_grad(), self.autocast:
            old = [self.critic(chunk) for chunk in chunks]
            towards = [
                score(self.reference, chunk, 1.0, with_entropy=False)[0]
                for chunk in chunks
            ]
        rows = self._with_credit(rows, torch.cat(old))
        chunks = split(rows, micro)
        count, numbers = rows.carries.sum(), self._numbers(rows)
        sums: dict[str, torch.Tensor] = {}
        for chunk, old_values, reference in zip(chunks, old, towards, strict=True):
            with self.autocast:
                log_prob, entropy = score(self.actor, chunk, 1.0)
                values = self.critic(chunk)
            parts = self._losses(
                chunk, log_prob, entropy, values, old_values, reference, count, numbers
            )
            loss = parts["policy"] + s.kl_coef * parts["kl"]
            loss = loss - s.entropy_coef * parts["entropy"]
            (loss + sum(parts[name] for name in self.heads)).backward()
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + part.detach()
        for name, net, optimizer in zip(
            ("actor", "critic"),
            (self.actor, self.critic),
            self.optimizers,
            strict=True,
        ):
            sums[f"grad {name}"] = torch.nn.utils.clip_grad_norm_(
                net.parameters(), self.max_norm
            )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {name: float(x) for name, x in sums.items()}

    def _optimizer(self, weights, rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(weights, lr=rate, fused=True)

    def _with_credit(self, rows: Rows, values: torch.Tensor) -> Rows:
        """Rows with advantages and returns: here they were handed over."""
        del values
        return rows

    def _numbers(self, rows: Rows) -> torch.Tensor:
        """How many entries each head's loss is the mean of."""
        every = torch.tensor(len(rows.starts)).to(rows.starts.device)
        return torch.stack([rows.starts.sum(), every, every])

    def _there(self, rows: Rows) -> torch.Tensor:
        """Where each head's loss is taken, of the shape of the values."""
        every = torch.ones(len(rows.starts)).to(rows.starts.device)
        return torch.stack([rows.starts.float(), every, every], 1)

    def _losses(
        self, rows, log_prob, entropy, values, old_values, reference, count, numbers
    ):
        """Sums over this chunk, divided by the sizes of the minibatch."""
        s = self.settings
        carries = rows.carries.float()
        ratio = (log_prob - rows.old_log_prob).exp()
        plain = -rows.advantage * ratio
        clipped = -rows.advantage * ratio.clamp(1 - s.clip_low, 1 + s.clip_high)
        policy = torch.maximum(plain, clipped)
        # A bad action that became far likelier: its loss is bounded.
        bound = torch.minimum(policy, -rows.advantage * s.dual_clip)
        policy = torch.where(rows.advantage < 0, bound, policy)
        gap = (reference - log_prob).clamp(-20, 20)
        kl = (gap.exp() - gap - 1).clamp(-10, 10)
        if s.kl_estimator == "k1":
            kl = -gap
        near = old_values + (values - old_values).clamp(-s.value_clip, s.value_clip)
        error = torch.maximum((values - rows.returns) ** 2, (near - rows.returns) ** 2)
        errors = (error * self._there(rows)).flatten(0, -2).sum(0) / numbers
        return {
            "policy": (policy * carries).sum() / count,
            "kl": (kl * carries).sum() / count,
            "entropy": (entropy * carries).sum() / count,
            **dict(zip(self.heads, errors, strict=True)),
        }


class TokenLearner(Learner):
    """PPO as the papers run it: a value and an advantage for every response token.

    `Rows.advantage` holds the response's score on its last token and is replaced.
    """

    heads = ("value",)

    def _optimizer(self, weights, rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(weights, lr=rate, weight_decay=1e-4, fused=True)

    def _with_credit(self, rows: Rows, values: torch.Tensor) -> Rows:
        """GAE inside each response, whitened over the batch's tokens."""
        s: Any = self.settings  # those of `gae_token`, too
        mask, values = rows.carries.float(), values[..., 0]
        after = trace = torch.zeros_like(values[:, 0])
        columns = []
        for j in reversed(range(values.shape[1])):
            here, value = mask[:, j], values[:, j]
            delta = rows.advantage[:, j] + s.gamma_token * after - value
            trace = here * (delta + s.gamma_token * s.lambda_token * trace)
            after = here * value
            columns.append(trace)
        advantage = torch.stack(columns[::-1], dim=1)
        returns = advantage + values
        mean = (advantage * mask).sum() / mask.sum()
        variance = ((advantage - mean) ** 2 * mask).sum() / (mask.sum() - 1)
        advantage = (advantage - mean) * (variance + 1e-8).rsqrt() * mask
        return rows._replace(advantage=advantage, returns=returns[..., None])

    def _numbers(self, rows: Rows) -> torch.Tensor:
        return rows.carries.sum().expand(1)

    def _there(self, rows: Rows) -> torch.Tensor:
        return rows.carries.float()[..., None]
