"""The linear probe, against a minimiser of another library and on labels that mean nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from intarsia.data.image_folder import class_names, image_folder
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.probe import choose_penalty, evaluate_probe, fit_probe, held_out


def blobs(number, spread, seed=0):
    """Three classes around three corners: vectors (number,5) and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, number)
    vectors = np.eye(3, 5)[labels] + spread * rng.normal(size=(number, 5))
    return torch.from_numpy(vectors).float(), labels


@pytest.mark.parametrize("penalty", [1.0, 0.01, 0.0001])
def test_the_minimum_is_the_one_that_scipy_finds(penalty):
    vectors, labels = blobs(80, 0.6)
    probe = fit_probe(vectors, labels, 3, penalty)
    inputs = vectors.double().numpy() - vectors.double().numpy().mean(0)
    inputs /= np.sqrt((inputs**2).sum(1).mean())

    def loss(flat):
        weight, bias = flat[:15].reshape(3, 5), flat[15:]
        logits = inputs @ weight.T + bias
        own = logits[np.arange(80), labels]
        return (logsumexp(logits, axis=1) - own).mean() + penalty / 2 * (weight**2).sum()

    wanted = minimize(loss, np.zeros(18), method="BFGS", options={"gtol": 1e-7})
    ours = np.concatenate([probe.weight.flatten().numpy(), probe.bias.numpy()])
    assert loss(ours) == pytest.approx(wanted.fun, abs=1e-5)
    assert probe.weight.flatten().numpy() == pytest.approx(wanted.x[:15], abs=0.02, rel=0.01)


def test_the_scale_and_place_of_the_vectors_do_not_matter():
    vectors, labels = blobs(60, 0.4)
    one = fit_probe(vectors, labels, 3, 0.01).scores(vectors)
    other = fit_probe(40 * vectors + 7, labels, 3, 0.01).scores(40 * vectors + 7)
    torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


def test_noise_asks_for_a_greater_penalty_than_clean_classes():
    generator = torch.Generator().manual_seed(0)
    few, labels = blobs(60, 0.05)
    wide = torch.cat([few, torch.randn(60, 200, generator=generator)], 1)
    assert choose_penalty(few, labels, 3, generator) == 1.0  # all are perfect: the greatest
    assert choose_penalty(wide, labels, 3, generator) >= 0.001


def test_a_fifth_of_each_class_is_held_out():
    labels = np.array([0] * 50 + [1] * 4 + [2])
    out = held_out(labels, torch.Generator().manual_seed(0))
    assert [int(out[labels == c].sum()) for c in range(3)] == [10, 1, 0]
    again = held_out(labels, torch.Generator().manual_seed(1))
    assert (out != again).any()
    with pytest.raises(DataError, match="no class has two of the 3 training pictures"):
        choose_penalty(torch.eye(3), np.arange(3), 3, torch.Generator())


# ---- the whole --------------------------------------------------------------------------------


def folders(root):
    return [list(image_folder(root, split, Problems())) for split in ("train", "val")]


def test_colours_are_in_the_vectors_of_any_model(model, colour_folder):
    """A random backbone: nothing is aligned with words, and yet colours can be read off."""
    train, test = folders(colour_folder)
    names = class_names(colour_folder, "train")
    evaluation = evaluate_probe(model, train, test, Problems(0.0), names=names)
    assert evaluation.metrics["top1"].value >= 90
    assert evaluation.metrics["top1"].n == 30 and 1e-6 <= evaluation.penalty <= 1


def test_a_class_that_only_the_test_has_is_told(colour_model, colour_folder):
    train, test = folders(colour_folder)
    odd = [*test, replace(test[0], captions=("mauve",), id="mauve/0.png")]
    with pytest.raises(DataError, match="of mauve/0.png are not one of the 6 classes"):
        evaluate_probe(
            colour_model, train, odd, Problems(), names=class_names(colour_folder, "train")
        )
