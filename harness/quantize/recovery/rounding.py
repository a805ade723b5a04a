"""Rounding weights with regard to each other: each error is made up for by the weights not rounded yet.

The closed form of Frantar et al., 'GPTQ' (2022), after Hassibi and Stork, 'Second order derivatives for network
pruning: optimal brain surgeon' (1992): with H the second moments of what the weights are multiplied with, the others
answer an error e of weight i by the row i of U with H⁻¹ = Uᵀ·U. Then coordinate descent: single weights take whole
steps up or down while that lowers the squared error of the output.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.quantize.rulebooks.rules import Rounding
from harness.quantize.scales import round_to_integers

FloatArray = NDArray[np.float64]

#: Added to H's diagonal, as a share of its mean: inputs that are always zero would make it singular (GPTQ's 1 %).
DAMPING = 0.01
#: Passes of the descent; later ones move next to nothing.
_SWEEPS = 3
#: Columns after which the rest is brought up to date by one matrix product.
_BLOCK = 64


def rounded(
    target: FloatArray, hessian: FloatArray, scale: FloatArray, limits: tuple[int, int], rounding: Rounding
) -> FloatArray:
    """Integers whose products with the scale give nearly the output of `target`.

    Args:
        target: real weights, shape (G, O, K).
        hessian: second moments of the inputs, shape (G, K, K), positive semi-definite.
        scale: step of the weights, shape (G, O, 1).
        limits: lowest and highest integer.
        rounding: for ties.

    Returns:
        integers as float64, shape (G, O, K).
    """
    damped = damp(hessian, DAMPING)
    # Weights of strong inputs first: they have the most others left to make up for them.
    order = np.argsort(-np.diagonal(damped, axis1=1, axis2=2), axis=1, kind="stable")
    matrix = np.take_along_axis(np.take_along_axis(damped, order[:, :, None], 1), order[:, None, :], 2)
    upper = np.linalg.cholesky(np.linalg.inv(matrix)).transpose(0, 2, 1)
    left = np.take_along_axis(target, order[:, None, :], 2)
    picked = np.empty_like(left)
    steps = scale[:, :, 0]
    for start in range(0, left.shape[2], _BLOCK):
        end = min(start + _BLOCK, left.shape[2])
        errors = np.empty((*left.shape[:2], end - start))
        for index in range(start, end):
            column = left[:, :, index]
            integers = np.clip(round_to_integers(column / steps, rounding), *limits)
            picked[:, :, index] = integers
            errors[:, :, index - start] = (column - integers * steps) / upper[:, index, index][:, None]
            left[:, :, index:end] -= errors[:, :, index - start, None] * upper[:, None, index, index:end]
        left[:, :, end:] -= np.matmul(errors, upper[:, start:end, end:])
    back = np.argsort(order, axis=1, kind="stable")
    return descended(np.take_along_axis(picked, back[:, None, :], 2), target, damped, scale, limits)


def descended(
    integers: FloatArray, target: FloatArray, hessian: FloatArray, scale: FloatArray, limits: tuple[int, int]
) -> FloatArray:
    """Coordinate descent on integers, from a first choice of them; never worse in the output's squared error.

    Args:
        integers: the first choice, shape (G, O, K).
        target: as for `rounded`.
        hessian: positive definite, shape (G, K, K).
        scale: as for `rounded`.
        limits: lowest and highest integer.
    """
    result = integers.copy()
    steps = scale[:, :, 0]
    gradient = np.matmul(result * scale - target, hessian)
    curvature = np.diagonal(hessian, axis1=1, axis2=2)[:, None, :] * scale
    for _ in range(_SWEEPS):
        moved = False
        for start in range(0, result.shape[2], _BLOCK):
            end = min(start + _BLOCK, result.shape[2])
            moves = np.zeros((*result.shape[:2], end - start))
            for index in range(start, end):
                best = result[:, :, index] - np.rint(gradient[:, :, index] / curvature[:, :, index])
                move = (np.clip(best, *limits) - result[:, :, index]) * steps
                if move.any():
                    moves[:, :, index - start] = move
                    result[:, :, index] += np.rint(move / steps)
                    gradient[:, :, start:end] += move[:, :, None] * hessian[:, None, index, start:end]
            if moves.any():
                moved = True
                gradient[:, :, :start] += np.matmul(moves, hessian[:, start:end, :start])
                gradient[:, :, end:] += np.matmul(moves, hessian[:, start:end, end:])
        if not moved:
            break
    return result


def damp(hessian: FloatArray, share: float) -> FloatArray:
    """H with a share of its mean diagonal added to the diagonal; with the identity added where H is all zero."""
    mean = np.diagonal(hessian, axis1=1, axis2=2).mean(axis=1)
    extra = np.where(mean > 0, share * mean, 1.0)
    damped: FloatArray = hessian + extra[:, None, None] * np.eye(hessian.shape[1])
    return damped


def output_error(real: FloatArray, target: FloatArray, hessian: FloatArray) -> FloatArray:
    """Squared error of the output per channel, shape (G, O); both weights of shape (G, O, K)."""
    error = real - target
    result: FloatArray = (np.matmul(error, hessian) * error).sum(axis=2)
    return result
