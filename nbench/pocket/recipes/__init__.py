"""The recipes that trained the pocket weights. Using pocket needs none of them."""
