# Half of the training crops are asked to show a defect, where the picture has one; for crops smaller than the picture.
defect_crop = dict(probability=0.5)
