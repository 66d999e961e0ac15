"""AdamW that touches only those rows of a word table that a batch uses.

V rows of the table, R rows in use, H width.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FADED = 1e-12  # a gradient of so many steps ago that its weight in the first moment is below this moves nothing any more
_SPANS = (1, 3, 7, 15)  # missed steps are taken together in spans, in each of which the bias correction changes little
_CHUNK = 4096  # rows that are brought up to date at once


class RowwiseAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) with the gradient of one table, `table` float[V, H], by rows.

    A step reads and writes the rows that have a gradient. In dense AdamW the others move as well: their moments fade and still push,
    and the weights decay. Here a row makes up for the steps that it missed when `bring_up` is told that it will be read, in one go:

        p <- p D_t / D_u  -  sum over spans of C m / (A sqrt(v) + eps),    m <- beta1^(t-u) m,    v <- beta2^(t-u) v

    where the row was last current at step u, and D_j is the product of (1 - lr weight_decay) up to step j. Of a span of missed steps C is
    the sum of the sizes, A that mean of the second moments' factors that makes the sum exact where eps is small beside sqrt(v) and
    where it is large; in between it is off by less than a hundredth of a step's size, once. So each row that is read equals dense
    AdamW's, and after `settle` all do.

    After `follow` an exponential moving average of the table is kept in the same way: what a row's average gains in the steps t that it
    missed is the sum of (1 - d) d^(t-j) p_j, in which the same terms stand with other weights. With G_j = d G_(j-1) + (1 - d) D_j, the
    average of D itself, the weight of D_j / D_u becomes (G_t - d^(t-u) G_u) / D_u.
    """

    def __init__(self, groups: list[dict[str, Any]], table: Tensor, **settings: Any) -> None:
        super().__init__(groups, fused=True, **settings)
        self._table = table
        self.grad_scale: Tensor | None = None
        """What gradients are divided by as a step reads them; None: 1."""
        self._fading: float | None = None
        self.idle = 0
        """Steps before the table's first, in which it was not trained; they count in its average."""

    @property
    def table(self) -> Tensor:
        """The table that is updated by rows."""
        return self._table

    def follow(self, decay: float) -> None:
        """Keep an exponential moving average of the table from the first step on, `decay` in (0, 1): see `average`."""
        self._fading = decay

    def average(self) -> Tensor:
        """Return float[V, H], (1 - d) times the sum of d^(t-j) p_j over the steps j up to t; current where the table is.

        Before the first step of the table there is none.
        """
        return self._state()["average"]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; the table's may be sparse."""
        gradient, self._table.grad = self._table.grad, None
        super().step()
        self._table.grad = gradient
        if gradient is not None:
            self._step_rows(gradient.coalesce() if gradient.is_sparse else gradient)

    @torch.no_grad()
    def bring_up(self, ids: np.ndarray) -> None:
        """Make the rows `ids`, int[any], what dense AdamW would have made of them by now."""
        if self._table in self.state:
            self._bring_up(torch.from_numpy(np.unique(ids).astype(np.int64)))

    @torch.no_grad()
    def settle(self) -> None:
        """Bring all rows up; before the table is read as a whole, as for an evaluation or to be saved."""
        if self._table in self.state:
            for rows in torch.arange(len(self._table)).split(_CHUNK):
                self._bring_up(rows)

    def _group(self) -> dict[str, Any]:
        return next(group for group in self.param_groups if any(parameter is self._table for parameter in group["params"]))

    def _state(self) -> dict[str, Tensor]:
        """The table's moments; `last`: the step at which each row was current; by step: its rate `lr` and `decay`, D above.

        With `follow` also the table's `average` and by step that of D, `path`, G above.
        """
        state = self.state[self._table]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = _zeros_on_demand(self._table), _zeros_on_demand(self._table)
            state["last"] = torch.zeros(len(self._table), dtype=torch.int64)
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["lr"], state["decay"] = torch.zeros(1024, dtype=torch.float64), torch.ones(1024, dtype=torch.float64)
            if self._fading is not None:
                state["average"] = self._table.detach() * (1 - self._fading**self.idle)
                state["path"] = torch.zeros(1024, dtype=torch.float64)
        return state

    def _step_rows(self, gradient: Tensor) -> None:
        state, group = self._state(), self._group()
        rows, values = (gradient.indices()[0], gradient.values()) if gradient.is_sparse else (torch.arange(len(gradient)), gradient)
        if self.grad_scale is not None:
            values = values / self.grad_scale
        self._bring_up(rows)
        step = int(state["step"]) + 1
        if step == len(state["lr"]):
            for name in state.keys() & {"lr", "decay", "path"}:
                state[name] = torch.cat([state[name], torch.ones_like(state[name])])
        (beta1, beta2), lr, decay = group["betas"], float(group["lr"]), group["weight_decay"]
        state["lr"][step], state["decay"][step] = lr, float(state["decay"][step - 1]) * (1 - lr * decay)
        first = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        second = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
        spread = second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        values = self._table[rows].mul_(1 - lr * decay).addcdiv_(first, spread, value=-lr / (1 - beta1**step))
        self._table[rows] = values
        if (fading := self._fading) is not None:
            state["path"][step] = fading * float(state["path"][step - 1]) + (1 - fading) * float(state["decay"][step])
            state["average"][rows] = state["average"][rows].lerp_(values, 1 - fading)
        state["exp_avg"][rows], state["exp_avg_sq"][rows], state["last"][rows] = first, second, step
        state["step"].fill_(step)

    def _bring_up(self, rows: Tensor) -> None:
        """Make up for the steps that `rows`, int64[R], missed."""
        state, group = self._state(), self._group()
        now = int(state["step"])
        rows = rows[state["last"][rows] < now]
        betas, fading, lr, decay = group["betas"], self._fading, state["lr"].numpy(), state["decay"].numpy()
        met = state["exp_avg_sq"][rows].any(1)  # of rows that never had a gradient the moments stay 0
        if fading is None and decay[now] == 1:  # and so do their values stay
            state["last"][rows[~met]] = now
            rows, met = rows[met], met[met]
        if not len(rows):
            return
        last, which = np.unique(state["last"][rows].numpy(), return_inverse=True)
        first, second, values = state["exp_avg"][rows], state["exp_avg_sq"][rows], self._table[rows]
        spread = second.sqrt()

        def of_rows(factors: Any) -> Tensor:
            return torch.from_numpy(np.asarray(factors)[..., which]).to(self._table.dtype)[..., None]

        def summed(reached: Reached) -> Tensor:
            """Return the table's rows times their weight, less what the missed steps took away times its own; see `_missed`."""
            weight, *spans = of_rows([reached(last, last + 1), *_missed(last, now, lr, betas, reached)])
            found = values * weight
            for total, mean in zip(spans[::2], spans[1::2], strict=True):
                found.sub_((total * first).div_((mean * spread).add_(group["eps"])))
            return found

        if fading is not None:
            path, kept = state["path"].numpy(), fading ** (now - last)
            gained = summed(lambda step, since: (path[now] - fading ** (now - since + 1) * path[since - 1]) / decay[step])
            state["average"][rows] = state["average"][rows].mul_(of_rows(kept)).add_(gained)
        self._table[rows] = summed(lambda step, since: decay[now] / decay[step])
        moments = of_rows(np.array(betas)[:, None] ** (now - last))
        state["exp_avg"][rows[met]], state["exp_avg_sq"][rows[met]] = first.mul_(moments[0])[met], second.mul_(moments[1])[met]
        state["last"][rows] = now


