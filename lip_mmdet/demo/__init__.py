"""The first five minutes with the plugin: a generated dataset to train and score a detector on."""
