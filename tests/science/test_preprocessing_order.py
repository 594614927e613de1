"""Reversed channels are told by what the colours of one pixel have to do with one another."""

import numpy as np
from sklearn.datasets import load_sample_images

from nndiag.science.preprocessing_order import order_of


def patches(seed):
    found = [
        image[i : i + 24, j : j + 24].reshape(-1, 3).T
        for image in load_sample_images().images
        for i in range(0, 400, 24)
        for j in range(0, 600, 24)
    ]
    return np.stack(found)[np.random.default_rng(seed).permutation(len(found))] / 255.0


def test_patches_of_photographs_are_told_from_their_reverse():
    x = patches(0)
    train, serve = x[::2], x[1::2]
    assert order_of(train, serve[:, ::-1]).swapped
    honest = order_of(train, serve)
    assert not honest.swapped
    assert honest.visible


def test_honest_halves_are_never_called_swapped():
    assert not any(order_of(x[:60], x[60:120]).swapped for x in map(patches, range(20)))


def test_grey_images_hide_their_order():
    grey = np.repeat(np.random.default_rng(0).random((80, 1, 100)), 3, axis=1)
    assert order_of(grey[:40], grey[40:]) is None
    noisy = grey + np.random.default_rng(1).normal(0, 0.01, grey.shape)
    assert not order_of(noisy[:40], noisy[40:]).visible
