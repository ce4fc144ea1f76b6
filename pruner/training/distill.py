"""Knowledge distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["distillation_loss"]


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    weight: float = 0.5,
    temperature: float = 4.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return ``(1 - weight) * CE(logits, targets) + weight * T^2 * KL(teacher_T || student_T)``.

    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015): both distributions are
    softened by the temperature T, and T^2 keeps the gradient's size independent of it.

    Args:
        logits: (n, classes) of the network in training.
        teacher_logits: (n, classes); no gradient flows into them.
        targets: (n,) class numbers.
        weight: share of the teacher, 0 to 1.
        temperature: above 0.
        label_smoothing: of the cross entropy.

    Returns:
        A scalar, the mean over the batch.
    """
    hard = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - weight) * hard + weight * temperature**2 * soft
