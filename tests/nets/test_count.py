import torch
from torch import nn

from rheos.nets import MLP, DiT, flops, parameters


def test_shared_parameters_count_once_and_frozen_ones_on_request():
    layer = nn.Linear(3, 3)
    layer.bias.requires_grad_(False)
    assert parameters(nn.Sequential(layer, layer)) == 12
    assert parameters(nn.Sequential(layer, layer), trainable=True) == 9


def test_a_convolution_costs_two_operations_a_weight_and_pixel():
    assert flops(nn.Conv2d(3, 5, 3, padding=1), torch.zeros(2, 3, 8, 4)) == 2 * (3 * 5 * 9) * (8 * 4) * 2


def test_a_dense_network_costs_two_operations_a_weight_and_row():
    net = MLP(2, hidden=16, depth=3)
    weights = sum(p.numel() for p in net.parameters() if p.ndim == 2)
    assert flops(net, torch.zeros(7, 2), torch.zeros(7)) == 2 * weights * 7


def test_attention_and_conditions_are_counted():
    dim, length, depth, rows = 16, 32, 2, 3
    net = DiT(1, (8, 16), dim=dim, depth=depth, heads=2, classes=4)
    dense = depth * length * (4 + 8) * dim**2 + length * 2 * 4 * dim  # qkv, out, two dense layers; both ends
    vector = 64 * dim + dim**2 + depth * 6 * dim**2 + 2 * dim**2
    attention = depth * 2 * length**2 * dim
    counted = flops(net, torch.zeros(rows, 1, 8, 16), torch.zeros(rows), label=torch.zeros(rows, dtype=torch.int64))
    assert counted == 2 * rows * (dense + vector + attention)


def test_counting_leaves_no_gradients():
    net = MLP(2, hidden=4)
    flops(net, torch.zeros(1, 2), torch.zeros(1))
    assert all(p.grad is None for p in net.parameters())