def _zeros_on_demand(like: Tensor) -> Tensor:
    """Return zeros of the shape of `like`, of which a page takes memory once it is written to: many rows of a table never are."""
    if not hasattr(mmap, "MAP_ANONYMOUS") or not like.numel():
        return torch.zeros_like(like)
    memory = mmap.mmap(-1, like.numel() * like.element_size(), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # pages of 2 MB would hold rows that are met beside others that are not
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype).view_as(like)


Reached = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""How much of a value of step `step` is left in a sum over the steps from `since` on."""


def _missed(last: np.ndarray, now: int, lr: np.ndarray, betas: tuple[float, float], reached: Reached) -> list[np.ndarray]:
    """Return C and A of `RowwiseAdamW`, by turns, of each span of missed steps, for rows last current at `last`, each float64[N].

    last: int64[N]
    """
    beta1, beta2 = betas
    reach = min(math.ceil(math.log(_FADED) / math.log(beta1)) if beta1 > 0 else 1, int(now - last.min()))
    missed = np.arange(1, reach + 1)
    steps = last[:, None] + missed
    valid = steps <= now
    steps = np.where(valid, steps, now)
    sizes = valid * lr[steps] / (1 - beta1**steps) * beta1**missed * reached(steps, steps)
    factors = np.sqrt(beta2**missed / (1 - beta2**steps))
    spans, first = [], 0
    for stop in (*_SPANS, reach):
        if first < min(stop, reach):
            total, exact = sizes[:, first:stop].sum(1), (sizes / factors)[:, first:stop].sum(1)
            spans += [total, np.divide(total, exact, out=np.ones_like(total), where=exact > 0)]
            first = stop
    return spans
