# The focal loss for models that match queries to masks (Mask2Former, MaskFormer, SAN): of the classes of the queries.
query_losses = dict(cls=dict(type='SoftmaxFocalLoss', gamma=2.0))
