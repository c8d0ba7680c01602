"""What each choice in the edge networks costs and gains: ``cfrg-lite0`` with one thing changed at a time."""
