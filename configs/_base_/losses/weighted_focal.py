# Samples carry weights (`sample_weight`, `gt_weight_map`), for example from importance-weighted synthesis.
loss_decode = dict(type='WeightedSampleLoss', loss=dict(type='SoftmaxFocalLoss', gamma=2.0, alpha=None))
