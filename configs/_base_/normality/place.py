# Shows the model how far its features are from mean and spread at the same place of good parts: for parts that lie the
# same way, give or take some pixels. With a trained backbone add `normality.interval=200`.
augmentation = dict(scale=(1, 1), light=0)
normality = dict(kind='place')
