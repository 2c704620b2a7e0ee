loss_decode = dict(type='DefectDiceLoss')
