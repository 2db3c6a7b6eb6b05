"""The δ-mem recurrence for training: `delta_scan` in C, `delta_scan_loop` as its plain twin."""

import ctypes
import functools
import pathlib
import subprocess
import tempfile

import torch
from torch import Tensor

RANK = 8


def delta_scan_loop(q, k, v, beta, keep, state):
    """q, k, v, beta, keep [N, T, r], state [N, r, r] -> reads [N, T, r], state after the last token."""
    reads = []
    for t in range(q.shape[1]):
        reads.append(torch.einsum("nij,nj->ni", state, q[:, t]))
        u = v[:, t] - torch.einsum("nij,nj->ni", state, k[:, t])
        state = keep[:, t, :, None] * state + (beta[:, t] * u)[..., None] * k[:, t, None, :]
    return torch.stack(reads, 1), state


@functools.cache
def library():
    source = pathlib.Path(__file__).with_name("delta_scan.c")
    target = pathlib.Path(tempfile.mkdtemp()) / "delta_scan.so"
    subprocess.run(["cc", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", "-o", target, source], check=True)
    return ctypes.CDLL(str(target))


def pointers(*tensors):
    return [ctypes.c_void_p(t.data_ptr()) for t in tensors]


@torch.library.custom_op("nano::delta_scan", mutates_args=())
def scan(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, keep: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reads, the state after the last token, and all states [N, T + 1, r, r]; inputs are contiguous."""
    n, t, r = q.shape
    assert r == RANK
    states = torch.empty(n, t + 1, r, r)
    states[:, 0] = state
    read = torch.empty_like(q)
    library().delta_scan(ctypes.c_long(n), ctypes.c_long(t), *pointers(q, k, v, beta, keep, states, read))
    return read, states[:, -1].clone(), states


@scan.register_fake
def _(q, k, v, beta, keep, state):
    n, t, r = q.shape
    return torch.empty_like(q), torch.empty_like(state), q.new_empty(n, t + 1, r, r)


@torch.library.custom_op("nano::delta_scan_gradient", mutates_args=())
def scan_gradient(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, keep: Tensor, states: Tensor, dread: Tensor, dstate: Tensor) -> list[Tensor]:
    n, t, _ = q.shape
    g = dstate.clone()
    outs = [torch.empty_like(q) for _ in range(5)]
    library().delta_scan_gradient(ctypes.c_long(n), ctypes.c_long(t), *pointers(q, k, v, beta, keep, states, dread, g, *outs))
    return [*outs, g]


@scan_gradient.register_fake
def _(q, k, v, beta, keep, states, dread, dstate):
    return [torch.empty_like(q) for _ in range(5)] + [torch.empty_like(dstate)]


def keep_for_gradient(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5], output[2])


def gradient(ctx, dread, dstate, _):
    return tuple(scan_gradient(*ctx.saved_tensors, dread.contiguous(), dstate.contiguous()))


scan.register_autograd(gradient, setup_context=keep_for_gradient)


def delta_scan(q, k, v, beta, keep, state):
    return scan(*(x.contiguous() for x in (q, k, v, beta, keep, state)))[:2]


def check():
    torch.manual_seed(0)
    xs = [torch.randn(6, 9, RANK).requires_grad_() for _ in range(3)] + [torch.rand(6, 9, RANK).requires_grad_() for _ in range(2)]
    xs.append(torch.randn(6, RANK, RANK).requires_grad_())
    weights = torch.randn(6, 9, RANK), torch.randn(6, RANK, RANK)
    grads = []
    for f in (delta_scan, delta_scan_loop):
        read, state = f(*xs)
        grads.append(torch.autograd.grad((read * weights[0]).sum() + (state * weights[1]).sum(), xs) + (read, state))
    for a, b in zip(*grads):
        assert (a - b).abs().max() < 1e-4 * b.abs().max(), (a - b).abs().max()


if __name__ == "__main__":
    check()
    print("delta_scan and its gradient agree with the loop")
