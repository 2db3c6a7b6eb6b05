"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024), for equal shapes at once.

PyTorch's own always works in bf16, which is slow on CPUs without instructions for it.
"""

import torch

STEPS = ((3.4445, -4.7750, 2.0315),) * 5


def orthogonal(g):
    """About U Vᵀ of each matrix of g [N, rows, columns]."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in STEPS:
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, matrices, lr, weight_decay=0.01, momentum=0.95, dtype=torch.float32):
        """dtype: of the products that make the matrices orthogonal."""
        self.dtype = dtype
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for (rows, columns), same in by_shape.items():
                updates = []
                for p in same:
                    m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(m, group["momentum"]))
                scale = group["lr"] * max(1, rows / columns) ** 0.5
                for p, update in zip(same, orthogonal(torch.stack(updates).to(self.dtype)).float()):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)
