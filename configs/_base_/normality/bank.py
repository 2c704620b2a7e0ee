# Shows the model how far its features are from the nearest of a bank of good ones: for parts in any pose. With a trained
# backbone add `normality.interval=200`.
normality = dict(kind='bank')
