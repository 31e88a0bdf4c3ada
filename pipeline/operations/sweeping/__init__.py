"""What sweep is made of: its scales, the models at each, the folders these lie in."""
