"""Images: transform, augmentation, data sets and classification DataModules."""
