"""RecBole models: one file each, most of it the model's own idea; what they share is in :mod:`.base`."""
