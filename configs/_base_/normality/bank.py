# Shows the model how far its features are from the nearest of a bank of good ones: for parts in any pose. With a
# trained backbone add `normality.interval=200`.
augmentation = dict(scale=(0.9, 1.1), light=0)
normality = dict(kind='bank')
