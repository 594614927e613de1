"""Counting passes: fused kernels, foreach lists, a user's own optimizer."""

import torch

from nndiag.lab.traffic import count_step


def test_adam_makes_eighteen_passes_and_keeps_two_tables():
    traffic = count_step(torch.optim.Adam)
    assert traffic.passes == 18
    assert traffic.state == 2


def test_a_fused_kernel_does_not_write_the_gradient():
    assert count_step(lambda params: torch.optim.Adam(params, fused=True)).passes == 7


def test_an_optimizer_of_the_users_own_is_counted():
    class Lion(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 1e-4})

        @torch.no_grad()
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                if "m" not in self.state[p]:
                    self.state[p]["m"] = torch.zeros_like(p)
                m = self.state[p]["m"]
                p.add_(torch.sign(m.lerp(p.grad, 0.1)), alpha=-1e-4)  # lerp 3, sign 2, add_ 3
                m.lerp_(p.grad, 0.01)  # 3

    traffic = count_step(Lion)
    assert traffic.passes == 11
    assert (traffic.state, traffic.fresh) == (1, 2)
