# Half of the training crops are asked to show a defect, where the image has one; for crops smaller than the image.
defect_crop = dict(probability=0.5)
