"""Focal losses."""

from mmdefect.functional.focal import sigmoid_focal_loss, softmax_focal_loss
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.registry import MODELS


@MODELS.register_module()
class SoftmaxFocalLoss(DefectLoss):
    """Multi-class focal loss: :func:`mmdefect.functional.focal.softmax_focal_loss`.

    ``gamma=0`` without ``alpha`` is the cross entropy, with class weights and the mean over labelled pixels together,
    which mmseg's ``CrossEntropyLoss`` cannot do; its default mean is over all pixels (``avg_non_ignore=False``).
    """

    function = staticmethod(softmax_focal_loss)
    default_name = 'loss_focal'


@MODELS.register_module()
class SigmoidFocalLoss(DefectLoss):
    """One class against the rest in each channel: :func:`mmdefect.functional.focal.sigmoid_focal_loss`.

    Also for a head with ``out_channels=1``, on every device; mmseg's ``FocalLoss`` fails on a CPU from two classes up.
    """

    function = staticmethod(sigmoid_focal_loss)
    default_name = 'loss_sigmoid_focal'
